# SPDX-License-Identifier: Apache-2.0
"""A calibrator for cache-dit (1.5) over `Forecaster`, in the place of its Taylor, DMD and FoCa calibrators.

cache-dit makes calibrators in a closed factory, so put this one into the cache context:

    context.calibrator = ForecastCalibrator(num_steps=28, max_features=8)
"""

from typing import Any

from cache_dit.caching.cache_contexts.calibrators import CalibratorBase  # pyright: ignore[reportMissingImports]
from torch import Tensor

from spectral_kernels.forecaster import Forecaster


class ForecastCalibrator(CalibratorBase):
    """One `Forecaster` per named stream; `num_steps` and `options` (weights, storage, degree, ...) are its arguments.

    `reset_cache` begins a run, `mark_step_begin` a step, `update` takes what was computed, `approximate` forecasts. A
    stream whose shape changes begins anew, as with cache-dit's own calibrators. Unlike theirs, steps are counted by the
    calibrator, so a stream that appears late knows the true distance between its steps.
    """

    def __init__(self, num_steps: int, max_warmup_steps: int = 1, skip_interval_steps: int = 1, **options: Any):
        self.num_steps, self.options = num_steps, options
        self.max_warmup_steps, self.skip_interval_steps = max_warmup_steps, skip_interval_steps
        self.states: dict[str, Forecaster] = {}
        self.current_step = -1
        Forecaster(num_steps, **options)  # wrong options are an error now

    def reset_cache(self, *args: Any, **kwargs: Any) -> None:
        for state in self.states.values():
            state.reset()
        self.current_step = -1

    def mark_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.current_step += 1

    def should_compute(self, step: int | None = None) -> bool:
        step = self.current_step if step is None else step
        return step < self.max_warmup_steps or (step - self.max_warmup_steps + 1) % self.skip_interval_steps == 0

    def update(self, Y: Tensor, name: str = "default") -> None:
        state = self.states.setdefault(name, Forecaster(self.num_steps, **self.options))
        if state.shape not in (None, Y.shape):
            state.reset()
        state.update(max(self.current_step, 0), Y)

    def approximate(self, name: str = "default") -> Tensor:
        if name not in self.states:
            raise ValueError(
                f"ForecastCalibrator: no stream {name!r} was updated; known: {', '.join(self.states) or 'none'}"
            )
        return self.states[name].predict(max(self.current_step, 0))

    def step(self, Y: Tensor, name: str = "default") -> Tensor:
        """Advance one step; the given tensor where it is computed, else its forecast."""
        self.mark_step_begin()
        if not self.should_compute():
            return self.approximate(name)
        self.update(Y, name)
        return Y

    def __repr__(self) -> str:
        return f"ForecastCalibrator(num_steps={self.num_steps}, streams={len(self.states)})"
