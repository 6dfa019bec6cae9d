# SPDX-License-Identifier: Apache-2.0
"""Progressive resolution and forecasting at once: which steps run, at which size, from which history."""

from dataclasses import replace

import pytest
import torch
from bits import assert_same_bits

diffusers = pytest.importorskip("diffusers", reason="needs the extra [diffusers]")

from coarse_loop import align, distance, recorded  # noqa: E402
from pipelines import FAMILIES, family, run  # noqa: E402

from reference import expand as reference  # noqa: E402
from reference import forecast as forecasts  # noqa: E402
from spectral_kernels.adapters.diffusers import (  # noqa: E402
    ForecastConfig,
    ProgressiveConfig,
    apply_acceleration,
    apply_forecast,
    apply_progressive,
    plan_acceleration,
)
from spectral_kernels.adapters.diffusers.models import MODELS  # noqa: E402
from spectral_kernels.adapters.diffusers.transition import expand_history  # noqa: E402
from spectral_kernels.forecaster import Forecaster  # noqa: E402

FLOW = [name for name in FAMILIES if name not in ("sdxl", "wan_vace")]
STEPS = 12
FORECAST = ForecastConfig(warmup=3, rewarm=2)


def transition(made, first: int) -> float:
    sigmas = recorded(made, STEPS).sigmas
    return (sigmas[first - 1] + sigmas[first]) / 2


# What a denoiser is told does not concern its features: matched for one of each kind of step and time.
@pytest.mark.parametrize(
    ("name", "schedule"),
    [*((name, "respaced") for name in FLOW), *((name, "matched") for name in ("flux", "wan22", "ltx_i2v", "zimage"))],
)
def test_either_order_and_one_call_are_the_same(name, schedule):
    made = family(name)
    made.call |= made.guided or {}
    plain = run(made, STEPS)
    level = transition(made, 6)
    # Matched stages end at the coarse level; sizes are halves, so the ratio is 2.
    level = align(level, 0.5) if schedule == "matched" else level
    progressive = ProgressiveConfig(schedule=schedule, transition_sigmas=[level])
    with apply_acceleration(made.pipe, progressive=progressive, forecast=FORECAST) as handle:
        one = run(made, STEPS)
        assert_same_bits(run(made, STEPS), one)
    with apply_progressive(made.pipe, progressive), apply_forecast(made.pipe, FORECAST):
        assert_same_bits(run(made, STEPS), one)
    with apply_forecast(made.pipe, FORECAST), apply_progressive(made.pipe, progressive):
        assert_same_bits(run(made, STEPS), one)
    assert_same_bits(run(made, STEPS), plain)
    summary = handle.summary()
    coarse, fine = summary["stages"]
    assert coarse["steps"] + fine["steps"] == STEPS and 0 < fine["evaluated"] < fine["steps"]
    if name != "wan22":  # its transition is moved before the second expert, whose history is new as well
        assert coarse["steps"] == 6 and 0 < coarse["evaluated"] < coarse["steps"]
    # The first steps at full size are evaluated: a history of coarse features cannot lead there.
    assert {fine["first step"], fine["first step"] + 1} <= set(fine["steps evaluated"])
    assert 0.001 < distance(one, plain) and bool(one.isfinite().all())


def test_blocks_that_run_are_those_of_the_plan():
    made = family("flux")
    sigmas = recorded(made, STEPS).sigmas
    progressive = ProgressiveConfig(
        schedule="published", scales=(0.25, 0.5, 1.0), transition_sigmas=[sigmas[3], sigmas[7]]
    )
    plan = plan_acceleration(sigmas, (32, 24), progressive=progressive, forecast=FORECAST)
    seen = []
    block = made.pipe.transformer.transformer_blocks[0]

    def note(module, args, kwargs):
        seen.append((made.pipe.scheduler.step_index or 0, kwargs["hidden_states"].shape[1]))

    hook = block.register_forward_pre_hook(note, with_kwargs=True)
    with apply_acceleration(made.pipe, progressive=progressive, forecast=FORECAST) as handle:
        run(made, STEPS)
    hook.remove()
    # Three to warm up, then by the windows 2, 2.75, 3.5: 4, 6, 9; two more at each new size, 3 and 4, 7 and 8.
    assert seen == [
        *[(step, 12) for step in (0, 1, 2)],
        *[(step, 48) for step in (3, 4, 6)],
        *[(step, 192) for step in (7, 8, 9)],
    ]
    planned = [(step, stage["tokens"]) for stage in plan["stages"] for step in stage["steps evaluated"]]
    assert planned == seen
    assert handle.summary()["stages"] == plan["stages"]
    assert plan["evaluations"] == 9 and plan["token-steps"] == f"{12 * 3 + 48 * 3 + 192 * 3} of {192 * 12}"
    assert "steps evaluated" in str(plan)


def test_the_plan_of_a_published_run():
    """FLUX.1 at 1024 pixels, 50 steps: 28 coarse steps at delta = 0.05 and 14 evaluations, as both papers have them."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    scheduler.set_timesteps(50, mu=1.15, sigmas=torch.linspace(1, 1 / 50, 50).tolist())
    sigmas = scheduler.sigmas.tolist()
    alone = plan_acceleration(sigmas, (128, 128), forecast=ForecastConfig())
    assert alone["evaluations"] == 14 and len(alone["stages"]) == 1
    both = plan_acceleration(
        sigmas, (128, 128), progressive=ProgressiveConfig(delta=0.05), forecast=ForecastConfig(rewarm=2)
    )
    assert [stage["steps"] for stage in both["stages"]] == [28, 22]
    assert both["stages"][1]["steps evaluated"] == [28, 29, 31, 38, 46]
    assert (
        plan_acceleration(sigmas, (128, 128), forecast=ForecastConfig(), denoiser="UNet2DConditionModel")["steps"] == 50
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"denoiser": "Unet"}, "denoiser must be one of"),
        ({"denoiser": "UNet2DConditionModel", "progressive": ProgressiveConfig()}, "predicts noise"),
        ({"denoiser": "WanVACETransformer3DModel", "forecast": ForecastConfig()}, "cannot be left out"),
    ],
)
def test_plans_of_what_cannot_be(options, message):
    with pytest.raises(ValueError, match=f"plan_acceleration: .*{message}"):
        plan_acceleration([1.0, 0.5, 0.0], (128, 128), **options)


def test_plans_want_their_own_configurations():
    for options in ({"progressive": ForecastConfig()}, {"forecast": ProgressiveConfig()}):
        with pytest.raises(TypeError, match="plan_acceleration: config must be a"):
            plan_acceleration([1.0, 0.5, 0.0], (128, 128), **options)


@pytest.mark.parametrize("name", ["flux", "wan", "ltx"])
def test_histories_can_cross_a_transition(name):
    """The features of the coarse steps, expanded by our own op, take part in the first forecast at full size."""
    made = family(name)
    model = made.pipe.transformer
    first, rewarm = 6, 1
    config = ForecastConfig(warmup=3, rewarm=rewarm, transition="expand", ridge=0.05)
    facts = MODELS[type(model).__name__]
    lists = [getattr(model, blocks) for blocks in facts.blocks]
    progressive = ProgressiveConfig(transition_sigmas=[transition(made, first)])
    features, passed = [], []

    def keep(module, args, out):
        features.append((made.pipe.scheduler.step_index or 0, out if torch.is_tensor(out) else out[1]))

    after = model.proj_out if name == "ltx" else model.norm_out
    hooks = [lists[-1][-1].register_forward_hook(keep)]
    if name != "ltx":  # its output layers begin with a norm inside the model
        hooks.append(after.register_forward_pre_hook(lambda module, args: passed.append(args[0].clone())))
    with apply_acceleration(made.pipe, progressive=progressive, forecast=config) as handle:
        crossed = run(made, STEPS)
    for hook in hooks:
        hook.remove()
    with apply_acceleration(
        made.pipe, progressive=progressive, forecast=ForecastConfig(warmup=3, rewarm=rewarm, ridge=0.05)
    ):
        reset = run(made, STEPS)
    assert not torch.equal(crossed, reset)
    stages = handle.summary()["stages"]
    assert stages[1]["first step"] == first and stages[1]["steps evaluated"][0] == first
    skipped = next(step for step in range(first, STEPS) if step not in stages[1]["steps evaluated"])
    if name == "ltx":
        return
    rows, columns = (side // facts.multiple for side in stages[0]["grid"])
    target = tuple(side // facts.multiple for side in stages[1]["grid"])
    known, steps = [], []
    for step, feature in features:
        if step > skipped:
            break
        if feature.shape[1] != passed[-1].shape[1]:
            batch, tokens, channels = feature.shape
            planes = feature.reshape(-1, rows, columns, channels).permute(0, 3, 1, 2)
            planes, _ = reference.expand(planes.numpy(), target, 0.0)
            feature = torch.from_numpy(planes).permute(0, 2, 3, 1).reshape(batch, -1, channels)
            assert feature.shape[1] * rows * columns == tokens * target[0] * target[1]
        known.append(feature.numpy())
        steps.append(step)
    weights = forecasts.chebyshev_weights(steps, skipped, STEPS, ridge=0.05)
    assert_same_bits(passed[skipped], forecasts.forecast(known, weights))


@pytest.mark.parametrize(("frames", "others"), [(1, 0), (1, 5), (3, 0)])
def test_expanded_features_are_the_reference_s(frames, others):
    """Every frame is expanded by itself; tokens of reference pictures keep their grid and their bits."""
    coarse, fine = (2, 3), (5, 7)
    features = torch.randn(2, 4, frames * 6 + others, 3)
    old, new = Forecaster(12), Forecaster(12)
    for step, feature in enumerate(features):
        old.update(step, feature)
    expand_history(old, new, (frames, *coarse, others), (frames, *fine, others))
    assert new.steps == [0, 1]
    for feature, found in zip(features, new.state_dict()["features"], strict=True):
        planes = feature[:, : frames * 6].reshape(4 * frames, *coarse, 3).permute(0, 3, 1, 2)
        planes, _ = reference.expand(planes.numpy(), fine, 0.0)
        expected = torch.from_numpy(planes).permute(0, 2, 3, 1).reshape(4, -1, 3)
        assert_same_bits(found.contiguous(), torch.cat([expected, feature[:, frames * 6 :]], 1).contiguous())
    with pytest.raises(ValueError, match=r'one token per patch, 8 here.*use transition="reset"'):
        expand_history(old, new, (1, 2, 4, others), (1, *fine, others))


def test_a_history_with_reference_pictures_crosses_too():
    made = family("flux2_klein_reference")
    progressive = ProgressiveConfig(transition_sigmas=[transition(made, 6)])
    results = []
    for kind in ("reset", "expand"):
        forecast = replace(FORECAST, transition=kind, rewarm=1)
        with apply_acceleration(made.pipe, progressive=progressive, forecast=forecast) as handle:
            results.append(run(made, STEPS))
        assert handle.summary()["branches"][0]["new history at"] == [6]
    assert not torch.equal(*results) and bool(results[1].isfinite().all())


def test_features_with_other_tokens_cannot_cross():
    for name, model in (("zimage", "ZImage"), ("ideogram4", "Ideogram4")):
        made = family(name)
        with pytest.raises(ValueError, match=f'{model}.*use transition="reset"'):
            apply_acceleration(made.pipe, forecast=replace(FORECAST, transition="expand"))
        assert not made.pipe.transformer._forward_pre_hooks


def test_without_coarse_steps_and_without_forecasts_it_is_the_plain_pipeline():
    made = family("flux")
    plain = run(made, STEPS)
    with apply_acceleration(
        made.pipe, progressive=ProgressiveConfig(scales=(1.0,)), forecast=ForecastConfig(steps=range(STEPS))
    ):
        assert_same_bits(run(made, STEPS), plain)


def test_an_error_in_one_leaves_neither():
    made = family("flux")
    with apply_forecast(made.pipe, FORECAST):
        with pytest.raises(ValueError, match="is forecast already"):
            apply_acceleration(made.pipe)
        expected = run(made, STEPS)
    with apply_forecast(made.pipe, FORECAST):
        assert_same_bits(run(made, STEPS), expected)


def test_control_residuals_and_skipped_layers_bypass_the_forecast():
    made = family("sd3")
    made.call |= made.guided
    with apply_forecast(made.pipe, FORECAST) as handle:
        run(made, STEPS, skip_guidance_layers=[1], skip_layer_guidance_start=0.0, skip_layer_guidance_stop=0.9)
    summary = handle.summary()
    branch = summary["branches"][0]
    assert branch["evaluated"] == 6 and branch["forecast"] == 6
    assert "never forecast" in summary["bypassed"]
    made = family("flux")
    plain = run(made, STEPS)
    controlled = {"controlnet_block_samples": [torch.zeros(1, 192, 32)]}
    with apply_forecast(made.pipe, FORECAST) as handle:
        hook = made.pipe.transformer.register_forward_pre_hook(
            lambda module, args, kwargs: (args, kwargs | controlled), with_kwargs=True, prepend=True
        )
        assert_same_bits(run(made, STEPS), plain)  # residuals of zero: the plain pipeline
        hook.remove()
    assert handle.summary()["bypassed"].startswith("12 calls")
