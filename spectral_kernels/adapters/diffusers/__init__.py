# SPDX-License-Identifier: Apache-2.0
"""Progressive resolution and feature forecasting on unmodified diffusers pipelines."""

from spectral_kernels.adapters.diffusers.forecast import ForecastConfig, Forecasting, apply_forecast
from spectral_kernels.adapters.diffusers.progressive import Progressive, ProgressiveConfig, apply_progressive

__all__ = ["ForecastConfig", "Forecasting", "Progressive", "ProgressiveConfig", "apply_forecast", "apply_progressive"]
