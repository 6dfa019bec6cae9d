# SPDX-License-Identifier: Apache-2.0
"""Spectral expansion, truncation, transforms and the lift, one plane at a time, by their definitions.

Every one is a plane product

    y = alpha (M_r X M_c^T + beta (N_r E N_c^T)) + gamma E + 0

in float64, each operation rounded once, in this order, rows before columns, then rounded to float32 and from there
to the type of the output. The final + 0 turns a negative zero into zero. Where beta is 0 the second product is
absent. A NaN or an infinity anywhere in a plane makes all of it the quiet NaN.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from reference.bases import Basis, band, table
from reference.exact import Doubles, exact_matmul
from reference.noise import normal
from reference.wavelets import local_haar, local_levels

Size = tuple[int, int]
Planes = NDArray[np.floating[Any]]
Time = float | Sequence[float]


def both_sides(x: Planes, basis: Basis, kind: str, fine: Size, coarse: Size, taper: float = 0.0) -> Doubles:
    """M_r X M_c^T; `x` [..., h, w]. Two exact products, rows first; Haar has a local form at a common ratio."""
    with np.errstate(invalid="ignore", over="ignore"):
        if basis == "haar" and (levels := local_levels(fine, coarse)):
            return local_haar(x, kind, levels)
        rows, columns = (table(basis, kind, fine[axis], coarse[axis], taper) for axis in (0, 1))
        half = exact_matmul(rows, x.astype(np.float64))
        return np.swapaxes(exact_matmul(columns, np.swapaxes(half, -1, -2)), -1, -2)


def noise_weights(fine: Size, coarse: Size, taper: float) -> Doubles:
    """sqrt(1 - (w_k w_l)^2) in the coarse corner, 1 elsewhere: noise that adds up to unit variance with the state's.

    Without a taper w = 1 and the corner is 0.
    """
    rows, columns = (band(fine[axis], coarse[axis], taper) for axis in (0, 1))
    weights = np.ones(fine)
    both = rows[:, None] * columns
    weights[: coarse[0], : coarse[1]] = np.sqrt(1.0 - both * both)
    return weights


def rounded(y: Doubles, dtype: DTypeLike = np.float32) -> Planes:
    """float64 -> float32 -> dtype, to nearest even; every NaN is the same quiet one."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = (y + 0.0).astype(np.float32)
        return np.where(np.isnan(single), np.float32(np.nan), single).astype(dtype)


def plane_size(x: Planes) -> Size:
    return x.shape[-2], x.shape[-1]


def resolution_ratio(fine: Size, coarse: Size) -> float:
    """r = sqrt(H W / (h w))."""
    return math.sqrt(fine[0] * fine[1] / (coarse[0] * coarse[1]))


def align_time(t: Doubles, ratio: float) -> tuple[Doubles, Doubles]:
    """t' = r t / (1 + (r - 1) t), kappa = r / (1 + (r - 1) t): the time and factor that make a state of the flow."""
    divisor = 1.0 + (ratio - 1.0) * t
    return ratio * t / divisor, ratio / divisor


def across_planes(t: Time, x: Planes) -> Doubles:
    """A time, or one per sample (first of at least three dimensions), so that it multiplies planes."""
    times = np.asarray(t, np.float64)
    return times.reshape(-1, *(1,) * (x.ndim - 1)) if times.ndim else times


def expand(
    x: Planes,
    size: Size,
    t: Time,
    *,
    basis: Basis = "dct",
    noise: Planes | None = None,
    seed: int | Sequence[int] | None = None,
    align: bool = True,
    taper: float = 0.0,
    dtype: DTypeLike = np.float32,
) -> tuple[Planes, Any]:
    """y = kappa (A_H x A_W^T + t T_H^T (m * E) T_W), the state at `size`, and its time.

    `x` [..., h, w]; `t` a float or one per sample; E is `noise` [..., H, W] or drawn from `seed`; the mask m is 0 in
    the corner [:h, :w], which the state itself fills. Without alignment kappa = 1 and the time stays.

    A taper lets the state fade out at the edge of its band and noise fade in: A holds the weights of `bases.band`, m
    those of `noise_weights`, as float32 times E rounded to float32 (float64 noise: in float64). The noise of the state
    keeps unit variance, its signal loses what was faded out.
    """
    coarse = plane_size(x)
    times = across_planes(t, x)
    aligned, kappa = align_time(times, resolution_ratio(size, coarse)) if align else (times, np.ones_like(times))
    y = both_sides(x, basis, "up", size, coarse, taper)
    with np.errstate(invalid="ignore", over="ignore"):
        if np.any(times != 0):
            given = normal((*x.shape[:-2], *size), 0 if seed is None else seed) if noise is None else noise
            mask = noise_weights(size, coarse, taper).astype(given.dtype)
            spectral = np.where(mask == 0, 0, given * mask).astype(np.float64)
            drawn = both_sides(spectral, basis, "synthesis", size, coarse)
            y = np.where(times == 0, y, y + times * drawn)
        return rounded(kappa * y, dtype), aligned.reshape(-1) if times.ndim else float(aligned)


def truncate(
    x: Planes, size: Size, *, t: Time = 0.0, basis: Basis = "dct", normalize: bool = True, dtype: DTypeLike = np.float32
) -> Planes:
    """x_low = alpha T_h^T (T_H x T_W^T)[:h, :w] T_w: the way down.

    alpha = (1 + (r - 1) t) / r = 1 / kappa: at t = 0 the division by r that keeps the mean of a clean image, else the
    coarse state at time t of a state in full-resolution coordinates. Without `normalize`, alpha = 1.
    """
    fine = plane_size(x)
    ratio = resolution_ratio(fine, size)
    times = across_planes(t, x)
    alpha = (1.0 + (ratio - 1.0) * times) / ratio if normalize else np.ones_like(times)
    with np.errstate(invalid="ignore", over="ignore"):
        return rounded(alpha * both_sides(x, basis, "down", fine, size), dtype)


def transform(
    x: Planes,
    *,
    basis: Basis = "dct",
    inverse: bool = False,
    coarse: Size | None = None,
    dtype: DTypeLike = np.float32,
) -> Planes:
    """T x T^T, or its inverse T^T x T, over the last two dimensions; a wavelet's T leads down to `coarse`."""
    size = plane_size(x)
    return rounded(both_sides(x, basis, "synthesis" if inverse else "analysis", size, coarse or size), dtype)


def lift(
    z: Planes,
    v: Planes,
    t: Time,
    *,
    basis: Basis = "dct",
    align: bool = True,
    taper: float = 0.0,
    dtype: DTypeLike = np.float32,
) -> Planes:
    """The velocity in full-resolution coordinates from the velocity `v` of the coarse model at coarse time `t`.

    v' = (z - r up(x0)) / t',   x0 = down(z) t / t' - t v                   with a taper `up` fades x0 out
       = alpha (up(v) - gamma lowpass(z)) + gamma z,   alpha = 1 + (r - 1) t,  gamma = 1 / t'

    Without alignment t' = t and alpha = 1.
    """
    fine, coarse = plane_size(z), plane_size(v)
    ratio = resolution_ratio(fine, coarse) if align else 1.0
    times = across_planes(t, z)
    alpha, gamma = 1.0 + (ratio - 1.0) * times, 1.0 / align_time(times, ratio)[0]
    low = both_sides(z, basis, "lowpass", fine, coarse, taper)
    with np.errstate(invalid="ignore", over="ignore"):
        y = alpha * (both_sides(v, basis, "up", fine, coarse, taper) + -gamma * low)
        return rounded(y + gamma * z.astype(np.float64), dtype)
