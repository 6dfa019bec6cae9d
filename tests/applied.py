# SPDX-License-Identifier: Apache-2.0
"""The methods of the diffusers adapter, for tests that hold for each of them."""

import pytest

from spectral_kernels.adapters.diffusers import (
    ForecastConfig,
    ProgressiveConfig,
    apply_acceleration,
    apply_forecast,
    apply_progressive,
)

STEPS = 8
PUBLISHED = ProgressiveConfig(schedule="published", transition_sigmas=[0.8])
MATCHED = ProgressiveConfig(schedule="matched", transition_sigmas=[0.7])
FORECAST = ForecastConfig(warmup=2, flex=0.5)
METHODS = {
    "published": lambda pipe: apply_progressive(pipe, PUBLISHED),
    "matched": lambda pipe: apply_progressive(pipe, MATCHED),
    "forecast": lambda pipe: apply_forecast(pipe, FORECAST),
    "both": lambda pipe: apply_acceleration(pipe, progressive=PUBLISHED, forecast=FORECAST),
}
each = pytest.mark.parametrize("method", METHODS)


class Stop(Exception):
    """Raised by a test in the middle of a run."""
