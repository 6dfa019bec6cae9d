# SPDX-License-Identifier: Apache-2.0
"""The C library on a CPU gives the bits of the reference: the test vectors, the formulas that depend on a time,
and the weights of forecasts.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("cmake")

from reference import expand as reference
from reference import forecast
from spectral_kernels import selftest
from tests import capi
from tests.bits import assert_same_bits

BUILD = Path(__file__).parents[1] / "build" / "library"  # of `make library`: what it built is not built again
LIBRARY = "bindings/capi/libspectral_kernels.so"

# 1 / kappa and 1 / t' of three times each, one per sample: clean, a number with many bits, the last one. Odd and even
# sides, the ratio no square; Haar by its blocks, and by tables where the sides change differently.
TIMES = [0.0, 0.3, 1.0]
PLANES = [("dct", (13, 11), (7, 5)), ("fft", (12, 9), (5, 8)), ("haar", (12, 20), (3, 5)), ("haar", (12, 10), (3, 5))]


@pytest.fixture(scope="module")
def library():
    if not shutil.which("c++"):
        pytest.skip("needs a C++ compiler")
    capi.build(BUILD)
    return capi.Library(BUILD / LIBRARY)


@pytest.mark.parametrize("row", capi.golden_rows(gpu=False), ids=lambda row: f"{row['op']}-{row['sha256'][:6]}")
def test_vectors(library, row):
    assert selftest.digest(capi.golden_result(library, row, torch.device("cpu"))) == row["sha256"]


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("basis", "fine", "coarse"), PLANES, ids=str)
def test_truncation_of_a_state(library, basis, fine, coarse):
    x, out = drawn(1, 3, 2, *fine), torch.empty(3, 2, *coarse)
    for t in (TIMES, 0.3):
        library.product("truncate", out, torch.from_numpy(x), basis=basis, t=t)
        assert_same_bits(out, reference.truncate(x, coarse, t=t, basis=basis))


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize(("basis", "fine", "coarse"), PLANES, ids=str)
def test_lift(library, basis, fine, coarse, align):
    z, v, out = drawn(2, 3, 2, *fine), drawn(3, 3, 2, *coarse), torch.empty(3, 2, *fine)
    for t in ([2.0**-60, *TIMES[1:]], 0.3):
        library.product("lift", out, torch.from_numpy(z), torch.from_numpy(v), basis=basis, t=t, align=align)
        assert_same_bits(out, reference.lift(z, v, t, basis=basis, align=align))


def test_weights_are_those_of_python(library):
    """In float64, whose results show every bit of a weight that a rounding to float32 hides."""
    fine, coarse = (2, 4), (1, 1)
    t = [float(n) / 23 for n in range(1, 24)]
    ratio = reference.resolution_ratio(fine, coarse)
    times, (aligned, kappa) = np.array(t), reference.align_time(np.array(t), ratio)
    state, velocity = torch.from_numpy(drawn(4, len(t), 1, *fine)).double(), torch.ones(len(t), 1, *coarse).double()
    plain, timed = torch.empty_like(velocity), torch.empty_like(velocity)
    library.product("truncate", plain, state, basis="haar", align=False)
    library.product("truncate", timed, state, basis="haar", t=t)
    assert_same_bits(timed[:, 0, 0, 0], (1.0 + (ratio - 1.0) * times) / ratio * plain[:, 0, 0, 0].numpy())
    # A state that alternates has no low band, a state of zeros leaves the velocity alone.
    alternating, zeros, out = torch.tensor([1.0, -1.0]).double().repeat(len(t), 1, 2, 2), state * 0, state.clone()
    aligned_u, ones = 1.0 + (ratio - 1.0) * times, np.ones_like(times)
    for align, gamma, alpha in ((True, 1.0 / aligned, aligned_u), (False, 1.0 / times, ones)):
        library.product("lift", out, alternating, velocity * 0, basis="haar", t=t, align=align)
        assert_same_bits(out[:, 0, 0, 0], gamma)
        library.product("lift", out, zeros, velocity, basis="haar", t=[1.0], align=False)
        up = out[:, 0, 1, 2].numpy().copy()
        library.product("lift", out, zeros, velocity, basis="haar", t=t, align=align)
        assert_same_bits(out[:, 0, 1, 2], alpha * up)
    library.product("expand", out, velocity, basis="haar", align=False)
    up = out[:, 0, 0, 0].numpy().copy()
    library.product("expand", out, velocity, zeros, basis="haar", t=t)
    assert_same_bits(out[:, 0, 0, 0], kappa * up)


# Four steps and fewer than a fit of that degree determines; whole steps and positions on the axis of the noise levels.
FITS = [
    {"steps": [0.0], "degree": 4},
    {"steps": [0.0, 1.0], "degree": 0},
    {"steps": [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 15.0, 20.0], "degree": 4},
    {"steps": [0.0, 0.3, 2.71, 3.14, 17.7, 31.0, 32.0], "degree": 1, "ridge": 0.0, "blend": 1.0},
    {"steps": [float(n) for n in range(24)], "degree": 17, "ridge": 1e-9, "blend": 0.3},
    {"steps": [0.0, 2.0**-1000], "degree": 4},  # the line overflows
]


@pytest.mark.parametrize("fit", FITS, ids=lambda fit: f"{len(fit['steps'])}-{fit['degree']}")
def test_weights_of_forecasts(library, fit):
    options = {name: value for name, value in fit.items() if name != "steps"}
    steps, goals = fit["steps"], [fit["steps"][-1], fit["steps"][-1] + 0.7, 50.0]
    for op, row_of in (("chebyshev", forecast.chebyshev_weights), ("moment", forecast.moment_weights)):
        with np.errstate(over="ignore"):
            expected = np.stack([row_of(steps, goal, 50, **options) for goal in goals])
        found = library.weights(op, steps, goals, 50, expected.shape[1], **options)
        assert_same_bits(found, expected)
    row = np.array(forecast.chebyshev_row(steps[-1], 50, fit["degree"])).astype(np.float32)
    assert_same_bits(library.chebyshev_row(steps[-1], 50, fit["degree"]), row)


# The published schedules, a fixed one, and windows whose growth ends in half a thousandth: 2.0625, 2.1875.
@pytest.mark.parametrize("flex", [0.75, 3.0, 0.0, 0.0625, 0.1875, 0.0005, 0.1, 1e17])
def test_evaluated_steps(library, flex):
    for window, warmup in ((2.0, 5), (1.0, 1), (2.9375, 3), (1.0005, 2)):
        expected = forecast.evaluation_steps(3000, window, warmup, flex)
        assert library.evaluation_steps(3000, window, warmup, flex) == expected
