# SPDX-License-Identifier: Apache-2.0
"""One level of a pyramid, down or up, where a coarse pixel is a block of 2 x 2 fine ones: the common case.

Every number is read from memory once and written once, in wide accesses where strides allow it; what neighbouring
programs share, a border of their tiles, comes from a cache. All other ratios: kernels/pyramid.py, which launches these.
"""

import triton
import triton.language as tl

from spectral_kernels.kernels.planes import element, plane_offset
from spectral_kernels.kernels.rounding import round_to, widen


@triton.jit
def narrow(y, DTYPE: tl.constexpr):
    """To DTYPE with a positive zero."""
    y = y + 0.0
    if DTYPE != tl.float64:
        y = round_to(y, DTYPE)
    return y


@triton.jit
def load_wide(p_plane, o_row, o_column, strides, mask):
    return widen(tl.load(p_plane + element(o_row, o_column, strides, 1), mask=mask, other=0.0))


@triton.jit
def tile_of(ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr):
    """The blocks of program (plane, row tile, column tile), ROWS times COLUMNS of them, STEPS rows one after the other:
    their rows, their columns, and the columns of their fine pixels."""
    i_row, i_column = tl.program_id(1), tl.program_id(2)
    o_row = ((i_row * ROWS + tl.arange(0, ROWS)) * STEPS).to(tl.int64)[:, None]
    o_column = (i_column * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
    o_fine = (i_column * 2 * COLUMNS + tl.arange(0, 2 * COLUMNS)).to(tl.int64)[None, :]
    return o_row, o_column, o_fine


@triton.jit
def load_fine(p_plane, o_row, o_fine, size, strides):
    """A row of pixels of each row of blocks, as their even and their odd columns."""
    mask = (o_row >= 0) & (o_row < size[0]) & (o_fine >= 0) & (o_fine < size[1])
    both = load_wide(p_plane, o_row, o_fine, strides, mask)
    return tl.split(tl.reshape(both, (o_row.shape[0], o_fine.shape[1] // 2, 2)))


@triton.jit
def store_fine(p_plane, even, odd, o_row, o_fine, size, strides):
    DTYPE: tl.constexpr = p_plane.dtype.element_ty
    both = tl.reshape(tl.join(narrow(even, DTYPE), narrow(odd, DTYPE)), (o_row.shape[0], o_fine.shape[1]))
    mask = (o_row < size[0]) & (o_fine < size[1])
    tl.store(p_plane + element(o_row, o_fine, strides, 1), both, mask=mask)


@triton.jit
def load_means(p_x, o_row, o_column, o_fine, size, strides):
    """Means of blocks as they will be stored, which `round_to` then keeps, and their pixels. Rows of a column first; at
    an odd end a block holds one row or one column, and the rest of it is 0."""
    a, b = load_fine(p_x, 2 * o_row, o_fine, size, strides)
    c, d = load_fine(p_x, 2 * o_row + 1, o_fine, size, strides)
    share = tl.where(2 * o_row + 1 < size[0], 0.5, 1.0) * tl.where(2 * o_column + 1 < size[1], 0.5, 1.0)
    mean = narrow(((a + c) + (b + d)) * share.to(a.dtype), p_x.dtype.element_ty)
    return widen(mean), a, b, c, d


@triton.jit
def doubled(before, here, after, o, last):
    """Linear interpolation to twice as many pixels along an axis: the even and the odd ones.

    The first one reads pixel 0 and, with weight 0, pixel 1; the last one reads the last pixel twice.
    """
    after = tl.where(o < last, after, here)
    before = tl.where(o > 0, before, after)
    near, far = tl.where(o > 0, 0.75, 1.0).to(here.dtype), tl.where(o > 0, 0.25, 0.0).to(here.dtype)
    return far * before + near * here, here * 0.75 + after * 0.25


@triton.jit
def raised_means(p_x, o_row, o_column, o_fine, size, last, strides):
    """`load_means`, and the means interpolated to twice as many columns."""
    before, _, _, _, _ = load_means(p_x, o_row, o_column - 1, o_fine - 2, size, strides)
    here, a, b, c, d = load_means(p_x, o_row, o_column, o_fine, size, strides)
    after, _, _, _, _ = load_means(p_x, o_row, o_column + 1, o_fine + 2, size, strides)
    even, odd = doubled(before, here, after, o_column, last)
    return even, odd, here, a, b, c, d


@triton.jit
def raised_coarse(p_coarse, o_row, o_column, size, strides):
    """Coarse pixels interpolated to twice as many columns."""
    inside = (o_row >= 0) & (o_row < size[0])
    before = load_wide(p_coarse, o_row, o_column - 1, strides, inside & (o_column > 0) & (o_column <= size[1]))
    here = load_wide(p_coarse, o_row, o_column, strides, inside & (o_column < size[1]))
    after = load_wide(p_coarse, o_row, o_column + 1, strides, inside & (o_column + 1 < size[1]))
    return doubled(before, here, after, o_column, size[1] - 1)


@triton.jit
def split_area(
    x, coarse, detail, x_strides, coarse_strides, detail_strides, size, coarse_size, per_sample, c2,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    i_plane = tl.program_id(0).to(tl.int64)
    o_row, o_column, o_fine = tile_of(ROWS, COLUMNS, 1)
    p_x = x + plane_offset(i_plane, per_sample, c2, x_strides)
    p_coarse = coarse + plane_offset(i_plane, per_sample, c2, coarse_strides)
    p_detail = detail + plane_offset(i_plane, per_sample, c2, detail_strides)
    mean, a, b, c, d = load_means(p_x, o_row, o_column, o_fine, size, x_strides)
    mask = (o_row < coarse_size[0]) & (o_column < coarse_size[1])
    tl.store(p_coarse + element(o_row, o_column, coarse_strides, 1), round_to(mean, coarse.dtype.element_ty), mask=mask)
    store_fine(p_detail, a - mean, b - mean, 2 * o_row, o_fine, size, detail_strides)
    store_fine(p_detail, c - mean, d - mean, 2 * o_row + 1, o_fine, size, detail_strides)


@triton.jit
def split_bilinear(
    x, coarse, detail, x_strides, coarse_strides, detail_strides, size, coarse_size, per_sample, c2,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Each step reads the next row of blocks; the one before and this one are at hand."""
    i_plane = tl.program_id(0).to(tl.int64)
    o_row, o_column, o_fine = tile_of(ROWS, COLUMNS, STEPS)
    p_x = x + plane_offset(i_plane, per_sample, c2, x_strides)
    p_coarse = coarse + plane_offset(i_plane, per_sample, c2, coarse_strides)
    p_detail = detail + plane_offset(i_plane, per_sample, c2, detail_strides)
    last = coarse_size[1] - 1
    even_before, odd_before, _, _, _, _, _ = raised_means(p_x, o_row - 1, o_column, o_fine, size, last, x_strides)
    even, odd, mean, a, b, c, d = raised_means(p_x, o_row, o_column, o_fine, size, last, x_strides)
    for _ in range(STEPS):
        even_after, odd_after, next_mean, next_a, next_b, next_c, next_d = raised_means(
            p_x, o_row + 1, o_column, o_fine, size, last, x_strides
        )
        mask = (o_row < coarse_size[0]) & (o_column < coarse_size[1])
        tl.store(
            p_coarse + element(o_row, o_column, coarse_strides, 1), round_to(mean, coarse.dtype.element_ty), mask=mask
        )
        up_a, up_c = doubled(even_before, even, even_after, o_row, coarse_size[0] - 1)
        up_b, up_d = doubled(odd_before, odd, odd_after, o_row, coarse_size[0] - 1)
        store_fine(p_detail, a - up_a, b - up_b, 2 * o_row, o_fine, size, detail_strides)
        store_fine(p_detail, c - up_c, d - up_d, 2 * o_row + 1, o_fine, size, detail_strides)
        even_before, odd_before, even, odd, mean = even, odd, even_after, odd_after, next_mean
        a, b, c, d = next_a, next_b, next_c, next_d
        o_row += 1


@triton.jit
def merge_row(p_detail, p_out, up_a, up_b, up_c, up_d, o_row, o_fine, size, detail_strides, out_strides,
              SUBTRACT: tl.constexpr):  # fmt: skip
    a, b = load_fine(p_detail, 2 * o_row, o_fine, size, detail_strides)
    c, d = load_fine(p_detail, 2 * o_row + 1, o_fine, size, detail_strides)
    if SUBTRACT:
        a, b, c, d = a - up_a, b - up_b, c - up_c, d - up_d
    else:
        a, b, c, d = up_a + a, up_b + b, up_c + c, up_d + d
    store_fine(p_out, a, b, 2 * o_row, o_fine, size, out_strides)
    store_fine(p_out, c, d, 2 * o_row + 1, o_fine, size, out_strides)


@triton.jit
def merge_area(
    coarse, detail, out, coarse_strides, detail_strides, out_strides, size, coarse_size, per_sample, c2,
    SUBTRACT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    i_plane = tl.program_id(0).to(tl.int64)
    o_row, o_column, o_fine = tile_of(ROWS, COLUMNS, 1)
    p_coarse = coarse + plane_offset(i_plane, per_sample, c2, coarse_strides)
    p_detail = detail + plane_offset(i_plane, per_sample, c2, detail_strides)
    p_out = out + plane_offset(i_plane, per_sample, c2, out_strides)
    mask = (o_row < coarse_size[0]) & (o_column < coarse_size[1])
    up = load_wide(p_coarse, o_row, o_column, coarse_strides, mask)
    merge_row(p_detail, p_out, up, up, up, up, o_row, o_fine, size, detail_strides, out_strides, SUBTRACT)


@triton.jit
def merge_bilinear(
    coarse, detail, out, coarse_strides, detail_strides, out_strides, size, coarse_size, per_sample, c2,
    SUBTRACT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    i_plane = tl.program_id(0).to(tl.int64)
    o_row, o_column, o_fine = tile_of(ROWS, COLUMNS, STEPS)
    p_coarse = coarse + plane_offset(i_plane, per_sample, c2, coarse_strides)
    p_detail = detail + plane_offset(i_plane, per_sample, c2, detail_strides)
    p_out = out + plane_offset(i_plane, per_sample, c2, out_strides)
    even_before, odd_before = raised_coarse(p_coarse, o_row - 1, o_column, coarse_size, coarse_strides)
    even, odd = raised_coarse(p_coarse, o_row, o_column, coarse_size, coarse_strides)
    for _ in range(STEPS):
        even_after, odd_after = raised_coarse(p_coarse, o_row + 1, o_column, coarse_size, coarse_strides)
        up_a, up_c = doubled(even_before, even, even_after, o_row, coarse_size[0] - 1)
        up_b, up_d = doubled(odd_before, odd, odd_after, o_row, coarse_size[0] - 1)
        merge_row(p_detail, p_out, up_a, up_b, up_c, up_d, o_row, o_fine, size, detail_strides, out_strides, SUBTRACT)
        even_before, odd_before, even, odd = even, odd, even_after, odd_after
        o_row += 1
