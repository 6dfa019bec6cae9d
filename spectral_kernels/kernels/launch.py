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


def fused_tile(mode: str, out_size: tuple[int, int], in_size: tuple[int, int]) -> Tile:
    """16 rows keep both slices of the widest intermediate (256 columns) in the registers of 8 warps."""
    wide = max(*out_size, *in_size) > 128
    if mode == "fast":
        return Tile(16, 32, 32, 8 if wide else 4)
    return Tile(16, 16, 16, 8 if wide else 4)


def pair_tile(mode: str) -> Tile:
    """Square tiles: each intermediate value is then read from memory the fewest times."""
    return Tile(64, 64, 32, 8) if mode == "fast" else Tile(32, 32, 16, 4)
