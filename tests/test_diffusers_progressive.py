# SPDX-License-Identifier: Apache-2.0
"""The progressive adapter against pipelines that know nothing of it (coarse_loop.py), on every model."""

import pytest
from bits import assert_same_bits

diffusers = pytest.importorskip("diffusers", reason="needs the extra [diffusers]")

from coarse_loop import align, composed, distance, explicit, ratio_of, recorded  # noqa: E402
from pipelines import FAMILIES, family, run  # noqa: E402

from spectral_kernels.adapters.diffusers import ProgressiveConfig, apply_progressive  # noqa: E402

FLOW = [name for name in FAMILIES if name != "sdxl"]
# These mix a picture into the state or beside it; their coarse twin would need that picture's own coarse latents.
PICTURES = ("flux_img2img", "flux_inpaint", "flux_fill")
# Fixed steps of the solvers, whatever the thresholds: rounding aside, the adapter and the explicit loop are one method.
TOLERANCE = 1e-5
# Ideogram 4 embeds 10^4 t, so the last bit of t, which the pipeline computes as 1 - timestep / 1000, is 6e-4 radians.
TOLERANCES = {"ideogram4": 3e-5}
STEPS = 6


def shapes_seen(family, **call):
    """The shapes of the state at each call of a denoiser."""
    seen = []

    def note(module, args, kwargs):
        state = kwargs.get("hidden_states", args[0] if args else None)
        seen.append(tuple(state[0].shape) if isinstance(state, list) else tuple(state.shape))

    modules = [
        getattr(family.pipe, name, None) for name in ("transformer", "transformer_2", "unconditional_transformer")
    ]
    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in modules if module is not None]
    result = run(family, STEPS, **call)
    for hook in hooks:
        hook.remove()
    return seen, result


def with_guidance(name: str, guided: bool):
    made = family(name)
    if guided:
        if made.guided is None:
            pytest.skip("this pipeline has no guidance to switch on")
        made.call |= made.guided
    return made


def threshold(made, index: int, full: float | None = None) -> float:
    """A level between those of steps index - 1 and index, so that the transition is at `index`."""
    sigmas = recorded(made, STEPS).sigmas
    if full is not None:
        sigmas = [align(sigma, 1 / full) for sigma in sigmas]
    return (sigmas[index - 1] + sigmas[index]) / 2


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", [name for name in FLOW if name not in PICTURES])
def test_published_is_the_explicit_loop(name, guided):
    made = with_guidance(name, guided)
    fine = made.grid
    # With two experts, a transition at step 3 would lead back over their boundary: a test of its own.
    sizes, first = [(fine[0] // 2, fine[1] // 2), fine], 4 if name == "wan22" else 3
    transition = threshold(made, first)
    expected = explicit(made, sizes, [first], STEPS)
    with apply_progressive(made.pipe, ProgressiveConfig(transition_sigmas=[transition])) as handle:
        actual = recorded_result(made)
    assert [stage["first step"] for stage in handle.summary()["stages"]] == [0, first]
    assert distance(actual, expected) <= TOLERANCES.get(name, TOLERANCE)


def recorded_result(made, **call):
    """What the scheduler's last step returned: pipelines may change their latents once more."""
    results = []
    scheduler = made.pipe.scheduler
    original = type(scheduler).step

    def step(*args, **kwargs):
        out = original(scheduler, *args, **kwargs)
        results.append(out[0])
        return out

    scheduler.step = step
    run(made, STEPS, **call)
    return results[-1]


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", [name for name in FLOW if name not in (*PICTURES, "wan22")])
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


@pytest.mark.parametrize("schedule", ["published", "respaced", "matched"])
@pytest.mark.parametrize("name", FLOW)
def test_without_coarse_steps_and_after_removal_it_is_the_plain_pipeline(name, schedule):
    made = with_guidance(name, built_with_guidance(name))
    plain = run(made, STEPS)
    handle = apply_progressive(made.pipe, ProgressiveConfig(schedule=schedule, scales=(1.0,)))
    assert_same_bits(run(made, STEPS), plain)
    handle.remove()
    handle = apply_progressive(made.pipe, ProgressiveConfig(schedule=schedule, transition_sigmas=[0.7]))
    assert distance(run(made, STEPS), plain) > 0.01
    handle.remove()
    assert_same_bits(run(made, STEPS), plain)
    assert "step" not in vars(made.pipe.scheduler) and "progress_bar" not in vars(made.pipe)


def built_with_guidance(name: str) -> bool:
    return family(name).guided is not None
