# SPDX-License-Identifier: Apache-2.0
"""Noise levels across resolutions and activation times, as formulas on float64 arrays.

Spectral Progressive Diffusion: equations 5 and 6, 8 to 10, and 19.
"""

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def align_time(t: Array, ratio: float) -> tuple[Array, Array]:
    """t' = r t / (1 + (r - 1) t), kappa = r / (1 + (r - 1) t)."""
    denominator = 1 + (ratio - 1) * t
    return np.minimum(ratio * t / denominator, 1.0), ratio / denominator


def optimal_velocity(z: Array, power: float, t: float) -> Array:
    """E[noise - x | z] for one coefficient, z = (1 - t) x + t noise, x ~ N(0, power), noise ~ N(0, 1)."""
    return (t - (1 - t) * power) / ((1 - t) ** 2 * power + t**2) * z


def velocity_error(power: float, t: float) -> float:
    """E|optimal_velocity - noise|^2 = (1 - t)^2 P (1 + P) / ((1 - t)^2 P + t^2)."""
    return (1 - t) ** 2 * power * (1 + power) / ((1 - t) ** 2 * power + t**2)


def activation_time(power: float, delta: float) -> float:
    """The t at which velocity_error = delta: 1 / (1 + sqrt(delta / (P (1 + P - delta))))."""
    return 1 / (1 + math.sqrt(delta / (power * (1 + power - delta))))


def transition_time(amplitude: float, exponent: float, size: tuple[int, int], delta: float) -> float:
    """Activation time of the grid's Nyquist frequency min(h, w) // 2 under P = amplitude * w^-exponent."""
    return activation_time(amplitude * float(min(size) // 2) ** -exponent, delta)


def coarse_steps(sigmas: Array, threshold: float) -> int:
    """Number of steps before the first level at or below the threshold."""
    return int(np.argmax(sigmas <= threshold))
