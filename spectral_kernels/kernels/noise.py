# SPDX-License-Identifier: Apache-2.0
"""The noise in Triton: a tile of normal deviates from nothing but seed and position, and a kernel that writes them."""

import torch
import triton
import triton.language as tl

from spectral_kernels.deviates import LOG2, NORMAL_QUANTILE
from spectral_kernels.kernels.launch import blocks, power_of_two
from spectral_kernels.kernels.rounding import round_to

_LOG2 = tl.constexpr(LOG2)
_NORMAL_QUANTILE = tl.constexpr(NORMAL_QUANTILE)


@triton.jit
def _polynomial(x, COEFFICIENTS: tl.constexpr):
    value = x * COEFFICIENTS[7]
    for i in tl.static_range(6):
        value = (value + COEFFICIENTS[6 - i]) * x
    return value + COEFFICIENTS[0]


@triton.jit
def _log2(x):
    bits = x.to(tl.int32, bitcast=True)
    # 2^23 + k has the bits 0x4B000000 + k: an integer k becomes a float without a (slow) conversion.
    exponent = ((bits >> 23) | 0x4B000000).to(tl.float32, bitcast=True) - 8388735.0
    mantissa = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    return exponent + _polynomial(mantissa - 1.5, _LOG2)


@triton.jit
def deviate(word):
    """The float32 normal deviate of each uint32 word, on the grid 2^-17; |deviate| < 6.5."""
    word = word.to(tl.int32, bitcast=True)
    level = _log2(32.0 - _log2((word & 0x7FFFFFFF).to(tl.float32) + 0.5))
    x = _polynomial(level - 2.5, _NORMAL_QUANTILE).to(tl.int32, bitcast=True)
    signed = (x ^ (word & -2147483648)).to(tl.float32, bitcast=True)
    # Between 64 and 128 the grid of float32 is 2^-17: adding 96 rounds to it, and a zero comes back as +0.
    return (signed + 96.0) - 96.0


@triton.jit
def normal_quad(seed, stream, plane, quad, column):
    """Four float32 tiles: the deviates of rows 4 quad, 4 quad + 1, 4 quad + 2 and 4 quad + 3, from one Philox call.

    `seed` is int64 (of the sample, `sample_seed`); stream, plane (within the sample), quad and column are integers that
    broadcast against each other, for instance quad [Q, 1] and column [1, C]: then the first rounds cost little.
    """
    c0, c1 = column.to(tl.uint32), quad.to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, c0, c1, plane.to(tl.uint32), stream.to(tl.uint32))
    return deviate(w0), deviate(w1), deviate(w2), deviate(w3)


@triton.jit
def sample_seed(base_seed, p_seeds, sample, PER_SAMPLE: tl.constexpr):
    """The int64 seed of a sample: its own from the tensor, or `base_seed + sample`."""
    if PER_SAMPLE:
        seed = tl.load(p_seeds + sample)
    else:
        seed = base_seed + sample
    return seed


@triton.jit(do_not_specialize=["base_seed", "stream"])
def normal_kernel(
    p_noise,
    p_seeds,
    base_seed: "i64",
    stream: "i64",
    planes: "i64",
    rows: "i64",
    columns: "i64",
    PER_SAMPLE: tl.constexpr,
    QUADS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program writes 4 QUADS rows x COLUMNS columns of one plane of [samples, planes, rows, columns]."""
    column_tiles = tl.cdiv(columns, COLUMNS)
    quad_tiles = tl.cdiv(rows, 4 * QUADS)
    i_tile = tl.program_id(0).to(tl.int64)
    i_plane = i_tile // (column_tiles * quad_tiles)
    i_quad = i_tile // column_tiles % quad_tiles
    o_column = (i_tile % column_tiles * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    o_quad = (i_quad * QUADS + tl.arange(0, QUADS))[:, None]
    seed = sample_seed(base_seed, p_seeds, i_plane // planes, PER_SAMPLE)
    tiles = normal_quad(seed, stream, i_plane % planes, o_quad, o_column)
    for i in tl.static_range(4):
        o_row = 4 * o_quad + i
        p_tile = p_noise + (i_plane * rows + o_row) * columns + o_column
        tl.store(p_tile, round_to(tiles[i], p_noise.dtype.element_ty), mask=(o_row < rows) & (o_column < columns))


def normal(
    samples: int,
    planes: int,
    rows: int,
    columns: int,
    base_seed: int | None,
    seeds: torch.Tensor | None,
    stream: int,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Noise [samples, planes, rows, columns] of a dtype; sample b has the seed `base_seed + b`, or `seeds[b]`."""
    noise = torch.empty((samples, planes, rows, columns), dtype=dtype, device=device)
    if noise.numel() == 0:
        return noise
    # 256 Philox calls, two for each thread of four warps; a narrow plane gets a taller tile.
    columns_at_once = min(128, power_of_two(columns))
    quads_at_once = min(256 // columns_at_once, power_of_two(blocks(rows, 4)))
    tiles = blocks(columns, columns_at_once) * blocks(rows, 4 * quads_at_once)
    with torch.cuda.device_of(noise):
        normal_kernel[(samples * planes * tiles,)](
            noise,
            noise if seeds is None else seeds,
            0 if base_seed is None else base_seed,
            stream,
            planes,
            rows,
            columns,
            PER_SAMPLE=seeds is not None,
            QUADS=quads_at_once,
            COLUMNS=columns_at_once,
            num_warps=4,
            enable_fp_fusion=False,
        )
    return noise
