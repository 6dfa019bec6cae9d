# SPDX-License-Identifier: Apache-2.0
"""Orthonormal wavelets with periodic borders: as tables, and the local form of Haar.

A wavelet's coarse state is its lowpass band, so T_h = I, and T_H of k levels has rows in ascending frequency: the
lowpass of k levels, then the details of level k, ..., level 1. A wavelet is "haar", or a tuple of lowpass taps h_0,
..., h_(L-1) with sum h_m = sqrt(2) and sum h_m h_(m+2i) = 0 for i != 0.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.exact import Doubles


def haar(fine: int, coarse: int) -> Doubles:
    """Means and differences of blocks of 2, 4, ... points; entries +-2^(-level / 2), correctly rounded."""
    block = fine // coarse
    bands = [np.kron(np.eye(coarse), np.full(block, math.sqrt(1 / block)))]
    while block > 1:
        half = np.full(block // 2, math.sqrt(1 / block))
        bands.append(np.kron(np.eye(fine // block), np.concatenate([half, -half])))
        block //= 2
    return np.concatenate(bands, dtype=np.float64)


def table(taps: tuple[float, ...], fine: int, coarse: int) -> Doubles:
    """k levels of the periodic filter bank on the rows of I. One level, for i < n / 2 and m ascending:

        low[i]  = sum over m of h_m x[(2 i + L / 2 - m) mod n]
        high[i] = sum over m of g_m x[(2 i + L / 2 - m) mod n],    g_m = (-1)^(m + 1) h_(L - 1 - m)

    Each product and sum is rounded once. The indices are those of PyWavelets' mode "periodization".
    """
    bank, side, length = np.eye(fine), fine, len(taps)
    while side > coarse:
        low, high = np.zeros((side // 2, fine)), np.zeros((side // 2, fine))
        for m in range(length):
            source = bank[(2 * np.arange(side // 2) + length // 2 - m) % side]
            low = low + taps[m] * source
            high = high + (-1) ** (m + 1) * taps[length - 1 - m] * source
        bank = np.concatenate([low, high, bank[side:]])
        side //= 2
    return bank


LOCAL_LEVELS = 4


def local_levels(fine: tuple[int, int], coarse: tuple[int, int]) -> int:
    """k where both sides change by 2^k, k = 1, ..., 4: Haar is then local. Else 0, and Haar is a pair of tables."""
    levels = (fine[0] // coarse[0]).bit_length() - 1
    same = fine == (coarse[0] << levels, coarse[1] << levels)
    return levels if same and levels <= LOCAL_LEVELS else 0


def local_haar(x: NDArray[Any], kind: str, levels: int = 1) -> Doubles:
    """M X for `levels` levels of Haar in both axes, in float64: rows first, one factor 1/2 in place of two 1/sqrt(2).

    analysis    [[LL, LH], [HL, HH]] from blocks [[a, b], [c, d]]:    LL = ((a + c) + (b + d)) / 2
                LH = ((a + c) - (b + d)) / 2,   HL = ((a - c) + (b - d)) / 2,   HH = ((a - c) - (b - d)) / 2
    synthesis   a = ((LL + HL) + (LH + HH)) / 2,   b = ((LL + HL) - (LH + HH)) / 2
                c = ((LL - HL) + (LH - HH)) / 2,   d = ((LL - HL) - (LH - HH)) / 2
    down        LL            up    each x / 2, four times            lowpass    up(down(x))

    Every further level is the same step on LL alone, which lies in the corner: the transform of images that PyWavelets
    calls wavedec2. For more than one level it is not T_H X T_W^T, which would go on splitting LH and HL as well.
    """
    x = x.astype(np.float64)
    if kind == "lowpass":
        return local_haar(local_haar(x, "down", levels), "up", levels)
    if levels > 1:
        if kind in ("down", "up"):
            return local_haar(local_haar(x, kind, levels - 1), kind)
        corner = (..., slice(x.shape[-2] // 2), slice(x.shape[-1] // 2))
        y = local_haar(x, kind) if kind == "analysis" else x.copy()
        y[corner] = local_haar(y[corner], kind, levels - 1)
        return y if kind == "analysis" else local_haar(y, kind)
    if kind == "analysis":
        top, bottom = x[..., ::2, :], x[..., 1::2, :]
        rows = np.concatenate([top + bottom, top - bottom], axis=-2)
        left, right = rows[..., ::2], rows[..., 1::2]
        return np.concatenate([left + right, left - right], axis=-1) / 2
    if kind == "synthesis":
        low, high = np.split(x, 2, axis=-2)
        rows = np.stack([low + high, low - high], axis=-2).reshape(x.shape)  # [..., h, 2, W]
        low, high = np.split(rows, 2, axis=-1)
        return np.stack([low + high, low - high], axis=-1).reshape(x.shape) / 2
    if kind == "down":
        h, w = x.shape[-2:]
        return local_haar(x, "analysis")[..., : h // 2, : w // 2]
    return np.repeat(np.repeat(x / 2, 2, axis=-2), 2, axis=-1)
