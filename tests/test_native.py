# SPDX-License-Identifier: Apache-2.0
"""The compiled core on its own: the reference's bits for every instruction set, thread count, dtype and stride."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from reference import expand as reference
from reference.bases import table
from reference.noise import normal
from tests.bits import assert_same_bits

_native = pytest.importorskip("spectral_kernels._native", reason="the compiled core is not built here: make native")

ISAS = _native.isas()

# Reasons: nothing folds; odd sides keep a middle line; blocks of 16 lanes full, and one more; folding twice with
# leaves that fill no panel; the Wan latent, whose 90 rows fold once and whose 160 columns four times.
SIZES = [((1, 1), (3, 2)), ((5, 7), (9, 16)), ((16, 17), (33, 32)), ((24, 30), (49, 61)), ((45, 80), (90, 160))]


def handle(basis, kind, fine, coarse, mode="exact"):
    return _native.Table(np.ascontiguousarray(table(basis, kind, fine, coarse)), mode)


def handles(basis, kind, fine, coarse, mode="exact"):
    return tuple(handle(basis, kind, fine[axis], coarse[axis], mode) for axis in (0, 1))


def view(x):
    """[B, P, h, w] as the core's seven dimensions."""
    return x[:, :, None, :, None, :, None]


def weights(*rows):
    return np.array(rows, np.float64)


def expanded(x, size, t, *, noise=None, seeds=None, basis="dct", mode="exact", out=None, threads=2, isa=""):
    """dct_expand by the core alone; x and out [B, P, h, w]."""
    coarse = tuple(x.shape[-2:])
    out = torch.empty(*x.shape[:2], *size, dtype=x.dtype) if out is None else out
    times = np.broadcast_to(np.asarray(t, np.float64), max(1, np.size(t)))
    _, kappa = reference.align_time(times, reference.resolution_ratio(size, coarse))
    tables = handles(basis, "up", size, coarse, mode), handles(basis, "synthesis", size, coarse, mode)
    rows = np.stack([kappa, times, np.zeros_like(times)], axis=1)
    given = None if noise is None else view(noise)
    _native.plane_product(view(out), view(x), given, *tables, coarse, seeds, 0, rows, threads, False, isa)
    return out


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2, 3], ids=lambda n: f"{n} threads")
@pytest.mark.parametrize("basis", ["dct", "fft"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_expansion_has_the_reference_bits(sizes, basis, threads, isa):
    coarse, fine = sizes
    x, noise = random(2, 5, *coarse), random(2, 5, *fine, seed=1)
    run = {"basis": basis, "threads": threads, "isa": isa}
    drawn, _ = reference.expand(x, fine, 0.35, basis=basis, seed=7)
    assert_same_bits(expanded(torch.from_numpy(x), fine, 0.35, seeds=7, **run), drawn)
    given, _ = reference.expand(x, fine, 0.35, basis=basis, noise=noise)
    assert_same_bits(expanded(torch.from_numpy(x), fine, 0.35, noise=torch.from_numpy(noise), **run), given)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["analysis", "synthesis", "down", "lowpass"])
@pytest.mark.parametrize("basis", ["dct", "fft"])
def test_every_table_has_the_reference_bits(basis, kind, isa):
    fine, coarse = (38, 52), (19, 27)
    x = random(3, 2, *fine)
    out = torch.empty(3, 2, *(coarse if kind == "down" else fine))
    _native.plane_product(
        view(out), view(torch.from_numpy(x)), None, handles(basis, kind, fine, coarse), None, (0, 0), None, 0,
        weights([0.75, 0, 0]), 2, False, isa,
    )  # fmt: skip
    expected = reference.rounded(0.75 * reference.both_sides(x, basis, kind, fine, coarse))
    assert_same_bits(out, expected)


@pytest.mark.parametrize("kind", ["analysis", "synthesis", "up", "down", "lowpass"])
@pytest.mark.parametrize("basis", ["dct", "fft"])
# Reasons: the smallest; odd; even with a Nyquist row; a power of two; Wan's rows.
@pytest.mark.parametrize(("fine", "coarse"), [(1, 1), (9, 4), (22, 21), (128, 64), (90, 45)])
def test_the_core_builds_the_same_tables(basis, kind, fine, coarse):
    assert_same_bits(_native.table_values(basis, kind, fine, coarse), table(basis, kind, fine, coarse))


@pytest.mark.parametrize("n", [3, 97, 160, 719, 1024])
def test_cosines_are_correctly_rounded_at_many_sizes(n):
    assert_same_bits(_native.table_values("dct", "analysis", n, 1), table("dct", "analysis", n, 1))


def cancelling(kind):
    """Planes [24, 160], many of whose coefficients are rounding alone: float64 cannot tell the bits."""
    if kind == "rows that sum to zero":  # one coefficient of each row
        x = np.random.default_rng(5).integers(-9, 10, (24, 160)).astype(np.float32)
        x[:, -1] -= x.sum(axis=1)
        return x
    if kind == "a constant":
        return np.full((24, 160), 0.7, np.float32)
    return (random(24, 1) * np.cos(np.pi * 3 * (np.arange(160) + 0.5) / 160)).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["rows that sum to zero", "a constant", "one cosine"])
def test_what_cancels_has_the_reference_bits(kind, isa):
    x = cancelling(kind)[None, None]
    out = torch.empty(1, 1, 24, 160)
    tables = handles("dct", "analysis", (24, 160), (24, 160))
    _native.plane_product(
        view(out), view(torch.from_numpy(x)), None, tables, None, (0, 0), None, 0, weights([0.75, 0, 0]), 2, False, isa
    )
    assert_same_bits(out, reference.rounded(0.75 * reference.both_sides(x, "dct", "analysis", (24, 160), (24, 160))))


@pytest.mark.parametrize("isa", ISAS)
def test_lift_adds_the_state_itself(isa):
    fine, coarse, t = (36, 20), (18, 11), np.array([0.3, 0.9])
    z, v = random(2, 3, *fine), random(2, 3, *coarse, seed=1)
    ratio = reference.resolution_ratio(fine, coarse)
    gamma = 1 / reference.align_time(t, ratio)[0]
    out = torch.empty(2, 3, *fine)
    _native.plane_product(
        view(out), view(torch.from_numpy(v)), view(torch.from_numpy(z)), handles("dct", "up", fine, coarse),
        handles("dct", "lowpass", fine, coarse), (0, 0), None, 0,
        np.stack([1 + (ratio - 1) * t, -gamma, gamma], axis=1), 2, False, isa,
    )  # fmt: skip
    assert_same_bits(out, reference.lift(z, v, t))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 2.0**-18, 3e4], ids=["ordinary", "subnormal results", "overflow in float16"])
def test_half_types_round_like_the_reference(dtype, scale, isa):
    x = torch.from_numpy(random(1, 2, 20, 33) * np.float32(scale)).clamp(-6e4, 6e4).to(dtype)
    single, _ = reference.expand(x.float().numpy(), (40, 64), 0.0, align=True)
    assert_same_bits(expanded(x, (40, 64), 0.0, isa=isa, seeds=1), torch.from_numpy(single).to(dtype))


@pytest.mark.parametrize(
    "source",
    [
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
        lambda x: x.repeat_interleave(2, -1)[..., ::2],
    ],
    ids=["transposed", "channels last", "sliced", "every other element"],
)
def test_strides_do_not_matter(source):
    x = torch.from_numpy(random(2, 3, 20, 34))
    expected = expanded(x, (40, 50), 0.5, seeds=3)
    big = torch.full((2, 40, 50, 7), torch.nan)
    out = big[..., 2:5].permute(0, 3, 1, 2)
    assert_same_bits(expanded(source(x), (40, 50), 0.5, seeds=3, out=out), expected)
    assert bool(big[..., :2].isnan().all() and big[..., 5:].isnan().all())  # nothing written beside it


def test_patches_are_strides_too():
    x = torch.from_numpy(random(2, 3, 8, 12))
    tokens = x.view(2, 3, 4, 2, 6, 2).permute(0, 2, 4, 1, 3, 5).contiguous()  # [B, h/2, w/2, C, 2, 2]
    out = torch.empty(2, 8, 12, 3, 2, 2)
    seven = [t.permute(0, 3, 1, 4, 2, 5)[:, :, None] for t in (out, tokens)]
    tables = handles("dct", "up", (16, 24), (8, 12)), handles("dct", "synthesis", (16, 24), (8, 12))
    _native.plane_product(*seven, None, *tables, (8, 12), 5, 0, weights([1.0, 0.4, 0.0]), 2)
    plain = torch.empty(2, 3, 16, 24)
    _native.plane_product(view(plain), view(x), None, *tables, (8, 12), 5, 0, weights([1.0, 0.4, 0.0]), 1)
    assert_same_bits(seven[0].reshape(2, 3, 16, 24), plain)


@pytest.mark.parametrize("threads", [1, 16], ids=["by plane", "by block"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_number_spoils_its_plane_alone(bad, threads):
    x = random(1, 3, 20, 33)
    x[0, 1, 19, 32] = bad
    expected, _ = reference.expand(x, (40, 64), 0.4, seed=2)
    got = expanded(torch.from_numpy(x), (40, 64), 0.4, seeds=2, threads=threads)
    assert_same_bits(got, expected)
    assert bool(got[0, 1].isnan().all()) and not bool(got[0, [0, 2]].isnan().any())


def test_noise_without_weight_and_in_the_corner_is_never_looked_at():
    x, noise = random(2, 1, 8, 8), random(2, 1, 16, 16, seed=1)
    noise[0] = np.nan
    noise[1, 0, :8, :8] = np.inf
    times = np.array([0.0, 0.5])
    expected, _ = reference.expand(x, (16, 16), times, noise=noise)
    assert not np.isnan(expected).any()
    assert_same_bits(expanded(torch.from_numpy(x), (16, 16), times, noise=torch.from_numpy(noise)), expected)


@pytest.mark.parametrize("magnitude", [1e-44, 1e-30, 1e30, 3e38])
def test_magnitudes_to_the_ends_of_float32(magnitude):
    x = random(1, 2, 24, 40)
    x = (x / np.abs(x).max() * magnitude).astype(np.float32)
    x[0, 1] *= np.exp2(-np.arange(40) / 2).astype(np.float32)  # columns of very different size
    expected, _ = reference.expand(x, (48, 80), 0.0, seed=2)
    assert_same_bits(expanded(torch.from_numpy(x), (48, 80), 0.0, seeds=2), expected)


def test_zeros_stay_positive():
    out = expanded(torch.zeros(1, 1, 16, 16) * -1, (32, 32), 0.0, seeds=0)
    assert_same_bits(out, torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize("isa", ISAS)
def test_double_and_fast_stay_within_their_bounds(isa):
    x = random(2, 3, 45, 80).astype(np.float64)
    noise = random(2, 3, 90, 160, seed=1).astype(np.float64)
    masked = noise.copy()
    masked[..., :45, :80] = 0
    A, B = (table("dct", "up", m, m // 2) for m in (90, 160))
    R, C = (table("dct", "synthesis", m, m // 2) for m in (90, 160))
    ratio = 2.0
    kappa = reference.align_time(0.35, ratio)[1]
    expected = kappa * (A @ x @ B.T + 0.35 * (R @ masked @ C.T))
    run = {"noise": torch.from_numpy(noise), "isa": isa}
    double = expanded(torch.from_numpy(x), (90, 160), 0.35, mode="double", **run).numpy()
    size = np.abs(expected).max()
    assert np.abs(double - expected).max() < 1e-14 * size
    fast = expanded(torch.from_numpy(x).float(), (90, 160), 0.35, mode="fast", **run).numpy()
    assert np.abs(fast - expected).max() < 250 * 2.0**-24 * size  # 90 + 160 roundings of sums


# Reasons: dense alone; odd; one step; every step; a factor of 5 below; Wan's 90 = 2 * 45.
@pytest.mark.parametrize("n", [1, 7, 16, 45, 128, 160, 90])
@pytest.mark.parametrize("isa", ISAS)
def test_factorised_cosine_transforms(n, isa):
    x = random(1, 2, n, n)
    for synthesis in (False, True):
        out = torch.empty(1, 2, n, n)
        side = _native.fast_dct(n, synthesis)
        _native.plane_product(
            view(out), view(torch.from_numpy(x)), None, (side, side), None, (0, 0), None, 0, weights([1.0, 0, 0]), 2,
            False, isa,
        )  # fmt: skip
        T = table("dct", "synthesis" if synthesis else "analysis", n, n)
        expected = T @ x.astype(np.float64) @ T.T
        # Each of at most 2 log2 n + 2 steps per side rounds three times; a dense block of 15 rounds its sums.
        bound = 2 * (3 * (2 * np.log2(n) + 2) + 15) * 2.0**-24
        error = np.linalg.norm(out.numpy() - expected, axis=(-2, -1)) / np.linalg.norm(expected, axis=(-2, -1))
        assert error.max() < bound


@pytest.mark.parametrize("threads", [1, 16], ids=["by plane", "by block"])
@pytest.mark.parametrize("isa", ISAS)
def test_fast_expansion_in_the_frequency_domain(isa, threads):
    coarse, fine, times = (33, 24), (64, 50), np.array([0.6, 0.0])
    x, noise = random(2, 3, *coarse), random(2, 3, *fine, seed=1)
    noise[1] = np.nan  # has no weight
    expected, _ = reference.expand(x, fine, times, noise=noise)
    _, kappa = reference.align_time(times, reference.resolution_ratio(fine, coarse))
    out = torch.empty(2, 3, *fine)
    analysis = tuple(_native.fast_dct(n, False) for n in coarse)
    synthesis = tuple(_native.fast_dct(n, True) for n in fine)
    _native.plane_product(
        view(out), view(torch.from_numpy(x)), view(torch.from_numpy(noise)), analysis, synthesis, coarse, None, 0,
        np.stack([kappa, times, 0 * times], axis=1), threads, True, isa,
    )  # fmt: skip
    assert np.abs(out.numpy() - expected).max() < (33 + 24 + 64 + 50) * 2.0**-24 * np.abs(expected).max()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_noise_has_the_reference_bits(dtype, isa):
    out = torch.empty(2, 3, 7, 37, dtype=dtype)
    _native.normal(out, 2**40 + 5, 3, 2, isa)
    expected = torch.from_numpy(normal((2, 3, 7, 37), 2**40 + 5, 3))
    assert_same_bits(out, expected.to(dtype))


# Reasons: less than a vector; one element past a piece of 512; one past a task of 2^15.
@pytest.mark.parametrize("size", [5, 513, 2**15 + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("isa", ISAS)
def test_forecast_has_the_reference_bits(isa, dtype, size):
    h = torch.from_numpy(random(6, size)).to(dtype)
    h[3, size // 2] = torch.nan
    h[:, size // 3] = torch.inf
    w = random(2, 6, seed=1)
    out = torch.empty(2, size, dtype=dtype)
    _native.forecast(out, list(h.unbind(0)), w, 2, isa)
    for g in range(2):
        acc = w[g, 0] * h[0].float().numpy()
        for k in range(1, 6):
            acc = acc + w[g, k] * h[k].float().numpy()
        expected = torch.from_numpy(acc).to(dtype)
        assert_same_bits(out[g], torch.where(expected.isnan(), torch.nan, expected).to(dtype))


def test_the_order_of_calls_and_other_threads_change_nothing():
    from concurrent.futures import ThreadPoolExecutor

    x = torch.from_numpy(random(1, 9, 40, 40))
    expected = [expanded(x, (80, 80), 0.5, seeds=s, threads=1) for s in range(8)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda s: expanded(x, (80, 80), 0.5, seeds=s % 8, threads=2), range(64)))
    for s, result in enumerate(got):
        assert_same_bits(result, expected[s % 8])


def test_a_forked_child_computes_too():
    x = torch.from_numpy(random(1, 9, 20, 20))
    expected = expanded(x, (40, 40), 0.5, seeds=1)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(expanded(x, (40, 40), 0.5, seeds=1), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


THREADS = """
import os, torch
from spectral_kernels import dct_expand

torch.set_num_threads(4)
torch.randn(1 << 20).mul_(2)
before = len(os.listdir("/proc/self/task"))
dct_expand(torch.ones(1, 64, 8, 8), 2, t=0.0)
assert len(os.listdir("/proc/self/task")) == before, "more threads"
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads where Linux lists them")
@pytest.mark.skipif("OpenMP" not in torch.__config__.parallel_info(), reason="this PyTorch has threads of another kind")
def test_threads_are_those_of_pytorch():
    subprocess.run([sys.executable, "-c", THREADS], check=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 1, 8, 9)}, "do not lead from its planes"),
        ({"x": torch.zeros(2, 1, 8, 8)}, "as many samples and planes"),
        ({"out": torch.zeros(1, 1, 16, 15)}, "do not lead from its planes"),
        ({"weights": np.zeros((2, 3))}, "one row per sample"),
        ({"weights": np.zeros((1, 2))}, "one row per sample"),
        ({"seeds": None}, "needs other or seeds"),
        ({"seeds": np.zeros(2, np.int64)}, "one number per sample"),
        ({"isa": "mmx"}, "instruction set mmx"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    given = {"out": torch.zeros(1, 1, 16, 16), "x": torch.zeros(1, 1, 8, 8), "seeds": 1, "weights": weights([1, 1, 0])}
    given = {"isa": "", **given, **change}
    tables = handles("dct", "up", (16, 16), (8, 8)), handles("dct", "synthesis", (16, 16), (8, 8))
    with pytest.raises(ValueError, match=message):
        _native.plane_product(
            view(given["out"]), view(given["x"]), None, *tables, (8, 8), given["seeds"], 0, given["weights"], 1,
            False, given["isa"],
        )  # fmt: skip
