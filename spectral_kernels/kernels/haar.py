# SPDX-License-Identifier: Apache-2.0
"""One level of Haar in Triton: one launch, every element read once and written once.

    y = alpha (M X + beta N E) + gamma E + 0        in float64, the sums in the order of reference/wavelets.py

A program owns a tile of 2x2 blocks of one plane. A "quad" is what one block holds, in either form: the pixels (a, b,
c, d) = (top left, top right, bottom left, bottom right), or the coefficients (LL, LH, HL, HH).
"""

import struct

import torch
import triton
import triton.language as tl

from spectral_kernels.kernels.noise import normal_quad, sample_seed
from spectral_kernels.kernels.planes import element, plane_offset, sample_weights
from spectral_kernels.kernels.rounding import round_to, widen

ROWS, COLUMNS, WARPS = 8, 64, 4  # blocks per program: 16 x 128 pixels


@triton.jit
def analyse(a, b, c, d):
    """Pixels to coefficients, or back: rows first. The same sums go both ways, (a, b, c, d) <-> (LL, LH, HL, HH)."""
    left, right = a + c, b + d
    left_high, right_high = a - c, b - d
    return (left + right) * 0.5, (left - right) * 0.5, (left_high + right_high) * 0.5, (left_high - right_high) * 0.5


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
def load_bands(p_plane, o_row, o_column, mask, h, w, strides, PATCH: tl.constexpr, LOWEST: tl.constexpr):
    """The four coefficients of each block from their corners; LL is 0 unless LOWEST."""
    lh = widen(tl.load(p_plane + element(o_row, w + o_column, strides, PATCH), mask=mask, other=0.0)).to(tl.float64)
    hl = widen(tl.load(p_plane + element(h + o_row, o_column, strides, PATCH), mask=mask, other=0.0)).to(tl.float64)
    hh = widen(tl.load(p_plane + element(h + o_row, w + o_column, strides, PATCH), mask=mask, other=0.0)).to(tl.float64)
    ll = tl.zeros_like(hh)
    if LOWEST:
        ll = widen(tl.load(p_plane + element(o_row, o_column, strides, PATCH), mask=mask, other=0.0)).to(tl.float64)
    return ll, lh, hl, hh


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
def store_bands(p_plane, ll, lh, hl, hh, o_row, o_column, mask, h, w, strides, PATCH: tl.constexpr):
    DTYPE: tl.constexpr = p_plane.dtype.element_ty
    tl.store(p_plane + element(o_row, o_column, strides, PATCH), rounded(ll, DTYPE), mask=mask)
    tl.store(p_plane + element(o_row, w + o_column, strides, PATCH), rounded(lh, DTYPE), mask=mask)
    tl.store(p_plane + element(h + o_row, o_column, strides, PATCH), rounded(hl, DTYPE), mask=mask)
    tl.store(p_plane + element(h + o_row, w + o_column, strides, PATCH), rounded(hh, DTYPE), mask=mask)


@triton.jit
def load_one(p_plane, o_row, o_column, mask, strides, PATCH: tl.constexpr):
    return widen(tl.load(p_plane + element(o_row, o_column, strides, PATCH), mask=mask, other=0.0)).to(tl.float64)


@triton.jit(do_not_specialize=["t", "ratio"])
def haar(
    out, x, other, times, t: "i64", ratio: "i64", out_strides, x_strides, other_strides, size, per_sample, c2,
    KIND: tl.constexpr, SECOND: tl.constexpr, ADD: tl.constexpr, PATCH: tl.constexpr,
    FORMULA: tl.constexpr, PART: tl.constexpr, TIMES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Everything but drawn noise; program (plane, row tile, column tile) of `size` blocks."""
    i_plane = tl.program_id(0).to(tl.int64)
    o_row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    o_column = (tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
    h, w = tl.cast(size[0], tl.int64), tl.cast(size[1], tl.int64)  # a side of 1 is a constant
    mask = (o_row < h) & (o_column < w)
    p_x = x + plane_offset(i_plane, per_sample, c2, x_strides)
    p_other = other + plane_offset(i_plane, per_sample, c2, other_strides)
    p_out = out + plane_offset(i_plane, per_sample, c2, out_strides)
    if KIND == "up":
        y0 = load_one(p_x, o_row, o_column, mask, x_strides, PATCH) * 0.5
        y1, y2, y3 = y0, y0, y0
    elif KIND == "synthesis":
        ll, lh, hl, hh = load_bands(p_x, o_row, o_column, mask, h, w, x_strides, PATCH, True)
        y0, y1, y2, y3 = analyse(ll, lh, hl, hh)
    else:
        a, b, c, d = load_pixels(p_x, o_row, o_column, mask, x_strides, PATCH)
        y0, y1, y2, y3 = analyse(a, b, c, d)
        if KIND == "lowpass":
            y0 = y0 * 0.5
            y1, y2, y3 = y0, y0, y0
    e0, e1, e2, e3 = y0, y1, y2, y3
    n0, n1, n2, n3 = y0, y1, y2, y3
    if SECOND == "synthesis":
        ll, lh, hl, hh = load_bands(p_other, o_row, o_column, mask, h, w, other_strides, PATCH, False)
        n0, n1, n2, n3 = analyse(ll, lh, hl, hh)
    if ADD or SECOND == "lowpass":
        e0, e1, e2, e3 = load_pixels(p_other, o_row, o_column, mask, other_strides, PATCH)
        if SECOND == "lowpass":
            n0, n1, n2, n3 = analyse(e0, e1, e2, e3)
            n0 = n0 * 0.5
            n1, n2, n3 = n0, n0, n0
    alpha, beta, gamma = sample_weights(t, ratio, times, i_plane // per_sample, FORMULA, PART, TIMES)
    y0 = weighted(y0, n0, e0, alpha, beta, gamma, SECOND != "", ADD)
    if KIND == "down":
        tl.store(p_out + element(o_row, o_column, out_strides, PATCH), rounded(y0, out.dtype.element_ty), mask=mask)
    else:
        y1 = weighted(y1, n1, e1, alpha, beta, gamma, SECOND != "", ADD)
        y2 = weighted(y2, n2, e2, alpha, beta, gamma, SECOND != "", ADD)
        y3 = weighted(y3, n3, e3, alpha, beta, gamma, SECOND != "", ADD)
        if KIND == "analysis":
            store_bands(p_out, y0, y1, y2, y3, o_row, o_column, mask, h, w, out_strides, PATCH)
        else:
            store_pixels(p_out, y0, y1, y2, y3, o_row, o_column, mask, out_strides, PATCH)


@triton.jit(do_not_specialize=["base_seed", "stream", "t", "ratio"])
def haar_noise(
    out, x, seeds, times, base_seed: "i64", stream: "i64", t: "i64", ratio: "i64", out_strides, x_strides, size,
    per_sample, c2, SHIFT: tl.constexpr, PATCH: tl.constexpr, FORMULA: tl.constexpr, PART: tl.constexpr,
    SEEDS: tl.constexpr, TIMES: tl.constexpr, QUADS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Expansion with noise drawn here, 4 QUADS rows of blocks at a time. A Philox call gives four rows from a multiple
    of four on; the high rows begin at h, SHIFT = h % 4 rows after one, and then need two calls."""
    i_plane = tl.program_id(0).to(tl.int64)
    i_sample = i_plane // per_sample
    o_quad = (tl.program_id(1) * QUADS + tl.arange(0, QUADS)).to(tl.int64)[:, None]
    o_column = (tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
    h, w = tl.cast(size[0], tl.int64), tl.cast(size[1], tl.int64)  # a side of 1 is a constant
    p_x = x + plane_offset(i_plane, per_sample, c2, x_strides)
    p_out = out + plane_offset(i_plane, per_sample, c2, out_strides)
    seed = sample_seed(base_seed, seeds, i_sample, SEEDS)
    plane = i_plane % per_sample
    lh_quads = normal_quad(seed, stream, plane, o_quad, w + o_column)
    hl_quads = normal_quad(seed, stream, plane, h // 4 + o_quad, o_column)
    hh_quads = normal_quad(seed, stream, plane, h // 4 + o_quad, w + o_column)
    hl_next, hh_next = hl_quads, hh_quads
    if SHIFT > 0:
        hl_next = normal_quad(seed, stream, plane, h // 4 + 1 + o_quad, o_column)
        hh_next = normal_quad(seed, stream, plane, h // 4 + 1 + o_quad, w + o_column)
    alpha, beta, gamma = sample_weights(t, ratio, times, i_sample, FORMULA, PART, TIMES)
    for word in tl.static_range(4):
        o_row = 4 * o_quad + word
        mask = (o_row < h) & (o_column < w)
        first = load_one(p_x, o_row, o_column, mask, x_strides, PATCH) * 0.5
        lh = lh_quads[word].to(tl.float64)
        if word + SHIFT < 4:
            hl, hh = hl_quads[(word + SHIFT) % 4].to(tl.float64), hh_quads[(word + SHIFT) % 4].to(tl.float64)
        else:
            hl, hh = hl_next[(word + SHIFT) % 4].to(tl.float64), hh_next[(word + SHIFT) % 4].to(tl.float64)
        n0, n1, n2, n3 = analyse(tl.zeros_like(hh), lh, hl, hh)
        y0 = weighted(first, n0, n0, alpha, beta, gamma, True, False)
        y1 = weighted(first, n1, n1, alpha, beta, gamma, True, False)
        y2 = weighted(first, n2, n2, alpha, beta, gamma, True, False)
        y3 = weighted(first, n3, n3, alpha, beta, gamma, True, False)
        store_pixels(p_out, y0, y1, y2, y3, o_row, o_column, mask, out_strides, PATCH)


def launch(product, operands) -> None:
    """Launch a local `dispatch.product.Product` on its `Operands`."""
    out, x, other, seeds, times, base_seed, t = operands
    size = product.coarse
    planes, per_sample = x.shape[0] * x.shape[1] * x.shape[2], x.shape[1] * x.shape[2]
    t_pattern, ratio_pattern = struct.unpack("<2q", struct.pack("<2d", t, product.ratio))
    grid = (planes, triton.cdiv(size[0], ROWS), triton.cdiv(size[1], COLUMNS))
    time_table = x if times is None else times
    given = {
        "PATCH": x.shape[4],
        "FORMULA": product.formula,
        "PART": product.part,
        "TIMES": times is not None,
        "COLUMNS": COLUMNS,
        "num_warps": WARPS,
        "enable_fp_fusion": False,
    }
    with torch.cuda.device_of(x):
        if operands.draws(product):
            haar_noise[grid](
                out, x, x if seeds is None else seeds, time_table, 0 if base_seed is None else base_seed,
                product.stream, t_pattern, ratio_pattern, out.stride(), x.stride(), size, per_sample, x.shape[2],
                SHIFT=size[0] % 4, SEEDS=seeds is not None, QUADS=ROWS // 4, **given,
            )  # fmt: skip
            return
        added = x if other is None else other
        haar[grid](
            out, x, added, time_table, t_pattern, ratio_pattern, out.stride(), x.stride(), added.stride(), size,
            per_sample, x.shape[2], KIND=product.kind, SECOND=product.second if other is not None else "",
            ADD=product.adds and other is not None, ROWS=ROWS, **given,
        )  # fmt: skip
