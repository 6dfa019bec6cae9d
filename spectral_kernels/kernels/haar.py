# SPDX-License-Identifier: Apache-2.0
"""Haar in Triton, some levels at once: one launch, every element read once and written once.

    y = alpha (M X + beta N E) + gamma E + 0        in float64, the sums in the order of reference/wavelets.py

A program owns a tile of 2x2 blocks of the finest level of one plane, and all that lies above them. A "quad" is what one
block holds, in either form: the pixels (a, b, c, d) = (top left, top right, bottom left, bottom right), or the
coefficients (LL, LH, HL, HH). The pixels of a level's quads are the LL of the next finer level.
"""

import struct

import torch
import triton
import triton.language as tl

from spectral_kernels.kernels.launch import blocks
from spectral_kernels.kernels.noise import normal_quad, sample_seed
from spectral_kernels.kernels.planes import element, plane_offset, sample_weights
from spectral_kernels.kernels.rounding import round_to, widen

ROWS, COLUMNS, WARPS = 8, 64, 4  # blocks per program: 16 x 128 pixels, a row of blocks of the coarsest level


def noise_tile(levels: int) -> tuple[int, int]:
    """(QUADS, COLUMNS) of a tile with noise: four rows of blocks of the coarsest level at least."""
    return max(ROWS // 4, 1 << (levels - 1)), COLUMNS if levels < 3 else COLUMNS // 2


@triton.jit
def analyse(a, b, c, d):
    """Pixels to coefficients, or back: rows first. The same sums go both ways, (a, b, c, d) <-> (LL, LH, HL, HH)."""
    left, right = a + c, b + d
    left_high, right_high = a - c, b - d
    return (left + right) * 0.5, (left - right) * 0.5, (left_high + right_high) * 0.5, (left_high - right_high) * 0.5


@triton.jit
def beside(a, b):
    """Columns of two tiles in turns."""
    ROWS: tl.constexpr = a.shape[0]
    COLUMNS: tl.constexpr = a.shape[1]
    return tl.reshape(tl.join(a, b), (ROWS, 2 * COLUMNS))


@triton.jit
def below(a, b):
    """Rows of two tiles in turns."""
    ROWS: tl.constexpr = a.shape[0]
    COLUMNS: tl.constexpr = a.shape[1]
    return tl.reshape(tl.permute(tl.join(a, b), (0, 2, 1)), (2 * ROWS, COLUMNS))


@triton.jit
def quads(x):
    """The four tiles of a tile's 2x2 blocks."""
    ROWS: tl.constexpr = x.shape[0] // 2
    COLUMNS: tl.constexpr = x.shape[1] // 2
    top, bottom = tl.split(tl.permute(tl.reshape(x, (ROWS, 2, 2 * COLUMNS)), (0, 2, 1)))
    a, b = tl.split(tl.reshape(top, (ROWS, COLUMNS, 2)))
    c, d = tl.split(tl.reshape(bottom, (ROWS, COLUMNS, 2)))
    return a, b, c, d


@triton.jit
def tile_of(h, w, ROWS: tl.constexpr, COLUMNS: tl.constexpr, UP: tl.constexpr):
    """Rows, columns, mask and grid of this program's blocks, UP levels above the finest."""
    o_row = (tl.program_id(1) * (ROWS >> UP) + tl.arange(0, ROWS >> UP)).to(tl.int64)[:, None]
    o_column = (tl.program_id(2) * (COLUMNS >> UP) + tl.arange(0, COLUMNS >> UP)).to(tl.int64)[None, :]
    return o_row, o_column, (o_row < (h >> UP)) & (o_column < (w >> UP)), h >> UP, w >> UP


@triton.jit
def load_pixels(p_plane, o_row, o_column, mask, strides, PATCH: tl.constexpr):
    """The four pixels of each block, a row of blocks in one contiguous access."""
    ROWS: tl.constexpr = o_row.shape[0]
    COLUMNS: tl.constexpr = o_column.shape[1]
    o_fine = tl.reshape(tl.join(2 * o_column, 2 * o_column + 1), (1, 2 * COLUMNS))
    m_fine = tl.reshape(tl.join(mask, mask), (ROWS, 2 * COLUMNS))
    top = widen(tl.load(p_plane + element(2 * o_row, o_fine, strides, PATCH), mask=m_fine, other=0.0))
    bottom = widen(tl.load(p_plane + element(2 * o_row + 1, o_fine, strides, PATCH), mask=m_fine, other=0.0))
    a, b = tl.split(tl.reshape(top.to(tl.float64), (ROWS, COLUMNS, 2)))
    c, d = tl.split(tl.reshape(bottom.to(tl.float64), (ROWS, COLUMNS, 2)))
    return a, b, c, d


@triton.jit
def load_details(p_plane, o_row, o_column, mask, h, w, strides, PATCH: tl.constexpr):
    """LH, HL and HH of each block from their corners."""
    lh = widen(tl.load(p_plane + element(o_row, w + o_column, strides, PATCH), mask=mask, other=0.0)).to(tl.float64)
    hl = widen(tl.load(p_plane + element(h + o_row, o_column, strides, PATCH), mask=mask, other=0.0)).to(tl.float64)
    hh = widen(tl.load(p_plane + element(h + o_row, w + o_column, strides, PATCH), mask=mask, other=0.0)).to(tl.float64)
    return lh, hl, hh


@triton.jit
def load_one(p_plane, o_row, o_column, mask, strides, PATCH: tl.constexpr):
    return widen(tl.load(p_plane + element(o_row, o_column, strides, PATCH), mask=mask, other=0.0)).to(tl.float64)


@triton.jit
def synthesised(
    p_plane, h, w, strides, PATCH: tl.constexpr, LOWEST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    LEVELS: tl.constexpr,
):  # fmt: skip
    """Pixels from the coefficients of all levels; LL counts as 0 unless LOWEST."""
    o_row, o_column, mask, h_level, w_level = tile_of(h, w, ROWS, COLUMNS, LEVELS - 1)
    low = tl.zeros((ROWS >> (LEVELS - 1), COLUMNS >> (LEVELS - 1)), tl.float64)
    if LOWEST:
        low = load_one(p_plane, o_row, o_column, mask, strides, PATCH)
    for i in tl.static_range(LEVELS - 1):
        o_row, o_column, mask, h_level, w_level = tile_of(h, w, ROWS, COLUMNS, LEVELS - 1 - i)
        lh, hl, hh = load_details(p_plane, o_row, o_column, mask, h_level, w_level, strides, PATCH)
        a, b, c, d = analyse(low, lh, hl, hh)
        low = below(beside(a, b), beside(c, d))
    o_row, o_column, mask, h_level, w_level = tile_of(h, w, ROWS, COLUMNS, 0)
    lh, hl, hh = load_details(p_plane, o_row, o_column, mask, h, w, strides, PATCH)
    return analyse(low, lh, hl, hh)


@triton.jit
def lowest(a, b, c, d, LEVELS: tl.constexpr):
    """LL of the coarsest level."""
    low = ((a + c) + (b + d)) * 0.5
    for _ in tl.static_range(LEVELS - 1):
        a, b, c, d = quads(low)
        low = ((a + c) + (b + d)) * 0.5
    return low


@triton.jit
def spread(low, LEVELS: tl.constexpr):
    """Every pixel of a block from its LL; one tile for all four of a quad."""
    low = low * 0.5
    for _ in tl.static_range(LEVELS - 1):
        low = low * 0.5
        low = below(beside(low, low), beside(low, low))
    return low


@triton.jit
def weighted(first, second, e, alpha, beta, gamma, SECOND: tl.constexpr, ADD: tl.constexpr):
    y = first
    if SECOND:
        y = tl.where(beta == 0.0, first, first + beta * second)
    y = alpha * y
    if ADD:
        y = y + gamma * e
    return y + 0.0


@triton.jit
def rounded(y, DTYPE: tl.constexpr):
    if DTYPE != tl.float64:
        y = round_to(y.to(tl.float32), DTYPE)
    return y


@triton.jit
def store_pixels(p_plane, a, b, c, d, o_row, o_column, mask, strides, PATCH: tl.constexpr):
    ROWS: tl.constexpr = o_row.shape[0]
    COLUMNS: tl.constexpr = o_column.shape[1]
    DTYPE: tl.constexpr = p_plane.dtype.element_ty
    o_fine = tl.reshape(tl.join(2 * o_column, 2 * o_column + 1), (1, 2 * COLUMNS))
    m_fine = tl.reshape(tl.join(mask, mask), (ROWS, 2 * COLUMNS))
    top = tl.reshape(tl.join(rounded(a, DTYPE), rounded(b, DTYPE)), (ROWS, 2 * COLUMNS))
    bottom = tl.reshape(tl.join(rounded(c, DTYPE), rounded(d, DTYPE)), (ROWS, 2 * COLUMNS))
    tl.store(p_plane + element(2 * o_row, o_fine, strides, PATCH), top, mask=m_fine)
    tl.store(p_plane + element(2 * o_row + 1, o_fine, strides, PATCH), bottom, mask=m_fine)


@triton.jit
def store_details(p_plane, lh, hl, hh, o_row, o_column, mask, h, w, strides, PATCH: tl.constexpr):
    DTYPE: tl.constexpr = p_plane.dtype.element_ty
    tl.store(p_plane + element(o_row, w + o_column, strides, PATCH), rounded(lh, DTYPE), mask=mask)
    tl.store(p_plane + element(h + o_row, o_column, strides, PATCH), rounded(hl, DTYPE), mask=mask)
    tl.store(p_plane + element(h + o_row, w + o_column, strides, PATCH), rounded(hh, DTYPE), mask=mask)


@triton.jit(do_not_specialize=["t", "ratio"])
def haar(
    out, x, other, times, t: "i64", ratio: "i64", out_strides, x_strides, other_strides, size, per_sample, c2,
    KIND: tl.constexpr, SECOND: tl.constexpr, ADD: tl.constexpr, PATCH: tl.constexpr,
    FORMULA: tl.constexpr, PART: tl.constexpr, TIMES: tl.constexpr, LEVELS: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Everything but drawn noise; program (plane, row tile, column tile) of `size` blocks of the finest level."""
    i_plane = tl.program_id(0).to(tl.int64)
    h, w = tl.cast(size[0], tl.int64), tl.cast(size[1], tl.int64)  # a side of 1 is a constant
    o_row, o_column, mask, _, _ = tile_of(h, w, ROWS, COLUMNS, 0)
    p_x = x + plane_offset(i_plane, per_sample, c2, x_strides)
    p_other = other + plane_offset(i_plane, per_sample, c2, other_strides)
    p_out = out + plane_offset(i_plane, per_sample, c2, out_strides)
    alpha, beta, gamma = sample_weights(t, ratio, times, i_plane // per_sample, FORMULA, PART, TIMES)
    if KIND == "down" or KIND == "analysis":
        DTYPE: tl.constexpr = out.dtype.element_ty
        a, b, c, d = load_pixels(p_x, o_row, o_column, mask, x_strides, PATCH)
        for up in tl.static_range(LEVELS):
            o_row, o_column, mask, h_level, w_level = tile_of(h, w, ROWS, COLUMNS, up)
            low, lh, hl, hh = analyse(a, b, c, d)
            if KIND == "analysis":
                lh, hl, hh = alpha * lh + 0.0, alpha * hl + 0.0, alpha * hh + 0.0
                store_details(p_out, lh, hl, hh, o_row, o_column, mask, h_level, w_level, out_strides, PATCH)
            if up + 1 < LEVELS:
                a, b, c, d = quads(low)
        tl.store(p_out + element(o_row, o_column, out_strides, PATCH), rounded(alpha * low + 0.0, DTYPE), mask=mask)
    else:
        if KIND == "up":
            o_low, o_left = o_row >> (LEVELS - 1), o_column >> (LEVELS - 1)
            y0 = load_one(p_x, o_low, o_left, mask, x_strides, PATCH) * (1.0 / (1 << LEVELS))
            y1, y2, y3 = y0, y0, y0
        elif KIND == "synthesis":
            y0, y1, y2, y3 = synthesised(p_x, h, w, x_strides, PATCH, True, ROWS, COLUMNS, LEVELS)
        else:
            a, b, c, d = load_pixels(p_x, o_row, o_column, mask, x_strides, PATCH)
            y0 = spread(lowest(a, b, c, d, LEVELS), LEVELS)
            y1, y2, y3 = y0, y0, y0
        e0, e1, e2, e3 = y0, y1, y2, y3
        n0, n1, n2, n3 = y0, y1, y2, y3
        if SECOND == "synthesis":
            n0, n1, n2, n3 = synthesised(p_other, h, w, other_strides, PATCH, False, ROWS, COLUMNS, LEVELS)
        if ADD or SECOND == "lowpass":
            e0, e1, e2, e3 = load_pixels(p_other, o_row, o_column, mask, other_strides, PATCH)
            if SECOND == "lowpass":
                n0 = spread(lowest(e0, e1, e2, e3, LEVELS), LEVELS)
                n1, n2, n3 = n0, n0, n0
        y0 = weighted(y0, n0, e0, alpha, beta, gamma, SECOND != "", ADD)
        y1 = weighted(y1, n1, e1, alpha, beta, gamma, SECOND != "", ADD)
        y2 = weighted(y2, n2, e2, alpha, beta, gamma, SECOND != "", ADD)
        y3 = weighted(y3, n3, e3, alpha, beta, gamma, SECOND != "", ADD)
        store_pixels(p_out, y0, y1, y2, y3, o_row, o_column, mask, out_strides, PATCH)


@triton.jit
def noise_rows(seed, stream, plane, quad, column, SHIFT: tl.constexpr):
    """Four tiles: noise of the rows 4 quad + SHIFT to 4 quad + SHIFT + 3. A Philox call gives four rows from a multiple
    of four on, so a shift needs two."""
    rows = normal_quad(seed, stream, plane, quad, column)
    if SHIFT > 0:
        more = normal_quad(seed, stream, plane, quad + 1, column)
        if SHIFT == 1:
            rows = (rows[1], rows[2], rows[3], more[0])
        elif SHIFT == 2:
            rows = (rows[2], rows[3], more[0], more[1])
        else:
            rows = (rows[3], more[0], more[1], more[2])
    return rows


@triton.jit
def noise_quads(low, lh, hl, hh):
    return analyse(low, lh.to(tl.float64), hl.to(tl.float64), hh.to(tl.float64))


@triton.jit(do_not_specialize=["base_seed", "stream", "t", "ratio"])
def haar_noise(
    out, x, seeds, times, base_seed: "i64", stream: "i64", t: "i64", ratio: "i64", out_strides, x_strides, size,
    per_sample, c2, SHIFT: tl.constexpr, PATCH: tl.constexpr, FORMULA: tl.constexpr, PART: tl.constexpr,
    SEEDS: tl.constexpr, TIMES: tl.constexpr, LEVELS: tl.constexpr, QUADS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Expansion with noise drawn here, 4 QUADS rows of blocks of the finest level at a time, as four tiles of every
    fourth row. The high rows of the coarsest level begin at a row that is SHIFT mod 4."""
    i_plane = tl.program_id(0).to(tl.int64)
    i_sample = i_plane // per_sample
    h, w = tl.cast(size[0], tl.int64), tl.cast(size[1], tl.int64)  # a side of 1 is a constant
    p_x = x + plane_offset(i_plane, per_sample, c2, x_strides)
    p_out = out + plane_offset(i_plane, per_sample, c2, out_strides)
    seed = sample_seed(base_seed, seeds, i_sample, SEEDS)
    plane = i_plane % per_sample
    alpha, beta, gamma = sample_weights(t, ratio, times, i_sample, FORMULA, PART, TIMES)
    none = tl.zeros((QUADS >> (LEVELS - 1), COLUMNS >> (LEVELS - 1)), tl.float64)
    low = (none, none, none, none)
    for i in tl.static_range(LEVELS):
        o_quad, o_column, _, _, w_level = tile_of(h, w, QUADS, COLUMNS, LEVELS - 1 - i)
        high = (h >> (LEVELS - 1 - i)) // 4 + o_quad
        lh = normal_quad(seed, stream, plane, o_quad, w_level + o_column)
        hl = noise_rows(seed, stream, plane, high, o_column, (SHIFT << i) % 4)
        hh = noise_rows(seed, stream, plane, high, w_level + o_column, (SHIFT << i) % 4)
        if i + 1 < LEVELS:
            a, b, c, d = noise_quads(low[0], lh[0], hl[0], hh[0])
            first, second = beside(a, b), beside(c, d)
            a, b, c, d = noise_quads(low[1], lh[1], hl[1], hh[1])
            third, fourth = beside(a, b), beside(c, d)
            a, b, c, d = noise_quads(low[2], lh[2], hl[2], hh[2])
            first, second = below(first, beside(a, b)), below(second, beside(c, d))
            a, b, c, d = noise_quads(low[3], lh[3], hl[3], hh[3])
            low = (first, second, below(third, beside(a, b)), below(fourth, beside(c, d)))
        else:
            for word in tl.static_range(4):
                n0, n1, n2, n3 = noise_quads(low[word], lh[word], hl[word], hh[word])
                o_row = 4 * o_quad + word
                mask = (o_row < h) & (o_column < w)
                o_low, o_left = o_row >> (LEVELS - 1), o_column >> (LEVELS - 1)
                first = load_one(p_x, o_low, o_left, mask, x_strides, PATCH) * (1.0 / (1 << LEVELS))
                y0 = weighted(first, n0, n0, alpha, beta, gamma, True, False)
                y1 = weighted(first, n1, n1, alpha, beta, gamma, True, False)
                y2 = weighted(first, n2, n2, alpha, beta, gamma, True, False)
                y3 = weighted(first, n3, n3, alpha, beta, gamma, True, False)
                store_pixels(p_out, y0, y1, y2, y3, o_row, o_column, mask, out_strides, PATCH)


def launch(product, operands) -> None:
    """Launch a local `dispatch.product.Product` on its `Operands`."""
    out, x, other, seeds, times, base_seed, t = operands
    levels = product.levels
    size = tuple(side << (levels - 1) for side in product.coarse)
    planes, per_sample = x.shape[0] * x.shape[1] * x.shape[2], x.shape[1] * x.shape[2]
    t_pattern, ratio_pattern = struct.unpack("<2q", struct.pack("<2d", t, product.ratio))
    time_table = x if times is None else times
    given = {
        "PATCH": x.shape[4],
        "FORMULA": product.formula,
        "PART": product.part,
        "TIMES": times is not None,
        "LEVELS": levels,
        "num_warps": WARPS,
        "enable_fp_fusion": False,
    }
    with torch.cuda.device_of(x):
        if operands.draws(product):
            quads_at_once, columns = noise_tile(levels)
            grid = (planes, blocks(size[0], 4 * quads_at_once), blocks(size[1], columns))
            haar_noise[grid](
                out, x, x if seeds is None else seeds, time_table, 0 if base_seed is None else base_seed,
                product.stream, t_pattern, ratio_pattern, out.stride(), x.stride(), size, per_sample, x.shape[2],
                SHIFT=product.coarse[0] % 4, SEEDS=seeds is not None, QUADS=quads_at_once, COLUMNS=columns, **given,
            )  # fmt: skip
            return
        added = x if other is None else other
        grid = (planes, blocks(size[0], ROWS), blocks(size[1], COLUMNS))
        haar[grid](
            out, x, added, time_table, t_pattern, ratio_pattern, out.stride(), x.stride(), added.stride(), size,
            per_sample, x.shape[2], KIND=product.kind, SECOND=product.second if other is not None else "",
            ADD=product.adds and other is not None, ROWS=ROWS, COLUMNS=COLUMNS, **given,
        )  # fmt: skip
