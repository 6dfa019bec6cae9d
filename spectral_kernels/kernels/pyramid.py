# SPDX-License-Identifier: Apache-2.0
"""Pyramids in Triton: one pass per level, down or up, and one launch that noises all levels at their own times.

Sums run in the order of reference/pyramid.py, in float32 (of float64 in float64); fusion is off, so tiles change speed
and no bit.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from spectral_kernels.kernels import octave
from spectral_kernels.kernels.launch import blocks, power_of_two
from spectral_kernels.kernels.noise import normal_quad, sample_seed
from spectral_kernels.kernels.octave import load_wide, narrow
from spectral_kernels.kernels.planes import element, plane_offset
from spectral_kernels.kernels.rounding import round_to, widen

# Pixels of one program of four warps. Bilinear splitting holds sixteen neighbours of each: with more pixels it spills.
PIXELS, SPLIT_BILINEAR_PIXELS, TILE_COLUMNS = 1024, 256, 128
STEPS = 8  # rows of blocks that a program interpolates one after the other: a quarter more is read than written


@triton.jit
def divided(x, y):
    """Rounded once; `y` is an integer, to the compiler a constant where sides are 1."""
    if x.dtype == tl.float64:
        z = x / tl.cast(y, tl.float64)
    else:
        z = tl.div_rn(x, tl.cast(y, tl.float32))
    return z


@triton.jit
def block_mean(p_x, o_row, o_column, size, strides, mask, F: tl.constexpr, G: tl.constexpr):
    """Mean of the block of each coarse pixel: rows of a column first, then columns, one division."""
    for b in tl.static_range(G):
        column = o_column * G + b
        m_column = mask & (column < size[1])
        down = load_wide(p_x, o_row * F, column, strides, m_column)
        for a in tl.static_range(1, F):
            row = o_row * F + a
            down = down + load_wide(p_x, row, column, strides, m_column & (row < size[0]))
        total = down if b == 0 else total + down
    rows_in = tl.minimum(size[0] - o_row * F, F)
    columns_in = tl.minimum(size[1] - o_column * G, G)
    return divided(total, tl.maximum(rows_in * columns_in, 1))


@triton.jit
def point(o_out, given, out, KIND: tl.constexpr):
    """Which two of `given` pixels an output pixel reads, and their weights.

    In 32 bits, where a division is cheap: sides are at most 4096.
    """
    position = tl.maximum((2 * o_out.to(tl.int32) + 1) * given - out, 0)
    left = position // (2 * out)
    weight = divided((position % (2 * out)).to(KIND), 2 * out)
    left = left.to(tl.int64)
    return left, tl.minimum(left + 1, given - 1), 1.0 - weight, weight


@triton.jit
def blended(first, second, rest, weight, same):
    """An axis that keeps its size is left alone."""
    return tl.where(same, first, rest * first + weight * second)


@triton.jit
def coarse_value(p_x, o_row, o_column, fine, coarse, strides, mask, DTYPE: tl.constexpr):
    """A coarse pixel as it will be stored, interpolated from the fine plane: rows first."""
    KIND: tl.constexpr = tl.float64 if DTYPE == tl.float64 else tl.float32
    top, bottom, f_rest, f = point(o_row, fine[0], coarse[0], KIND)
    left, right, g_rest, g = point(o_column, fine[1], coarse[1], KIND)
    upper, lower = load_wide(p_x, top, left, strides, mask), load_wide(p_x, bottom, left, strides, mask)
    first = blended(upper, lower, f_rest, f, fine[0] == coarse[0])
    upper, lower = load_wide(p_x, top, right, strides, mask), load_wide(p_x, bottom, right, strides, mask)
    second = blended(upper, lower, f_rest, f, fine[0] == coarse[0])
    return widen(narrow(blended(first, second, g_rest, g, fine[1] == coarse[1]), DTYPE))


@triton.jit
def split_kernel(
    x, coarse, detail, x_strides, coarse_strides, detail_strides, size, coarse_size, per_sample, c2,
    F: tl.constexpr, G: tl.constexpr, AREA: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One level down; program (plane, row tile, column tile): coarse pixels for "area", fine ones for "bilinear"."""
    DTYPE: tl.constexpr = x.dtype.element_ty
    KIND: tl.constexpr = tl.float64 if DTYPE == tl.float64 else tl.float32
    i_plane = tl.program_id(0).to(tl.int64)
    first_row, first_column = tl.program_id(1) * ROWS, tl.program_id(2) * COLUMNS
    o_row = (first_row + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    o_column = (first_column + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
    p_x = x + plane_offset(i_plane, per_sample, c2, x_strides)
    p_coarse = coarse + plane_offset(i_plane, per_sample, c2, coarse_strides)
    p_detail = detail + plane_offset(i_plane, per_sample, c2, detail_strides)
    m_coarse = (o_row < coarse_size[0]) & (o_column < coarse_size[1])
    if AREA:
        mean = narrow(block_mean(p_x, o_row, o_column, size, x_strides, m_coarse, F, G), DTYPE)
        tl.store(p_coarse + element(o_row, o_column, coarse_strides, 1), mean, mask=m_coarse)
        for a in tl.static_range(F):
            for b in tl.static_range(G):
                row, column = o_row * F + a, o_column * G + b
                mask = m_coarse & (row < size[0]) & (column < size[1])
                rest = load_wide(p_x, row, column, x_strides, mask) - widen(mean)
                tl.store(p_detail + element(row, column, detail_strides, 1), narrow(rest, DTYPE), mask=mask)
    else:
        if (first_row < coarse_size[0]) & (first_column < coarse_size[1]):
            low = coarse_value(p_x, o_row, o_column, size, coarse_size, x_strides, m_coarse, DTYPE)
            tl.store(p_coarse + element(o_row, o_column, coarse_strides, 1), round_to(low, DTYPE), mask=m_coarse)
        mask = (o_row < size[0]) & (o_column < size[1])
        top, bottom, f_rest, f = point(o_row, coarse_size[0], size[0], KIND)
        left, right, g_rest, g = point(o_column, coarse_size[1], size[1], KIND)
        first = coarse_value(p_x, top, left, size, coarse_size, x_strides, mask, DTYPE)
        second = coarse_value(p_x, top, right, size, coarse_size, x_strides, mask, DTYPE)
        upper = blended(first, second, g_rest, g, coarse_size[1] == size[1])
        first = coarse_value(p_x, bottom, left, size, coarse_size, x_strides, mask, DTYPE)
        second = coarse_value(p_x, bottom, right, size, coarse_size, x_strides, mask, DTYPE)
        lower = blended(first, second, g_rest, g, coarse_size[1] == size[1])
        up = blended(upper, lower, f_rest, f, coarse_size[0] == size[0])
        rest = load_wide(p_x, o_row, o_column, x_strides, mask) - up
        tl.store(p_detail + element(o_row, o_column, detail_strides, 1), narrow(rest, DTYPE), mask=mask)


@triton.jit
def merge_kernel(
    coarse, detail, out, coarse_strides, detail_strides, out_strides, size, coarse_size, per_sample, c2,
    F: tl.constexpr, G: tl.constexpr, AREA: tl.constexpr, SUBTRACT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """detail +- up(coarse); program (plane, row tile, column tile) of fine pixels."""
    i_plane = tl.program_id(0).to(tl.int64)
    o_row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    o_column = (tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
    mask = (o_row < size[0]) & (o_column < size[1])
    p_coarse = coarse + plane_offset(i_plane, per_sample, c2, coarse_strides)
    p_detail = detail + plane_offset(i_plane, per_sample, c2, detail_strides)
    rest = load_wide(p_detail, o_row, o_column, detail_strides, mask)
    if AREA:
        up = load_wide(p_coarse, o_row // F, o_column // G, coarse_strides, mask)
    else:
        top, bottom, f_rest, f = point(o_row, coarse_size[0], size[0], rest.dtype)
        left, right, g_rest, g = point(o_column, coarse_size[1], size[1], rest.dtype)
        first = load_wide(p_coarse, top, left, coarse_strides, mask)
        second = load_wide(p_coarse, top, right, coarse_strides, mask)
        upper = blended(first, second, g_rest, g, coarse_size[1] == size[1])
        first = load_wide(p_coarse, bottom, left, coarse_strides, mask)
        second = load_wide(p_coarse, bottom, right, coarse_strides, mask)
        lower = blended(first, second, g_rest, g, coarse_size[1] == size[1])
        up = blended(upper, lower, f_rest, f, coarse_size[0] == size[0])
    y = rest - up if SUBTRACT else up + rest
    p_out = out + plane_offset(i_plane, per_sample, c2, out_strides)
    tl.store(p_out + element(o_row, o_column, out_strides, 1), narrow(y, out.dtype.element_ty), mask=mask)


@triton.jit
def planes_of(o_plane, c2, strides):
    """Offsets of planes within a sample."""
    return (o_plane // c2) * strides[1] + (o_plane % c2) * strides[2]


@triton.jit
def noise_tile(
    source, noisy, velocity, t, shown, seed, stream, o_plane, per_sample, c2, i_quad, o_column, height, width,
    x_strides, strides, PATCH: tl.constexpr,
):  # fmt: skip
    """Four rows of some planes of one sample: z = (1 - t) x + t e, or 0 where it is not shown, and v = e - x."""
    quads = normal_quad(seed, stream, o_plane, i_quad, o_column)
    o_plane, o_column = o_plane.to(tl.int64), o_column.to(tl.int64)
    p_x, o_target = source + planes_of(o_plane, c2, x_strides), planes_of(o_plane, c2, strides)
    for word in tl.static_range(4):
        i_row = (4 * i_quad + word).to(tl.int64)
        inside = (o_plane < per_sample) & (o_column < tl.where(i_row < height, width, 0))
        x = load_wide(p_x, i_row, o_column, x_strides, inside)
        e = quads[word].to(x.dtype)
        z = narrow((1.0 - t).to(x.dtype) * x + t.to(x.dtype) * e, noisy.dtype.element_ty)
        z = tl.where(shown, z, tl.zeros_like(z))
        at = o_target + element(i_row, o_column, strides, PATCH)
        tl.store(noisy + at, z, mask=inside)
        tl.store(velocity + at, narrow(e - x, velocity.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["base_seed", "stream"])
def noise_kernel(
    sources, noisy, velocities, times, mask, seeds, base_seed: "i64", stream: "i64",
    source_strides, target_strides, sizes, planes, first_tile,
    LEVELS: tl.constexpr, PATCHES: tl.constexpr, MASK: tl.constexpr, SEEDS: tl.constexpr,
    PLANES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """All levels: a program does four rows x COLUMNS columns of PLANES planes of one sample of one level.

    `sizes` holds height and width of each level, `planes` (planes per sample, c2), strides a tuple of seven a level.
    """
    i_program = tl.program_id(0).to(tl.int64)
    for level in tl.static_range(LEVELS):
        if (i_program >= first_tile[level]) & (i_program < first_tile[level + 1]):
            height, width = sizes[2 * level], sizes[2 * level + 1]
            per_sample = planes[2 * level]
            column_tiles, quads = tl.cdiv(width, COLUMNS[level]), tl.cdiv(height, 4)
            tiles = column_tiles * quads * tl.cdiv(per_sample, PLANES[level])
            i_tile = i_program - first_tile[level]
            i_sample, i_tile = i_tile // tiles, i_tile % tiles
            o_column = (i_tile % column_tiles * COLUMNS[level] + tl.arange(0, COLUMNS[level]))[None, :]
            i_quad = i_tile // column_tiles % quads
            o_plane = (i_tile // (column_tiles * quads) * PLANES[level] + tl.arange(0, PLANES[level]))[:, None]
            shown = i_sample >= 0
            if MASK:
                shown = tl.load(mask + i_sample * LEVELS + level) != 0
            at = i_sample * target_strides[level][0]
            noise_tile(
                sources[level] + i_sample * source_strides[level][0], noisy[level] + at, velocities[level] + at,
                tl.load(times + i_sample * LEVELS + level), shown, sample_seed(base_seed, seeds, i_sample, SEEDS),
                stream + level, o_plane, per_sample, planes[2 * level + 1], i_quad, o_column, height, width,
                source_strides[level], target_strides[level], PATCHES[level],
            )  # fmt: skip


def _plane(view: Tensor) -> tuple[int, int]:
    return view.shape[3] * view.shape[4], view.shape[5] * view.shape[6]


def _factors(fine: tuple[int, int], coarse: tuple[int, int]) -> tuple[int, int]:
    return -(-fine[0] // coarse[0]), -(-fine[1] // coarse[1])


def _octave(fine: tuple[int, int], coarse: tuple[int, int], resample: str) -> bool:
    """Whether the coarse pixels are blocks of 2 x 2."""
    if resample == "area":
        return _factors(fine, coarse) == (2, 2)
    return resample == "bilinear" and fine == (2 * coarse[0], 2 * coarse[1])


def _tile(size: tuple[int, int], pixels: int = PIXELS) -> tuple[int, int]:
    columns = min(TILE_COLUMNS, power_of_two(size[1]))
    return min(pixels // columns, power_of_two(size[0])), columns


def _tiles(size: tuple[int, int], rows: int, columns: int) -> tuple[int, int]:
    """Two dimensions of the grid: in one, CUDA's 65535 would not hold those of a plane of 4096 x 4096."""
    return blocks(size[0], rows), blocks(size[1], columns)


def _octave_tiles(tensor: Tensor, size: tuple[int, int], area: bool, tile: tuple[int, ...] | None):
    """Two dimensions of the grid and the constants of an octave's kernel.

    A thread reads 16 bytes of a row at a time, but two blocks at most where it keeps rows of them: with more it spills.
    """
    most = 1024 // tensor.element_size()
    rows, columns, steps = tile or (*_tile(size, most if area else min(most, 256)), STEPS)
    constants = {"ROWS": rows, "COLUMNS": columns} if area else {"ROWS": rows, "COLUMNS": columns, "STEPS": steps}
    return _tiles(size, rows if area else rows * steps, columns), constants


def split(x: Tensor, coarse: Tensor, detail: Tensor, resample: str, tile: tuple[int, ...] | None = None) -> None:
    """One level down on views [B, C1, C2, h, 1, w, 1]; `tile` overrides rows, columns and steps of a program."""
    fine_size, coarse_size = _plane(x), _plane(coarse)
    area = resample == "area"
    if _octave(fine_size, coarse_size, resample):
        kernel = octave.split_area if area else octave.split_bilinear
        tiles, constants = _octave_tiles(x, coarse_size, area, tile)
    else:
        kernel, counted = split_kernel, coarse_size if area else fine_size
        f, g = _factors(fine_size, coarse_size)
        rows, columns = tile[:2] if tile else _tile(counted, PIXELS if area else SPLIT_BILINEAR_PIXELS)
        tiles = _tiles(counted, rows, columns)
        constants = {"F": f, "G": g, "AREA": area, "ROWS": rows, "COLUMNS": columns}
    with torch.cuda.device_of(x):
        kernel[(x.shape[0] * x.shape[1] * x.shape[2], *tiles)](
            x, coarse, detail, x.stride(), coarse.stride(), detail.stride(), fine_size, coarse_size,
            x.shape[1] * x.shape[2], x.shape[2], **constants, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip


def merge(
    coarse: Tensor, detail: Tensor, out: Tensor, resample: str, subtract: bool, tile: tuple[int, ...] | None = None
) -> None:
    """One level up on views [B, C1, C2, h, 1, w, 1]; with "none" both have the same size."""
    size, coarse_size = _plane(out), _plane(coarse)
    if _octave(size, coarse_size, resample):
        area = resample == "area"
        kernel = octave.merge_area if area else octave.merge_bilinear
        tiles, constants = _octave_tiles(out, coarse_size, area, tile)
    else:
        kernel, (f, g) = merge_kernel, _factors(size, coarse_size)
        rows, columns = tile[:2] if tile else _tile(size)
        tiles = _tiles(size, rows, columns)
        constants = {"F": f, "G": g, "AREA": resample != "bilinear", "ROWS": rows, "COLUMNS": columns}
    with torch.cuda.device_of(out):
        kernel[(out.shape[0] * out.shape[1] * out.shape[2], *tiles)](
            coarse, detail, out, coarse.stride(), detail.stride(), out.stride(), size, coarse_size,
            out.shape[1] * out.shape[2], out.shape[2], SUBTRACT=subtract, **constants,
            num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip


def noise_levels(
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    times: Tensor,
    mask: Tensor | None,
    seeds: Tensor | None,
    base_seed: int | None,
    stream: int,
) -> None:
    """One launch for all levels; `targets` are the noisy levels, then the velocities, as views of their layouts."""
    count = len(sources)
    sizes = [_plane(view) for view in sources]
    tiles, first_tile = [], [0]
    for source, target, (height, width) in zip(sources, targets, sizes, strict=False):
        per_sample = source.shape[1] * source.shape[2]
        # 256 Philox calls, two for each thread of four warps. Where planes are neighbours in memory, as in tokens, a
        # tile has as many planes as columns.
        planes = min(16 if target.stride(5) != 1 else 1, power_of_two(per_sample))
        columns = min(256 // planes, 128, power_of_two(width))
        planes = min(256 // columns, power_of_two(per_sample))
        tiles.append((planes, columns))
        programs = blocks(width, columns) * blocks(height, 4) * blocks(per_sample, planes)
        first_tile.append(first_tile[-1] + source.shape[0] * programs)
    with torch.cuda.device_of(sources[0]):
        noise_kernel[(first_tile[-1],)](
            tuple(sources), tuple(targets[:count]), tuple(targets[count:]), times.contiguous(),
            times if mask is None else mask.contiguous().view(torch.uint8),
            times if seeds is None else seeds, 0 if base_seed is None else base_seed, stream,
            tuple(view.stride() for view in sources),
            tuple(view.stride() for view in targets[:count]),
            tuple(side for size in sizes for side in size),
            tuple(number for view in sources for number in (view.shape[1] * view.shape[2], view.shape[2])),
            tuple(first_tile),
            LEVELS=count, PATCHES=tuple(view.shape[4] for view in targets[:count]), MASK=mask is not None,
            SEEDS=seeds is not None, PLANES=tuple(planes for planes, _ in tiles),
            COLUMNS=tuple(columns for _, columns in tiles), num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
