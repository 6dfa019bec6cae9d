# SPDX-License-Identifier: Apache-2.0
"""Everything users do around a pipeline, with each method applied: batches, callbacks, interrupts, errors, other
schedulers, LoRA, offloading, compilation, modular pipelines."""

import pytest
import torch
from bits import assert_same_bits

diffusers = pytest.importorskip("diffusers", reason="needs the extra [diffusers]")

from applied import METHODS, STEPS, Stop, each  # noqa: E402
from coarse_loop import distance  # noqa: E402
from picture_pipelines import flux  # noqa: E402
from pipelines import family, run  # noqa: E402

from spectral_kernels.adapters.diffusers import ProgressiveConfig, apply_progressive  # noqa: E402


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@each
@pytest.mark.parametrize("name", ["flux", "wan", "zimage"])
def test_batches_and_generator_lists(name, method):
    made = family(name)
    many = {key: value * 2 if isinstance(value, list) else value.repeat(2, *[1] * (value.ndim - 1))
            for key, value in made.call.items() if key.endswith("embeds")}  # fmt: skip
    copies = {"wan": "num_videos_per_prompt"}.get(name, "num_images_per_prompt")
    with METHODS[method](made.pipe):
        singles = torch.cat([run(made, STEPS, seed=seed) for seed in (3, 4)])
        both = run(made, STEPS, **many, generator=generators(3, 4))
        copied = run(made, STEPS, **{copies: 2}, generator=generators(3, 4))
    # Matrix products of another batch size add in another order.
    assert distance(both, singles) < 1e-5
    assert distance(copied, singles) < 1e-5


@each
@pytest.mark.parametrize("name", ["flux", "flux2", "sd3", "wan"])
def test_given_latents(name, method):
    made = family(name)
    with METHODS[method](made.pipe):
        first = []
        step = type(made.pipe.scheduler).step

        def keep(*args, **kwargs):
            first.append(args[2].clone())
            return step(made.pipe.scheduler, *args, **kwargs)

        made.pipe.scheduler.step = keep
        drawn = run(made, STEPS)
        vars(made.pipe.scheduler).pop("step", None)
        planes = made.unpack(first[0], *made.grid)
        assert_same_bits(run(made, STEPS, latents=made.pack(planes)), drawn)


@each
def test_callbacks_see_full_latents_and_may_change_them(method):
    made = family("flux")
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, tuple(tensors["latents"].shape)))
        return {"latents": tensors["latents"] * 1.0}

    with METHODS[method](made.pipe):
        plain = run(made, STEPS)
        assert_same_bits(run(made, STEPS, callback_on_step_end=callback), plain)
        assert seen == [(step, (1, 192, 16)) for step in range(STEPS)]
        assert made.pipe.num_timesteps == STEPS
        halved = run(made, STEPS, callback_on_step_end=lambda p, i, t, k: {"latents": k["latents"] * 0.5})
    assert not torch.equal(halved, plain)


@each
def test_interrupt_leaves_nothing_behind(method):
    made = family("flux")

    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = step == 1  # coarse, and in the warm-up
        return tensors

    with METHODS[method](made.pipe):
        whole = run(made, STEPS)
        part = run(made, STEPS, callback_on_step_end=stop)
        assert part.shape == whole.shape and bool(part.isfinite().all())
        assert_same_bits(run(made, STEPS), whole)


@each
@pytest.mark.parametrize("step", [1, 3, 6])  # coarse; where forecasts begin; fine
def test_exceptions_leave_nothing_behind(method, step):
    made = family("flux")
    plain = run(made, STEPS)

    def fail(pipe, index, timestep, tensors):
        if index == step:
            raise Stop
        return tensors

    block = made.pipe.transformer.norm_out

    def fail_inside(*_):
        if made.pipe.scheduler.step_index == step:
            raise Stop

    handle = METHODS[method](made.pipe)
    whole = run(made, STEPS)
    with pytest.raises(Stop):
        run(made, STEPS, callback_on_step_end=fail)
    assert_same_bits(run(made, STEPS), whole)
    hook = block.register_forward_pre_hook(fail_inside)
    with pytest.raises(Stop):
        run(made, STEPS)
    hook.remove()
    lists = made.pipe.transformer.transformer_blocks, made.pipe.transformer.single_transformer_blocks
    assert [len(blocks) for blocks in lists] == [2, 3]
    assert_same_bits(run(made, STEPS), whole)
    handle.remove()
    assert_same_bits(run(made, STEPS), plain)


@each
def test_step_counts_and_sizes_change_between_calls(method):
    made = family("flux")
    calls = [(STEPS, {}), (5, {}), (STEPS, {"height": 32, "width": 64}), (STEPS, {})]
    fresh = []
    for steps, call in calls:
        with METHODS[method](made.pipe):
            fresh.append(run(made, steps, **call))
    with METHODS[method](made.pipe):
        for (steps, call), expected in zip(calls, fresh, strict=True):
            assert_same_bits(run(made, steps, **call), expected)


SOLVERS = {
    "UniPC": lambda: diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
    "DPM++": lambda: diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
    "Euler": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
}


@each
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_scheduler_swapped_in_afterwards(method, solver):
    made = family("wan")
    made.pipe.scheduler = SOLVERS[solver]()
    with METHODS[method](made.pipe):
        expected = run(made, STEPS)
    made.pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)
    with METHODS[method](made.pipe):
        run(made, STEPS)
        made.pipe.scheduler = SOLVERS[solver]()
        assert_same_bits(run(made, STEPS), expected)


STOCHASTIC = {
    "sde-dpmsolver++": lambda: diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="sde-dpmsolver++"
    ),
    "stochastic Euler": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True),
    "Heun": lambda: diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0),
    "LCM": lambda: diffusers.FlowMatchLCMScheduler(shift=3.0),
}


@pytest.mark.parametrize("solver", STOCHASTIC)
def test_matched_takes_any_solver_and_published_says_which(solver):
    made = family("sd3")
    made.pipe.scheduler = STOCHASTIC[solver]()
    torch.manual_seed(0)
    plain = run(made, STEPS)
    with apply_progressive(made.pipe, ProgressiveConfig(schedule="matched", transition_sigmas=[0.5])) as handle:
        torch.manual_seed(0)
        coarse = run(made, STEPS)
    summary = handle.summary()
    assert len(summary["stages"]) == 2
    # Heun's second evaluations are steps of its scheduler as well.
    assert sum(stage["steps"] for stage in summary["stages"]) == summary["steps"] == len(made.pipe.scheduler.timesteps)
    assert 0.01 < distance(coarse, plain) < 1.5 and bool(coarse.isfinite().all())
    for schedule in ("published", "respaced"):
        with pytest.raises(ValueError, match=r"needs one of FlowMatchEuler|is stochastic"):
            apply_progressive(made.pipe, ProgressiveConfig(schedule=schedule))
    assert not made.pipe.transformer._forward_pre_hooks and "progress_bar" not in vars(made.pipe)


def test_matched_starts_from_pictures_at_any_strength():
    made = family("flux_img2img")
    made.call["strength"] = 0.75
    plain = run(made, STEPS)
    with apply_progressive(made.pipe, ProgressiveConfig(schedule="matched", transition_sigmas=[0.4])) as handle:
        seen = []
        hook = made.pipe.transformer.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["hidden_states"].shape[1]), with_kwargs=True
        )
        coarse = run(made, STEPS)
        hook.remove()
    assert seen[0] == 48 and seen[-1] == 192 and len(seen) == 6  # 8 steps at strength 0.75
    assert 0.01 < distance(coarse, plain) < 1
    summary = handle.summary()
    assert summary["schedule"] == "matched" and summary["steps"] == 6
    assert [(stage["first step"], stage["steps"]) for stage in summary["stages"]] == [(2, 3), (5, 3)]
    assert seen == [48] * 3 + [192] * 3
    assert summary["fewer token-steps"] == 192 * 6 / sum(seen)
    for schedule in ("published", "respaced"):
        config = ProgressiveConfig(schedule=schedule, transition_sigmas=[0.8])
        with apply_progressive(made.pipe, config), pytest.raises(ValueError, match=r"strength < 1.*matched"):
            run(made, STEPS)
    assert_same_bits(run(made, STEPS), plain)


@each
@pytest.mark.parametrize("name", ["flux_img2img", "flux_inpaint", "flux_fill"])
def test_pictures_at_full_strength(name, method):
    made = family(name)
    plain = run(made, STEPS)
    with METHODS[method](made.pipe):
        fast = run(made, STEPS)
    assert 0.001 < distance(fast, plain) < 1
    if name == "flux_inpaint":
        # Outside the mask, half of the picture, its own latents end up, whatever happened before.
        assert 0.4 < float((fast == plain).float().mean()) < 0.6


@each
def test_lora(method):
    from peft import LoraConfig

    made = flux()
    made.pipe.set_progress_bar_config(disable=True)
    with METHODS[method](made.pipe):
        without = run(made, STEPS)
        made.pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
        withit = run(made, STEPS)
        assert distance(withit, without) > 1e-4
        scaled = run(made, STEPS, joint_attention_kwargs={"scale": 0.0})
        made.pipe.transformer.disable_adapters()
        assert_same_bits(run(made, STEPS), without)
    assert distance(scaled, without) < 1e-5
    made.pipe.transformer.enable_adapters()
    fresh = METHODS[method](made.pipe)
    assert_same_bits(run(made, STEPS), withit)
    fresh.remove()


@each
@pytest.mark.parametrize("offload_first", [True, False])
def test_model_offload(method, offload_first):
    """What `enable_model_cpu_offload` does, from the CPU to the CPU: hooks that its end takes off and puts back."""
    from accelerate import cpu_offload_with_hook
    from accelerate.hooks import remove_hook_from_module

    made = flux()
    made.pipe.set_progress_bar_config(disable=True)
    with METHODS[method](made.pipe):
        expected = run(made, STEPS)
    if offload_first:
        cpu_offload_with_hook(made.pipe.transformer, torch.device("cpu"))
    with METHODS[method](made.pipe):
        if not offload_first:
            cpu_offload_with_hook(made.pipe.transformer, torch.device("cpu"))
        for _ in range(2):
            assert_same_bits(run(made, STEPS), expected)
            remove_hook_from_module(made.pipe.transformer, recurse=True)
            cpu_offload_with_hook(made.pipe.transformer, torch.device("cpu"))


@each
@pytest.mark.parametrize("offload_first", [True, False])
def test_group_offload(method, offload_first):
    made = flux()
    made.pipe.set_progress_bar_config(disable=True)
    cpu = torch.device("cpu")
    options = {"onload_device": cpu, "offload_device": cpu, "offload_type": "block_level", "num_blocks_per_group": 1}
    with METHODS[method](made.pipe):
        expected = run(made, STEPS)
    if offload_first:
        made.pipe.transformer.enable_group_offload(**options)
    with METHODS[method](made.pipe):
        if not offload_first:
            made.pipe.transformer.enable_group_offload(**options)
        for _ in range(2):
            assert_same_bits(run(made, STEPS), expected)


# Compilation takes seconds: each order once for either kind of hook, on a small model with both kinds of blocks.
@pytest.mark.parametrize(
    ("method", "compile_first"),
    [("published", True), ("matched", False), ("both", True), ("both", False)],
)
def test_compiled_blocks_have_no_graph_breaks(method, compile_first):
    made = flux(layers=(1, 2))
    made.pipe.set_progress_bar_config(disable=True)
    with METHODS[method](made.pipe):
        expected = run(made, STEPS)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = {"fullgraph": True, "backend": "eager", "dynamic": True}
    if compile_first:
        made.pipe.transformer.compile_repeated_blocks(**compiled)
    with METHODS[method](made.pipe):
        if not compile_first:
            made.pipe.transformer.compile_repeated_blocks(**compiled)
        first = run(made, STEPS)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert_same_bits(run(made, STEPS), first)
    assert distance(first, expected) < 1e-5
    assert not torch._dynamo.utils.counters["graph_break"] and graphs > 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "the second run compiled again"
    torch._dynamo.reset()


@pytest.mark.parametrize("method", ["matched", "both"])
def test_whole_model_compiled(method):
    """Its hooks break the graph in some places, but nothing is compiled again, be the step coarse or skipped."""
    made = flux(layers=(1, 1))
    made.pipe.set_progress_bar_config(disable=True)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with METHODS[method](made.pipe):
        expected = run(made, STEPS)
        made.pipe.transformer.compile(backend="eager")
        assert distance(run(made, STEPS), expected) < 1e-5
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        run(made, STEPS)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs > 0
    torch._dynamo.reset()


@each
def test_modular_pipelines(method):
    """A modular pipeline of its own blocks, given the same components: the same bits as the pipeline's."""
    from diffusers.modular_pipelines.flux.modular_blocks_flux import FluxCoreDenoiseStep

    made = family("flux")
    modular = FluxCoreDenoiseStep().init_pipeline()
    modular.update_components(transformer=made.pipe.transformer, scheduler=made.pipe.scheduler)
    modular.set_progress_bar_config(disable=True)
    call = {key: made.call[key] for key in ("prompt_embeds", "pooled_prompt_embeds", "guidance_scale")}

    def latents():
        # Without an autoencoder it takes one latent pixel for 8 pixels.
        size = {"height": 8 * 32, "width": 8 * 24, "num_inference_steps": STEPS}
        planes = modular(**call, **size, generator=torch.Generator().manual_seed(0)).get("latents")
        return made.pack(planes) if planes.ndim == 4 else planes

    plain = latents()
    assert_same_bits(plain, run(made, STEPS))
    with METHODS[method](made.pipe):
        expected = run(made, STEPS)
    for pipe in (made.pipe, modular):
        with METHODS[method](pipe):
            assert_same_bits(latents(), expected)
            assert_same_bits(latents(), expected)
    assert distance(expected, plain) > 0.01
    assert_same_bits(latents(), plain)


@each
def test_custom_levels_and_half_precision(method):
    made = flux()
    made.pipe.set_progress_bar_config(disable=True)
    sigmas = [1.0, 0.9, 0.8, 0.6, 0.5, 0.3, 0.2, 0.1]
    with METHODS[method](made.pipe):
        single = run(made, STEPS, sigmas=sigmas)
    plain = run(made, STEPS, sigmas=sigmas)
    made.pipe.to(torch.bfloat16)
    made.call = {k: v.bfloat16() if isinstance(v, torch.Tensor) else v for k, v in made.call.items()}
    half_plain = run(made, STEPS, sigmas=sigmas)
    with METHODS[method](made.pipe):
        half = run(made, STEPS, sigmas=sigmas)
    assert half.dtype == torch.bfloat16
    # As far from its float32 twin as the plain pipeline in bfloat16 is from its own, within a factor.
    assert distance(half, single) < 2 * distance(half_plain, plain) + 0.01
