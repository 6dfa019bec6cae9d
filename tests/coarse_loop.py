# SPDX-License-Identifier: Apache-2.0
"""The specification of the diffusers adapter: progressive resolution by unmodified pipelines alone.

Every stage is a call of the real pipeline at that stage's size, with its own height and width, position ids, guidance
and solver, over a part of the noise levels; between two calls the latents are expanded by SciPy's DCT in float64.
"""

import copy
import functools
import math

import numpy as np
import torch
from pipeline_parts import Family
from pipelines import run
from scipy.fft import dctn, idctn
from torch import Tensor

from reference.bases import fft as fourier


def ratio_of(fine, coarse) -> float:
    return math.sqrt(fine[0] * fine[1] / (coarse[0] * coarse[1]))


def align(t: float, ratio: float) -> float:
    return ratio * t / (1 + (ratio - 1) * t)


def spectrum(planes, basis: str = "dct") -> np.ndarray:
    x = np.asarray(planes, np.float64)
    if basis == "fft":
        return fourier(x.shape[-2]) @ x @ fourier(x.shape[-1]).T
    return dctn(x, axes=(-2, -1), norm="ortho")


def picture(spectral: np.ndarray, basis: str = "dct") -> Tensor:
    if basis == "fft":
        planes = fourier(spectral.shape[-2]).T @ spectral @ fourier(spectral.shape[-1])
    else:
        planes = idctn(spectral, axes=(-2, -1), norm="ortho")
    return torch.from_numpy(planes.astype(np.float32))


class Recorder:
    """Stands before a scheduler's own step and set_timesteps: keeps what passes, and can put levels of its own."""

    def __init__(self, scheduler, sigmas=None, timesteps=None, solve: bool = True):
        self.scheduler, self.solve = scheduler, solve
        self.given = None if sigmas is None else (sigmas, timesteps)
        self.samples: list[Tensor] = []
        self.velocities: list[Tensor] = []
        self.result: Tensor | None = None
        self.original = {name: getattr(scheduler, name) for name in ("step", "set_timesteps")}
        scheduler.step = functools.wraps(scheduler.step)(functools.partial(self.step))
        scheduler.set_timesteps = functools.wraps(scheduler.set_timesteps)(functools.partial(self.set_timesteps))

    def set_timesteps(self, *args, **kwargs):
        self.original["set_timesteps"](*args, **kwargs)
        if self.given is not None:
            self.scheduler.sigmas = torch.tensor(self.given[0], dtype=torch.float32)
            # Solvers with whole timesteps cut them; a single evaluation is told its level as it is.
            dtype = self.scheduler.timesteps.dtype if self.solve else torch.float32
            self.scheduler.timesteps = torch.tensor(self.given[1], dtype=torch.float64).to(dtype)
        self.sigmas = self.scheduler.sigmas.tolist()
        self.timesteps = self.scheduler.timesteps.tolist()

    def step(self, velocity, timestep, sample, **kwargs):
        self.samples.append(sample.clone())
        self.velocities.append(velocity.clone())
        out = self.original["step"](velocity, timestep, sample, **kwargs) if self.solve else (sample,)
        self.result = out[0]
        return out


def recorded(family: Family, steps: int, sigmas=None, timesteps=None, solve: bool = True, scheduler=None, **call):
    """A plain call of the pipeline with its levels, samples and velocities on record."""
    own = family.pipe.scheduler
    fresh = copy.deepcopy(scheduler or own)
    family.pipe.scheduler = fresh
    recorder = Recorder(fresh, sigmas, timesteps, solve)
    try:
        run(family, steps, **call)
    finally:
        family.pipe.scheduler = own
    return recorder


def sized(family: Family, size) -> dict:
    return {"height": size[0] * family.cell, "width": size[1] * family.cell}


def unfinished(family: Family):
    """The pipeline's scheduler without the habit of ending a run with a step of lower order."""
    scheduler = copy.deepcopy(family.pipe.scheduler)
    scheduler.register_to_config(lower_order_final=False)
    return scheduler


def explicit(
    family: Family, sizes, first_steps, steps: int = 6, aligned: bool = True, respaced=None, basis="dct", **call
) -> Tensor:
    """The published method; `first_steps` are the first steps of the stages after the first.

    `respaced` are the levels of the last stage in place of the published ones.
    """
    plain = recorded(family, steps, **call)
    sigmas, timesteps = plain.sigmas, plain.timesteps
    fine = sizes[-1]
    # A run that begins below pure noise (Ideogram 4) still begins with unit noise, so its low band is not quite that of
    # the coarse run, nor its high band quite t times the noise.
    drawn = spectrum(family.unpack(plain.samples[0], *fine), basis)
    first = ratio_of(fine, sizes[0])
    beginning = align(sigmas[0], first) if aligned else sigmas[0]
    noise = drawn / beginning
    state = picture(drawn[..., : sizes[0][0], : sizes[0][1]] * sigmas[0] / beginning, basis)
    starts, ends = [0, *first_steps], [*first_steps, len(timesteps)]
    level = sigmas[0]
    for stage, (size, start, end) in enumerate(zip(sizes, starts, ends, strict=True)):
        own_sigmas = [level, *sigmas[start + 1 : end + 1]]
        own_timesteps = [level * 1000 if stage else timesteps[start], *timesteps[start + 1 : end]]
        if stage == len(sizes) - 1 and respaced is not None:
            own_sigmas, own_timesteps = [*respaced, 0.0], [1000 * level for level in respaced]
        last = stage == len(sizes) - 1
        part = recorded(
            family, end - start, own_sigmas, own_timesteps, scheduler=None if last else unfinished(family),
            **call | sized(family, size) | {"latents": family.pack(state)},
        )  # fmt: skip
        if last:
            return part.result
        t, ratio = sigmas[end], ratio_of(sizes[stage + 1], size)
        kappa = ratio / (1 + (ratio - 1) * t) if aligned else 1.0
        level = align(t, ratio) if aligned else t
        padded = t * noise[..., : sizes[stage + 1][0], : sizes[stage + 1][1]]
        padded[..., : size[0], : size[1]] = spectrum(family.unpack(part.result, *size), basis)
        state = picture(kappa * padded, basis)
    raise AssertionError("no last stage")


def composed(family: Family, sizes, first_steps, steps: int = 6, **call) -> Tensor:
    """The matched method: the ODE with the velocity composed of the coarse model's and of z / t for the high band."""
    plain = recorded(family, steps, **call)
    fine = sizes[-1]
    stepper = copy.deepcopy(family.pipe.scheduler)
    Recorder(stepper, plain.sigmas, plain.timesteps).set_timesteps(steps, **shift_of(stepper))
    if getattr(stepper, "begin_index", 0) is None:
        stepper.set_begin_index(0)
    z, planes_of = plain.samples[0], lambda x, size: family.unpack(x, *size).double().numpy()
    for k in range(len(plain.timesteps)):
        size = sizes[sum(k >= first for first in first_steps)]
        high = plain.sigmas[k]
        ratio = ratio_of(fine, size)
        t = high / (ratio - (ratio - 1) * high)
        kappa = ratio / (1 + (ratio - 1) * t)
        own = spectrum(planes_of(z, fine))
        low = own[..., : size[0], : size[1]] / kappa
        at = plain.timesteps[k] if size == fine else 1000 * t
        call_size = call | sized(family, size) | {"latents": family.pack(picture(low))}
        v = spectrum(planes_of(recorded(family, 1, [t, 0.0], [at], False, **call_size).velocities[0], size))
        lifted = own / high
        lifted[..., : size[0], : size[1]] = (own[..., : size[0], : size[1]] - ratio * (low - t * v)) / high
        velocity = family.sample(picture(lifted))
        z = stepper.step(velocity, stepper.timesteps[k], z, return_dict=False)[0]
    return z


def shift_of(scheduler) -> dict:
    return {"mu": 0.5} if scheduler.config.get("use_dynamic_shifting") else {}


def distance(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())
