# SPDX-License-Identifier: Apache-2.0
"""What the adapters do in a step beside their ops: they never wait for the device."""

import functools

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra [diffusers]")

from pipelines import family, run

from spectral_kernels.adapters.diffusers import ProgressiveConfig, apply_progressive
from spectral_kernels.adapters.diffusers.states import States
from spectral_kernels.forecaster import Forecaster


def on_device(value):
    """The same with tensors of no values, on a device that is not the host: reading one is an error."""
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, dict):
        return {name: on_device(one) for name, one in value.items()}
    return type(value)(map(on_device, value)) if isinstance(value, list | tuple) else value


# One of each way to say where a state's tokens lie, and at which times they are.
WAYS = [
    *("flux", "flux2_klein_kv", "qwen_edit", "qwen_layered", "krea2", "ideogram4", "zimage_omni", "cogview4", "chroma"),
    *("longcat", "ltx_i2v", "wan_ti2v_picture", "wan_vace"),
]


@pytest.mark.parametrize("name", WAYS)
def test_coarse_steps_read_no_value_of_the_device(name, monkeypatch):
    calls = []

    def first_on_device(method):
        @functools.wraps(method)
        def both(self, *args):
            calls.append(method.__name__)
            method(self, *on_device(args))
            return method(self, *args)

        return both

    for method in ("coarse", "told", "embedded", "lifted"):
        monkeypatch.setattr(States, method, first_on_device(getattr(States, method)))
    made = family(name)
    made.call |= made.guided or {}
    with apply_progressive(made.pipe, ProgressiveConfig(schedule="matched", transition_sigmas=[0.7])):
        run(made)
    assert {"coarse", "told", "lifted"} <= set(calls) and ("embedded" in calls) == (name == "ltx_i2v")


@pytest.mark.parametrize("options", [{}, {"storage": "moments"}, {"encoding": "int8"}, {"encoding": "float8"}], ids=str)
def test_forecasts_read_no_value_of_the_device(options):
    forecaster = Forecaster(50, **options)
    for step in range(6):
        forecaster.update(step, torch.empty(2, 64, 32, dtype=torch.bfloat16, device="meta"))
    assert forecaster.predict(7).shape == (2, 64, 32)
