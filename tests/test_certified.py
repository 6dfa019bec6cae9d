# SPDX-License-Identifier: Apache-2.0
"""The compiled core's products in plain float64, where a bound has to tell which results may be rounded and which must be
computed from their slices: planes for which few are open, many, or all."""

import numpy as np
import pytest
import torch

from reference import expand as reference
from tests.bits import assert_same_bits
from tests.test_native import ISAS, _native, expanded, handles, random, view, weights

# Reasons: factorised transforms on both axes, joined in one synthesis (coarse sides from 32 on); on the columns alone; on
# neither (odd, and below 64); a factorised transform whose coarse side is too short to join.
SIZES = [((64, 48), (128, 96)), ((33, 64), (49, 128)), ((40, 31), (63, 62)), ((20, 24), (64, 96))]


def planes(kind, shape):
    """One plane of a kind that makes rounding hard."""
    rows, columns = np.indices(shape)
    if kind == "constant":  # maps keep it, so the grid of every row hangs on a last bit
        return np.full(shape, 1.0)
    if kind == "almost constant":
        return np.full(shape, 1.0) + 2.0**-20 * random(*shape)
    if kind == "powers of two":  # sums of few terms: many results have few bits, or lie on a tie
        return np.exp2(np.random.default_rng(3).integers(-30, 3, shape)) * np.sign(random(*shape))
    if kind == "a spike":
        return ((rows == 1) & (columns == shape[1] - 1)) * 3.0
    if kind == "even and odd":  # half of the spectrum is rounding alone
        return np.cos((rows - (shape[0] - 1) / 2) * 0.2) * (columns - (shape[1] - 1) / 2)
    if kind == "columns apart":  # bounds of very different size meet in a row
        return random(*shape) * np.exp2(-np.abs(columns - 7) * 1.5)
    return random(*shape) * np.exp2(-(rows % 13))  # "rows apart"


KINDS = ["constant", "almost constant", "powers of two", "a spike", "even and odd", "columns apart", "rows apart"]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_planes_that_are_hard_to_round(sizes, isa):
    coarse, fine = sizes
    x = np.stack([planes(kind, coarse) for kind in KINDS])[None].astype(np.float32)
    noise = np.stack([planes(kind, fine) for kind in reversed(KINDS)])[None].astype(np.float32)
    for t, given in ((0.35, noise), (0.0, None)):
        expected, _ = reference.expand(x, fine, t, noise=given)
        source = {"seeds": 0} if given is None else {"noise": torch.from_numpy(given)}
        assert_same_bits(expanded(torch.from_numpy(x), fine, t, isa=isa, **source), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["analysis", "synthesis", "up", "down"])
def test_transforms_and_maps_of_such_planes(kind, isa):
    fine, coarse = (64, 96), (48, 64)
    x = np.stack([planes(name, coarse if kind == "up" else fine) for name in KINDS])[None].astype(np.float32)
    out = torch.empty(1, len(KINDS), *(coarse if kind == "down" else fine))
    _native.plane_product(
        view(out), view(torch.from_numpy(x)), None, handles("dct", kind, fine, coarse), None, (0, 0), None, 0,
        weights([-1.25, 0, 0]), 2, False, isa,
    )  # fmt: skip
    assert_same_bits(out, reference.rounded(-1.25 * reference.both_sides(x, "dct", kind, fine, coarse)))


@pytest.mark.parametrize("isa", ISAS)
def test_a_sum_with_the_second_tensor_itself(isa):
    """The lift: its last term is added in float64, after the weighted products, and rounds with them."""
    fine, coarse, times = (128, 96), (64, 48), np.array([0.3, 0.9])
    z, v = (np.stack([planes(kind, side) for kind in KINDS])[None].astype(np.float32) for side in (fine, coarse))
    z, v = np.concatenate([z, z[:, ::-1]]), np.concatenate([v, v])
    ratio = reference.resolution_ratio(fine, coarse)
    alpha, gamma = 1.0 + (ratio - 1.0) * times, 1.0 / reference.align_time(times, ratio)[0]
    out = torch.empty(*z.shape)
    _native.plane_product(
        view(out), view(torch.from_numpy(v)), view(torch.from_numpy(np.ascontiguousarray(z))),
        handles("dct", "up", fine, coarse), handles("dct", "lowpass", fine, coarse), (0, 0), None, 0,
        weights(*zip(alpha, -gamma, gamma, strict=True)), 2, False, isa,
    )  # fmt: skip
    assert_same_bits(out, reference.lift(z, v, times))


@pytest.mark.parametrize("isa", ISAS)
def test_many_results_of_plain_noise(isa):
    """Two million roundings: a bound that is too small by a factor of a few shows."""
    x, noise = random(1, 24, 64, 80), random(1, 24, 128, 160, seed=1)
    given, _ = reference.expand(x, (128, 160), 0.35, noise=noise)
    assert_same_bits(expanded(torch.from_numpy(x), (128, 160), 0.35, noise=torch.from_numpy(noise), isa=isa), given)


@pytest.mark.parametrize("threads", [1, 2])
def test_planes_that_are_hard_beside_planes_that_are_not(threads):
    """What falls back to slices is the plane, or the block, and nothing else."""
    x = np.stack([planes("even and odd", (96, 96)), random(96, 96), np.full((96, 96), np.nan), random(96, 96)])[None]
    x = x.astype(np.float32)
    out = torch.empty(1, 4, 96, 96)
    _native.plane_product(
        view(out), view(torch.from_numpy(x)), None, handles("dct", "analysis", (96, 96), (96, 96)), None, (0, 0), None,
        0, weights([1, 0, 0]), threads, False, "",
    )  # fmt: skip
    assert_same_bits(out, reference.transform(x))
