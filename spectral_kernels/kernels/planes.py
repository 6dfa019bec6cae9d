# SPDX-License-Identifier: Apache-2.0
"""The plane product in Triton: one launch while all sides are at most 256 and the chip takes it, two above.

    y = alpha (A1 X B1^T + beta (A2 E B2^T)) + gamma E + 0

`fused` keeps some rows of A X on chip, which is why it needs the whole width there; `rows` and `columns` are its two
halves with that intermediate in memory. Tiles differ in size only: every sum is exact, so no tile changes a bit.
"""

import struct
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl

from spectral_kernels.kernels.exact import accumulate, grid_above, split, table_tile
from spectral_kernels.kernels.launch import (
    Tile,
    blocks,
    dot_precision,
    fused_side,
    fused_tile,
    pair_tile,
    power_of_two,
)
from spectral_kernels.kernels.noise import normal_quad, sample_seed
from spectral_kernels.kernels.rounding import round_to, widen


@triton.jit
def element(o_row, o_column, strides, PATCH: tl.constexpr):
    """Offsets of plane elements; strides = (batch, c1, c2, row patch, row, column patch, column)."""
    if PATCH == 1:
        return o_row * strides[3] + o_column * strides[5]
    rows = (o_row // PATCH) * strides[3] + (o_row % PATCH) * strides[4]
    return rows + (o_column // PATCH) * strides[5] + (o_column % PATCH) * strides[6]


@triton.jit
def plane_offset(i_plane, per_sample, c2, strides):
    """Offset of a plane's first element."""
    i_in_sample = i_plane % per_sample
    return (i_plane // per_sample) * strides[0] + (i_in_sample // c2) * strides[1] + (i_in_sample % c2) * strides[2]


@triton.jit
def load_rows(p_plane, o_row, o_column, height, width, corner, strides, PATCH: tl.constexpr, MASKED: tl.constexpr):
    """A tile of a plane; outside the plane, and in the corner when MASKED, it is 0."""
    mask = (o_row < height) & (o_column < width)
    if MASKED:
        mask = mask & ((o_row >= corner[0]) | (o_column >= corner[1]))
    return widen(tl.load(p_plane + element(o_row, o_column, strides, PATCH), mask=mask, other=0.0))


@triton.jit
def rows_of_tensor(
    p_plane, table, o_out, out_height, o_column, height, width, corner, strides,
    MODE: tl.constexpr, DOT: tl.constexpr, PATCH: tl.constexpr, MASKED: tl.constexpr, BITS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Tile [ROWS, COLUMNS] of A X. The first pass finds the grid of each column, the second adds.

    The second loads a step ahead. That the operand of a dot comes from the step before matters: Triton 3.6 looks back
    from it for a load of a half type, and then asks for a float64 dot that its sm_80 and sm_90 do not have.
    """
    ACC: tl.constexpr = tl.float32 if MODE == "fast" else tl.float64
    high = tl.zeros((ROWS, COLUMNS), ACC)
    cross = tl.zeros((ROWS, COLUMNS), ACC)
    grid = tl.zeros((1, COLUMNS), tl.float64)
    if MODE == "exact":
        for k in range(0, height, DEPTH):
            o_k = (k + tl.arange(0, DEPTH)).to(tl.int64)[:, None]
            x = load_rows(p_plane, o_k, o_column, height, width, corner, strides, PATCH, MASKED).to(tl.float64)
            grid = tl.maximum(grid, tl.max(tl.abs(x), 0)[None, :])
        grid = grid_above(grid)
    o_k = tl.arange(0, DEPTH).to(tl.int64)
    following = load_rows(p_plane, o_k[:, None], o_column, height, width, corner, strides, PATCH, MASKED)
    for k in range(0, height, DEPTH):
        o_k = (k + tl.arange(0, DEPTH)).to(tl.int64)
        x = following.to(ACC)
        following = load_rows(p_plane, o_k[:, None] + DEPTH, o_column, height, width, corner, strides, PATCH, MASKED)
        m_out, m_k = o_out[:, None] < out_height, o_k[None, :] < height
        a_high, a_low = table_tile(table, o_out[:, None], o_k[None, :], m_out, m_k, height, out_height * height, MODE)
        if MODE == "exact":
            x, x_low = split(x, grid, BITS)
            high, cross = accumulate(a_high, a_low, x, x_low, high, cross, MODE, DOT, False)
        else:
            high, cross = accumulate(a_high, a_low, x, x, high, cross, MODE, DOT, False)
    return high + cross if MODE == "exact" else high


@triton.jit
def rows_of_noise(
    seed, stream, plane, table, o_out, o_column, height, width, corner,
    MODE: tl.constexpr, DOT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Tile [ROWS, COLUMNS] of A E with E drawn here. A deviate fits one slice; the four rows of a Philox call are
    taken apart, since the sum over rows may run in any order."""
    ACC: tl.constexpr = tl.float32 if MODE == "fast" else tl.float64
    high = tl.zeros((ROWS, COLUMNS), ACC)
    cross = tl.zeros((ROWS, COLUMNS), ACC)
    m_out = o_out[:, None] < height
    for k in range(0, height, 4 * DEPTH):
        o_quad = k // 4 + tl.arange(0, DEPTH)
        quads = normal_quad(seed, stream, plane, o_quad[:, None], o_column)
        for word in tl.static_range(4):
            o_k = 4 * o_quad + word
            keep = (o_k[:, None] < height) & (o_column < width)
            keep = keep & ((o_k[:, None] >= corner[0]) | (o_column >= corner[1]))
            z = tl.where(keep, quads[word], 0.0).to(ACC)
            a_high, a_low = table_tile(
                table, o_out[:, None], o_k[None, :], m_out, o_k[None, :] < height, height, height * height, MODE
            )
            high, cross = accumulate(a_high, a_low, z, z, high, cross, MODE, DOT, True)
    return high + cross if MODE == "exact" else high


@triton.jit
def columns_of_registers(
    u_high, u_low, table, o_in, o_out, width, out_width,
    MODE: tl.constexpr, DOT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Tile [ROWS, COLUMNS] of U B^T from all of U's columns."""
    ACC: tl.constexpr = tl.float32 if MODE == "fast" else tl.float64
    high = tl.zeros((ROWS, COLUMNS), ACC)
    cross = tl.zeros((ROWS, COLUMNS), ACC)
    b_high, b_low = table_tile(
        table, o_out[None, :], o_in[:, None], o_out[None, :] < out_width, o_in[:, None] < width, width,
        out_width * width, MODE,
    )  # fmt: skip
    high, cross = accumulate(u_high, u_low, b_high, b_low, high, cross, MODE, DOT, False)
    return high + cross if MODE == "exact" else high


@triton.jit
def columns_of_memory(
    p_half, table, o_row, o_out, height, width, out_width,
    MODE: tl.constexpr, DOT: tl.constexpr, BITS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Tile [ROWS, COLUMNS] of U B^T with U [height, width] in memory. The first pass finds the grid of each row."""
    ACC: tl.constexpr = tl.float32 if MODE == "fast" else tl.float64
    high = tl.zeros((ROWS, COLUMNS), ACC)
    cross = tl.zeros((ROWS, COLUMNS), ACC)
    grid = tl.zeros((ROWS, 1), tl.float64)
    p_rows = p_half + o_row[:, None] * width
    m_row = o_row[:, None] < height
    if MODE == "exact":
        for k in range(0, width, DEPTH):
            o_k = k + tl.arange(0, DEPTH)[None, :]
            u = tl.load(p_rows + o_k, mask=m_row & (o_k < width), other=0.0)
            grid = tl.maximum(grid, tl.max(tl.abs(u), 1)[:, None])
        grid = grid_above(grid)
    for k in range(0, width, DEPTH):
        o_k = k + tl.arange(0, DEPTH)
        u = tl.load(p_rows + o_k[None, :], mask=m_row & (o_k[None, :] < width), other=0.0)
        b_high, b_low = table_tile(
            table, o_out[None, :], o_k[:, None], o_out[None, :] < out_width, o_k[:, None] < width, width,
            out_width * width, MODE,
        )  # fmt: skip
        if MODE == "exact":
            u, u_low = split(u, grid, BITS)
            high, cross = accumulate(u, u_low, b_high, b_low, high, cross, MODE, DOT, False)
        else:
            high, cross = accumulate(u, u, b_high, b_low, high, cross, MODE, DOT, False)
    return high + cross if MODE == "exact" else high


@triton.jit
def float64_of(pattern):
    """A double from its bits: Triton would pass a Python float as float32."""
    return pattern.to(tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def weights(time, ratio, FORMULA: tl.constexpr, PART: tl.constexpr):
    """(alpha, beta, gamma) as in `spectral_kernels.dispatch.product.weights`, the same operations in the same order."""
    u = 1.0 + (ratio - 1.0) * time
    zero = time * 0.0
    if FORMULA == "lift":
        gamma = 1.0 / ((ratio * time) / u)
        alpha, beta = u, -gamma
    elif FORMULA == "hold":
        gamma = 1.0 / time
        alpha, beta = zero + 1.0, -gamma
    elif FORMULA == "expand":
        alpha, beta, gamma = ratio / u, time, zero
    elif FORMULA == "fill":
        alpha, beta, gamma = zero + 1.0, time, zero
    elif FORMULA == "truncate":
        alpha, beta, gamma = u / ratio, zero, zero
    else:
        alpha, beta, gamma = zero + 1.0, zero, zero
    if PART == "first":
        beta, gamma = zero, zero
    elif PART == "second":
        alpha, beta = alpha * beta, zero
    return alpha, beta, gamma


@triton.jit
def sample_weights(t, ratio, times, i_sample, FORMULA: tl.constexpr, PART: tl.constexpr, TIMES: tl.constexpr):
    if TIMES:
        t = tl.load(times + i_sample)
    else:
        t = float64_of(t)
    return weights(t, float64_of(ratio), FORMULA, PART)


@triton.jit
def finish(
    first, second, alpha, beta, gamma, p_out, p_other, o_row, o_column, height, width, out_strides, other_strides,
    SECOND: tl.constexpr, ADD: tl.constexpr, MODE: tl.constexpr, PATCH: tl.constexpr,
):  # fmt: skip
    """Weights, sum, rounding and the store of one tile."""
    y = first
    if MODE == "fast":
        alpha, beta, gamma = alpha.to(tl.float32), beta.to(tl.float32), gamma.to(tl.float32)
    if SECOND:
        y = tl.where(beta == 0.0, first, first + beta * second)
    y = alpha * y
    o_row, o_column = o_row.to(tl.int64)[:, None], o_column.to(tl.int64)[None, :]
    mask = (o_row < height) & (o_column < width)
    if ADD:
        z = tl.load(p_other + element(o_row, o_column, other_strides, PATCH), mask=mask, other=0.0)
        y = y + gamma * widen(z).to(y.dtype)
    y = y + 0.0
    if MODE != "double":
        y = round_to(y.to(tl.float32), p_out.dtype.element_ty)
    tl.store(p_out + element(o_row, o_column, out_strides, PATCH), y, mask=mask)


@triton.jit(do_not_specialize=["base_seed", "stream", "t", "ratio"])
def fused(
    out, x, other, seeds, times, rows1, columns1, rows2, columns2,
    base_seed: "i64", stream: "i64", t: "i64", ratio: "i64",
    out_strides, x_strides, other_strides, out_size, x_size, other_size, corner, per_sample, c2,
    MODE: tl.constexpr, DOT: tl.constexpr, PATCH: tl.constexpr, SECOND: tl.constexpr, ADD: tl.constexpr,
    MASKED: tl.constexpr, FORMULA: tl.constexpr, PART: tl.constexpr, SEEDS: tl.constexpr, TIMES: tl.constexpr,
    BITS_ROWS1: tl.constexpr, BITS_COLUMNS1: tl.constexpr, BITS_ROWS2: tl.constexpr, BITS_COLUMNS2: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, WIDTH1: tl.constexpr, WIDTH2: tl.constexpr,
):  # fmt: skip
    """A whole plane product; program (plane, row tile). SECOND is "", "tensor" or "noise"."""
    i_plane = tl.program_id(0).to(tl.int64)
    i_sample = i_plane // per_sample
    o_row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    o_x = tl.arange(0, WIDTH1)
    u = rows_of_tensor(
        x + plane_offset(i_plane, per_sample, c2, x_strides), rows1, o_row, out_size[0], o_x.to(tl.int64)[None, :],
        x_size[0], x_size[1], corner, x_strides, MODE, DOT, PATCH, False, BITS_ROWS1, ROWS, WIDTH1, DEPTH,
    )  # fmt: skip
    u_low = u
    if MODE == "exact":
        u, u_low = split(u, grid_above(tl.max(tl.abs(u), 1)[:, None]), BITS_COLUMNS1)
    o_e = tl.arange(0, WIDTH2)
    p_other = other + plane_offset(i_plane, per_sample, c2, other_strides)
    e = u
    if SECOND == "tensor":
        e = rows_of_tensor(
            p_other, rows2, o_row, out_size[0], o_e.to(tl.int64)[None, :], other_size[0], other_size[1], corner,
            other_strides, MODE, DOT, PATCH, MASKED, BITS_ROWS2, ROWS, WIDTH2, DEPTH,
        )  # fmt: skip
    elif SECOND == "noise":
        seed = sample_seed(base_seed, seeds, i_sample, SEEDS)
        e = rows_of_noise(
            seed, stream, i_plane % per_sample, rows2, o_row, o_e[None, :], out_size[0], out_size[1], corner,
            MODE, DOT, ROWS, WIDTH2, DEPTH,
        )  # fmt: skip
    e_low = e
    if MODE == "exact" and SECOND != "":
        e, e_low = split(e, grid_above(tl.max(tl.abs(e), 1)[:, None]), BITS_COLUMNS2)
    alpha, beta, gamma = sample_weights(t, ratio, times, i_sample, FORMULA, PART, TIMES)
    p_out = out + plane_offset(i_plane, per_sample, c2, out_strides)
    for n in range(0, out_size[1], COLUMNS):
        o_column = n + tl.arange(0, COLUMNS)
        first = columns_of_registers(
            u, u_low, columns1, o_x, o_column, x_size[1], out_size[1], MODE, DOT, ROWS, COLUMNS
        )
        second = first
        if SECOND != "":
            second = columns_of_registers(
                e, e_low, columns2, o_e, o_column, other_size[1], out_size[1], MODE, DOT, ROWS, COLUMNS
            )
        finish(
            first, second, alpha, beta, gamma, p_out, p_other, o_row, o_column, out_size[0], out_size[1], out_strides,
            other_strides, SECOND != "", ADD, MODE, PATCH,
        )  # fmt: skip


@triton.jit(do_not_specialize=["base_seed", "stream"])
def rows(
    half1, half2, x, other, seeds, rows1, rows2, base_seed: "i64", stream: "i64",
    x_strides, other_strides, height, x_size, other_size, corner, per_sample, c2, column_tiles1,
    MODE: tl.constexpr, DOT: tl.constexpr, PATCH: tl.constexpr, SECOND: tl.constexpr, MASKED: tl.constexpr,
    SEEDS: tl.constexpr, BITS_ROWS1: tl.constexpr, BITS_ROWS2: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A X and A E into memory; program (plane, row tile, column tile of X, then of E)."""
    i_plane = tl.program_id(0).to(tl.int64)
    o_row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    i_tile = tl.program_id(2)
    m_row = o_row[:, None] < height
    if i_tile < column_tiles1:
        o_column = i_tile * COLUMNS + tl.arange(0, COLUMNS)
        u = rows_of_tensor(
            x + plane_offset(i_plane, per_sample, c2, x_strides), rows1, o_row, height, o_column.to(tl.int64)[None, :],
            x_size[0], x_size[1], corner, x_strides, MODE, DOT, PATCH, False, BITS_ROWS1, ROWS, COLUMNS, DEPTH,
        )  # fmt: skip
        p_half = half1 + (i_plane * height + o_row[:, None]) * x_size[1] + o_column[None, :]
        tl.store(p_half, u, mask=m_row & (o_column[None, :] < x_size[1]))
    else:
        o_column = (i_tile - column_tiles1) * COLUMNS + tl.arange(0, COLUMNS)
        if SECOND == "tensor":
            e = rows_of_tensor(
                other + plane_offset(i_plane, per_sample, c2, other_strides), rows2, o_row, height,
                o_column.to(tl.int64)[None, :], other_size[0], other_size[1], corner, other_strides,
                MODE, DOT, PATCH, MASKED, BITS_ROWS2, ROWS, COLUMNS, DEPTH,
            )  # fmt: skip
            p_half = half2 + (i_plane * height + o_row[:, None]) * other_size[1] + o_column[None, :]
            tl.store(p_half, e, mask=m_row & (o_column[None, :] < other_size[1]))
        elif SECOND == "noise":
            seed = sample_seed(base_seed, seeds, i_plane // per_sample, SEEDS)
            e = rows_of_noise(
                seed, stream, i_plane % per_sample, rows2, o_row, o_column[None, :], height, other_size[1], corner,
                MODE, DOT, ROWS, COLUMNS, DEPTH,
            )  # fmt: skip
            p_half = half2 + (i_plane * height + o_row[:, None]) * other_size[1] + o_column[None, :]
            tl.store(p_half, e, mask=m_row & (o_column[None, :] < other_size[1]))


@triton.jit(do_not_specialize=["t", "ratio"])
def columns(
    out, half1, half2, other, times, columns1, columns2, t: "i64", ratio: "i64",
    out_strides, other_strides, out_size, width1, width2, per_sample, c2,
    MODE: tl.constexpr, DOT: tl.constexpr, PATCH: tl.constexpr, SECOND: tl.constexpr, ADD: tl.constexpr,
    FORMULA: tl.constexpr, PART: tl.constexpr, TIMES: tl.constexpr,
    BITS_COLUMNS1: tl.constexpr, BITS_COLUMNS2: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The column products of both intermediates and the finish; program (plane, row tile, column tile)."""
    i_plane = tl.program_id(0).to(tl.int64)
    o_row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    o_column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    height, width = out_size[0], out_size[1]
    first = columns_of_memory(
        half1 + i_plane * height * width1, columns1, o_row, o_column, height, width1, width,
        MODE, DOT, BITS_COLUMNS1, ROWS, COLUMNS, DEPTH,
    )  # fmt: skip
    second = first
    if SECOND != "":
        second = columns_of_memory(
            half2 + i_plane * height * width2, columns2, o_row, o_column, height, width2, width,
            MODE, DOT, BITS_COLUMNS2, ROWS, COLUMNS, DEPTH,
        )  # fmt: skip
    alpha, beta, gamma = sample_weights(t, ratio, times, i_plane // per_sample, FORMULA, PART, TIMES)
    finish(
        first, second, alpha, beta, gamma, out + plane_offset(i_plane, per_sample, c2, out_strides),
        other + plane_offset(i_plane, per_sample, c2, other_strides), o_row, o_column, height, width, out_strides,
        other_strides, SECOND != "", ADD, MODE, PATCH,
    )  # fmt: skip


def launch(product, operands, tile: Tile | None = None) -> None:
    """Launch a `dispatch.product.Product` on its `Operands`; `tile` overrides the choice."""
    out, x, other, seeds, times, base_seed, t = operands
    mode = product.mode(x)
    rows1, columns1 = product.tables(product.kind, mode, x.device)
    second = "noise" if operands.draws(product) else "tensor" if product.second and other is not None else ""
    rows2, columns2 = product.tables(product.second, mode, x.device) if second else (rows1, columns1)
    samples, outer, inner, height, patch, width, _ = x.shape
    out_size, x_size = product.result, (height * patch, width * patch)
    other_size = product.fine if second or other is not None else x_size
    planes, per_sample = samples * outer * inner, outer * inner
    added = x if other is None else other
    together = max(*out_size, *x_size) <= fused_side(mode, x.device)
    tile = tile or (fused_tile(mode, out_size, x_size) if together else pair_tile(mode))
    constants = _constants(product, mode, second, other is not None, patch, x_size, other_size, tile)
    t_pattern, ratio_pattern = struct.unpack("<2q", struct.pack("<2d", t, product.ratio))
    seed = 0 if base_seed is None else base_seed
    seed_table, time_table = x if seeds is None else seeds, x if times is None else times
    strides = out.stride(), x.stride(), added.stride()
    row_tiles = blocks(out_size[0], tile.rows)
    with torch.cuda.device_of(x):
        if together:
            fused[(planes, row_tiles)](
                out, x, added, seed_table, time_table, rows1, columns1, rows2, columns2, seed,
                product.stream, t_pattern, ratio_pattern, *strides, out_size, x_size, other_size,
                product.coarse, per_sample, inner, SEEDS=seeds is not None, TIMES=times is not None, **constants[0],
            )  # fmt: skip
            return
        dtype = torch.float32 if mode == "fast" else torch.float64
        half1 = torch.empty((planes, out_size[0], x_size[1]), dtype=dtype, device=x.device)
        half2 = torch.empty((planes, out_size[0], other_size[1]), dtype=dtype, device=x.device) if second else half1
        tiles1 = blocks(x_size[1], tile.columns)
        tiles2 = blocks(other_size[1], tile.columns) if second else 0
        rows[(planes, row_tiles, tiles1 + tiles2)](
            half1, half2, x, added, seed_table, rows1, rows2, seed, product.stream, *strides[1:], out_size[0], x_size,
            other_size, product.coarse, per_sample, inner, tiles1, SEEDS=seeds is not None, **constants[1],
        )  # fmt: skip
        columns[(planes, row_tiles, blocks(out_size[1], tile.columns))](
            out, half1, half2, added, time_table, columns1, columns2, t_pattern, ratio_pattern, strides[0], strides[2],
            out_size, x_size[1], other_size[1], per_sample, inner, TIMES=times is not None, **constants[2],
        )  # fmt: skip


@lru_cache(maxsize=256)
def _constants(
    product,
    mode: str,
    second: str,
    given: bool,
    patch: int,
    x_size: tuple[int, int],
    other_size: tuple[int, int],
    tile: Tile,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What `fused`, `rows` and `columns` are compiled for, but for SEEDS and TIMES."""
    shared = {
        "MODE": mode,
        "DOT": dot_precision(product.precision, torch.version.hip is not None, triton.knobs.runtime.interpret),
        "PATCH": patch,
        "SECOND": second,
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "DEPTH": tile.depth,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "enable_fp_fusion": False,
    }
    of_rows = {
        "MASKED": product.masked,
        "BITS_ROWS1": product.bits(x_size[0]),
        "BITS_ROWS2": product.bits(other_size[0]),
    }
    of_columns = {
        "ADD": product.adds and given,
        "FORMULA": product.formula,
        "PART": product.part,
        "BITS_COLUMNS1": product.bits(x_size[1]),
        "BITS_COLUMNS2": product.bits(other_size[1]),
    }
    widths = {"WIDTH1": max(16, power_of_two(x_size[1])), "WIDTH2": max(16, power_of_two(other_size[1]))}
    return {**shared, **of_rows, **of_columns, **widths}, {**shared, **of_rows}, {**shared, **of_columns}
