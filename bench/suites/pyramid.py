# SPDX-License-Identifier: Apache-2.0
"""A pyramid of two levels, down and up, against the same in PyTorch's `interpolate`."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

import spectral_kernels as sk
from bench.case import Case, Provider
from bench.suites import copy, ours

TESTS = ["tests/test_pyramid.py"]

# name, shape, dtype
SIZES = [
    # an image for a pixel model, and one four times as large
    ("pixel", (1, 3, 512, 512), torch.float32),
    ("pixel-bf16", (1, 3, 512, 512), torch.bfloat16),
    ("pixel-1024", (1, 3, 1024, 1024), torch.float32),
    # a batch of FLUX latents at 1024 px
    ("latents", (8, 16, 128, 128), torch.float32),
]
TINY = [("tiny", (2, 3, 8, 12), torch.float32), ("tiny-bf16", (1, 2, 8, 8), torch.bfloat16)]

UP = {"area": "nearest", "bilinear": "bilinear"}


def cases(device: str, tiny: bool = False) -> Iterator[Case]:
    for name, shape, dtype in TINY if tiny else SIZES:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(device, dtype)
        for resample in UP:
            yield from _pair(f"{name}, {resample}", x, resample)


def down(x: Tensor, resample: str) -> list[Tensor]:
    """The peer's pyramid: what a user writes with `interpolate`."""
    half = [side // 2 for side in x.shape[-2:]]
    coarse = functional.interpolate(x, size=half, mode=resample)
    return [coarse, x - functional.interpolate(coarse, size=x.shape[-2:], mode=UP[resample])]


def up(levels: list[Tensor], resample: str) -> Tensor:
    coarse, detail = levels
    return functional.interpolate(coarse, size=detail.shape[-2:], mode=UP[resample]) + detail


def _pair(name: str, x: Tensor, resample: str) -> Iterator[Case]:
    levels = sk.laplacian_pyramid(x, 2, resample)
    # One rounding of each level to its type, and those of float32 inside.
    tolerance = 1e-6 if x.dtype == torch.float32 else 2 * torch.finfo(x.dtype).eps
    given = {"shape": tuple(x.shape), "dtype": str(x.dtype).removeprefix("torch."), "facts": {"resample": resample}}
    moved = (2 * x.numel() + levels[0].numel()) * x.element_size()
    wide = [level.double() for level in levels]
    yield Case(
        name=f"{name}, down",
        op="laplacian_pyramid",
        bytes=moved,
        flops=3 * x.numel(),  # sum, mean, difference
        expected=lambda: torch.cat([y.flatten() for y in down(x.double(), resample)]).cpu().numpy(),
        providers=[
            *ours(x, lambda: sk.laplacian_pyramid(x, 2, resample), tolerance),
            Provider("interpolate", lambda: down(x, resample), tolerance),
            copy(x),
        ],
        **given,
    )
    yield Case(
        name=f"{name}, up",
        op="laplacian_reconstruct",
        bytes=moved,
        flops=2 * x.numel(),
        expected=lambda: up(wide, resample).cpu().numpy(),
        providers=[
            *ours(x, lambda: sk.laplacian_reconstruct(levels, resample), tolerance),
            Provider("interpolate", lambda: up(levels, resample), tolerance),
            copy(x),
        ],
        **given,
    )
