# SPDX-License-Identifier: Apache-2.0
"""Launch settings. They may change speed, never bits; a test walks the whole space."""

from dataclasses import dataclass

FUSED_SIDE = 256  # larger planes leave the chip between their two contractions


@dataclass(frozen=True)
class Tile:
    """One program's share: output rows and columns, depth of a step along the summed axis, warps."""

    rows: int
    columns: int
    depth: int
    warps: int


TILES = tuple(
    Tile(rows, columns, depth, warps)
    for rows in (16, 32)
    for columns in (16, 32)
    for depth in (16, 32)
    for warps in (4, 8)
)


def dot_precision(precision: str, hip: bool, interpreted: bool = False) -> str:
    """How `tl.dot` multiplies float32 where no bits are promised; `dct_expand` states the error of each."""
    if interpreted and precision == "bf16x3":  # unknown to Triton's interpreter, which multiplies float32 in any case
        return "ieee"
    if hip:  # AMD has no tf32x3, and tf32 on one architecture alone
        return "bf16x3" if precision == "bf16x3" else "ieee"
    return precision if precision in ("tf32", "bf16x3") else "tf32x3"


def fused_tile(mode: str, out_size: tuple[int, int], in_size: tuple[int, int]) -> Tile:
    """16 rows keep both slices of the widest intermediate (256 columns) in the registers of 8 warps.

    Compiled by Triton 3.9 for sm_80, sm_90 and sm_100, bytes spilled: 64 -> 128 exact 0, 0, 24, fast 0, 0, 0 (with
    tiles of 32 columns and depth 32 up to 1364); 128 -> 256 exact 24, 120, 160 (with 16 warps 1600), fast about 350.
    """
    wide = max(*out_size, *in_size) > 128
    return Tile(16, 16, 16, 8 if wide else 4)


def pair_tile(mode: str) -> Tile:
    """Square tiles: each intermediate value is then read from memory the fewest times.

    Nothing spills; with depth 32 the fast tier would spill up to 2128 bytes (Triton 3.9).
    """
    return Tile(64, 64, 16, 8) if mode == "fast" else Tile(32, 32, 16, 4)
