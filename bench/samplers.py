# SPDX-License-Identifier: Apache-2.0
"""What the study compares and the package does not offer: DPM++ 2M, bilinear upsampling, noise that is not shared."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from spectral_kernels import ResolutionSchedule, dctn, idctn
from spectral_kernels.flow import euler
from spectral_kernels.flow.progressive import band
from spectral_kernels.flow.solvers import Solver, Velocity


def log_snr(t: float) -> float:
    """log((1 - t) / t), infinite at the ends."""
    return float(torch.logit(torch.tensor(1 - t, dtype=torch.float64)))


def dpm_2m(velocity: Velocity, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """DPM-Solver++(2M) on data predictions x0 = z - t v: the second-order multi-step solver of many pipelines.

        D = x0 + h / (2 h_before) (x0 - x0_before),    z_s = s/t z + (1 - s/t) D,    h: steps of log-SNR

    First order for the first step, the last, and the one after an infinite h (from t = 1).
    Source: Lu et al., "DPM-Solver++", algorithm 2.
    """
    before, h_before = None, 0.0
    for t, s in pairwise(sigmas):
        x0 = x - t * velocity(x, t)
        h = log_snr(s) - log_snr(t) if s > 0 else float("inf")
        blend = h / (2 * h_before) if before is not None and s > 0 and h_before < float("inf") else 0.0
        x = s / t * x + (1 - s / t) * (x0 if before is None else x0 + blend * (x0 - before))
        before, h_before = x0, h
    return x


def bilinear(velocity: Velocity, plan: ResolutionSchedule, noise: Tensor, *, solver: Solver = euler) -> Tensor:
    """The naive baseline: at a transition enlarge the predicted image bilinearly and noise it anew to the same level.

    What remains of the trajectory is lost, and the enlarged image is blurred and of the wrong scale of noise: x0 from
    the coarse model is enlarged, z = (1 - t') x0 + t' noise at the level t' that the plan starts its next stage from.
    """
    x = solver(velocity, band(noise, plan.stages[0].size), plan.stages[0].sigmas)
    for before, after in pairwise(plan.stages):
        clean = x - before.sigma_out * velocity(x, before.sigma_out)
        clean = F.interpolate(clean, size=after.size, mode="bilinear", align_corners=False)
        x = (1 - after.sigma_in) * clean + after.sigma_in * band(noise, after.size)
        x = solver(velocity, x, after.sigmas)
    return x


def unshared(noise: Tensor, other: Tensor, size: tuple[int, int]) -> Tensor:
    """`noise` with the band of `size` from another draw: a coarse stage that draws its own noise, as others do."""
    mixed = dctn(noise)
    mixed[..., : size[0], : size[1]] = dctn(other)[..., : size[0], : size[1]]
    return idctn(mixed)
