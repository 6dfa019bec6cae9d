# SPDX-License-Identifier: Apache-2.0
"""The compiled core's ops on neighbours, for every instruction set and thread count: Haar, pyramids, noised levels,
moments. The other tests of these ops run on every backend, this one with the core's own calls."""

import numpy as np
import pytest
import torch

from reference import forecast, noise
from reference import pyramid as reference
from reference.wavelets import local_haar
from spectral_kernels.dispatch.product import canonical
from tests.bits import assert_same_bits
from tests.cases import random, rounded

_native = pytest.importorskip("spectral_kernels._native", reason="the compiled core is not built here: make native")

pytestmark = [
    pytest.mark.parametrize("isa", _native.isas()),
    pytest.mark.parametrize("threads", [1, 3], ids=lambda n: f"{n} threads"),
]

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def view(x):
    """[B, P, h, w] as the core's seven dimensions."""
    return x[:, :, None, :, None, :, None]


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


# Widths of whole and broken runs of 16 blocks, heights of every remainder mod 4: rows of noise come in fours.
# More levels: a second piece of 32 rows of blocks each time, and of 16 coarse columns.
@pytest.mark.parametrize(
    ("levels", "coarse"),
    [(1, (1, 1)), (1, (2, 15)), (1, (3, 16)), (1, (6, 17)), (1, (35, 33)), (2, (18, 17)), (3, (9, 2)), (4, (5, 18))],
    ids=str,
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_haar(dtype, levels, coarse, isa, threads):
    fine = (coarse[0] << levels, coarse[1] << levels)
    x, large, e = (
        random((2, 3, *coarse)).to(dtype),
        random((2, 3, *fine), 1).to(dtype),
        random((2, 3, *fine), 2).to(dtype),
    )
    weights = np.array([[1.5, 0.3, 0.0], [0.7, 0.0, 0.0]])
    drawn = torch.from_numpy(noise.normal((2, 3, *fine), [5, 2**40], 3))

    def run(given, kind, second="", other=None, seeds=None, rows=weights):
        out = torch.full((2, 3, *(coarse if kind == "down" else fine)), torch.nan, dtype=dtype)
        added = None if other is None else view(other)
        _native.haar(view(out), view(given), added, kind, second, levels, seeds, 3, rows, threads, isa)
        return out

    def expected(given, kind, second="", other=None, rows=weights):
        alpha, beta, gamma = rows.T[:, :, None, None, None]
        y = local_haar(given.double().numpy(), kind, levels)
        if second:
            spectrum = other.double().numpy()
            if second == "synthesis":
                spectrum[..., : coarse[0], : coarse[1]] = 0
            y = np.where(beta == 0, y, y + beta * local_haar(spectrum, second, levels))
        y = alpha * y
        if other is not None and gamma.any():
            y = y + gamma * other.double().numpy()
        return canonical(torch.from_numpy(y + 0.0), dtype)

    for kind in ("analysis", "synthesis", "down", "lowpass"):
        assert_same_bits(run(large, kind), expected(large, kind))
    assert_same_bits(run(x, "up"), expected(x, "up"))
    assert_same_bits(run(x, "up", "synthesis", e), expected(x, "up", "synthesis", e))
    seeds = np.array([5, 2**40], np.int64)
    assert_same_bits(run(x, "up", "synthesis", seeds=seeds), expected(x, "up", "synthesis", drawn))
    lift = np.array([[1.5, -0.4, 0.4], [1.2, -0.9, 0.9]])
    assert_same_bits(run(x, "up", "lowpass", e, rows=lift), expected(x, "up", "lowpass", e, rows=lift))


# Even and odd sides, lines, blocks of 4 and of 9, no change on one side, several bands of rows.
SIZES = [((8, 8), (4, 4)), ((13, 18), (7, 9)), ((1, 37), (1, 19)), ((13, 18), (4, 5)), ((12, 36), (4, 12)),
         ((10, 7), (10, 4)), ((300, 130), (150, 65)), ((300, 131), (150, 66))]  # fmt: skip


@pytest.mark.parametrize(("fine", "coarse"), SIZES, ids=str)
@pytest.mark.parametrize("resample", ["area", "bilinear"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pyramid(dtype, resample, fine, coarse, isa, threads):
    x = random((2, 2, *fine)).to(dtype)
    x[1, 0, 0, -1] = -torch.inf
    low, high, again, less = (torch.full((2, 2, *size), torch.nan, dtype=dtype) for size in (coarse, fine, fine, fine))
    _native.pyramid_split(view(x), view(low), view(high), resample, threads, isa)
    _native.pyramid_merge(view(low), view(high), view(again), resample, False, threads, isa)
    _native.pyramid_merge(view(low), view(high), view(less), resample, True, threads, isa)

    def stored(y):
        return canonical(torch.from_numpy(np.asarray(y + 0.0)), dtype)

    with np.errstate(invalid="ignore"):
        kind = torch.float64 if dtype == torch.float64 else torch.float32
        wide = x.to(kind).numpy()
        mean = stored(reference.DOWN[resample](wide, coarse))
        up = reference.UP[resample](mean.to(kind).numpy(), fine)
        rest = stored(wide - up)
        assert_same_bits(low, mean)
        assert_same_bits(high, rest)
        assert_same_bits(again, stored(up + rest.to(kind).numpy()))
        assert_same_bits(less, stored(rest.to(kind).numpy() - up))


@pytest.mark.parametrize("dtype", DTYPES)
def test_levels_of_one_size_and_any_strides(dtype, isa, threads):
    a, b = (random((2, 2, 9, 21), seed).to(dtype) for seed in (1, 2))
    out = torch.full((2, 2, 18, 42), torch.nan, dtype=dtype)[..., ::2, ::2]
    strided = a.mT.contiguous().mT
    _native.pyramid_merge(view(strided), view(b), view(out), "none", True, threads, isa)
    assert_same_bits(out, canonical(b.double() - a.double() + 0.0, dtype))
    for resample in ("area", "bilinear"):
        expected = [torch.empty(2, 2, *size, dtype=dtype) for size in ((5, 11), (9, 21))]
        found = [torch.empty(2, 2, *size, dtype=dtype).mT.contiguous().mT for size in ((5, 11), (9, 21))]
        _native.pyramid_split(view(a), *map(view, expected), resample, threads, isa)
        _native.pyramid_split(view(strided), *map(view, found), resample, threads, isa)
        for level, wanted in zip(found, expected, strict=True):
            assert_same_bits(level, wanted)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_noised_levels(dtype, masked, isa, threads):
    levels = [random((2, 3, *size), seed).to(dtype) for seed, size in enumerate([(2, 5), (7, 18), (33, 16)])]
    times, mask = np.array([[0.3, 1.0, 1.0], [0.05, 0.625, 0.0]]), np.array([[1, 0, 0], [1, 1, 1]], np.uint8)
    found = [[torch.full_like(x, torch.nan) for x in levels] for _ in range(2)]
    seeds = np.array([5, 2**40], np.int64)
    given = mask if masked else None
    _native.noise_levels(
        [view(x) for x in levels], *([view(y) for y in part] for part in found), times, given, seeds, 7, threads, isa
    )
    expected = reference.noise_levels(
        [x.float().numpy() for x in levels], times, [5, 2**40], mask=given, stream=7, dtype=name_of(dtype)
    )
    for part, wanted in zip(found, expected, strict=True):
        for level, value in zip(part, wanted, strict=True):
            assert_same_bits(level, rounded(value, dtype))


# Reasons: less than a vector; one element past a piece of 512; one past a task of 2^15.
@pytest.mark.parametrize("size", [5, 513, 2**15 + 1])
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_moments(dtype, size, isa, threads):
    moments, feature, row = random((5, size)), random((size,), 1).to(dtype), random((5,), 2)
    feature[size // 2], moments[2, 0] = torch.inf, torch.nan
    expected = forecast.update_moments(moments.numpy(), feature.float().numpy(), row.tolist())
    _native.update_moments(moments, feature, row, threads, isa)
    assert_same_bits(moments, expected)


def test_what_does_not_fit_is_refused(isa, threads):
    x, low = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4)
    rows = np.ones((1, 3))

    def haar(out, given, other=None, kind="analysis", second="", seeds=None, weights=rows, levels=1):
        added = None if other is None else view(other)
        _native.haar(view(out), view(given), added, kind, second, levels, seeds, 0, weights, threads, isa)

    def split(given, coarse, detail, resample="area"):
        _native.pyramid_split(view(given), view(coarse), view(detail), resample, threads, isa)

    refused = [
        (lambda: haar(low, x), "size that this kind"),
        (lambda: haar(x, x, kind="diagonal"), "kind must be"),
        (lambda: haar(x, low, kind="up", second="synthesis"), "needs other, or seeds"),
        (lambda: haar(x, low, x, kind="up", second="up"), "synthesis or lowpass"),
        (lambda: haar(x, low, low, kind="up", second="synthesis"), "size that this kind"),
        (lambda: haar(x, x, weights=np.ones((2, 3))), "one row per sample"),
        (lambda: haar(x, x, levels=5), "levels must be 1 to 4"),
        (lambda: haar(x, low, kind="up", levels=2), "size that this kind"),
        (lambda: haar(x, x, x), "need pixels as output"),
        (lambda: split(x, low, low), "as large as the fine"),
        (lambda: split(x, low.double(), x), "one dtype"),
        (lambda: split(x, torch.zeros(1, 1, 4, 5), x), "blocks do not lead"),
        (lambda: split(x, torch.zeros(1, 1, 4, 9), x, "bilinear"), "smaller than the fine"),
        (lambda: split(x, low, x, "dct"), "resample must be"),
        (
            lambda: _native.update_moments(torch.zeros(2, 8), torch.zeros(8), torch.zeros(3), threads, isa),
            "one factor per",
        ),
        (lambda: _native.update_moments(torch.zeros(2, 8), torch.zeros(7), torch.zeros(2), threads, isa), "as long as"),
    ]
    for call, message in refused:
        with pytest.raises(ValueError, match=message):
            call()
