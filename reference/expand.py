# SPDX-License-Identifier: Apache-2.0
"""Spectral expansion, truncation, transforms and the lift, one plane at a time, by their definitions.

Every one is a plane product

    y = alpha (M_r X M_c^T + beta (N_r E N_c^T)) + gamma E + 0

in float64, each operation rounded once, in this order, rows before columns, then rounded to float32 and from there
to the type of the output. The final + 0 turns a negative zero into zero. Where beta is 0 the second product is
absent. A NaN or an infinity anywhere in a plane makes all of it the quiet NaN.
"""

import math

import numpy as np

from reference.bases import table
from reference.exact import exact_matmul
from reference.noise import normal


def both_sides(x: np.ndarray, basis: str, kind: str, fine: tuple[int, int], coarse: tuple[int, int]) -> np.ndarray:
    """M_r X M_c^T as two exact products, rows first; `x` [..., h, w]."""
    rows, columns = (table(basis, kind, fine[axis], coarse[axis]) for axis in (0, 1))
    with np.errstate(invalid="ignore", over="ignore"):
        half = exact_matmul(rows, x.astype(np.float64))
        return np.swapaxes(exact_matmul(columns, np.swapaxes(half, -1, -2)), -1, -2)


def rounded(y: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """float64 -> float32 -> dtype, to nearest even; planes that hold a NaN are NaN everywhere, always the same one."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = (y + 0.0).astype(np.float32)
        bad = np.isnan(single)
        return np.where(bad, np.float32(np.nan), single).astype(dtype)


def resolution_ratio(fine: tuple[int, int], coarse: tuple[int, int]) -> float:
    """r = sqrt(H W / (h w))."""
    return math.sqrt(fine[0] * fine[1] / (coarse[0] * coarse[1]))


def align_time(t: float, ratio: float) -> tuple[float, float]:
    """t' = r t / (1 + (r - 1) t), kappa = r / (1 + (r - 1) t): the time and factor that make a state of the flow."""
    divisor = 1.0 + (ratio - 1.0) * t
    return ratio * t / divisor, ratio / divisor


def expand(x, size, t, *, basis="dct", noise=None, seed=None, align=True, dtype=np.float32):
    """y = kappa (A_H x A_W^T + t T_H^T (mask * E) T_W), the state at `size` and its time.

    `x` [..., h, w]; `t` a float or one per sample (first of at least three dimensions); E is `noise` [..., H, W] or
    drawn from `seed`; the mask is 0 in the corner [:h, :w], which the state itself fills. Without alignment kappa = 1
    and the time stays.
    """
    h, w = coarse = x.shape[-2:]
    ratio = resolution_ratio(size, coarse)
    per_sample = np.ndim(t) == 1
    times = np.asarray(t, np.float64)
    aligned, kappa = align_time(times, ratio) if align else (times, np.ones_like(times))
    across = (slice(None),) + (None,) * (x.ndim - 1) if per_sample else ()
    signal = both_sides(x, basis, "up", size, coarse)
    shape = (*x.shape[:-2], *size)
    y = signal
    if np.any(times != 0):
        spectral = np.array(noise if noise is not None else normal(shape, seed), np.float64)
        spectral[..., :h, :w] = 0
        drawn = both_sides(spectral, basis, "synthesis", size, coarse)
        with np.errstate(invalid="ignore", over="ignore"):
            y = np.where(times[across] == 0, signal, signal + times[across] * drawn)
    with np.errstate(invalid="ignore", over="ignore"):
        y = kappa[across] * y
    return rounded(y, dtype), (aligned if per_sample else float(aligned))


def truncate(x, size, *, t=0.0, basis="dct", normalize=True, dtype=np.float32):
    """x_low = alpha T_h^T (T_H x T_W^T)[:h, :w] T_w: the way down.

    alpha = (1 + (r - 1) t) / r = 1 / kappa: at t = 0 the division by r that keeps the mean of a clean image, else the
    coarse state at time t of a state in full-resolution coordinates. Without `normalize`, alpha = 1.
    """
    fine = x.shape[-2:]
    ratio = resolution_ratio(fine, size)
    across = (slice(None),) + (None,) * (x.ndim - 1) if np.ndim(t) == 1 else ()
    alpha = (1.0 + (ratio - 1.0) * np.asarray(t, np.float64)) / ratio if normalize else np.ones(np.shape(t))
    with np.errstate(invalid="ignore", over="ignore"):
        return rounded(alpha[across] * both_sides(x, basis, "down", fine, size), dtype)


def transform(x, *, basis="dct", inverse=False, dtype=np.float32):
    """T x T^T, or its inverse T^T x T, over the last two dimensions."""
    size = x.shape[-2:]
    return rounded(both_sides(x, basis, "synthesis" if inverse else "analysis", size, size), dtype)


def lift(z, v, t, *, basis="dct", align=True, dtype=np.float32):
    """The velocity in full-resolution coordinates from the velocity `v` of the coarse model at coarse time `t`.

    v' = (z - r up(x0)) / t',   x0 = down(z) t / t' - t v
       = alpha (up(v) - gamma lowpass(z)) + gamma z,   alpha = 1 + (r - 1) t,  gamma = 1 / t'

    Without alignment t' = t and alpha = 1.
    """
    fine, coarse = z.shape[-2:], v.shape[-2:]
    ratio = resolution_ratio(fine, coarse) if align else 1.0
    aligned, _ = align_time(np.asarray(t, np.float64), ratio)
    across = (slice(None),) + (None,) * (z.ndim - 1) if np.ndim(t) == 1 else ()
    alpha = 1.0 + (ratio - 1.0) * np.asarray(t, np.float64)
    gamma = 1.0 / aligned
    low = both_sides(z, basis, "lowpass", fine, coarse)
    with np.errstate(invalid="ignore", over="ignore"):
        y = alpha[across] * (both_sides(v, basis, "up", fine, coarse) + -gamma[across] * low)
        return rounded(y + gamma[across] * z.astype(np.float64), dtype)
