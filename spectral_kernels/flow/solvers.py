# SPDX-License-Identifier: Apache-2.0
"""Solvers of dz/dt = v(z, t), of one signature: (velocity, state at sigmas[0], sigmas) -> state at sigmas[-1]."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from spectral_kernels.evaluation import evaluation_steps
from spectral_kernels.forecaster import Forecaster

Velocity = Callable[[Tensor, float], Tensor]
Solver = Callable[[Velocity, Tensor, Sequence[float]], Tensor]


def euler(velocity: Velocity, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Euler's method: x_s = x_t + (s - t) v(x_t, t). One evaluation per step, the step of flow-matching schedulers."""
    for t, s in pairwise(sigmas):
        x = x + (s - t) * velocity(x, t)
    return x


def heun(velocity: Velocity, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Heun's method: the mean of the velocities at both ends of a step. Two evaluations, one where the step ends at 0.

    Source: Karras et al., "Elucidating the design space of diffusion-based generative models", algorithm 1.
    """
    for t, s in pairwise(sigmas):
        v = velocity(x, t)
        if s > 0:
            v = (v + velocity(x + (s - t) * v, s)) / 2
        x = x + (s - t) * v
    return x


def forecast_euler(
    velocity: Velocity,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    window: float = 2,
    warmup: int = 5,
    flex: float = 0.75,
    **options,
) -> Tensor:
    """Euler's method that evaluates the velocity at `evaluation_steps` only and forecasts it in between.

    A solver like any other: in a progressive run each stage has its own forecast, because features change their size
    there. `options` go to `Forecaster`. Source: Spectrum, algorithm 1, with the velocity as the feature.
    """
    steps = len(sigmas) - 1
    evaluated = set(evaluation_steps(steps, window, min(warmup, steps), flex))
    forecaster = Forecaster(steps, **options)
    for k, (t, s) in enumerate(pairwise(sigmas)):
        if k in evaluated:
            v = velocity(x, t)
            forecaster.update(k, v)
        else:
            v = forecaster.predict(k)
        x = x + (s - t) * v
    return x
