# SPDX-License-Identifier: Apache-2.0
"""Training pairs along the path that a progressive run takes."""

from collections.abc import Callable

import torch
from torch import Tensor

from spectral_kernels.flow.progressive import band, expansion_noise, full_size, resizing
from spectral_kernels.schedule import ResolutionSchedule


def fine_tuning_pair(
    x: Tensor, noise: Tensor, plan: ResolutionSchedule, stage: int, t: Tensor, *, basis: str = "dct"
) -> tuple[Tensor, Tensor]:
    """A state on the straight path through one stage, and the velocity along it.

        start  z~ = expansion of the previous stage's flow state at its end, at t~ = sigma_in    (stage 0: noise)
        end    z' = (1 - t_end) x_s + t_end noise_s,                            t_end = sigma_out
        z_t = z' + (t - t_end) / (t~ - t_end) (z~ - z'),    v = (z~ - z') / (t~ - t_end)

    x_s is the image truncated to the stage's size; noise_s the band of the one full-size noise, which both ends share.
    On the frequencies that the previous stage had, z_t is the plain flow path of (x_s, noise_s).

    Parameters
    ----------
    x, noise : [n, c, H, W], clean data and white noise at full size
    plan : aligned schedule
    stage : index of the stage
    t : [n], noise levels between the stage's sigma_out and sigma_in

    Returns
    -------
    (z_t, v), both [n, c, h, w] at the stage's size.

    Source: Spectral Progressive Diffusion, section 4.3, equations 11 to 13.
    """
    if not plan.align:
        raise ValueError("fine_tuning_pair: plan must be aligned, got align=False; its stages do not meet on the flow")
    if not 0 <= stage < len(plan.stages):
        raise ValueError(f"fine_tuning_pair: stage must be in 0..{len(plan.stages) - 1}, got {stage}")
    full_size("fine_tuning_pair", plan, x=x, noise=noise)
    expand, truncate = resizing(basis)

    def state(size, level):
        clean = x if size == tuple(x.shape[-2:]) else truncate(x, size=size)
        return (1 - level) * clean + level * band(noise, size, basis)

    here = plan.stages[stage]
    end = state(here.size, here.sigma_out)
    if stage == 0:
        start = state(here.size, here.sigma_in)
    else:
        before = plan.stages[stage - 1]
        fresh = expansion_noise(band(noise, here.size, basis), before.size, basis)
        start, _ = expand(state(before.size, before.sigma_out), size=here.size, t=before.sigma_out, noise=fresh)
    v = (start - end) / (here.sigma_in - here.sigma_out)
    along = (t - here.sigma_out).view(-1, 1, 1, 1).to(x.dtype)
    return end + along * v, v


def fine_tuning_loss(
    velocity: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    plan: ResolutionSchedule,
    *,
    generator: torch.Generator | None = None,
    basis: str = "dct",
) -> Tensor:
    """Mean squared error of the velocity on `fine_tuning_pair`s, one random stage per call, random levels per sample.

    The stage is drawn by its number of steps in the run, levels uniformly between its ends.

    velocity : v(z [n, c, h, w], t [n]); x : clean data [n, c, H, W]; generator : on x's device.

    Source: Spectral Progressive Diffusion, section 4.3, equation 14.
    """
    steps = torch.tensor([float(stage.num_steps) for stage in plan.stages], device=x.device)
    stage = int(torch.multinomial(steps, 1, generator=generator))
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    here = plan.stages[stage]
    level = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
    t = here.sigma_out + level * (here.sigma_in - here.sigma_out)
    z, target = fine_tuning_pair(x, noise, plan, stage, t, basis=basis)
    return torch.nn.functional.mse_loss(velocity(z, t), target)
