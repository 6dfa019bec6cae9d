# SPDX-License-Identifier: Apache-2.0
"""Frames in a progressive run: a clean picture before the noisy ones. test_diffusers_progressive.py compares such runs
with the explicit loop, as all others."""

import pytest
import torch
from bits import assert_same_bits

pytest.importorskip("diffusers", reason="needs the extra [diffusers]")

from coarse_loop import distance, of_frames
from pipelines import family, run

from spectral_kernels.adapters.diffusers import ProgressiveConfig, apply_forecast, apply_progressive
from spectral_kernels.adapters.diffusers.grids import clean_at_time_zero

STEPS = 6
CLEAN = ["wan_ti2v_picture", "hunyuan_i2v_replace", "ltx_i2v"]


@pytest.mark.parametrize("schedule", ["published", "respaced", "matched"])
@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_first_frame_keeps_its_bits(name, schedule):
    made = family(name)  # without guidance the denoiser is handed the pipeline's own memory
    plain = run(made, STEPS)
    with apply_progressive(made.pipe, ProgressiveConfig(schedule=schedule, transition_sigmas=[0.7])) as handle:
        fast = run(made, STEPS)
    assert 0 < handle.summary()["stages"][0]["steps"] < STEPS
    before, after = of_frames(plain, *made.grid), of_frames(fast, *made.grid)
    assert_same_bits(after[:, :, 0].contiguous(), before[:, :, 0].contiguous())
    assert all(distance(after[:, :, frame], before[:, :, frame]) > 0.01 for frame in (1, 2))


def times_of_frames(*times: float):
    """A time per token of frames of 32 x 48 latent pixels, in patches of 2."""
    made = family("wan_ti2v")
    return made.pipe.transformer, {"timestep": torch.tensor(times).repeat_interleave(16 * 24)[None]}


@pytest.mark.parametrize(("times", "clean"), [((900, 900), 0), ((0, 900, 900), 1), ((0, 0, 900), 2)])
def test_frames_at_time_zero_are_clean(times, clean):
    assert clean_at_time_zero(*times_of_frames(*times), len(times)) == slice(0, clean)


@pytest.mark.parametrize("times", [(0, 500, 900), (900, 900, 0), (0, 0, 0)])
def test_frames_at_levels_of_their_own_are_refused(times):
    with pytest.raises(ValueError, match="noise levels of their own"):
        clean_at_time_zero(*times_of_frames(*times), 3)


REFUSED = {
    "LTXConditionPipeline": "tokens inside the state at noise levels and coordinates of their own",
    "LTXI2VLongMultiPromptPipeline": "a window of a longer video",
    "SkyReelsV2DiffusionForcingPipeline": "a copy of the scheduler for every frame",
}


@pytest.mark.parametrize("name", REFUSED)
def test_loops_that_are_not_understood_are_refused(name):
    pipe = type(name, (), {"transformer": family("skyreels" if "Sky" in name else "ltx").pipe.transformer})()
    with pytest.raises(ValueError, match=f"{name} cannot be .*{REFUSED[name]}"):
        apply_progressive(pipe)
    if "Sky" in name:
        with pytest.raises(ValueError, match=f"{name} cannot be .*{REFUSED[name]}"):
            apply_forecast(pipe)


def test_coordinates_in_place_of_a_grid_are_refused():
    made = family("ltx")
    with apply_progressive(made.pipe, ProgressiveConfig(transition_sigmas=[0.7])):
        hook = made.pipe.transformer.register_forward_pre_hook(
            lambda module, args, kwargs: (args, kwargs | {"height": None}), with_kwargs=True, prepend=True
        )
        with pytest.raises(ValueError, match="coordinates in place of height and width"):
            run(made, STEPS)
        hook.remove()


def test_another_grid_in_the_middle_of_a_run_is_refused():
    """A pipeline that works tile by tile."""
    made = family("sd3")

    def cut(module, args, kwargs):
        if made.pipe.scheduler.step_index == 1:
            return args, kwargs | {"hidden_states": kwargs["hidden_states"][..., :8]}

    with apply_progressive(made.pipe, ProgressiveConfig(transition_sigmas=[0.7])):
        hook = made.pipe.transformer.register_forward_pre_hook(cut, with_kwargs=True, prepend=True)
        with pytest.raises(ValueError, match=r"began on a grid of \(16, 12\), and now .* \(16, 8\)"):
            run(made, STEPS)
        hook.remove()
