# SPDX-License-Identifier: Apache-2.0
"""The exact product: its sums are exact, so nothing about their order can show in a bit."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference import exact as reference
from spectral_kernels import exact
from tests.bits import assert_same_bits

LENGTHS = [1, 2, 3, 16, 17, 61, 256, 257, 1000, 4096]  # one term, tiles, past a tile, a prime, the largest side


def table_like(rows, columns, seed=0):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (rows, columns))


def data_like(rows, columns, spread, seed=1):
    """Columns of very different size, float32 inside, with `spread` decades between neighbours."""
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((rows, columns)) * 10.0 ** generator.uniform(-spread, spread, (rows, columns))
    return values.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("length", LENGTHS)
def test_slices_leave_room_for_every_partial_sum(length):
    bits = reference.bits_for(length)
    assert exact.bits_for(length) == bits
    # A slice reaches 2^bits, and the bracket holds 2 length products.
    assert 2 * length * 2 ** (2 * bits) <= 2**53
    # No bit is given away, up to the 22 that two slices need for float32; each slice fits float32 exactly.
    assert bits == 22 or length * 2 ** (2 * bits + 2) > 2**52
    assert bits <= 23


def test_bits_at_known_lengths():
    assert [reference.bits_for(n) for n in (1, 256, 257, 1024, 1025, 4096)] == [22, 22, 21, 21, 20, 20]


@given(st.floats(0, 1e300, allow_subnormal=False))
def test_grid_is_the_power_of_two_just_above(magnitude):
    grid = float(reference.grid_above(np.float64(magnitude)))
    assert grid == 1 if magnitude == 0 else math.frexp(grid)[0] == 0.5 and grid / 2 <= magnitude < grid
    assert float(exact.grid_above(torch.tensor(magnitude, dtype=torch.float64))) == grid


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20), st.integers(20, 22))
def test_slices_add_up_and_lie_on_their_grids(values, bits):
    column = np.array(values, np.float64)[:, None]
    grid = reference.grid_above(np.abs(column).max(axis=0, keepdims=True))
    slices = reference.split(column, grid, bits, 3)
    unit = grid * 2.0**-bits
    for part in slices:
        in_units = part / unit
        assert (in_units == np.rint(in_units)).all()
        assert np.abs(in_units).max() <= 2**bits
        unit = unit * 2.0**-bits
    # What is left is below half a unit of the last grid.
    rest = [
        Fraction(v) - sum(map(Fraction, parts))
        for v, *parts in zip(column[:, 0], *(s[:, 0] for s in slices), strict=True)
    ]
    assert max(map(abs, rest)) <= Fraction(float(grid[0, 0])) * Fraction(1, 2 ** (3 * bits + 1))
    mine = exact.split(torch.from_numpy(column), torch.from_numpy(grid), bits, 3)
    for part, expected in zip(mine, slices, strict=True):
        assert_same_bits(part + 0.0, expected + 0.0)


@given(st.lists(st.floats(-(2.0**100), 2.0**100, allow_subnormal=False), min_size=1, max_size=20), st.integers(20, 22))
def test_data_are_the_nearest_multiple_of_the_last_of_their_bits(values, bits):
    column = np.array(values, np.float64)[:, None]
    grid = reference.grid_above(np.abs(column).max(axis=0, keepdims=True))
    high, low = reference.split_data(column, grid, bits)
    unit = Fraction(float(grid[0, 0])) / 2**38
    for value, h, t in zip(column[:, 0], high[:, 0], low[:, 0], strict=True):
        assert Fraction(h) + Fraction(t) == unit * round(Fraction(value) / unit)  # round() goes to even at a tie
        assert abs(Fraction(t)) <= unit * 2 ** (37 - bits)
    for part, expected in zip(exact.split_data(torch.from_numpy(column), 0, bits), (high, low), strict=True):
        assert_same_bits(part + 0.0, expected + 0.0)


def test_a_float32_number_is_its_two_slices_when_its_line_spans_few_magnitudes():
    values = np.random.default_rng(0).uniform(0.5, 1, (64, 1)).astype(np.float32).astype(np.float64)
    high, low = reference.split_data(values, np.ones((1, 1)), 22)
    assert ((high + low) == values).all()


@pytest.mark.parametrize("spread", [0, 6])
@pytest.mark.parametrize("length", LENGTHS)
def test_order_and_blocks_of_the_sum_change_no_bit(length, spread):
    table, data = table_like(5, length), data_like(length, 4, spread)
    expected = reference.exact_matmul(table, data)
    bits = reference.bits_for(length)
    tables = reference.split(table, reference.grid_above(np.abs(table).max(keepdims=True)), bits)
    parts = reference.split_data(data, reference.grid_above(np.abs(data).max(axis=0, keepdims=True)), bits)
    terms = {
        name: tables[i][:, :, None] * parts[j][None]
        for name, i, j in [("high", 0, 0), ("cross", 0, 1), ("cross2", 1, 0)]
    }
    generator = np.random.default_rng(2)

    def shuffled(products):
        """Sum along axis 1 in a random order and random blocks."""
        products = products[:, generator.permutation(products.shape[1])]
        cuts = np.sort(generator.integers(0, products.shape[1] + 1, generator.integers(0, 9)))
        blocks = [np.cumsum(block, axis=1)[:, -1] for block in np.split(products, cuts, axis=1) if block.shape[1]]
        total = np.zeros_like(products[:, 0])
        for i in generator.permutation(len(blocks)):
            total = total + blocks[i]
        return total

    both = np.concatenate([terms["cross"], terms["cross2"]], axis=1)  # the bracket: one dot of twice the length
    for _ in range(10):
        assert_same_bits(shuffled(terms["high"]) + shuffled(both), expected + 0.0)


@pytest.mark.parametrize("length", LENGTHS)
def test_torch_gives_the_reference_bits_for_any_neighbours(length):
    table, data = table_like(7, length), data_like(length, 9, 3)
    expected = reference.exact_matmul(table, data)
    assert_same_bits(exact.exact_matmul(torch.from_numpy(table), torch.from_numpy(data)), expected)
    alone = [exact.exact_matmul(torch.from_numpy(table), torch.from_numpy(data[:, i : i + 1])) for i in range(9)]
    assert_same_bits(torch.cat(alone, 1), expected)
    three = exact.exact_matmul(torch.from_numpy(table), torch.from_numpy(data), slices=3)
    assert_same_bits(three, reference.exact_matmul(table, data, slices=3))


@pytest.mark.parametrize("slices", [2, 3])
@pytest.mark.parametrize("length", [1, 17, 256, 1000])
def test_error_is_below_the_last_grid(length, slices):
    """Each factor is cut half a unit below its last slice, and the products of low slices are left out:

    |error| <= length grid_A grid_Z (2^(-slices bits) (1/2 + 1/2 + (slices - 1) / 2) + 2^-39) + rounding of additions
    """
    table, data = table_like(3, length), data_like(length, 2, 0)
    found = reference.exact_matmul(table, data, slices)
    bits = reference.bits_for(length)
    for i in range(3):
        for j in range(2):
            true = sum(Fraction(a) * Fraction(z) for a, z in zip(table[i], data[:, j], strict=True))
            grids = float(reference.grid_above(np.abs(table).max()) * reference.grid_above(np.abs(data[:, j]).max()))
            lost = (slices + 1) / 2 * 2.0 ** (-slices * bits) + (2.0**-39 if slices == 2 else 0)
            bound = length * grids * lost + abs(float(true)) * 2.0**-51
            assert abs(float(Fraction(found[i, j]) - true)) <= bound


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_number_makes_its_column_nan_and_no_other(bad):
    data = data_like(9, 3, 0)
    clean = reference.exact_matmul(table_like(4, 9), data)
    data[5, 1] = bad
    with np.errstate(invalid="ignore"):
        found = reference.exact_matmul(table_like(4, 9), data)
    assert np.isnan(found[:, 1]).all()
    assert_same_bits(found[:, [0, 2]], clean[:, [0, 2]])
    torched = exact.exact_matmul(torch.from_numpy(table_like(4, 9)), torch.from_numpy(data))
    assert torched[:, 1].isnan().all()
    assert_same_bits(torched[:, [0, 2]], clean[:, [0, 2]])
