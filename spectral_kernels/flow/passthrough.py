# SPDX-License-Identifier: Apache-2.0
"""The experiment behind the method: what a full-resolution run loses if noise-dominated frequencies stay noise."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from spectral_kernels.flow.solvers import Velocity
from spectral_kernels.schedule import activation_time
from spectral_kernels.transforms import dctn, idctn


def radial_frequency(size: tuple[int, int], device=None) -> Tensor:
    """Frequency of every DCT coefficient, cycles per shorter side: min(H, W) / 2 * |(i / H, j / W)|, float64 [H, W]."""
    h, w = size
    rows = torch.arange(h, dtype=torch.float64, device=device)[:, None] / h
    columns = torch.arange(w, dtype=torch.float64, device=device) / w
    return min(h, w) / 2 * torch.hypot(rows, columns)


def passthrough(velocity: Velocity, noise: Tensor, sigmas: Sequence[float], spectrum, delta: float) -> Tensor:
    """Run Euler at full resolution, putting t * noise in every frequency that is not yet active at t.

        z_hat(w) <- t noise_hat(w)    while t > t_delta(w)

    For small delta the result hardly moves: the model does not use these frequencies yet, so a run may leave them out.

    Parameters
    ----------
    velocity : v(x, t)
    noise : [n, c, H, W], white
    sigmas : decreasing levels from 1, the end included
    spectrum : callable from frequency (tensor, cycles per image) to power; a law with a reference size is scaled
    delta : tolerated velocity error, see `activation_time`

    Source: Spectral Progressive Diffusion, appendix B.
    """
    size = (noise.shape[-2], noise.shape[-1])
    law = spectrum.at(size) if hasattr(spectrum, "at") else spectrum
    active_below = activation_time(law(radial_frequency(size, noise.device)), delta)
    waiting = dctn(noise)
    x = noise
    for t, s in pairwise(sigmas):
        x = idctn(torch.where(active_below.lt(t), t * waiting, dctn(x)))
        x = x + (s - t) * velocity(x, t)
    return x
