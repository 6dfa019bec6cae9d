# SPDX-License-Identifier: Apache-2.0
"""The exact product in PyTorch: scale, split, and dots that no order of additions can change.

A factor is a sum of slices, integers of at most B bits on a power-of-two grid. A dot of two slices of length K is an
integer below K 2^(2B) <= 2^52 on a fixed grid, so float64 adds it without rounding in any order. `reference/README.md`
is the contract.
"""

import torch
from torch import Tensor

DATA_BITS = 38  # of data below their grid; reference/exact.py says why


def bits_for(length: int) -> int:
    """B: bits per slice, so that a dot product of `length` terms is exact in float64."""
    return min(22, (52 - (length - 1).bit_length()) // 2)


def grid_above(magnitude: Tensor) -> Tensor:
    """The power of two just above a float64 magnitude; 1 where it is 0, infinite where it is not finite."""
    exponent = torch.where(magnitude == 0, 0.5, magnitude).view(torch.int64) & 0x7FF0000000000000
    return exponent.view(torch.float64) * 2


def grid_of(values: Tensor, dim: int) -> Tensor:
    """One grid per line along `dim`, the line that is summed over."""
    return grid_above(values.abs().amax(dim, keepdim=True))


def split(values: Tensor, grid: Tensor, bits: int, slices: int = 2) -> list[Tensor]:
    """Slices of float64 values on their grid.

    Adding and subtracting 1.5 * 2^52 grid units rounds to the grid, ties to even. A NaN or infinity makes its line NaN.
    """
    shift = grid * (1.5 * 2.0 ** (52 - bits))
    parts, rest = [], values
    for left in reversed(range(slices)):
        part = (rest + shift).sub_(shift)
        parts.append(part)
        if left:
            rest = rest - part
            shift = shift * 2.0**-bits
    return parts


def split_data(values: Tensor, dim: int, bits: int) -> list[Tensor]:
    """Two slices of data, rounded to 38 bits below the grid of their line first."""
    grid = grid_of(values, dim)
    shift = grid * (1.5 * 2.0 ** (52 - DATA_BITS))
    kept = (values + shift).sub_(shift)
    shift = grid * (1.5 * 2.0 ** (52 - bits))
    high = (kept + shift).sub_(shift)
    return [high, kept.sub_(high)]


def split_table(table: Tensor, slices: int = 2) -> list[Tensor]:
    """Slices of a table [m, K] on one grid for all of it."""
    return split(table, grid_above(table.abs().amax()), bits_for(table.shape[-1]), slices)


def exact_matmul(table: Tensor, data: Tensor, slices: int = 2) -> Tensor:
    """table [m, K] @ data [K, n] in float64: d_0 + (d_1 + ...) with exact d_s = sum of table_i @ data_(s - i)."""
    tables = split_table(table, slices)
    bits = bits_for(table.shape[-1])
    parts = split_data(data, -2, bits) if slices == 2 else split(data, grid_of(data, -2), bits, slices)
    diagonals = [torch.stack([tables[i] @ parts[s - i] for i in range(s + 1)]).sum(0) for s in range(slices)]
    result = diagonals.pop()
    while diagonals:
        result = diagonals.pop() + result
    return result


def plane_product(x: Tensor, rows: Tensor, columns: Tensor, exact: bool) -> Tensor:
    """M_r X M_c^T of planes [P, h, w], rows first, as [H, P, W].

    The result is float64 from slices [2, m, K] when `exact`, else of the type of the tables [m, K]. All planes share
    each matrix product: planes lie side by side as columns for the rows, one above the other for the columns.
    """
    planes, _, width = x.shape
    if not exact:
        with torch._C._DisableAutocast():  # it would multiply in a half type, 4e-3 in place of 2e-6
            half = rows @ x.permute(1, 0, 2).reshape(-1, planes * width).to(rows.dtype)
            return (half.view(-1, width) @ columns.T).view(-1, planes, columns.shape[0])
    half = _sliced_matmul(rows, x.permute(1, 0, 2).to(torch.float64).reshape(-1, planes * width))
    return _sliced_matmul(columns, half.view(-1, width).T).T.view(-1, planes, columns.shape[1])


def _sliced_matmul(table: Tensor, data: Tensor) -> Tensor:
    """Exact product of a sliced table [2, m, K] and data [K, n]; the cross terms lie on one grid and are one dot."""
    high, low = table.to(torch.float64)
    z = torch.cat(split_data(data, 0, bits_for(data.shape[0])))
    return (high @ z[: data.shape[0]]).add_(torch.cat([low, high], 1) @ z)
