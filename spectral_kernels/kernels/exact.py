# SPDX-License-Identifier: Apache-2.0
"""Device functions of the exact product: grid, slices, and the dots of one tile. See `spectral_kernels.exact`."""

import triton
import triton.language as tl


@triton.jit
def grid_above(magnitude):
    """The power of two just above a float64 magnitude; 1 where it is 0, infinite where it is not finite."""
    magnitude = tl.where(magnitude == 0.0, 0.5, magnitude)
    exponent = magnitude.to(tl.int64, bitcast=True) & 0x7FF0000000000000
    return exponent.to(tl.float64, bitcast=True) * 2.0


DATA_BITS = tl.constexpr(38)  # of data below their grid; reference/exact.py says why


@triton.jit
def split(z, grid, BITS: tl.constexpr):
    """Two slices of float64 values: rounded to DATA_BITS below `grid`, the first slice to BITS."""
    shift = grid * (1.5 * 2.0 ** (52 - DATA_BITS))
    z = (z + shift) - shift
    shift = grid * (1.5 * 2.0 ** (52 - BITS))
    high = (z + shift) - shift
    return high, z - high


@triton.jit
def table_tile(table, o_row, o_column, m_row, m_column, length, slice_size, MODE: tl.constexpr):
    """Entries (row, column) of a table [m, length]: both slices in mode "exact", else the one table twice."""
    p_table = table + o_row * length + o_column
    mask = m_row & m_column
    high = tl.load(p_table, mask=mask, other=0.0)
    low = high
    if MODE == "exact":
        high = high.to(tl.float64)
        low = tl.load(p_table + slice_size, mask=mask, other=0.0).to(tl.float64)
    return high, low


@triton.jit
def accumulate(
    a_high, a_low, z_high, z_low, high, cross, MODE: tl.constexpr, DOT: tl.constexpr, ONE_SLICE: tl.constexpr
):
    """Adds the dots of one tile: `high` the first slices, `cross` the mixed ones. Other modes use `high` alone."""
    if MODE == "exact":
        high = tl.dot(a_high, z_high, high, out_dtype=tl.float64)
        cross = tl.dot(a_low, z_high, cross, out_dtype=tl.float64)
        if not ONE_SLICE:
            cross = tl.dot(a_high, z_low, cross, out_dtype=tl.float64)
    elif MODE == "double":
        high = tl.dot(a_high, z_high, high, out_dtype=tl.float64)
    else:
        high = tl.dot(a_high, z_high, high, input_precision=DOT)
    return high, cross
