# SPDX-License-Identifier: Apache-2.0
"""The forecasting adapter: which blocks run, what stands in for them, and that nothing else changes, on every model."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from bits import assert_same_bits

diffusers = pytest.importorskip("diffusers", reason="needs the extra [diffusers]")

from picture_pipelines import flux  # noqa: E402
from pipelines import FAMILIES, family, run  # noqa: E402

from bench import forecast_memory  # noqa: E402
from bench.forecast_peers import BYTES  # noqa: E402
from reference import forecast as reference  # noqa: E402
from spectral_kernels.adapters.diffusers import ForecastConfig, apply_forecast  # noqa: E402
from spectral_kernels.evaluation import evaluation_steps  # noqa: E402

# The blocks of VACE cannot be left out.
FORECAST = [name for name in FAMILIES if name != "wan_vace"]
# Long enough for a warm-up, single and double gaps.
STEPS = 12
SHORT = ForecastConfig(warmup=3, rewarm=2)
EVALUATED = [0, 1, 2, 4, 6, 9]  # evaluation_steps(12, 2, 3, 0.75), by hand from the rule

LISTS = {
    "transformer_blocks", "single_transformer_blocks", "blocks", "layers", "noise_refiner", "context_refiner",
    "down_blocks", "mid_block", "up_blocks", "joint_transformer_blocks",
}  # fmt: skip


class Executions:
    """Counts the blocks that run in each step of a run, per denoiser."""

    def __init__(self, pipe):
        self.pipe, self.counts, self.hooks = pipe, [], []
        for name in ("transformer", "transformer_2", "unconditional_transformer", "unet"):
            denoiser = getattr(pipe, name, None)
            if denoiser is None:
                continue
            children = [(name, child) for name, child in denoiser.named_children() if name in LISTS]
            for _, child in children:
                blocks = child if isinstance(child, torch.nn.ModuleList) else [child]
                self.hooks += [block.register_forward_hook(self.count) for block in blocks]

    def count(self, *_):
        step = self.pipe.scheduler.step_index or 0
        self.counts += [0] * (step + 1 - len(self.counts))
        self.counts[step] += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


def made_with_guidance(name):
    made = family(name)
    made.call |= made.guided or {}
    return made


@pytest.mark.parametrize("name", FORECAST)
def test_blocks_run_on_evaluated_steps_alone(name):
    made = made_with_guidance(name)
    with Executions(made.pipe) as plain:
        run(made, STEPS)
    with apply_forecast(made.pipe, SHORT) as handle, Executions(made.pipe) as fast:
        first = run(made, STEPS)
        again = run(made, STEPS)
    fast.counts += [0] * (STEPS - len(fast.counts))
    evaluated = set(EVALUATED)
    if name == "wan22":
        # The second expert takes over at step 4 and begins a history of its own.
        evaluated |= {4, 5}
    assert [2 * count if step in evaluated else 0 for step, count in enumerate(plain.counts)] == fast.counts
    assert bool(first.isfinite().all())
    assert_same_bits(again, first)
    for branch in handle.summary()["branches"]:
        assert set(branch["steps evaluated"]) <= evaluated and branch["peak bytes"] > 0


@pytest.mark.parametrize("name", FORECAST)
def test_all_evaluated_and_after_removal_it_is_the_plain_pipeline(name):
    made = made_with_guidance(name)
    plain = run(made, STEPS)
    attributes = set(vars(made.pipe))  # a pipeline's first call adds some of its own
    with apply_forecast(made.pipe, ForecastConfig(steps=range(STEPS))):
        assert_same_bits(run(made, STEPS), plain)
    handle = apply_forecast(made.pipe, SHORT)
    assert not torch.equal(run(made, STEPS), plain)
    handle.remove()
    assert_same_bits(run(made, STEPS), plain)
    assert set(vars(made.pipe)) == attributes
    denoiser = made.pipe.unet if hasattr(made.pipe, "unet") else made.pipe.transformer
    assert "cache_context" not in vars(denoiser) and not denoiser._forward_pre_hooks and not denoiser._forward_hooks


# One model for each way in which a last block answers: a pair with the feature second or first, alone, or the end of a
# sequence after so many tokens of text; states of tokens and of planes.
ANSWERS = [("flux", 1, 0), ("hunyuan", 0, 0), ("wan", None, 0), ("flux2_klein", "image", 8), ("auraflow", "image", 14)]


@pytest.mark.parametrize(("name", "place", "text"), ANSWERS)
def test_forecasts_are_the_reference_on_the_recorded_features(name, place, text):
    made = made_with_guidance(name)
    model = made.pipe.transformer
    config = ForecastConfig(warmup=3, degree=3, ridge=0.05, blend=0.7)
    seen, passed = [], []
    last = (model.single_transformer_blocks if hasattr(model, "single_transformer_blocks") else model.blocks)[-1]

    def keep(module, args, out):
        feature = out if place in (None, "image") else out[place]
        if place == "image":
            feature = feature[:, text:]
        seen.append(feature.clone())

    def note(module, args):
        passed.append(args[0].clone())

    hooks = [last.register_forward_hook(keep), model.norm_out.register_forward_pre_hook(note)]
    with apply_forecast(made.pipe, config):
        run(made, STEPS)
    for hook in hooks:
        hook.remove()
    # Evaluated features and what the output layers got, of each branch; guidance may be one call of two samples.
    branches = len(passed) // STEPS
    for branch in range(branches):
        history, given = iter(seen[branch::branches]), passed[branch::branches]
        assert len(given) == STEPS
        features, steps = [], []
        for step in range(STEPS):
            if step in EVALUATED:
                features.append(next(history))
                steps.append(step)
                continue
            weights = reference.chebyshev_weights(steps, step, STEPS, degree=3, ridge=0.05, blend=0.7)
            expected = reference.forecast([f.numpy() for f in features], weights)
            assert_same_bits(given[step].contiguous(), expected)


@pytest.mark.parametrize("options", [{}, {"storage": "moments"}, {"encoding": "int8"}], ids=str)
@pytest.mark.parametrize("name", ["flux2_klein", "krea2"])
def test_samples_of_a_batch_where_text_and_image_are_one_sequence(name, options):
    made = made_with_guidance(name)
    with apply_forecast(made.pipe, replace(SHORT, **options)):
        singles = [run(made, STEPS, seed=seed) for seed in (3, 4)]
        generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
        both = run(made, STEPS, num_images_per_prompt=2, generator=generators)
    # Matrix products of another batch size add in another order; int8 rounds what they give.
    near = 1e-5 if options != {"encoding": "int8"} else 1e-2
    for one, single in zip(both, singles, strict=True):
        assert (one - single[0]).norm() < near * single.norm()


# Table 6 of Spectrum: window, warm-up, flex and the evaluations of 50 steps that they make.
@pytest.mark.parametrize(
    ("window", "warmup", "flex", "evaluations"),
    [(4, 1, 0, 13), (4, 3, 0, 14), (4, 5, 0, 16), (2, 5, 0.75, 14), (6, 1, 0, 9), (2, 5, 3.0, 10)],
)
def test_evaluations_of_fifty_steps(window, warmup, flex, evaluations):
    made = family("flux")
    config = ForecastConfig(window=window, warmup=warmup, flex=flex)
    with apply_forecast(made.pipe, config) as handle, Executions(made.pipe) as executions:
        run(made, 50)
    assert sum(count > 0 for count in executions.counts) == evaluations
    assert [branch["evaluated"] for branch in handle.summary()["branches"]] == [evaluations]


@pytest.mark.parametrize(
    "options",
    [
        {"method": "taylor", "order": 2},
        {"method": "hermite"},
        {"method": "linear"},
        {"method": "reuse"},
        {"storage": "moments"},
        {"storage": "auto"},
        {"encoding": "int8"},
        {"encoding": "float8", "max_features": 4},
        {"offload": True},
        {"budget": 7},
        {"steps": [0, 1, 3, 7]},
    ],
    ids=str,
)
def test_methods_and_storage(options):
    made = made_with_guidance("flux")
    plain = run(made, STEPS)
    chebyshev = ForecastConfig(warmup=3)
    with apply_forecast(made.pipe, chebyshev):
        usual = run(made, STEPS)
    with apply_forecast(made.pipe, ForecastConfig(warmup=3, **options)) as handle:
        other = run(made, STEPS)
    evaluated = handle.summary()["branches"][0]["steps evaluated"]
    if "budget" in options or "steps" in options:
        assert evaluated == options.get("steps", evaluated) and len(evaluated) == options.get("budget", 4)
    else:
        assert evaluated == EVALUATED
    distance = (other - plain).norm() / plain.norm()
    assert distance > 0 and distance < 1
    if "method" in options or "encoding" in options:
        assert not torch.equal(other, usual)
    if options == {"offload": True}:
        assert_same_bits(other, usual)
    if options == {"storage": "moments"}:
        # Another order of the same float32 sums: rounding, through six forecasts of a network of unit gain.
        torch.testing.assert_close(other, usual, rtol=1e-3, atol=1e-3)


def test_histories_of_branches_are_separate():
    """The positive branch gets the same features whether or not a negative one runs beside it."""
    made = family("flux")
    with apply_forecast(made.pipe, SHORT) as handle:
        run(made, STEPS)
        alone = handle.summary()["branches"]
        # A negative prompt equal to the positive one leaves guidance without effect: same latents, twice the calls.
        same = {f"negative_{key}": made.call[key] for key in ("prompt_embeds", "pooled_prompt_embeds")}
        plain = run(made, STEPS)
        guided = run(made, STEPS, **same, true_cfg_scale=3.0)
        both = handle.summary()["branches"]
    assert [branch["branch"] for branch in alone] == ["cond"] and [b["branch"] for b in both] == ["cond", "uncond"]
    # neg + 3 (pos - neg) with pos = neg is exact.
    assert_same_bits(guided, plain)


@pytest.mark.parametrize("through", ["the pipeline", "another pipeline with its scheduler"])
def test_memory_is_freed_when_a_run_ends(through):
    made = family("flux")
    user = replace(made, pipe=made.pipe if through == "the pipeline" else diffusers.FluxPipeline.from_pipe(made.pipe))
    with apply_forecast(made.pipe, SHORT) as handle:
        run(user, STEPS)
        held = [branch.forecaster for denoiser in handle.denoisers for branch in denoiser.branches.values()]
    assert held == [None]
    assert handle.summary()["branches"][0]["peak bytes"] == 6 * 192 * 32 * 4  # six features, 192 tokens of 32


# What bench/forecast_memory.py states per element of a bfloat16 feature, and its share of the official form's 38 bytes.
@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 0.75),
        ({"storage": "moments"}, 0.65),
        ({"storage": "auto"}, 0.65),
        ({"max_features": 8, "encoding": "int8"}, 0.25),
        ({"max_features": 8, "encoding": "float8"}, 0.25),
    ],
    ids=str,
)
def test_summary_prints_the_memory_that_the_benchmark_states(options, most):
    made = flux()
    made.pipe.set_progress_bar_config(disable=True)
    made.pipe.to(torch.bfloat16)
    made.call = {k: v.bfloat16() if isinstance(v, torch.Tensor) else v for k, v in made.call.items()}
    same = {f"negative_{key}": made.call[key] for key in ("prompt_embeds", "pooled_prompt_embeds")}
    with apply_forecast(made.pipe, ForecastConfig(**options)) as handle:
        run(made, 50, **same, true_cfg_scale=2.0)
    steps, elements = evaluation_steps(50), 192 * 32
    stated = forecast_memory.per_element(options, steps) * elements
    summary = handle.summary()
    assert [branch["peak bytes"] for branch in summary["branches"]] == [stated, stated]
    assert summary["memory"] == [{"denoiser": "transformer", "peak bytes": 2 * stated}]
    assert str(int(2 * stated)) in str(summary)
    assert stated <= most * BYTES["official"](len(steps)) * elements


# Moments are 5 sums and 2 features, all float32 here: less than 12 features, more than 6.
@pytest.mark.parametrize(("budget", "held"), [(6, 6), (12, 7)])
def test_auto_storage_counts_the_evaluations_to_come(budget, held):
    made = family("flux")
    with apply_forecast(made.pipe, ForecastConfig(warmup=3, budget=budget, storage="auto")) as handle:
        run(made, 24)
    assert handle.summary()["branches"][0]["peak bytes"] == held * 192 * 32 * 4


class Plain(torch.nn.Module):
    """A module of one's own: tokens in, a stack of blocks, tokens out."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Module()
        self.body.stack = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))
        self.head = torch.nn.Linear(8, 2)

    def forward(self, x, t):
        h = x * (1 + t)
        for block in self.body.stack:
            h = torch.tanh(block(h))
        return self.head(h)


def test_any_module():
    model, x = Plain(), torch.randn(2, 5, 8)
    clock = {"step": 0}

    def loop():
        outputs = []
        for step in range(STEPS):
            clock["step"] = step
            outputs.append(model(x, step / STEPS))
        return torch.stack(outputs)

    with torch.no_grad():
        plain = loop()
        # A ridge of 0.1 pulls a fit of few points towards zero; the features of this module are smooth.
        smooth = replace(SHORT, degree=2, ridge=1e-6)
        handle = apply_forecast(model, smooth, blocks=["body.stack"], step_index=lambda: clock["step"], num_steps=STEPS)
        calls = []
        hook = model.body.stack[0].register_forward_hook(lambda *_: calls.append(clock["step"]))
        fast = loop()
        assert calls == EVALUATED
        assert_same_bits(loop(), fast)
        assert_same_bits(fast[EVALUATED], plain[EVALUATED])
        # A smooth trajectory: forecasts are much nearer than the features of the last evaluated step, and not equal.
        held = torch.stack([plain[max(s for s in EVALUATED if s <= step)] for step in range(STEPS)])
        assert 0 < float((fast - plain).norm()) < 0.5 * float((held - plain).norm())
        hook.remove()
        handle.remove()
        assert_same_bits(loop(), plain)


def test_two_threads_in_one_denoiser_at_once():
    """The second is refused, the first is not disturbed; a call that was cut off leaves a way on."""
    model, x = Plain(), torch.randn(2, 5, 8)
    with torch.no_grad():
        plain = model(x, 0.0)
        inside, leave = threading.Event(), threading.Event()
        model.body.stack[1].register_forward_hook(lambda *_: (inside.set(), leave.wait(60)) and None)
        handle = apply_forecast(model, SHORT, blocks=["body.stack"], step_index=lambda: 0, num_steps=STEPS)
        with ThreadPoolExecutor(1) as other:
            first = other.submit(torch.no_grad()(model), x, 0.0)
            assert inside.wait(60)
            with pytest.raises(
                RuntimeError, match=r"apply_forecast: two threads are in Plain at once.*follow the other"
            ):
                model(x, 0.0)
            leave.set()
            assert_same_bits(first.result(), plain)
        assert_same_bits(model(x, 0.0), plain)

        handle.denoisers[0].thread = -1  # as an interrupt from the keyboard leaves it
        with pytest.raises(RuntimeError, match=r"cut off, reset\(\) the handle"):
            model(x, 0.0)
        handle.reset()
        assert_same_bits(model(x, 0.0), plain)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: apply_forecast(torch.nn.Linear(2, 2)), "a module knows no steps"),
        (
            lambda: apply_forecast(torch.nn.Linear(2, 2), step_index=lambda: 0, num_steps=4),
            "no facts are known about Linear.*Add a row",
        ),
        (
            lambda: apply_forecast(Plain(), blocks=["head"], step_index=lambda: 0, num_steps=4),
            "head of Plain must be a list of blocks",
        ),
        (
            lambda: apply_forecast(Plain(), blocks=["body.layers"], step_index=lambda: 0, num_steps=4),
            "Plain has no submodule body.layers",
        ),
        (lambda: apply_forecast(Plain(), blocks=["body.stack"], step_index=int, num_steps=0), "num_steps must be"),
        (
            lambda: apply_forecast(Plain(), blocks=["body.stack"], feature=2, step_index=lambda: 0, num_steps=4),
            "feature must be None, or 0 or 1.*got 2",
        ),
        (lambda: apply_forecast(object()), "has none of transformer"),
        (lambda: apply_forecast(family("wan_vace").pipe), "blocks of WanVACETransformer3DModel cannot be left out"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: apply_forecast(Plain(), blocks="stack", step_index=lambda: 0, num_steps=4), "blocks must be a list"),
        (lambda: apply_forecast(Plain(), blocks=["body.stack"], step_index=3, num_steps=4), "step_index must be a"),
        (lambda: apply_forecast(family("flux").pipe, num_steps=4), "are of a module; FluxPipeline's scheduler"),
    ],
)
def test_arguments_of_another_kind(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_a_module_is_forecast_once():
    model, others = Plain(), {"blocks": ["body.stack"], "step_index": lambda: 0, "num_steps": STEPS}
    with apply_forecast(model, SHORT, **others), pytest.raises(ValueError, match="Plain is forecast already"):
        apply_forecast(model, SHORT, **others)
    apply_forecast(model, SHORT, **others).remove()
    made = family("flux")
    others = {"step_index": lambda: made.pipe.scheduler.step_index or 0, "num_steps": STEPS}
    for first, second in (("pipe", "module"), ("module", "pipe")):
        apply = {
            "pipe": lambda: apply_forecast(made.pipe, SHORT),
            "module": lambda: apply_forecast(made.pipe.transformer, SHORT, **others),
        }
        with apply[first](), pytest.raises(ValueError, match=r"Flux.*Model is forecast already; call remove\(\)"):
            apply[second]()
        assert "progress_bar" not in vars(made.pipe) and not made.pipe.transformer._forward_pre_hooks


def test_a_second_application_is_refused_and_leaves_the_first():
    made = family("flux")
    with apply_forecast(made.pipe, SHORT):
        expected = run(made, STEPS)
        with pytest.raises(ValueError, match="is forecast already"):
            apply_forecast(made.pipe, SHORT)
        assert_same_bits(run(made, STEPS), expected)


def test_schedulers_that_keep_no_step_are_refused_and_leave_nothing():
    made = family("sdxl")
    keeping = made.pipe.scheduler
    with apply_forecast(made.pipe, SHORT):
        made.pipe.scheduler = diffusers.DDIMScheduler.from_config(keeping.config)
        with pytest.raises(ValueError, match="DDIMScheduler keeps no step_index"):
            run(made, STEPS)
    with pytest.raises(ValueError, match="apply_forecast: DDIMScheduler keeps no step_index"):
        apply_forecast(made.pipe, SHORT)
    assert "progress_bar" not in vars(made.pipe) and not made.pipe.unet._forward_pre_hooks
