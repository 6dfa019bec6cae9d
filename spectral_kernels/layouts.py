# SPDX-License-Identifier: Apache-2.0
"""Where the planes of a state lie in memory. A layout is a strided view, so no op ever permutes a tensor for it.

Every layout is seen by the kernels as one view [B, C1, C2, h/p, p, w/p, p]: samples, planes of a sample, and the two
axes of a plane, each cut into patches of p.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import SymInt, Tensor


@dataclass(frozen=True)
class Planes:
    """[..., h, w]: any leading dimensions; the first of at least three is the batch. Images, latents and videos."""

    name = "planes"


@dataclass(frozen=True)
class Patches:
    """[B, (height/2) (width/2), 4 C]: 2x2 patches as tokens, channel-major inside (FLUX.1, Qwen-Image).

    `height` and `width` are those of the unpacked latent that is given, in latent pixels; both even.
    """

    height: int
    width: int
    name = "patches"


@dataclass(frozen=True)
class Tokens:
    """[B, height width, C]: one token per pixel of the grid, row by row (FLUX.2)."""

    height: int
    width: int
    name = "tokens"


Layout = Planes | Patches | Tokens


def grid_of(op: str, x: Tensor, layout: Layout | None, name: str = "x") -> tuple[str, tuple[int, int]]:
    """The layout's name and the plane size (h, w) of `x`, or an error that says what does not fit."""
    if layout is None or isinstance(layout, Planes):
        if x.ndim < 2:
            raise ValueError(f"{op}: {name} must have at least two dimensions [..., h, w], got shape {tuple(x.shape)}")
        size = (x.shape[-2], x.shape[-1])
        if 0 in size:
            raise ValueError(f"{op}: both sides of {name} must be at least 1, got {tuple(x.shape)}")
        return "planes", size
    if not isinstance(layout, Patches | Tokens):
        raise TypeError(
            f"{op}: layout must be Planes(), Patches(height, width) or Tokens(height, width) of spectral_kernels, got "
            f"{layout!r}"
        )
    height, width = (int(side) if isinstance(side, np.integer) else side for side in (layout.height, layout.width))
    size = height, width
    if not all(isinstance(side, int | SymInt) and not isinstance(side, bool) and side >= 1 for side in size):
        raise ValueError(f"{op}: the layout's height and width must be integers of at least 1, got {layout}")
    if x.ndim != 3:
        raise ValueError(
            f"{op}: {layout} needs {name} [batch, tokens, channels], got {x.ndim} dimensions {tuple(x.shape)}"
        )
    patch = 2 if layout.name == "patches" else 1
    if any(side % patch for side in size) or x.shape[2] % (patch * patch):
        raise ValueError(f"{op}: {layout} needs even sides and channels in fours, got {size} and {x.shape[2]} channels")
    tokens = (size[0] // patch) * (size[1] // patch)
    if x.shape[1] != tokens:
        raise ValueError(
            f"{op}: {layout} holds {tokens} tokens, but {name} has {x.shape[1]}; give the grid {name} really has"
        )
    return layout.name, size


def resized(shape: Sequence[int], name: str, size: Sequence[int]) -> list[int]:
    """The shape of a tensor in a layout once its planes have another size."""
    if name == "planes":
        return [*shape[:-2], *size]
    patch = 2 if name == "patches" else 1
    return [shape[0], (size[0] // patch) * (size[1] // patch), shape[2]]


def view(x: Tensor, name: str, size: Sequence[int]) -> Tensor:
    """[B, C1, C2, h/p, p, w/p, p] over the memory of `x`; copies only leading dimensions that no strides can merge."""
    h, w = size
    if name == "planes":
        lead = x.shape[:-2]
        if len(lead) > 3:
            x = x.flatten(2, -3)
            lead = x.shape[:-2]
        return x.view(*lead, *(1,) * (3 - len(lead)), h, 1, w, 1)
    batch, _, channels = x.shape
    if name == "tokens":
        return x.view(batch, h, w, channels).permute(0, 3, 1, 2)[:, :, None, :, None, :, None]
    grid = x.view(batch, h // 2, w // 2, channels // 4, 2, 2)
    return grid.permute(0, 3, 1, 4, 2, 5)[:, :, None]
