# SPDX-License-Identifier: Apache-2.0
"""The compiled core's products in plain float64. A bound tells which results may be rounded and which must be computed
from their slices: planes for which few are open, many, or all."""

import numpy as np
import pytest
import torch

from reference import exact
from reference import expand as reference
from reference.bases import table
from tests.bits import assert_same_bits
from tests.test_native import ISAS, _native, expanded, handle, handles, random, view, weights

# Reasons: factorised transforms on both axes, joined in one synthesis (coarse sides from 32 on); on the columns alone;
# on neither (odd, and below 64); a factorised transform whose coarse side is too short to join.
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


def float64_products(sides):
    """The matrix that factorised transforms (n, synthesis) multiply by one after the other: unit vectors go through."""
    one = _native.Table(np.ones((1, 1)), "double")
    data = torch.eye(sides[0][0], dtype=torch.float64)
    for n, synthesis in sides:
        data = torch.nn.functional.pad(data, (0, n - data.shape[1]))
        out = torch.empty_like(data)
        _native.plane_product(
            view(out[None, :, :, None]), view(data[None, :, :, None]), None,
            (_native.fast_dct(n, synthesis, "double"), one), None, (0, 0), None, 0, weights([1, 0, 0]), 1, False, "",
        )  # fmt: skip
        data = out
    return data.numpy().T


def cut_table(basis, kind, fine, coarse):
    """A table as the exact products use it, both slices."""
    T = table(basis, kind, fine, coarse)
    return sum(exact.split(T, exact.grid_above(np.abs(T).max(keepdims=True)), exact.bits_for(T.shape[1])))


@pytest.mark.parametrize(("fine", "coarse"), [(64, 32), (96, 66), (160, 80), (512, 256)])
def test_bounds_of_factorised_products_hold_and_are_near(fine, coarse):
    """The data that make most of a product's distance from its table are that distance's own direction."""
    for kind, sides, which in (
        ("analysis", [(fine, False)], 1),
        ("synthesis", [(fine, True)], 1),
        ("up", [(coarse, False), (fine, True)], 2),
    ):
        apart = np.linalg.norm(float64_products(sides) - cut_table("dct", kind, fine, coarse), axis=1).max()
        bound = handle("dct", kind, fine, coarse).bounds[which]
        assert apart <= bound <= 1.2 * apart + 400 * 2.0**-53  # the roundings of 10 steps, twice


def sums_just_below_two(T, rows, generator):
    """Columns [K, len(rows)] in float32 whose first product is 2 - 2^-52, the last number below 2, in one row each.

    Half of a column makes a sum near 2; the others are a few times 2^-37, of which a quarter of a million combinations
    are tried: one of them lies within a rounding of the number wanted.
    """
    bits, half, unit = exact.bits_for(T.shape[1]), T.shape[1] // 2, 2.0**-37  # data below 2 keep such bits
    slices = exact.split(T, exact.grid_above(np.abs(T).max(keepdims=True)), bits)
    high, low = (part.astype(np.longdouble) for part in slices)
    tries = generator.integers(-2, 3, (1 << 18, T.shape[1] - half)) * unit
    columns = np.zeros((T.shape[1], len(rows)))
    for x, r in zip(columns.T, rows, strict=True):
        weight = 2 / np.abs(T[r, :half]).sum()
        x[:half] = np.round(np.sign(T[r, :half]) * weight * generator.uniform(0.9, 1.0, half) * 2.0**20) / 2.0**20

        def distance(x=x, r=r):  # of the slices' products from the number wanted
            first, second = exact.split_data(x, exact.grid_above(np.abs(x).max()), bits)
            return (first + second) @ high[r] + first @ low[r] - (2 - np.longdouble(2.0**-52))

        for part, step in ((slice(0, half), 2.0**-20), (slice(half, None), unit)):
            j = part.start + np.argmax(np.abs(T[r, part]))
            x[j] -= np.round(float(distance()) / T[r, j] / step) * step
        x[half:] += tries[np.argmin(np.abs(tries @ slices[0][r, half:] + float(distance())))]
    assert (columns == columns.astype(np.float32)).all()
    return columns


@pytest.mark.parametrize("isa", ISAS)
def test_grids_that_hang_on_the_last_bit(isa):
    """Where the largest of a row lies just below a power of two, a float64 product may be that power: another grid."""
    generator, side = np.random.default_rng(11), (32, 96)
    T = table("dct", "analysis", 32, 32)
    x = 0.01 * random(8, 1, *side)
    for plane in x:
        plane[0][:, :24] = sums_just_below_two(T, range(1, 25), generator)
    firsts = exact.exact_matmul(T, x.astype(np.float64))
    assert (np.abs(firsts).max(axis=-1)[:, 0, 1:25] == 2 - 2.0**-52).mean() > 0.4
    out = torch.empty(8, 1, *side)
    _native.plane_product(
        view(out), view(torch.from_numpy(x)), None, handles("dct", "analysis", side, side), None, (0, 0), None, 0,
        weights([1, 0, 0]), 2, False, isa,
    )  # fmt: skip
    assert_same_bits(out, reference.transform(x))
