# SPDX-License-Identifier: Apache-2.0
"""Pyramids: an image as a coarse level and details, coarse first, and their noise; float32 sums in a stated order.

    coarse = down(x)                detail = x - up(coarse)                x again = up(coarse) + detail

Every level is stored in the type of the input, and the next one is made from what was stored. All arithmetic is
float32, each operation rounded once, in the order written here, + 0 at the end (a zero is positive), then rounded to
the type, where a negative number too small for it becomes -0. Two to a few terms on a line need no wider sums, and
float32 is what every processor is fast in. A NaN is the quiet NaN and stays with the pixels that are computed from it.
float64 arrays are computed in float64.

Results are float32 arrays that hold values of the type, so that bfloat16, which NumPy does not have, needs no other
rule.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reference import expand
from reference.noise import normal

Floats = NDArray[np.float32]
Numbers = NDArray[np.floating]  # float32, or float64 that stays float64
Size = tuple[int, int]


def stored(y: Numbers, dtype: str = "float32") -> Floats:
    """What a sum is stored as: `narrowed` from y + 0, where no zero is negative."""
    with np.errstate(invalid="ignore"):
        return narrowed(y + 0.0, dtype)


def narrowed(y: Numbers, dtype: str = "float32") -> Floats:
    """To float32 and on to the type, to nearest even, as float32; every NaN the quiet one."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = y.astype(np.float32)
        if dtype == "float16":
            single = single.astype(np.float16).astype(np.float32)
        elif dtype == "bfloat16":
            bits = single.view(np.uint32)
            bits = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
            single = np.where(np.isnan(single), single, bits.view(np.float32))
        return np.where(np.isnan(single), np.float32(np.nan), single)


def halved(size: Size, levels: int) -> list[Size]:
    """Sizes of `levels` levels, coarse first; every side is half the next one's, rounded up."""
    sizes = [size]
    while len(sizes) < levels:
        sizes.insert(0, (-(-sizes[0][0] // 2), -(-sizes[0][1] // 2)))
    return sizes


def area_down(x: Numbers, size: Size) -> Numbers:
    """Mean of each block of f x g pixels, f = ceil(H / h); the last blocks of a side may be smaller.

    Within a block: the rows of each column from the top, then the columns from the left, then one division by the
    number of pixels.
    """
    (H, W), (h, w) = x.shape[-2:], size
    f, g = -(-H // h), -(-W // w)
    padded = np.zeros((*x.shape[:-2], h * f, w * g), x.dtype)
    padded[..., :H, :W] = x
    blocks = padded.reshape(*x.shape[:-2], h, f, w, g)
    columns = blocks[..., 0, :, :]
    with np.errstate(invalid="ignore", over="ignore"):
        for a in range(1, f):
            columns = columns + blocks[..., a, :, :]
        total = columns[..., 0]
        for b in range(1, g):
            total = total + columns[..., b]
    rows_in = np.minimum(f, H - f * np.arange(h))
    columns_in = np.minimum(g, W - g * np.arange(w))
    return total / np.outer(rows_in, columns_in).astype(x.dtype)


def area_up(x: Numbers, size: Size) -> Numbers:
    """Nearest: each pixel becomes its block."""
    (h, w), (H, W) = x.shape[-2:], size
    rows, columns = np.arange(H) // -(-H // h), np.arange(W) // -(-W // w)
    return x[..., rows[:, None], columns]


def interpolated(x: Numbers, axis: int, n: int) -> Numbers:
    """Linear interpolation of an axis of m pixels at n pixel centres; the edge pixels extend outwards.

    Pixel i of n reads position ((2 i + 1) m - n) / (2 n), as a whole number and a fraction f, one division of integers:
    (1 - f) x[left] + f x[right]. An axis that keeps its size is left alone.
    """
    m = x.shape[axis]
    if m == n:
        return x
    position = np.maximum((2 * np.arange(n) + 1) * m - n, 0)
    left = position // (2 * n)
    f = (position % (2 * n)).astype(x.dtype) / np.asarray(2 * n, x.dtype)
    f = np.expand_dims(f, [d for d in range(x.ndim) if d != axis % x.ndim])
    one = np.asarray(1, x.dtype)
    with np.errstate(invalid="ignore"):
        right = np.minimum(left + 1, m - 1)
        return (one - f) * np.take(x, left, axis) + f * np.take(x, right, axis)


def bilinear_down(x: Numbers, size: Size) -> Numbers:
    """Rows first, then columns; no low-pass. Exactly half of both sides is `area_down`: the same four pixels, and the
    same weights."""
    if (2 * size[0], 2 * size[1]) == x.shape[-2:]:
        return area_down(x, size)
    return interpolated(interpolated(x, -2, size[0]), -1, size[1])


def bilinear_up(x: Numbers, size: Size) -> Numbers:
    """Columns first, then rows: the other way round than down, and so on the smaller image."""
    return interpolated(interpolated(x, -1, size[1]), -2, size[0])


def dct_down(x: Numbers, size: Size) -> Numbers:
    """Truncation of the cosine spectrum with the mean kept, `expand.truncate`."""
    return expand.truncate(x.astype(np.float32), size)


def dct_up(x: Numbers, size: Size) -> Numbers:
    """Expansion without noise, `expand.expand` at t = 0."""
    return expand.expand(x.astype(np.float32), size, 0.0)[0]


DOWN = {"area": area_down, "bilinear": bilinear_down, "dct": dct_down}
UP = {"area": area_up, "bilinear": bilinear_up, "dct": dct_up}


def down_sampled(fine: Floats, size: Size, resample: str, dtype: str) -> Floats:
    """down(fine) as it is stored; what comes from the cosine basis has been through its + 0."""
    coarse = DOWN[resample](fine, size)
    return narrowed(coarse, dtype) if resample == "dct" else stored(coarse, dtype)


def up_sampled(coarse: Floats, size: Size, resample: str, dtype: str) -> Numbers:
    """up(coarse); from the cosine basis it comes out as a stored image, from the others in float32."""
    fine = UP[resample](coarse, size)
    return narrowed(fine, dtype) if resample == "dct" else fine


def pyramid(x: Floats, sizes: list[Size], resample: str = "area", dtype: str = "float32") -> list[Floats]:
    """[coarse, detail, ..., detail] of sizes in ascending order, the last one that of `x` [..., H, W]."""
    levels: list[Floats] = []
    fine = x.astype(np.float32)
    for size in sizes[-2::-1]:
        coarse = down_sampled(fine, size, resample, dtype)
        with np.errstate(invalid="ignore"):
            levels.insert(0, stored(fine - up_sampled(coarse, fine.shape[-2:], resample, dtype), dtype))
        fine = coarse
    return [fine, *levels] if levels else [stored(fine, dtype)]


def reconstruct(levels: list[Floats], resample: str = "area", dtype: str = "float32") -> Floats:
    """up(coarse) + detail from level to level; the first levels alone give the preview at their size."""
    fine = stored(levels[0], dtype)
    for detail in levels[1:]:
        with np.errstate(invalid="ignore"):
            fine = stored(up_sampled(fine, detail.shape[-2:], resample, dtype) + detail, dtype)
    return fine


def bands(coefficients: Floats, size: Size) -> Floats:
    """The high columns, the high rows and both of a plane of coefficients [C, H, W], as [3 C, h, w]."""
    h, w = size
    return np.concatenate([coefficients[..., :h, w:], coefficients[..., h:, :w], coefficients[..., h:, w:]], axis=-3)


def joined(low: Floats, high: Floats) -> Floats:
    """The plane of coefficients from its low quarter and its `bands`."""
    right, below, both = np.split(high, 3, axis=-3)
    return np.concatenate([np.concatenate([low, right], -1), np.concatenate([below, both], -1)], -2)


def orthonormal_pyramid(x: Floats, levels: int, basis: str, dtype: str = "float32") -> list[Floats]:
    """A pyramid with as many numbers as the image [..., C, H, W] has pixels; sides are halved and must be even.

        "haar"   coarse = LL / 2, the mean of 2 x 2;    detail = the bands LH, HL, HH of `dwt2`
        "dct"    coarse = `truncate` with the mean kept; detail = the three high quarters of the spectrum, each brought
                 back to a grid of its own

    Every intermediate plane of coefficients is stored in the type.
    """
    found: list[Floats] = []
    fine = stored(x, dtype)
    for _ in range(levels - 1):
        size = fine.shape[-2] // 2, fine.shape[-1] // 2
        if basis == "haar":
            spectrum = narrowed(expand.transform(fine, basis="haar", coarse=size), dtype)
            found.insert(0, bands(spectrum, size))
            fine = narrowed(spectrum[..., : size[0], : size[1]] / 2, dtype)
        else:
            spectrum = narrowed(expand.transform(fine), dtype)
            found.insert(0, narrowed(expand.transform(bands(spectrum, size), inverse=True), dtype))
            fine = narrowed(expand.truncate(fine, size), dtype)
    return [fine, *found]


def orthonormal_reconstruct(levels: list[Floats], basis: str, dtype: str = "float32") -> Floats:
    """The image of an `orthonormal_pyramid`; the first levels alone give the preview at their size."""
    fine = levels[0]
    for detail in levels[1:]:
        if basis == "haar":
            low, high, coarse = narrowed(fine * 2, dtype), detail, fine.shape[-2:]
        else:
            low, high = (narrowed(expand.transform(plane), dtype) for plane in (fine, detail))
            low, coarse = narrowed(low * 2, dtype), None
        fine = narrowed(expand.transform(joined(low, high), basis=basis, inverse=True, coarse=coarse), dtype)
    return fine


def noise_levels(
    levels: Sequence[Floats],
    times: ArrayLike,
    seed: int | Sequence[int],
    *,
    mask: ArrayLike | None = None,
    stream: int = 0,
    dtype: str = "float32",
) -> tuple[list[Floats], list[Floats]]:
    """Each level of each sample at its own time: (noisy levels, velocities).

        z = s x + t e + 0,   v = e - x + 0        e = normal(shape of the level, seed, stream + level)

    `times` [B, levels] float64, of which t and s = 1 - t are rounded to float32; where `mask` [B, levels] is False,
    z = 0 (what the model must not see), v stays.
    """
    noisy: list[Floats] = []
    velocities: list[Floats] = []
    for level, x in enumerate(levels):
        e = normal(x.shape, seed, stream + level)
        across = (-1, *(1,) * (x.ndim - 1))
        times_of = np.asarray(times, np.float64)[:, level].reshape(across)
        t, s = times_of.astype(np.float32), (1.0 - times_of).astype(np.float32)
        with np.errstate(invalid="ignore"):
            z = stored(s * x + t * e, dtype)
            velocities.append(stored(e - x, dtype))
        shown = np.ones_like(t, bool) if mask is None else np.asarray(mask, bool)[:, level].reshape(across)
        noisy.append(np.where(shown, z, np.float32(0)))
    return noisy, velocities
