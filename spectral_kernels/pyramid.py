# SPDX-License-Identifier: Apache-2.0
"""Pyramids: an image as a coarse level and the details above it, and the noise of every level at its own time.

Source: Decomposable Flow Matching, equation 2 (its levels are X^1 = down(X), X^s = down(X, s) - up(down(X, s - 1)));
P. J. Burt, E. H. Adelson, "The Laplacian pyramid as a compact image code", 1983.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from spectral_kernels import arguments
from spectral_kernels.dispatch import pyramid as ops
from spectral_kernels.dispatch import sharded
from spectral_kernels.expand import dct_expand, dct_truncate
from spectral_kernels.layouts import Patches, Planes, Tokens, grid_of
from spectral_kernels.noise import Seed, checked_stream, seeds_for
from spectral_kernels.transforms import dctn, dwt2, idctn, idwt2

RESAMPLES = ("area", "bilinear", "dct")
BASES = ("dct", "haar")


class NoisyLevels(NamedTuple):
    """What a model sees of each level, and what it should answer."""

    noisy: list[Tensor]
    velocities: list[Tensor]


def laplacian_pyramid(
    x: Tensor, levels: int | Sequence[tuple[int, int]], resample: str = "area", *, basis: str | None = None
) -> list[Tensor]:
    """An image as a coarse level and details, coarse first.

        coarse = down(x),  detail = x - up(coarse),  and again on coarse          one pass over memory per level

    Parameters
    ----------
    x : [..., H, W], float32, float16, bfloat16 or float64, any strides; leading dimensions are planes.
    levels : number of levels; a side is halved, rounded up, from level to level, so odd sizes are legal. Or the sizes
        (h, w) of all levels, coarse first, the last one that of x (DFM's best at 1024 px skips a size: 256 -> 1024).
    resample : "area", mean of blocks down and nearest up; with given sizes, blocks of ceil(H / h) pixels a side.
        "bilinear", linear interpolation at pixel centres without a low-pass, both ways (for a factor of 2 down the
        mean of 2x2, where torch.nn.functional.interpolate does the same). "dct", truncation and expansion of the
        cosine spectrum with the mean kept, any size.
    basis : "dct" or "haar", an orthonormal pyramid in place of the Laplacian one, with as many numbers as the image has
        pixels (for even sides): each detail level [..., 3 C, h, w] holds three bands of the level above it, high
        columns, high rows and both, channels side by side within a band (a lone plane counts as C = 1). The bands of
        the cosine spectrum are brought back to a grid, so that a pixel of a band lies where it lies in the image. Its
        coarse level is `dct_truncate`'s. "haar": the bands of `dwt2`, and the mean of 2x2. Levels by number only.

    Returns
    -------
    list of tensors in the dtype of `x`. `laplacian_reconstruct` of the first k is the image at level k, a preview.

    Raises
    ------
    ValueError, TypeError : a number of levels that the size does not have, sizes that do not grow or that blocks do not
        give, an unknown resample or basis.

    Notes
    -----
    The same bits on every backend. "area" and "bilinear": float32 sums in the order of reference/pyramid.py, each level
    rounded to the dtype and the next made from what was stored; a NaN stays with the pixels computed from it. With
    m = max |x| and u = 2^-24 a coarse pixel is off by at most (f + g - 1) u m for the mean of f x g pixels, 8 u m for
    "bilinear", to first order in u and before it is rounded to a half type; a sum beyond float32's range is infinite.
    "dct": the exact product, where a NaN fills its plane. Gradients flow, without a promise of bits.
    """
    op = "laplacian_pyramid"
    _check_kind(op, resample, basis)
    _, size = arguments.state(op, x)
    levels = arguments.plain(levels)
    sizes = _sizes(op, size, levels)
    if basis is not None and not isinstance(levels, int):
        raise ValueError(f"{op}: with basis={basis!r} levels must be a number, got {levels!r}; or use resample")
    if basis is None and resample == "area" and not isinstance(levels, int):
        for coarse, fine in pairwise(sizes):
            _check_blocks(op, coarse, fine)
    if basis is not None and any(side % 2 for target in sizes[1:] for side in target):
        raise ValueError(
            f'{op}: with basis={basis!r} every side above the coarsest must be even, got {sizes}; resample="dct" takes '
            "odd sizes"
        )
    if basis is None and hasattr(x, "device_mesh"):
        return sharded.planewise(op, lambda x: laplacian_pyramid(x, levels, resample), [x])
    found, fine = [], x
    for target in sizes[-2::-1]:
        fine, detail = _down(fine, target, resample, basis)
        found.append(detail)
    return [fine if found else _stored(fine), *reversed(found)]


def laplacian_reconstruct(pyramid: Sequence[Tensor], resample: str = "area", *, basis: str | None = None) -> Tensor:
    """The image of a pyramid, or its preview from the first levels.

        x = up(coarse) + detail          level by level, each rounded once to the dtype

    Parameters
    ----------
    pyramid : levels of one `laplacian_pyramid`, coarse first; the first k of them give the image at level k.
    resample, basis : as the pyramid was made.

    Returns
    -------
    tensor of the finest level's size.

    Notes
    -----
    **When the input's bits come back** (Laplacian pyramids in float32 and half types; -0.0 comes back as 0.0):

    - everywhere with "area" and values on a fixed grid: multiples of q = 2^k with |x| < 2^(p + 1 - 2 L) q for L levels
      halved, where p is 24 for float32, 11 for float16, 8 for bfloat16. So 8-bit pixels in float32 to eight levels, in
      float16 for two; and for two levels the library's own noise (grid 2^-17, |x| < 8).
    - at each pixel of the finest level where |x - up(coarse)| < |x| / 2 and the coarse image came back itself.

    Elsewhere a pixel that is small beside its neighbours keeps fewer digits than it has: a difference near the
    neighbours' size cannot hold them. With L levels and m = max |x|, u = 2^-p: the error is at most 3 (L - 1) u m for
    "area" and "bilinear" to first order in u, and 5 (L - 1) u s m for "dct" with s the largest gain of its expansion
    (below 2.5 in all sizes tested). An orthonormal pyramid (`basis`) comes back to a few u of its norm.
    """
    op = "laplacian_reconstruct"
    check_pyramid(op, pyramid, resample, basis)
    if basis is None and any(hasattr(level, "device_mesh") for level in pyramid):
        return sharded.planewise(op, lambda *levels: [laplacian_reconstruct(levels, resample)], pyramid)[0]
    fine = pyramid[0]
    for detail in pyramid[1:]:
        fine = _up(fine, detail, resample, basis)
    return _stored(fine) if len(pyramid) == 1 else fine


def noise_levels(
    levels: Sequence[Tensor],
    times,
    seed: Seed,
    *,
    mask: Tensor | None = None,
    layouts: Sequence[Planes | Patches | Tokens] | None = None,
    stream: int = 0,
) -> NoisyLevels:
    """Noise every level of every sample to its own time, all in one launch.

        z = (1 - t) x + t e,    v = e - x          e = normal(shape of level s, seed, stream=stream + s)

    Parameters
    ----------
    levels : tensors [B, ..., h, w] of one batch, for instance of `laplacian_pyramid`.
    times : [B, levels], each in [0, 1], 1 is noise; a tensor (float64 is used), or nested sequences. Times
        on a GPU, where nobody looks at them, make their level NaN out of range.
    seed : as in `normal`: an int gives sample b the noise of seed + b.
    mask : bool [B, levels]; where it is False the noisy level is 0 (DFM hides stages that have not begun).
    layouts : one per level, how the results lie in memory: `Tokens(h, w)` and `Patches(h, w)` turn levels
        [B, C, h, w] into tokens in the same pass. Default: planes.
    stream : the first level's stream, the next ones follow.

    Returns
    -------
    NoisyLevels(noisy, velocities) : two lists like `levels`, in their layouts.

    Raises
    ------
    ValueError, TypeError : times or mask of another shape, times outside [0, 1], levels of different batches or types.

    Notes
    -----
    The same bits on every backend: t and 1 - t are rounded to float32, in which all is computed, each operation rounded
    once, then to the dtype; float64 levels in float64. Gradients flow to `levels`.
    Source: Decomposable Flow Matching, equations 3 and 4, in the clock where 1 is noise.
    """
    op = "noise_levels"
    if isinstance(levels, Tensor) or not isinstance(levels, Sequence) or len(levels) == 0:
        raise TypeError(f"{op}: levels must be a list of at least one tensor, got {type(levels).__name__}")
    for s, level in enumerate(levels):
        arguments.state(op, level, name=f"levels[{s}]")
        if hasattr(level, "device_mesh"):
            raise TypeError(
                f"{op}: levels must be tensors, got a DTensor; noise each process's own samples, level.to_local(), "
                "with their own seeds"
            )
        _same_kind(op, levels[0], level)
        if level.ndim < 3 or level.shape[0] != levels[0].shape[0]:
            raise ValueError(
                f"{op}: levels must be [B, ..., h, w] of one batch, got {[tuple(x.shape) for x in levels]}"
            )
    device, count = levels[0].device, levels[0].shape[0]
    times = level_times(op, times, count, len(levels), device)
    if mask is not None:
        mask = level_mask(op, mask, count, len(levels), device)
    names = ["planes"] * len(levels) if layouts is None else _layout_names(op, levels, layouts)
    base_seed, seeds = seeds_for(op, seed, count, device)
    stream = checked_stream(op, stream)
    out = ops.noise_levels(list(levels), times, mask, seeds, base_seed, stream, ",".join(names))
    return NoisyLevels(out[: len(levels)], out[len(levels) :])


def check_pyramid(op: str, pyramid: Sequence[Tensor], resample: str, basis: str | None) -> None:
    """Raise unless these are the first levels of one `laplacian_pyramid` of that kind."""
    _check_kind(op, resample, basis)
    if isinstance(pyramid, Tensor) or not isinstance(pyramid, Sequence) or len(pyramid) == 0:
        raise TypeError(f"{op}: pyramid must be a list of at least one level, got {type(pyramid).__name__}")
    for s, level in enumerate(pyramid):
        arguments.state(op, level, name=f"pyramid[{s}]")
    _check_together(op, pyramid, resample, basis)


def level_times(op: str, times, samples: int, levels: int, device: torch.device) -> Tensor:
    """Times as float64 [samples, levels]; what can be seen without waiting for a device is checked, the rest turns into
    NaN out of range, as times of an expansion do."""
    times = _table(op, "times", times, torch.float64)
    if times.requires_grad:
        raise ValueError(f"{op}: times are constants of the op and carry no gradient; pass times.detach()")
    if times.shape != (samples, levels):
        raise ValueError(
            f"{op}: times must have the shape (samples, levels) = ({samples}, {levels}), got {tuple(times.shape)}; "
            "one time for all is times.expand(samples, levels)"
        )
    inside = (times >= 0) & (times <= 1)
    if not arguments.readable(times):
        times = torch.where(inside, times, torch.nan)
    elif not bool(inside.all()):
        raise ValueError(f"{op}: times are noise levels and must lie in [0, 1], got {times.min():g} to {times.max():g}")
    return times.to(device)


def level_mask(op: str, mask: Tensor, samples: int, levels: int, device: torch.device) -> Tensor:
    """A mask as bool [samples, levels]."""
    mask = _table(op, "mask", mask)
    if mask.dtype != torch.bool or mask.shape != (samples, levels):
        raise ValueError(
            f"{op}: mask must be bool of the shape (samples, levels) = ({samples}, {levels}), got {mask.dtype} "
            f"{tuple(mask.shape)}"
        )
    return mask.to(device)


def _table(op: str, name: str, given, dtype: torch.dtype | None = None) -> Tensor:
    arguments.whole(op, name, given)
    if isinstance(given, Tensor):  # where it lies: a default device would move it
        return given if dtype is None else given.to(dtype)
    try:
        return torch.as_tensor(given, dtype=dtype, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{op}: {name} must be a tensor or rows of one number per level, one row a sample, got {given!r}"
        ) from error


# ---------------------------------------------------------------- one level


def _down(x: Tensor, size: tuple[int, int], resample: str, basis: str | None) -> tuple[Tensor, Tensor]:
    if basis is not None:
        if basis == "haar":
            bands = dwt2(x)
            return bands[..., : size[0], : size[1]] / 2, _quarters(bands, size)
        return dct_truncate(x, size=size), idctn(_quarters(dctn(x), size))
    if resample == "dct":
        coarse = dct_truncate(x, size=size)
        return coarse, ops.merge(dct_expand(coarse, size=_plane(x), t=0.0).x, x, "none", True)
    coarse, detail = ops.split(x, size, resample)
    return coarse, detail


def _up(coarse: Tensor, detail: Tensor, resample: str, basis: str | None) -> Tensor:
    if basis is not None:
        if basis == "haar":
            return idwt2(_joined(coarse * 2, detail))
        return idctn(_joined(dctn(coarse) * 2, dctn(detail)))  # sides are doubled, so r = 2
    if resample == "dct":
        return ops.merge(dct_expand(coarse, size=_plane(detail), t=0.0).x, detail, "none", False)
    return ops.merge(coarse, detail, resample, False)


def _stored(x: Tensor) -> Tensor:
    """A lone level as any other: a tensor of its own, without negative zeros, its NaNs the quiet one."""
    return (x + 0).masked_fill(x.isnan(), torch.nan)


def _plane(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]


def _quarters(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """The three high quarters of a plane of coefficients, stacked along the channels."""
    h, w = size
    quarters = [plane[..., :h, w:], plane[..., h:, :w], plane[..., h:, w:]]
    return torch.stack(quarters) if plane.ndim == 2 else torch.cat(quarters, -3)


def _joined(low: Tensor, detail: Tensor) -> Tensor:
    """A plane of coefficients from its low quarter and the stack of the others."""
    quarters = detail.unflatten(-3, (3, -1)).unbind(-4)
    if low.ndim == 2:
        quarters = [quarter.squeeze(-3) for quarter in quarters]
    right, below, both = quarters
    return torch.cat([torch.cat([low, right], -1), torch.cat([below, both], -1)], -2)


# ---------------------------------------------------------------- checks


def _check_kind(op: str, resample: str, basis: str | None) -> None:
    if resample not in RESAMPLES:
        raise ValueError(f"{op}: resample must be one of {', '.join(RESAMPLES)}, got {resample!r}")
    if basis is not None and basis not in BASES:
        raise ValueError(f"{op}: basis must be None or one of {', '.join(BASES)}, got {basis!r}")
    if basis is not None and resample != "area":
        raise ValueError(f"{op}: give resample or basis, got resample={resample!r} and basis={basis!r}")


def _sizes(op: str, size: tuple[int, int], levels) -> list[tuple[int, int]]:
    """The levels' sizes, coarse first."""
    if isinstance(levels, bool) or not isinstance(levels, int | Sequence) or isinstance(levels, str):
        raise TypeError(f"{op}: levels must be a number or the sizes of all levels, coarse first, got {levels!r}")
    if isinstance(levels, int):
        sizes = [size]
        while len(sizes) < levels and max(sizes[0]) > 1:
            sizes.insert(0, (-(-sizes[0][0] // 2), -(-sizes[0][1] // 2)))
        if len(sizes) != levels:
            most = (max(size) - 1).bit_length() + 1
            raise ValueError(f"{op}: {size} has 1 to {most} levels (the coarsest is one pixel), got levels={levels}")
        return sizes
    sizes = []
    for pair in levels:
        pair = tuple(map(arguments.plain, pair)) if isinstance(pair, Sequence) else arguments.plain(pair)
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(type(side) is int for side in pair):
            raise TypeError(f"{op}: sizes of levels must be pairs of integers (height, width), got {pair!r}")
        sizes.append((pair[0], pair[1]))
    if not sizes or sizes[-1] != size:
        raise ValueError(f"{op}: the last size of levels must be that of x, {size}, got {sizes}")
    if min(sizes[0]) < 1 or any(not _grows(*pair) for pair in pairwise(sizes)):
        raise ValueError(f"{op}: sizes of levels must be at least 1 and grow from level to level, got {sizes}")
    return sizes


def _grows(coarse: tuple[int, int], fine: tuple[int, int]) -> bool:
    return coarse != fine and coarse[0] <= fine[0] and coarse[1] <= fine[1]


def _check_blocks(op: str, coarse: tuple[int, int], fine: tuple[int, int]) -> None:
    for small, large in zip(coarse, fine, strict=True):
        block = -(-large // small)
        if -(-large // block) != small:
            raise ValueError(
                f"{op}: blocks of {block} pixels turn a side of {large} into {-(-large // block)}, not {small} (from "
                f'{fine} to {coarse}); choose such a size, or resample="bilinear" or "dct", which take any'
            )


def _same_kind(op: str, first: Tensor, level: Tensor) -> None:
    if level.dtype != first.dtype or level.device != first.device:
        raise ValueError(
            f"{op}: all levels must have one dtype and device, got {first.dtype} on {first.device} and {level.dtype} "
            f"on {level.device}"
        )


def _check_together(op: str, pyramid: Sequence[Tensor], resample: str, basis: str | None) -> None:
    """Levels of one pyramid have one type and the same leading dimensions, and sizes that follow each other."""
    shapes = [tuple(level.shape) for level in pyramid]
    size, lead = _plane(pyramid[0]), pyramid[0].shape[:-2]
    for level in pyramid[1:]:
        _same_kind(op, pyramid[0], level)
        if basis is not None:
            expected = (*lead[:-1], 3 * (lead[-1] if lead else 1), *size)
            if tuple(level.shape) != expected:
                raise ValueError(
                    f"{op}: with basis={basis!r} the level above {size} must be {expected}, got {shapes}; the "
                    "levels do not belong together"
                )
            size = (2 * size[0], 2 * size[1])
            continue
        if level.shape[:-2] != lead or not _grows(size, _plane(level)):
            raise ValueError(
                f"{op}: the levels do not belong together: leading dimensions must agree and sizes grow, got {shapes}"
            )
        if resample == "area":
            _check_blocks(op, size, _plane(level))
        size = _plane(level)


def _layout_names(op: str, levels: Sequence[Tensor], layouts) -> list[str]:
    if not isinstance(layouts, Sequence) or len(layouts) != len(levels):
        raise ValueError(f"{op}: layouts must hold one layout per level ({len(levels)}), got {layouts!r}")
    names = []
    for level, layout in zip(levels, layouts, strict=True):
        if layout is None or isinstance(layout, Planes):
            names.append("planes")
            continue
        if not isinstance(layout, Tokens | Patches):
            grid_of(op, level, layout)  # says what a layout is
        patch = 2 if isinstance(layout, Patches) else 1
        if level.ndim != 4 or _plane(level) != (layout.height, layout.width) or any(s % patch for s in _plane(level)):
            raise ValueError(f"{op}: {layout} needs a level [B, C, h, w] of that size, got {tuple(level.shape)}")
        names.append(layout.name)
    return names
