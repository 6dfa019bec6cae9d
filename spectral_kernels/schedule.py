# SPDX-License-Identifier: Apache-2.0
"""When to expand: noise levels across resolutions."""

import math
from typing import overload

import torch
from torch import Tensor


@overload
def align_time(t: float, ratio: float) -> tuple[float, float]: ...
@overload
def align_time(t: Tensor, ratio: float) -> tuple[Tensor, Tensor]: ...
def align_time(t, ratio):
    """The noise level of a state after its resolution changed by `ratio`, and the factor that makes it one.

        kappa = ratio / (1 + (ratio - 1) t)          t_aligned = ratio t / (1 + (ratio - 1) t)

    A clean image has spectral coefficients `ratio` times larger on the finer grid while white noise keeps its variance,
    so the expanded state is noisier than its label: kappa * (state padded with t * noise) is a state of the flow at
    t_aligned. In odds: t_aligned / (1 - t_aligned) = ratio * t / (1 - t). So alignments compose, two by 2 are one by 4,
    and `align_time(t_aligned, 1 / ratio)` goes back.

    Parameters
    ----------
    t : float in [0, 1], 1 is pure noise, 0 is data; or a floating-point tensor of such values
        The values of a tensor are not checked: that would wait for the device.
    ratio : float, > 0
        Square root of the ratio of pixel counts, new over old: sqrt(H W / (h w)).

    Returns
    -------
    (t_aligned, kappa), floats, or float64 tensors of t's shape and device. Computed in float64.

    Raises
    ------
    ValueError, if t is outside [0, 1] or ratio is not positive and finite; TypeError, if a tensor t is not
    floating-point.

    Source: Spectral Progressive Diffusion, section 4.1, equations 5 and 6, appendix A.2.
    """
    if not (math.isfinite(ratio) and ratio > 0):
        raise ValueError(f"align_time: ratio must be positive and finite, got {ratio}; it is sqrt(H W / (h w))")
    if isinstance(t, Tensor):
        if not t.is_floating_point():
            raise TypeError(f"align_time: a tensor t must be floating-point, got {t.dtype}; use t.double()")
        t = t.to(torch.float64)
    elif not 0 <= t <= 1:
        raise ValueError(f"align_time: t must be in [0, 1], got {t}; diffusers' timesteps are 1000 * t")
    denominator = 1 + (ratio - 1) * t
    # A number over a tensor is a reciprocal and a product in PyTorch, rounded twice: divide tensors.
    numerator = torch.full_like(denominator, ratio) if isinstance(denominator, Tensor) else ratio
    return ratio * t / denominator, numerator / denominator
