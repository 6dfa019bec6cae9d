# SPDX-License-Identifier: Apache-2.0
"""The specification of the diffusers adapter: progressive resolution by unmodified pipelines alone.

Every stage is a call of the real pipeline at that stage's size, with its own height and width, position ids, guidance
and solver, over a part of the noise levels; between two calls the latents are expanded by matrices in float64. Where a
pipeline takes a picture, a pipeline of text around the same denoiser stands in for it at every size, and the denoiser's
other channels are the picture's own, low-passed. So is a first frame that is kept clean, at time 0.
"""

import contextlib
import copy
import functools
import math
from dataclasses import replace

import numpy as np
import torch
from pipeline_parts import Family
from pipelines import run
from scipy.fft import dct
from torch import Tensor

from reference import wavelets
from reference.bases import fft as fourier

TAKES_PICTURES = ("image", "mask_image", "strength", "video", "mask")


def ratio_of(fine, coarse) -> float:
    return math.sqrt(fine[0] * fine[1] / (coarse[0] * coarse[1]))


def align(t: float, ratio: float) -> float:
    return ratio * t / (1 + (ratio - 1) * t)


def matrix(basis: str, side: int, coarsest: int) -> np.ndarray:
    """The orthonormal transform of one side; that of a wavelet has as many levels as there are to the coarsest side."""
    if basis == "dct":
        return dct(np.eye(side), axis=0, norm="ortho")
    if basis == "fft":
        return fourier(side)
    if basis == "haar":
        return wavelets.haar(side, coarsest)
    import pywt

    return wavelets.table(tuple(pywt.Wavelet(basis).dec_lo), side, coarsest)


class Spectra:
    """From planes to spectra and back, for the sizes of a run."""

    def __init__(self, basis: str, coarsest):
        self.basis, self.coarsest = basis, coarsest

    def _matrices(self, size):
        return [matrix(self.basis, side, least) for side, least in zip(size, self.coarsest, strict=True)]

    def of(self, planes) -> np.ndarray:
        x = np.asarray(planes, np.float64)
        rows, columns = self._matrices(x.shape[-2:])
        return rows @ x @ columns.T

    def picture(self, spectral: np.ndarray) -> Tensor:
        rows, columns = self._matrices(spectral.shape[-2:])
        return torch.from_numpy((rows.T @ spectral @ columns).astype(np.float32))

    def lowpassed(self, planes, size) -> Tensor:
        """Clean planes at a coarse size, of the same mean."""
        fine = planes.shape[-2:]
        return self.picture(self.of(planes)[..., : size[0], : size[1]] / ratio_of(fine, size))


class Recorder:
    """Stands before a scheduler's own step and set_timesteps: keeps what passes, and can put levels of its own."""

    def __init__(self, scheduler, sigmas=None, timesteps=None, solve: bool = True):
        self.scheduler, self.solve = scheduler, solve
        self.given = None if sigmas is None else (sigmas, timesteps)
        self.samples: list[Tensor] = []
        self.velocities: list[Tensor] = []
        self.result: Tensor | None = None
        self.inputs: dict = {}
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


def denoisers(pipe) -> list:
    found = [getattr(pipe, name, None) for name in ("transformer", "transformer_2", "unconditional_transformer")]
    return [module for module in found if module is not None]


@contextlib.contextmanager
def before_calls(pipe, function):
    """`function(kwargs)` is what the denoisers get in place of kwargs."""
    hooks = [
        module.register_forward_pre_hook(lambda _, args, kwargs: (args, function(kwargs)), with_kwargs=True)
        for module in denoisers(pipe)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def recorded(family: Family, steps: int, sigmas=None, timesteps=None, solve: bool = True, scheduler=None, **call):
    """A plain call of the pipeline with its levels, samples and velocities on record, and a denoiser's first inputs."""
    own = family.pipe.scheduler
    fresh = copy.deepcopy(scheduler or own)
    family.pipe.scheduler = fresh
    recorder = Recorder(fresh, sigmas, timesteps, solve)

    def keep(kwargs):
        recorder.inputs = recorder.inputs or dict(kwargs)
        return kwargs

    try:
        with before_calls(family.pipe, keep):
            run(family, steps, **call)
    finally:
        family.pipe.scheduler = own
    return recorder


def staged(family: Family, plain: Recorder, spectra: Spectra, size, state: Tensor, *levels, **call) -> Recorder:
    """`recorded` at a stage's size, from a state."""
    call = call | sized(family, size) | {"latents": family.pack(state)}
    if family.twin is None:
        return recorded(family, *levels, **call)
    twin = family
    if family.twin is not family.pipe:
        words = {name: value for name, value in family.call.items() if name not in TAKES_PICTURES}
        twin = replace(family, pipe=family.twin, call=words)
    twin.pipe.scheduler = family.pipe.scheduler
    given = {"first": with_first_frame, "last": with_last_frame, None: with_conditions}[family.clean]
    with before_calls(twin.pipe, given(family, plain, spectra, size)):
        return recorded(twin, *levels, **call)


def with_conditions(family: Family, plain: Recorder, spectra: Spectra, size):
    """Puts the picture's channels after those of the state, which come first."""
    inputs = plain.inputs
    channel = 2 if inputs["hidden_states"].ndim == 3 else 1
    own = family.sample(family.unpack(plain.samples[0], *family.grid)).shape[channel]
    given = inputs["hidden_states"].movedim(channel, -1)[..., own:].movedim(-1, channel)
    if given.shape[channel] and tuple(size) != tuple(family.grid):
        given = family.sample(spectra.lowpassed(family.unpack(given, *family.grid), size))
    others = {name: inputs[name] for name in ("image_embeds",) if name in inputs}
    if "control_hidden_states" in inputs:
        control = inputs["control_hidden_states"]
        whole = tuple(size) == tuple(family.grid)
        others["control_hidden_states"] = control if whole else spectra.lowpassed(control, size)

    def pictured(kwargs):
        state = kwargs["hidden_states"].movedim(channel, -1)[..., :own].movedim(-1, channel)
        whole = torch.cat([state, given], dim=channel) if given.shape[channel] else state
        return kwargs | others | {"hidden_states": whole}

    return pictured


def of_frames(x: Tensor, height: int, width: int) -> Tensor:
    """Planes of frames [B, C, F, H, W] of what a denoiser of videos gets."""
    return x if x.ndim == 5 else x.transpose(1, 2).unflatten(2, (-1, height, width))


def with_first_frame(family: Family, plain: Recorder, spectra: Spectra, size):
    """Puts the clean picture in the first frame's place, at time 0 where the denoiser is told every token's."""
    picture = of_frames(plain.inputs["hidden_states"], *family.grid)[:1, :, :1]
    if tuple(size) != tuple(family.grid):
        picture = spectra.lowpassed(picture, size)

    def pictured(kwargs):
        state, time = kwargs["hidden_states"], kwargs["timestep"]
        planes = of_frames(state, *size)
        planes = torch.cat([picture.expand(len(planes), -1, -1, -1, -1), planes[:, :, 1:]], dim=2)
        if state.ndim == 3:
            planes, time = planes.flatten(2).transpose(1, 2), time[:, None].repeat(1, state.shape[1])
        if time.ndim == 2:
            times = time.unflatten(1, (-1, time.shape[1] // of_frames(state, *size).shape[2])).clone()
            times[:, 0] = 0
            time = times.flatten(1)
        return kwargs | {"hidden_states": planes, "timestep": time}

    return pictured


def with_last_frame(family: Family, plain: Recorder, spectra: Spectra, size):
    """Puts the clean picture in the last frame's place, after the tokens of the state."""
    picture = family.unpack(plain.inputs["hidden_states"], *family.grid)[:, :, -1:]
    if tuple(size) != tuple(family.grid):
        picture = spectra.lowpassed(picture, size)

    def pictured(kwargs):
        frames = family.unpack(kwargs["hidden_states"], *size)
        return kwargs | {"hidden_states": family.pack(torch.cat([frames[:, :, :-1], picture], dim=2))}

    return pictured


def sized(family: Family, size) -> dict:
    return {"height": size[0] * family.cell, "width": size[1] * family.cell}


def unfinished(family: Family):
    """The pipeline's scheduler without the habit of ending a run with a step of lower order."""
    scheduler = copy.deepcopy(family.pipe.scheduler)
    scheduler.register_to_config(lower_order_final=False, final_sigmas_type="sigma_min")
    return scheduler


def explicit(
    family: Family, sizes, first_steps, steps: int = 6, aligned: bool = True, respaced=None, basis="dct", **call
) -> Tensor:
    """The published method; `first_steps` are the first steps of the stages after the first.

    `respaced` are the levels of the last stage in place of the published ones.
    """
    plain = recorded(family, steps, **call)
    sigmas, timesteps = plain.sigmas, plain.timesteps
    fine, spectra = sizes[-1], Spectra(basis, sizes[0])
    # A run that begins below pure noise (Ideogram 4) still begins with unit noise, so its low band is not quite that of
    # the coarse run, nor its high band quite t times the noise.
    drawn = spectra.of(family.unpack(plain.samples[0], *fine))
    first = ratio_of(fine, sizes[0])
    beginning = align(sigmas[0], first) if aligned else sigmas[0]
    noise = drawn / beginning
    state = spectra.picture(drawn[..., : sizes[0][0], : sizes[0][1]] * sigmas[0] / beginning)
    starts, ends = [0, *first_steps], [*first_steps, len(timesteps)]
    level = sigmas[0]
    for stage, (size, start, end) in enumerate(zip(sizes, starts, ends, strict=True)):
        own_sigmas = [level, *sigmas[start + 1 : end + 1]]
        own_timesteps = [level * 1000 if stage else timesteps[start], *timesteps[start + 1 : end]]
        if stage == len(sizes) - 1 and respaced is not None:
            own_sigmas, own_timesteps = [*respaced, 0.0], [1000 * level for level in respaced]
        last = stage == len(sizes) - 1
        part = staged(
            family, plain, spectra, size, state, end - start, own_sigmas, own_timesteps, True,
            None if last else unfinished(family), **call,
        )  # fmt: skip
        if last:
            return family.sample(family.unpack(part.result, *size))
        t, ratio = sigmas[end], ratio_of(sizes[stage + 1], size)
        kappa = ratio / (1 + (ratio - 1) * t) if aligned else 1.0
        level = align(t, ratio) if aligned else t
        padded = t * noise[..., : sizes[stage + 1][0], : sizes[stage + 1][1]]
        padded[..., : size[0], : size[1]] = spectra.of(family.unpack(part.result, *size))
        state = spectra.picture(kappa * padded)
    raise AssertionError("no last stage")


def composed(
    family: Family, sizes, first_steps, steps: int = 6, levels=None, after=lambda z, level: z, basis="dct", **call
) -> Tensor:
    """The matched method: the ODE with the velocity composed of the coarse model's and of z / t for the high band.

    `levels` are those of the full-resolution coordinates, where they are not the plain run's; `after` is what the
    pipeline does to its latents between two steps, by the level they are at.
    """
    plain = recorded(family, steps, **call)
    levels = plain.sigmas if levels is None else levels
    fine, spectra = sizes[-1], Spectra(basis, sizes[0])
    stepper = copy.deepcopy(family.pipe.scheduler)
    Recorder(stepper, levels, plain.timesteps).set_timesteps(steps, **shift_of(stepper))
    if getattr(stepper, "begin_index", 0) is None:
        stepper.set_begin_index(0)
    z, planes_of = plain.samples[0], lambda x, size: family.unpack(x, *size).double().numpy()
    for k in range(len(plain.timesteps)):
        size = sizes[sum(k >= first for first in first_steps)]
        high = levels[k]
        ratio = ratio_of(fine, size)
        t = high / (ratio - (ratio - 1) * high)
        kappa = ratio / (1 + (ratio - 1) * t)
        own = spectra.of(planes_of(z, fine))
        low = own[..., : size[0], : size[1]] / kappa
        at = plain.timesteps[k] if high == plain.sigmas[k] and size == fine else 1000 * t
        with expert_at(family, plain.timesteps[k]):
            one = staged(
                family, plain, spectra, size, spectra.picture(low), 1, [t, 0.0], [at], False, **call
            )  # fmt: skip
        v = spectra.of(planes_of(one.velocities[0], size))
        lifted = own / high
        lifted[..., : size[0], : size[1]] = (own[..., : size[0], : size[1]] - ratio * (low - t * v)) / high
        velocity = family.sample(spectra.picture(lifted))
        z = stepper.step(velocity, stepper.timesteps[k], z, return_dict=False)[0]
        z = after(z, levels[k + 1])
    return z


@contextlib.contextmanager
def expert_at(family: Family, timestep: float):
    """With two experts, the pipeline's own timestep decides, not the coarse level."""
    boundary = getattr(family.pipe.config, "boundary_ratio", None)
    if boundary is not None:
        family.pipe.register_to_config(boundary_ratio=0.0 if timestep >= 1000 * boundary else 2.0)
    try:
        yield
    finally:
        if boundary is not None:
            family.pipe.register_to_config(boundary_ratio=boundary)


def shift_of(scheduler) -> dict:
    return {"mu": 0.5} if scheduler.config.get("use_dynamic_shifting") else {}


def distance(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())
