# SPDX-License-Identifier: Apache-2.0
"""The progressive adapter against pipelines that know nothing of it (coarse_loop.py), on every model."""

import copy
import inspect
import itertools

import numpy as np
import pytest
import torch
from bits import assert_same_bits

diffusers = pytest.importorskip("diffusers", reason="needs the extra [diffusers]")

from coarse_loop import align, composed, denoisers, distance, explicit, ratio_of, recorded  # noqa: E402
from pipelines import FAMILIES, family, run  # noqa: E402

from spectral_kernels import resolution_schedule  # noqa: E402
from spectral_kernels.adapters.diffusers import ProgressiveConfig, apply_progressive  # noqa: E402

FLOW = [name for name in FAMILIES if name != "sdxl"]
# Guidance where there is some; without it the denoiser gets the pipeline's own memory, in the layout of each kind once.
ALONE = ("flux", "sd3", "zimage", "wan", "wan_i2v", "ltx", "ltx_i2v")
# It puts a picture's latents into the state after every step: a test of its own.
REPAINTS = "flux_inpaint"
# Fixed steps of the solvers, whatever the thresholds: rounding aside, the adapter and the explicit loop are one method.
TOLERANCE = 1e-5
# Ideogram 4 embeds 10^4 t, so the last bit of t, which the pipeline computes as 1 - timestep / 1000, is 6e-4 radians.
TOLERANCES = {"ideogram4": 3e-5}
STEPS = 6


def shapes_seen(family, **call):
    """The shapes of the state at each call of a denoiser."""
    seen = []

    def note(module, args, kwargs):
        state = kwargs["hidden_states"] if "hidden_states" in kwargs else kwargs.get("x", args[0] if args else None)
        while isinstance(state, list):  # of samples, and a sample's own picture after its references
            state = state[-1]
        seen.append(tuple(state.shape))

    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in denoisers(family.pipe)]
    result = run(family, STEPS, **call)
    for hook in hooks:
        hook.remove()
    return seen, result


def with_guidance(name: str, guided: bool = True):
    made = family(name)
    if guided:
        made.call |= made.guided or {}
    return made


each_with_and_without_guidance = pytest.mark.parametrize(
    ("name", "guided"), [*((name, True) for name in FLOW if name != REPAINTS), *((name, False) for name in ALONE)]
)


def threshold(made, index: int, full: float | None = None) -> float:
    """A level between those of steps index - 1 and index, so that the transition is at `index`."""
    sigmas = recorded(made, STEPS).sigmas
    if full is not None:
        sigmas = [align(sigma, 1 / full) for sigma in sigmas]
    return (sigmas[index - 1] + sigmas[index]) / 2


@each_with_and_without_guidance
def test_published_is_the_explicit_loop(name, guided):
    made = with_guidance(name, guided)
    fine = made.grid
    # With two experts, a transition at step 3 would lead back over their boundary: a test of its own.
    sizes, first = [(fine[0] // 2, fine[1] // 2), fine], 4 if name == "wan22" else 3
    transition = threshold(made, first)
    expected = explicit(made, sizes, [first], STEPS)
    with apply_progressive(
        made.pipe, ProgressiveConfig(schedule="published", transition_sigmas=[transition])
    ) as handle:
        actual = recorded_result(made)
    assert [stage["first step"] for stage in handle.summary()["stages"]] == [0, first]
    assert distance(actual, expected) <= TOLERANCES.get(name, TOLERANCE)


def recorded_result(made, steps: int = STEPS, **call):
    """What the scheduler's last step returned: pipelines may change their latents once more."""
    results = []
    scheduler = made.pipe.scheduler
    original = type(scheduler).step

    def step(*args, **kwargs):
        out = original(scheduler, *args, **kwargs)
        results.append(out[0])
        return out

    scheduler.step = step
    run(made, steps, **call)
    return results[-1]


@each_with_and_without_guidance
def test_matched_is_the_composed_velocity(name, guided):
    made = with_guidance(name, guided)
    fine = made.grid
    sizes, first = [(fine[0] // 2, fine[1] // 2), fine], 3
    transition = threshold(made, first, ratio_of(fine, sizes[0]))
    expected = composed(made, sizes, [first], STEPS)
    config = ProgressiveConfig(schedule="matched", transition_sigmas=[transition])
    with apply_progressive(made.pipe, config) as handle:
        actual = recorded_result(made)
    assert [stage["first step"] for stage in handle.summary()["stages"]] == [0, first]
    assert distance(actual, expected) <= TOLERANCES.get(name, TOLERANCE)


# Published differs from respaced by the levels after a transition alone.
@pytest.mark.parametrize(
    ("name", "schedule"),
    [("flux", "published"), ("wan", "published"), *itertools.product(FLOW, ["respaced", "matched"])],
)
def test_without_coarse_steps_and_after_removal_it_is_the_plain_pipeline(name, schedule):
    made = with_guidance(name)
    plain = run(made, STEPS)
    handle = apply_progressive(made.pipe, ProgressiveConfig(schedule=schedule, scales=(1.0,)))
    assert_same_bits(run(made, STEPS), plain)
    handle.remove()
    handle = apply_progressive(made.pipe, ProgressiveConfig(schedule=schedule, transition_sigmas=[0.7]))
    assert distance(run(made, STEPS), plain) > 0.01
    handle.remove()
    assert_same_bits(run(made, STEPS), plain)
    assert "step" not in vars(made.pipe.scheduler) and "progress_bar" not in vars(made.pipe)


# Stages of a FLUX run of 8 steps: grid of 32 x 24 latent pixels, patches of 2.
STAGES = {
    # Three stages, ratio 2 each: alignment composes.
    "three stages": ((0.25, 0.5, 1.0), [(8, 6), (16, 12), (32, 24)], [2, 4]),
    # A stage may grow in one direction alone.
    "per axis": (((0.5, 1.0), 1.0), [(16, 24), (32, 24)], [3]),
    # 32 x 24 times 0.7 is 22.4 x 16.8: rounded to patches, the ratio is 1.488.
    "no halves": ((0.7, 1.0), [(22, 16), (32, 24)], [3]),
}


@pytest.mark.parametrize("basis", ["dct", "fft", "haar", "db2"])
@pytest.mark.parametrize("stages", STAGES)
def test_stages_scales_and_bases(stages, basis):
    if basis == "db2":
        pytest.importorskip("pywt", reason="needs the extra [wavelets]")
    if basis in ("haar", "db2") and stages == "no halves":
        with (
            apply_progressive(family("flux").pipe, ProgressiveConfig(scales=STAGES[stages][0], basis=basis)) as handle,
            pytest.raises(ValueError, match="power of two for a wavelet"),
        ):
            run(family("flux"), STEPS)
        return
    scales, sizes, firsts = STAGES[stages]
    made = with_guidance("flux")
    sigmas = recorded(made, 8).sigmas
    levels = [sigmas[first] for first in firsts]
    config = ProgressiveConfig(schedule="published", scales=scales, basis=basis, transition_sigmas=levels)
    with apply_progressive(made.pipe, config) as handle:
        actual = recorded_result(made, 8)
    summary = handle.summary()
    assert [stage["grid"] for stage in summary["stages"]] == sizes
    assert [stage["tokens"] for stage in summary["stages"]] == [h * w // 4 for h, w in sizes]
    assert [stage["first step"] for stage in summary["stages"]] == [0, *firsts]
    assert distance(actual, explicit(made, sizes, firsts, 8, basis=basis)) <= TOLERANCE


@pytest.mark.parametrize("name", ["wan", "ltx", "ltx_i2v"])
def test_matched_in_a_wavelet_basis(name):
    made = with_guidance(name)
    fine = made.grid
    sizes = [(fine[0] // 2, fine[1] // 2), fine]
    config = ProgressiveConfig(schedule="matched", basis="haar", transition_sigmas=[threshold(made, 3, 2)])
    with apply_progressive(made.pipe, config):
        actual = recorded_result(made)
    assert distance(actual, composed(made, sizes, [3], STEPS, basis="haar")) <= TOLERANCE


@pytest.mark.parametrize("schedule", ["published", "matched"])
def test_inpainting_puts_the_picture_back_at_full_resolution(schedule):
    """After every step, outside the mask: its latents at the level of the full-resolution coordinates."""
    made = with_guidance(REPAINTS)
    fine, first = made.grid, 3
    sizes = [(fine[0] // 2, fine[1] // 2), fine]
    plain, painted = recorded(made, STEPS), run(made, STEPS)
    levels = plain.sigmas
    if schedule == "published":
        levels = [align(sigma, 2) if k <= first else sigma for k, sigma in enumerate(levels)]
    mask = torch.nn.functional.interpolate(made.call["mask_image"], size=fine).expand(-1, 4, -1, -1)
    mask, noise = made.pack(mask), plain.samples[0]

    def put_back(z, level):
        return mask * z + (1 - mask) * (level * noise + (1 - level) * painted)

    expected = composed(made, sizes, [first], STEPS, levels, put_back)
    transition = threshold(made, first, 2 if schedule == "matched" else None)
    with apply_progressive(made.pipe, ProgressiveConfig(schedule=schedule, transition_sigmas=[transition])):
        actual = run(made, STEPS)
    assert distance(actual, expected) <= TOLERANCE
    assert_same_bits(actual[mask == 0], painted[mask == 0])
    assert distance(actual, painted) > 0.01


def test_a_multistep_solver_of_the_other_kind():
    """DPM++ in place of UniPC: both remember, and both forget at the transition."""
    made = with_guidance("wan")
    made.pipe.scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    fine = made.grid
    config = ProgressiveConfig(schedule="published", transition_sigmas=[threshold(made, 3)])
    with apply_progressive(made.pipe, config):
        actual = recorded_result(made)
    assert distance(actual, explicit(made, [(fine[0] // 2, fine[1] // 2), fine], [3], STEPS)) <= TOLERANCE


# A grid of 18 x 22, whose halves are odd, so not whole patches: 8 x 12 or 10 x 12, wherever rounding puts them.
@pytest.mark.parametrize("name", ["flux", "zimage", "wan"])
def test_sizes_that_do_not_divide(name):
    made = with_guidance(name)
    made.call |= {"height": 18 * made.cell, "width": 22 * made.cell}
    transition = threshold(made, 3)
    with apply_progressive(
        made.pipe, ProgressiveConfig(schedule="published", transition_sigmas=[transition])
    ) as handle:
        actual = recorded_result(made)
    coarse = handle.summary()["stages"][0]["grid"]
    assert coarse[0] in (8, 10) and coarse[1] in (10, 12)
    assert distance(actual, explicit(made, [coarse, (18, 22)], [3], STEPS)) <= TOLERANCE


@pytest.mark.parametrize("name", ["flux", "wan", "ltx", "ltx_i2v", "qwen_layered"])
def test_unaligned(name):
    made = with_guidance(name)
    fine = made.grid
    sizes = [(fine[0] // 2, fine[1] // 2), fine]
    config = ProgressiveConfig(schedule="published", align=False, transition_sigmas=[threshold(made, 3)])
    with apply_progressive(made.pipe, config):
        actual = recorded_result(made)
    assert distance(actual, explicit(made, sizes, [3], STEPS, aligned=False)) <= TOLERANCE


@pytest.mark.parametrize("name", [name for name in FLOW if name != REPAINTS])
def test_respaced_spreads_the_levels_after_the_transition(name):
    made = with_guidance(name)
    # Two experts: at step 3 the transition would lead back over their boundary.
    fine, first, steps = made.grid, 5 if name == "wan22" else 3, 8
    sizes = [(fine[0] // 2, fine[1] // 2), fine]
    sigmas = recorded(made, steps).sigmas
    start = align(sigmas[first], ratio_of(fine, sizes[0]))
    # sigma as a function of the step, and back: piecewise linear, decreasing.
    begin = np.interp(-start, [-sigma for sigma in sigmas], range(steps + 1))
    levels = np.interp(np.linspace(begin, steps, steps - first + 1), range(steps + 1), sigmas)[:-1]
    config = ProgressiveConfig(schedule="respaced", transition_sigmas=[sigmas[first]])
    with apply_progressive(made.pipe, config):
        actual = recorded_result(made, steps)
    expected = explicit(made, sizes, [first], steps, respaced=[float(x) for x in levels])
    assert distance(actual, expected) <= TOLERANCES.get(name, TOLERANCE)


def test_delta_and_spectrum_decide_by_default():
    """FLUX.1 at 1024 pixels has 18 coarse steps of 50 at delta = 0.01 (the paper's table); here the grid is 32 x 24."""
    made = family("flux")
    with apply_progressive(made.pipe, ProgressiveConfig(delta=0.01)) as handle:
        run(made, 12)
        few = handle.summary()["stages"]
    with apply_progressive(made.pipe, ProgressiveConfig(delta=0.2)) as handle:
        run(made, 12)
        many = handle.summary()["stages"]
    assert few[0]["grid"] == many[0]["grid"] == (16, 12)
    assert 0 < few[0]["steps"] < many[0]["steps"] < 12
    text = str(handle.summary())
    assert "16 x 12" in text and "fewer token-steps" in text


@pytest.mark.parametrize("name", FLOW)
def test_shapes_that_the_denoiser_sees(name):
    made = with_guidance(name)
    plain, _ = shapes_seen(made)
    with apply_progressive(made.pipe, ProgressiveConfig(transition_sigmas=[threshold(made, 4)])) as handle:
        seen, _ = shapes_seen(made)
    stages = handle.summary()["stages"]
    assert len(seen) == len(plain)
    calls = len(seen) // STEPS
    # Of references, at every stage; once only where their keys and values are kept.
    references = {"flux2_klein_reference": 256, "flux_kontext": 128, "qwen_edit": 24 + 64}.get(name, 0)
    for index, (shape, full) in enumerate(zip(seen, plain, strict=True)):
        stage = max((s for s in stages if s["first step"] <= index // calls), key=lambda s: s["first step"])
        tokens, whole = stage["tokens"], stages[-1]["tokens"]
        if len(full) == 3:
            text = {"ideogram4": 6}.get(name, 0) if index % calls == 0 else 0
            others = references + text + (256 if (name, index) == ("flux2_klein_kv", 0) else 0)
            frames = (full[1] - others) // whole
            assert shape == (full[0], tokens * frames + others, full[2])
        else:
            assert shape[-2:] == tuple(stage["grid"]) and shape[:-2] == full[:-2]


def test_two_experts_are_not_asked_again():
    """Alignment would lead from the low-noise expert back to the high-noise one: the transition is moved before it."""
    made = family("wan22")
    made.call |= made.guided
    levels = recorded(made, 20).sigmas
    first = next(k for k, sigma in enumerate(levels) if sigma < 0.875)
    order = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name, module in (("high", made.pipe.transformer), ("low", made.pipe.transformer_2))
    ]
    with apply_progressive(made.pipe, ProgressiveConfig(transition_sigmas=[0.86])) as handle:
        run(made, 20)
    [hook.remove() for hook in hooks]
    assert [name for name, _ in itertools.groupby(order)] == ["high", "low"]
    summary = handle.summary()
    assert summary["stages"][1]["first step"] < first
    assert "moved before the experts' boundary 0.875" in str(summary)


def eps_prediction(made):
    made.pipe.scheduler = diffusers.EulerDiscreteScheduler()


def unknown_denoiser(made):
    made.pipe.transformer = torch.nn.Linear(2, 2)


def context_parallel(made):
    made.pipe.transformer = copy.copy(made.pipe.transformer)
    made.pipe.transformer._parallel_config = object()


def dpm_in_noise(made):
    made.pipe.scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        algorithm_type="dpmsolver",
        final_sigmas_type="sigma_min",
    )


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (eps_prediction, "does not follow a flow"),
        (unknown_denoiser, "no facts are known about Linear.*Add a row"),
        (context_parallel, "context parallelism"),
        (dpm_in_noise, "needs a solver in terms of the clean prediction"),
    ],
)
def test_refusals_when_applied(prepare, message):
    made = family("flux")
    kept = made.pipe.transformer
    try:
        prepare(made)
        with pytest.raises(ValueError, match=message):
            apply_progressive(made.pipe)
    finally:
        made.pipe.transformer = kept
    assert "progress_bar" not in vars(made.pipe) and not kept._forward_pre_hooks


def test_noise_predicting_unet_is_refused():
    with pytest.raises(ValueError, match="predicts noise"):
        apply_progressive(family("sdxl").pipe)


@pytest.mark.parametrize("schedule", ["published", "respaced", "matched"])
@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("flux", "controlnet_block_samples", "ControlNet cannot be used in coarse steps"),
        ("qwen", "controlnet_block_samples", "ControlNet cannot be used in coarse steps"),
        ("zimage", "controlnet_block_samples", "ControlNet cannot be used in coarse steps"),
        ("sd3", "block_controlnet_hidden_states", "ControlNet cannot be used in coarse steps"),
        ("hunyuan15", "timestep_r", "a model of mean flow"),
    ],
)
def test_what_belongs_to_the_full_grid_is_refused_in_coarse_steps_and_nothing_stays(name, argument, message, schedule):
    made = family(name)
    plain = run(made, STEPS)
    with apply_progressive(made.pipe, ProgressiveConfig(schedule=schedule, transition_sigmas=[0.7])):
        hook = made.pipe.transformer.register_forward_pre_hook(
            lambda module, args, kwargs: (args, kwargs | {argument: [torch.zeros(1)]}), with_kwargs=True, prepend=True
        )
        with pytest.raises(ValueError, match=message):
            run(made, STEPS)
        hook.remove()
    assert_same_bits(run(made, STEPS), plain)


def test_the_schedule_is_the_library_s_unless_named():
    default = inspect.signature(resolution_schedule).parameters["schedule"].default
    assert ProgressiveConfig().schedule == default == "respaced"


def test_a_second_application_is_refused_and_leaves_the_first():
    made = family("flux")
    with apply_progressive(made.pipe, ProgressiveConfig(transition_sigmas=[0.7])):
        expected = run(made, STEPS)
        with pytest.raises(ValueError, match="is progressive already"):
            apply_progressive(made.pipe)
        assert_same_bits(run(made, STEPS), expected)
