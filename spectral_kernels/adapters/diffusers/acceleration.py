# SPDX-License-Identifier: Apache-2.0
"""Progressive resolution and feature forecasting together, and the plan of a run before it runs."""

from collections.abc import Sequence
from typing import Any

from spectral_kernels.adapters.diffusers.config import ForecastConfig, ProgressiveConfig, checked
from spectral_kernels.adapters.diffusers.forecast import Forecasting, apply_forecast
from spectral_kernels.adapters.diffusers.grids import Size
from spectral_kernels.adapters.diffusers.models import MODELS, check_forecast, check_progressive, tokens_of
from spectral_kernels.adapters.diffusers.progressive import (
    Progressive,
    apply_progressive,
    schedule_of,
)
from spectral_kernels.adapters.diffusers.runs import Handle, Summary


class Acceleration(Handle):
    """Both methods on one pipeline, until `remove()`. `progressive` and `forecast` are their own handles."""

    def __init__(self, progressive: Progressive, forecast: Forecasting):
        self.progressive, self.forecast = progressive, forecast

    def remove(self) -> None:
        """Take both off."""
        self.forecast.remove()
        self.progressive.remove()

    def summary(self) -> Summary:
        """The stages of the present or last call with the steps evaluated in each, and both methods' summaries."""
        both = Summary(self.progressive.summary())
        forecast = self.forecast.summary()
        branches = forecast.get("branches", [])
        if isinstance(both["stages"], list):
            steps = sorted({step for branch in branches for step in branch["steps evaluated"]})
            both["stages"] = [_with_steps(stage, steps) for stage in both["stages"]]
        both.update({key: value for key, value in forecast.items() if key != "pipeline"})
        return both


def apply_acceleration(
    pipe: Any, *, progressive: ProgressiveConfig | None = None, forecast: ForecastConfig | None = None
) -> Acceleration:
    """Let a diffusers pipeline run its first steps at a lower resolution, and forecast the features of most steps.

    The same as `apply_progressive` and `apply_forecast` one after the other, in either order. A transition changes the
    size of the features, so histories begin anew there, with `ForecastConfig.rewarm` evaluations.

    Parameters
    ----------
    pipe : a diffusers pipeline.
    progressive, forecast : configurations; defaults are `ProgressiveConfig()` and `ForecastConfig()`.

    Returns
    -------
    Acceleration : a handle with `remove()` and `summary()`; also a context manager.

    Raises
    ------
    ValueError, as the two functions do; the pipeline is left as it was.
    """
    first = apply_progressive(pipe, progressive)
    try:
        return Acceleration(first, apply_forecast(pipe, forecast))
    except Exception:
        first.remove()
        raise


def plan_acceleration(
    sigmas: Sequence[float],
    size: Size,
    *,
    progressive: ProgressiveConfig | None = None,
    forecast: ForecastConfig | None = None,
    denoiser: str = "FluxTransformer2DModel",
) -> Summary:
    """Which steps of a run will be evaluated, at which resolution and noise level. Nothing is run.

    Parameters
    ----------
    sigmas : `scheduler.sigmas` of the full-resolution run, the end included.
    size : (height, width) of the latents (of their packed grid for FLUX.2, Krea 2 and Ideogram 4).
    progressive, forecast : configurations; None leaves the method out.
    denoiser : class name of the denoiser, for its patches and its spectrum.

    Returns
    -------
    Summary : prints as a table.
    """
    if denoiser not in MODELS:
        raise ValueError(f"plan_acceleration: denoiser must be one of {', '.join(sorted(MODELS))}, got {denoiser!r}")
    facts = MODELS[denoiser]
    if progressive is not None:
        checked("plan_acceleration", progressive, ProgressiveConfig)
        check_progressive("plan_acceleration", denoiser, facts)
    if forecast is not None:
        checked("plan_acceleration", forecast, ForecastConfig)
        check_forecast("plan_acceleration", denoiser, facts)
    whole = ProgressiveConfig(scales=(1.0,), transition_sigmas=())
    plan = schedule_of(progressive if progressive is not None else whole, list(sigmas), size, facts)
    begins = [stage.first_step for stage in plan.stages[1:]]
    steps = list(range(plan.num_steps)) if forecast is None else forecast.evaluated(plan.num_steps, 0, begins)
    stages = [
        {
            "grid": stage.size,
            "tokens": tokens_of(facts, stage.size),
            "first step": stage.first_step,
            "steps": stage.num_steps,
            "sigma in": stage.sigma_in,
            "sigma out": stage.sigma_out,
        }
        for stage in plan.stages
    ]
    stages = [_with_steps(stage, steps) for stage in stages]
    full = tokens_of(facts, plan.size) * plan.num_steps
    run = sum(stage["tokens"] * stage["evaluated"] for stage in stages)
    summary = Summary(schedule=plan.schedule, steps=plan.num_steps, evaluations=len(steps), stages=stages)
    summary["token-steps"] = f"{run} of {full}"
    if plan.notes:
        summary["notes"] = list(plan.notes)
    return summary


def _with_steps(stage: dict, steps: list[int]) -> dict:
    own = [step for step in steps if stage["first step"] <= step < stage["first step"] + stage["steps"]]
    return {**stage, "evaluated": len(own), "steps evaluated": own}
