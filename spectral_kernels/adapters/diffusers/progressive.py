# SPDX-License-Identifier: Apache-2.0
"""Spectral progressive resolution on unmodified diffusers pipelines.

The pipeline's latents keep their full size all the time, in full-resolution coordinates: their low band is the coarse
state, their high band is the noise that the run began with. A forward pre-hook hands the denoiser the coarse state
(`dct_truncate`), and `scheduler.step`, after the pipeline's guidance, gets the coarse velocity lifted back
(`spectral_lift`). At the transition nothing is left to do: the latents *are* the expanded, aligned state.

What a schedule changes besides: "published" and "respaced" rewrite the scheduler's sigmas and timesteps once per run
and make multi-step solvers forget their history at a transition. "matched" leaves the scheduler alone and tells the
model the coarse level.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from spectral_kernels.adapters.diffusers import solvers
from spectral_kernels.adapters.diffusers.config import ProgressiveConfig, checked
from spectral_kernels.adapters.diffusers.grids import Arguments, Size
from spectral_kernels.adapters.diffusers.models import (
    MIXED_STATES,
    Model,
    check_progressive,
    denoisers_of,
    facts_of,
    refuse_cache,
    tokens_of,
    unwrapped,
)
from spectral_kernels.adapters.diffusers.runs import Attached, Handle, Hook, Summary, positional, uncompiled, watch
from spectral_kernels.adapters.diffusers.states import States
from spectral_kernels.schedule import ResolutionSchedule, resolution_schedule, stage_sizes, token_step_ratio
from spectral_kernels.timesteps import timestep_of

OP = "apply_progressive"


@dataclass
class Step:
    """One step of a run: the grid the model sees and its noise level there."""

    size: Size
    level: float
    coarse: bool
    first: bool = False


@dataclass
class Run:
    """All that depends on one call's size and noise levels."""

    scheduler: Any
    timesteps: Tensor
    states: States
    steps: list[Step]
    history: dict[str, Any] = field(default_factory=dict)
    original_step: Any = None


class Progressive(Handle):
    """Progressive resolution on one pipeline, until `remove()`."""

    def __init__(self, pipe: Any, config: ProgressiveConfig):
        self.config = config
        self._run: Run | None = None
        self._check_pipeline(pipe)
        modules = denoisers_of(OP, pipe)
        facts = {name: self._check_denoiser(module) for name, module in modules.items()}
        solvers.check(OP, pipe.scheduler, config.schedule)
        self._watch = watch(pipe)
        try:
            self._watch.claim(OP, "progressive", self, modules)
        except ValueError:
            self._watch.release()
            raise
        self._watch.closing.append(self._close)
        self._own_step = uncompiled(self._step)
        self._hooks = []
        for name, module in modules.items():
            hand = functools.partial(self._before, facts[name], positional(unwrapped(module)))
            before = Hook(hand, "progressive", self._watch)
            self._hooks.append(module.register_forward_pre_hook(before, with_kwargs=True, prepend=True))
            self._hooks.append(module.register_forward_hook(Hook(self._after)))
        self._summary = Summary(pipeline=type(pipe).__name__, schedule=config.schedule, stages="known after a call")

    def remove(self) -> None:
        """Take everything off; the pipeline then gives the bits of one that was never touched."""
        if self not in self._watch.applied.values():
            return
        self._close()
        for hook in self._hooks:
            hook.remove()
        self._watch.closing.remove(self._close)
        del self._watch.applied["progressive"]
        self._watch.release()

    def summary(self) -> Summary:
        """The stages of the present or last call: grids, tokens of a frame, steps, noise levels before and after."""
        return self._summary

    @staticmethod
    def _check_pipeline(pipe: Any) -> None:
        name = type(pipe).__name__
        if name in MIXED_STATES:
            raise ValueError(f"{OP}: {name} cannot be progressive: {MIXED_STATES[name]}; use apply_forecast")

    @staticmethod
    def _check_denoiser(module: torch.nn.Module) -> Model:
        facts, own = facts_of(OP, module), unwrapped(module)
        check_progressive(OP, type(own).__name__, facts)
        if getattr(own, "_parallel_config", None) is not None:
            raise ValueError(
                f"{OP}: context parallelism splits the tokens of the full grid, so it cannot be combined with "
                "coarse steps; load the model without it"
            )
        return facts

    def _before(self, facts: Model, names: list[str], module: torch.nn.Module, args: tuple, kwargs: Arguments):
        """Forward pre-hook: hand the denoiser the coarse state."""
        if self._watch.timesteps is None:
            return None
        arguments = dict(zip(names, args, strict=False)) | kwargs
        if self._run is None or self._run.timesteps is not self._watch.timesteps:
            self._close()
            self._run = self._start(facts, arguments, module)
        run, k = self._run, self._watch.step
        if k >= len(run.steps) or not run.steps[k].coarse:
            return None
        for name in facts.bypass:
            if "control" in name and arguments.get(name) is not None:
                raise ValueError(f"{OP}: {name} belongs to the full grid, ControlNet cannot be used in coarse steps; "
                                 "remove() the handle for this call")  # fmt: skip
        if arguments.get("timestep_r") is not None:
            raise ValueError(f"{OP}: timestep_r is the end of a step, which a model of mean flow predicts at once, and "
                             "coarse steps end elsewhere; remove() the handle for this call")  # fmt: skip
        step, states = run.steps[k], run.states
        states.coarse(arguments, step.size, step.level)
        if self.config.schedule == "matched":
            level = timestep_of(step.level, *facts.timestep)
            arguments[facts.time] = states.told(arguments[facts.time], level)
        return (), arguments

    def _after(self, module: torch.nn.Module, args: tuple, out: Any) -> Any:
        """Forward hook: an answer at full size, where the pipeline takes it apart before the solver's step."""
        run = self._run
        if run is None or not run.states.embeds or run.timesteps is not self._watch.timesteps:
            return None
        k = self._watch.step
        if k >= len(run.steps) or not run.steps[k].coarse:
            return None
        size = run.steps[k].size
        if isinstance(out, tuple):
            return (run.states.embedded(out[0], size), *out[1:])
        out.sample = run.states.embedded(out.sample, size)
        return out

    def _step(self, run: Run, model_output: Tensor, timestep: Any, sample: Tensor, *args, **kwargs):
        """In place of `scheduler.step` while a run lasts: lift the coarse velocity, then let the solver work."""
        k = self._watch.step
        if run is self._run and run.timesteps is self._watch.timesteps and k < len(run.steps):
            step = run.steps[k]
            if step.coarse:
                model_output = run.states.lifted(model_output, sample, step.size, step.level)
            if step.first and self.config.schedule != "matched":
                solvers.restore(run.scheduler, run.history)
        return run.original_step(model_output, timestep, sample, *args, **kwargs)

    def _start(self, facts: Model, arguments: Arguments, module: torch.nn.Module) -> Run:
        """The stages of a run, at its first call of a denoiser: the one place that waits for the device."""
        config, scheduler = self.config, self._watch.scheduler
        solvers.check(OP, scheduler, config.schedule)
        if self._watch.first and config.schedule != "matched":
            raise ValueError(
                f'{OP}: a run that starts from a picture (strength < 1) has no coarse phase in the "{config.schedule}" '
                'schedule; use schedule="matched" or strength = 1'
            )
        fine = facts.grid(arguments)
        # Solvers of second order list a level twice; stages are made of different ones.
        sigmas = scheduler.sigmas.double().tolist()
        levels = list(dict.fromkeys(sigmas))
        plan = self._plan(levels, fine, facts)
        place = {sigma: k for k, sigma in enumerate(levels)}
        stages = [plan.stage_of(place[sigma]) for sigma in sigmas[: len(self._watch.timesteps)]]
        steps = [
            Step(stage.size, plan.sigmas[place[sigma]], stage.size != fine)
            for sigma, stage in zip(sigmas, stages, strict=False)
        ]
        for last, step in pairwise(steps):
            step.first = step.size != last.size
        run = Run(scheduler, self._watch.timesteps, self._states(facts, unwrapped(module), arguments, fine), steps)
        self._summary = self._describe(plan, facts, steps)
        if any(step.coarse for step in steps):
            refuse_cache(OP, module)
            run.history = solvers.history(scheduler)
            if config.schedule != "matched" and config.align:
                self._rewrite(run, plan, sigmas)
            run.original_step = scheduler.step
            Attached(scheduler, "step", functools.partial(self._own_step, run))
        return run

    def _states(self, facts: Model, module: torch.nn.Module, arguments: Arguments, fine: Size) -> States:
        frames = facts.frames(module, arguments)
        channels = getattr(module.config, "out_channels", None) if facts.conditions else None
        return States(
            facts,
            fine,
            frames,
            facts.clean(module, arguments, frames),
            channels,
            self.config.basis,
            self.config.align,
            self.config.precision,
        )

    def _plan(self, levels: list[float], fine: Size, facts: Model) -> ResolutionSchedule:
        config = self.config
        plan = schedule_of(config, levels, fine, facts)
        boundary = getattr(getattr(self._watch.pipe, "config", None), "boundary_ratio", None)
        if boundary is None or config.schedule == "matched":
            return plan
        # Two experts: an aligned level must not lead back over their boundary. Such a transition is moved to the last
        # step before the boundary, which is earlier and so keeps within delta.
        ends = [stage.sigma_out for stage in plan.stages[:-1]]
        starts = [stage.sigma_in for stage in plan.stages[1:]]
        back = [end < boundary <= start for end, start in zip(ends, starts, strict=True)]
        if not any(back):
            return plan
        before = min(level for level in levels if level >= boundary)
        moved = [before if jumps else end for jumps, end in zip(back, ends, strict=True)]
        sizes = [stage.size for stage in plan.stages]
        plan = resolution_schedule(levels, sizes, schedule=config.schedule, align=config.align, transition_sigmas=moved)
        note = f"a transition was moved before the experts' boundary {boundary}, over which alignment would lead back"
        return replace(plan, notes=(*plan.notes, note))

    def _rewrite(self, run: Run, plan: ResolutionSchedule, sigmas: list[float]) -> None:
        """The scheduler's noise levels in full-resolution coordinates, and the timesteps the model is to be told."""
        scheduler = run.scheduler
        # Multi-step solvers take differences of log-SNR, and near pure noise float32 does not hold 1 - sigma: a first
        # step at sigma = 0.999999 would be off by some percent. They keep their levels on the CPU, Euler on the device.
        dtype = torch.float64 if run.history else scheduler.sigmas.dtype
        scheduler.sigmas = torch.tensor(plan.full_sigmas, dtype=dtype, device=scheduler.sigmas.device)
        for k, step in enumerate(run.steps):
            if step.level != sigmas[k]:  # in place: the pipeline's loop holds views of this tensor
                run.timesteps[k] = timestep_of(step.level, scheduler.config.num_train_timesteps)

    def _describe(self, plan: ResolutionSchedule, facts: Model, steps: list[Step]) -> Summary:
        """Of the steps that are run: all but those before the picture that a run starts from."""
        first, rows = self._watch.first, []
        for stage in plan.stages:
            own = [k for k in range(first, len(steps)) if steps[k].size == stage.size]
            if own:
                rows.append(
                    {
                        "grid": stage.size,
                        "tokens": tokens_of(facts, stage.size),
                        "first step": own[0],
                        "steps": len(own),
                        "sigma in": steps[own[0]].level,
                        "sigma out": stage.sigma_out,
                    }
                )
        summary = Summary(
            pipeline=type(self._watch.pipe).__name__,
            schedule=plan.schedule if plan.align else f"{plan.schedule}, not aligned",
            basis=self.config.basis,
            steps=len(steps) - first,
            stages=rows,
        )
        tokens = [tokens_of(facts, step.size) for step in steps[first:]]
        summary["fewer token-steps"] = token_step_ratio(tokens_of(facts, plan.size), tokens)
        if plan.notes:
            summary["notes"] = list(plan.notes)
        return summary

    def _close(self) -> None:
        """The end of a run: the scheduler gets its own step back."""
        run, self._run = self._run, None
        if run is not None and run.original_step is not None:
            Attached.take_off(run.scheduler, "step")


def apply_progressive(pipe: Any, config: ProgressiveConfig | None = None) -> Progressive:
    """Let a diffusers pipeline run its first steps at a lower resolution.

    The pipeline is used as before: `pipe("...")`, same arguments, latents and callbacks at full size, and the seed of a
    picture keeps its meaning, because both the coarse noise and the noise of the new frequencies are bands of the noise
    that the pipeline draws. Works with every loop that calls the pipeline's denoiser and `scheduler.step`. Pipelines
    that share a denoiser run one after the other, not in threads.

    Parameters
    ----------
    pipe : a diffusers pipeline, or a modular one, with a denoiser of `models.MODELS` and a flow-matching scheduler.
    config : ProgressiveConfig, default `ProgressiveConfig()`.

    Returns
    -------
    Progressive : a handle with `remove()` and `summary()`; also a context manager.

    Raises
    ------
    ValueError
        Unknown denoisers, context parallelism, noise prediction, a pipeline that is progressive already, by itself or
        through one that shares its scheduler and denoiser; with "published" and "respaced" also stochastic solvers.
        When the pipeline runs: ControlNet residuals, models of mean flow, sizes that a wavelet cannot halve, and with
        "published" and "respaced" a start from a picture (strength < 1).

    Source: Spectral Progressive Diffusion, sections 4.1 and 4.2, in full-resolution coordinates.
    """
    return Progressive(pipe, checked(OP, config, ProgressiveConfig))


def schedule_of(config: ProgressiveConfig, levels: Sequence[float], fine: Size, facts: Model) -> ResolutionSchedule:
    """The stages of a run that begins at the first of `levels` on the grid `fine`."""
    sizes = stage_sizes(fine, config.scales, multiple=facts.multiple)
    options: dict[str, Any] = {"schedule": config.schedule, "align": config.align}
    if config.transition_sigmas is not None:
        return resolution_schedule(levels, sizes, transition_sigmas=config.transition_sigmas, **options)
    spectrum = config.spectrum if config.spectrum is not None else facts.spectrum
    return resolution_schedule(levels, sizes, spectrum, config.delta, **options)
