# SPDX-License-Identifier: Apache-2.0
"""Progressive resolution and feature forecasting on unmodified diffusers pipelines."""

from spectral_kernels.adapters.diffusers.acceleration import Acceleration, apply_acceleration, plan_acceleration
from spectral_kernels.adapters.diffusers.config import ForecastConfig, ProgressiveConfig
from spectral_kernels.adapters.diffusers.forecast import Forecasting, apply_forecast
from spectral_kernels.adapters.diffusers.progressive import Progressive, apply_progressive

__all__ = [
    "Acceleration",
    "ForecastConfig",
    "Forecasting",
    "Progressive",
    "ProgressiveConfig",
    "apply_acceleration",
    "apply_forecast",
    "apply_progressive",
    "plan_acceleration",
]
