# SPDX-License-Identifier: Apache-2.0
"""Launch settings. They may change speed, never bits; a test walks the whole space."""

from dataclasses import dataclass
from functools import cache

import torch
import triton

FUSED_SIDE = 256  # larger planes leave the chip between their two contractions

# From Triton 3.9 on the largest planes of one launch hardly spill, and one more chip has its float64 tensor cores used.
_NEW = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 9)
# NVIDIA chips whose float64 tensor cores Triton uses. Elsewhere a float64 dot is a long row of multiply-adds.
FLOAT64_DOTS = {(8, 0), (9, 0), (10, 0)} if _NEW else {(8, 0), (9, 0)}


@cache
def fused_side(mode: str, device: torch.device) -> int:
    """The largest side of a plane that one launch does on a device; 0 is none, and two launches do them all.

    Two launches are for chips where one would not fit. Bytes spilled by one launch to 128 and to 256, and its shared
    memory to 256, which may be 99 KiB on chips that are not for data centres (Triton 3.6; two launches: at most 164):
    exact on sm_90 160, 3316, 112 KiB; exact on sm_86, sm_89 and sm_120 7200, 14000 to 21000, 160 KiB; fast anywhere 0,
    390, 64 KiB.
    """
    if mode == "fast" or device.type != "cuda":
        return FUSED_SIDE
    if torch.version.hip:
        name = torch.cuda.get_device_properties(device).gcnArchName
        return FUSED_SIDE if name.startswith(("gfx90a", "gfx94", "gfx95")) else 0
    if torch.cuda.get_device_capability(device) not in FLOAT64_DOTS:
        return 0
    return FUSED_SIDE if _NEW else 128


# Triton's own cdiv and next_power_of_2 take 1.8 us a call since they also work inside kernels; a launch asks for five.
def blocks(size: int, block: int) -> int:
    """How many blocks cover a size."""
    return -(-size // block)


def power_of_two(size: int) -> int:
    """The smallest power of two that is not below a size."""
    return 1 << (size - 1).bit_length()


@dataclass(frozen=True)
class Tile:
    """One program's share: output rows and columns, depth of a step along the summed axis, warps; and how many steps'
    loads are under way at a time."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int = 1


TILES = tuple(
    Tile(rows, columns, depth, warps)
    for rows in (16, 32)
    for columns in (16, 32)
    for depth in (16, 32)
    for warps in (4, 8)
)
# Of two launches: more of the intermediate per table entry, and loads ahead of the products.
PAIR_TILES = (
    *TILES,
    *(Tile(32, 64, 16, 8, stages) for stages in (1, 2, 3)),
    *(Tile(32, 32, 16, 4, stages) for stages in (2, 3)),
    Tile(64, 64, 16, 8),
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
    """Large tiles: each intermediate value is then read from memory the fewest times.

    Nothing spills; with depth 32 the fast tier would spill up to 2128 bytes (Triton 3.9), with four warps for 32 x 32
    the exact one up to 164 (Triton 3.6, sm_90).
    """
    return Tile(64, 64, 16, 8) if mode == "fast" else Tile(32, 64, 16, 8)
