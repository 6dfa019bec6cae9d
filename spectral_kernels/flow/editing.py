# SPDX-License-Identifier: Apache-2.0
"""Editing by frequency: keep an image's coarse content, draw its detail anew."""

from torch import Tensor

from spectral_kernels.flow.progressive import band, climb, full_size, resizing
from spectral_kernels.flow.solvers import Solver, Velocity, euler
from spectral_kernels.schedule import ResolutionSchedule


def edit(
    velocity: Velocity,
    plan: ResolutionSchedule,
    image: Tensor,
    noise: Tensor,
    *,
    stage: int = 0,
    solver: Solver = euler,
    basis: str = "dct",
) -> Tensor:
    """Keep the band of stage `stage` from a clean image, noised to that stage's end, and run the stages after it.

        z = (1 - t) truncate(image) + t band(noise),   t = plan.stages[stage].sigma_out; expand; go on

    Unlike noising the whole image to the same level (SDEdit), the frequencies above the band start from pure noise, so
    texture and style follow the new prompt while the layout stays.

    Parameters
    ----------
    velocity : v(x, t) under the new prompt
    plan : at least two stages
    image, noise : [n, c, H, W], clean data and white noise
    stage : index of the coarse stage to keep, before the last

    Source: Spectral Progressive Diffusion, section 5.5 and appendix G.
    """
    if not 0 <= stage < len(plan.stages) - 1:
        raise ValueError(f"edit: stage must be a coarse one, 0..{len(plan.stages) - 2}, got {stage}")
    full_size("edit", plan, image=image, noise=noise)
    kept = plan.stages[stage]
    t = kept.sigma_out
    low = resizing(basis)[1](image, size=kept.size)
    return climb(velocity, plan, (1 - t) * low + t * band(noise, kept.size, basis), noise, stage, solver, basis)
