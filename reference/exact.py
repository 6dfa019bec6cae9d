# SPDX-License-Identifier: Apache-2.0
"""The exact product: every sum is exact, so no order of additions can change a bit.

Both factors are written as sums of slices, integers of at most B bits on a power-of-two grid. A dot product of two
slices of length K is then an integer below K 2^(2B) <= 2^52 on a fixed grid: float64 adds it without rounding, in any
order, folded or blocked, on any machine. Only the few additions that put slices together round, and their order is
fixed here.
"""

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

# Bits of data below their grid: 14 more than float32 has, 15 fewer than float64. What is lost shows in one result of
# some thousands, and any float64 algorithm with a bound on its error decides all but a few of these roundings.
DATA_BITS = 38


def bits_for(length: int) -> int:
    """B: bits per slice, so that a dot product of `length` terms is exact in float64."""
    return min(22, (52 - (length - 1).bit_length()) // 2)


def grid_above(magnitude: Doubles) -> Doubles:
    """The power of two just above a magnitude; 1 where the magnitude is 0. Infinity and NaN give NaN grids."""
    with np.errstate(invalid="ignore"):
        finite = np.where(np.isfinite(magnitude) & (magnitude != 0), magnitude, 0.5)
        return np.where(np.isfinite(magnitude), np.ldexp(1.0, np.frexp(finite)[1]), np.nan)


def split(values: Doubles, grid: Doubles, bits: int, slices: int = 2) -> list[Doubles]:
    """Slices z_0, z_1, ... with sum(z_i) = values up to the last grid: z_i is a multiple of grid 2^(-(i+1) bits).

    Adding and subtracting 1.5 * 2^52 grid units rounds to the grid, ties to even.
    """
    parts: list[Doubles] = []
    rest = values
    shift = 1.5 * 2.0 ** (52 - bits) * grid
    for _ in range(slices):
        part = (rest + shift) - shift
        parts.append(part)
        rest = rest - part
        shift = shift * 2.0**-bits
    return parts


def split_data(values: Doubles, grid: Doubles, bits: int) -> list[Doubles]:
    """Two slices of data, which are first rounded to a multiple of grid 2^-38, ties to even."""
    shift = 1.5 * 2.0 ** (52 - DATA_BITS) * grid
    return split((values + shift) - shift, grid, bits)


def exact_matmul(table: Doubles, data: Doubles, slices: int = 2) -> Doubles:
    """table @ data in float64, rounded only where the slices meet.

        d_s = sum over i + j = s of table_i @ data_j        exact, every one
        result = d_0 + (d_1 + (d_2 + ...))                  s < slices

    `table` [m, K] has one grid; `data` [..., K, n] has one grid per column, the line that is summed over. Two slices
    are for data, which are rounded to 38 bits first; three are for tables, and keep more than float64 has.
    """
    bits = bits_for(table.shape[-1])
    tables = split(table, grid_above(np.abs(table).max(keepdims=True)), bits, slices)
    grid = grid_above(np.abs(data).max(axis=-2, keepdims=True, initial=0))
    parts = split_data(data, grid, bits) if slices == 2 else split(data, grid, bits, slices)
    diagonals = [np.sum([tables[i] @ parts[s - i] for i in range(s + 1)], axis=0) for s in range(slices)]
    result = diagonals.pop()
    while diagonals:
        result = diagonals.pop() + result
    return result
