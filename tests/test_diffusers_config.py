# SPDX-License-Identifier: Apache-2.0
"""What a configuration says wrong is an error when it is written down, and leaves a pipeline as it was."""

import pytest

pytest.importorskip("diffusers", reason="needs the extra [diffusers]")

from pipelines import family

from spectral_kernels.adapters.diffusers import (
    ForecastConfig,
    ProgressiveConfig,
    apply_acceleration,
    apply_forecast,
    apply_progressive,
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"basis": "walsh"}, 'basis must be "dct", "fft" or a wavelet.*got \'walsh\''),
        ({"schedule": "late"}, "schedule must be"),
        ({"schedule": "matched", "align": False}, "alignment"),
        ({"scales": (1.0, 0.5)}, "scales"),
        ({"scales": (0.5, 0.9)}, "scales"),
        ({"delta": 0.0}, "delta must be a number above 0.*got 0.0"),
        ({"delta": float("nan")}, "delta must be a number above 0.*got nan"),
        ({"precision": "double"}, 'precision must be "exact", "fast"'),
        ({"transition_sigmas": [0.8, 0.6]}, "2 stages have 1 transitions"),
        ({"transition_sigmas": [1.5]}, "descend between 1 and 0"),
        ({"transition_sigmas": [0.6, 0.8], "scales": (0.25, 0.5, 1.0)}, "descend between 1 and 0"),
    ],
)
def test_progressive(options, message):
    with pytest.raises(ValueError, match=message):
        ProgressiveConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "newton"}, "method must be one of chebyshev"),
        ({"method": 3}, "method must be one of chebyshev.*got 3"),
        ({"transition": "expand", "storage": "moments"}, "needs the features as they are"),
        ({"window": 0.5}, "window >= 1"),
        ({"ridge": -1.0}, "ridge"),
        ({"rewarm": 0}, 'rewarm must be at least 1 with transition="reset", and whole, got 0'),
        ({"rewarm": 1.5}, "rewarm must be at least 1 .*got 1.5"),
        ({"rewarm": -1, "transition": "expand"}, "rewarm must be at least 0"),
        ({"steps": []}, r"steps must be whole, ascend .*got \[\]"),
        ({"steps": [2, 4]}, r"begin with 0 .*got \[2, 4\]"),
        ({"steps": [-1]}, r"begin with 0 .*got \[-1\]"),
        ({"steps": [0, 2.5]}, r"steps must be whole.*got \[0, 2.5\]"),
        ({"budget": 0}, "budget must be a whole number of evaluations, got 0"),
        ({"budget": 9.5}, "budget must be a whole number of evaluations, got 9.5"),
        ({"budget": 2, "steps": [0, 1]}, "steps and budget both say"),
    ],
)
def test_forecast(options, message):
    with pytest.raises(ValueError, match=message):
        ForecastConfig(**options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProgressiveConfig(scales=0.5), "scales must be a list or a tuple, got 0.5"),
        (lambda: ProgressiveConfig(transition_sigmas=0.5), "transition_sigmas must be a list or a tuple"),
        (lambda: ProgressiveConfig(spectrum=3), "spectrum must be a PowerLaw, got 3"),
        (lambda: ProgressiveConfig(align=1), "align must be True or False"),
        (lambda: ForecastConfig(steps=3), "steps must be a list or a tuple, got 3"),
        (lambda: ForecastConfig(offload="yes"), "offload must be True or False"),
    ],
)
def test_values_of_another_kind(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda pipe: apply_progressive(pipe, ForecastConfig()), "must be a ProgressiveConfig, got ForecastConfig"),
        (lambda pipe: apply_forecast(pipe, ProgressiveConfig()), "must be a ForecastConfig, got ProgressiveConfig"),
        (lambda pipe: apply_acceleration(pipe, forecast={"window": 2}), "must be a ForecastConfig, got dict"),
    ],
)
def test_another_kind_of_configuration_leaves_nothing(apply, message):
    pipe = family("flux").pipe
    with pytest.raises(TypeError, match=message):
        apply(pipe)
    assert "progress_bar" not in vars(pipe)
    assert not pipe.transformer._forward_pre_hooks and not pipe.transformer._forward_hooks
