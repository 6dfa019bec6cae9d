# SPDX-License-Identifier: Apache-2.0
import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch

import reference.schedule as reference
from spectral_kernels.schedule import (
    activation_time,
    align_time,
    resolution_schedule,
    stage_sizes,
    transition_time,
    velocity_error,
)
from spectral_kernels.spectrum import FLUX_LATENT, WAN_LATENT, PowerLaw

FLUX_SIZES = [(64, 64), (128, 128)]


def flux_sigmas(n=50, mu=1.15):
    """FLUX.1's schedule at 1024 px: exponential shift of the even levels 1, ..., 1/n, and the end."""
    even = 1 - np.arange(n) / n
    return [1.0, *(math.exp(mu) / (math.exp(mu) + 1 / even[1:] - 1)).tolist(), 0.0]


def scheduler_sigmas(name):
    """The sigmas that diffusers' own scheduler and pipeline code give for a row of the published tables."""
    diffusers = pytest.importorskip("diffusers")
    euler, even = diffusers.FlowMatchEulerDiscreteScheduler, lambda n: np.linspace(1.0, 1 / n, n)
    if name == "FLUX.1":
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        scheduler = euler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0)
        scheduler.set_timesteps(sigmas=even(50), mu=calculate_shift(4096, 256, 4096, 0.5, 1.15))
    elif name == "FLUX.2":
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        scheduler = euler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0)
        scheduler.set_timesteps(sigmas=even(30), mu=compute_empirical_mu(4096, 30))
    elif name == "Qwen-Image":
        from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift

        scheduler = euler(use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, shift=1.0, shift_terminal=0.02)
        scheduler.set_timesteps(sigmas=even(30), mu=calculate_shift(4096, 256, 8192, 0.5, 0.9))
    elif name == "Z-Image":
        scheduler = euler(shift=6.0)
        # The scheduler's own levels, as where the table was made; the even ones that diffusers 0.42's pipeline passes
        # give 36 instead of 35.
        scheduler.set_timesteps(50)
    else:
        scheduler = diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
        )
        scheduler.set_timesteps(50)
    return scheduler.sigmas


# Model, full grid, spectrum, delta, halvings, steps per coarse stage: the tables of the paper and of sglang.
PUBLISHED = [
    ("FLUX.1", (128, 128), FLUX_LATENT, 0.01, 1, [18]),
    ("FLUX.1", (128, 128), FLUX_LATENT, 0.05, 1, [28]),
    ("FLUX.1", (128, 128), FLUX_LATENT, 0.01, 2, [10, 8]),
    ("FLUX.2", (64, 64), FLUX_LATENT, 0.05, 1, [18]),
    ("FLUX.2", (64, 64), FLUX_LATENT, 0.10, 1, [20]),
    ("Wan 2.1", (60, 104), WAN_LATENT, 0.01, 1, [23]),
    ("Wan 2.1", (60, 104), WAN_LATENT, 0.02, 1, [27]),
    ("Wan 2.1", (60, 104), WAN_LATENT, 0.05, 1, [33]),
    ("Wan 2.1", (60, 104), WAN_LATENT, 0.10, 1, [37]),
    ("Z-Image", (128, 128), FLUX_LATENT, 0.01, 1, [26]),
    ("Z-Image", (128, 128), FLUX_LATENT, 0.05, 1, [35]),
    ("Qwen-Image", (128, 128), FLUX_LATENT, 0.05, 1, [13]),
    ("Qwen-Image", (128, 128), FLUX_LATENT, 0.10, 1, [16]),
    ("Qwen-Image", (128, 128), FLUX_LATENT, 0.20, 1, [19]),
]


@pytest.mark.parametrize("model, size, law, delta, halvings, coarse", PUBLISHED)
def test_published_tables(model, size, law, delta, halvings, coarse):
    sizes = stage_sizes(size, [0.5**k for k in range(halvings, -1, -1)])
    plan = resolution_schedule(scheduler_sigmas(model), sizes, law, delta, schedule="published")
    assert [stage.num_steps for stage in plan.stages[:-1]] == coarse
    if halvings == 1:
        threshold = reference.transition_time(law.amplitude, law.exponent, sizes[0], delta)
        assert reference.coarse_steps(scheduler_sigmas(model).numpy(), threshold) == coarse[0]


def test_the_row_that_is_not_reproduced():
    """Z-Image is published with 42 coarse steps for delta = 0.10. The formula gives 39; 42 belongs to delta = 0.20."""
    sigmas = scheduler_sigmas("Z-Image")
    counts = [resolution_schedule(sigmas, FLUX_SIZES, FLUX_LATENT, d).stages[0].num_steps for d in (0.1, 0.2)]
    assert counts == [39, 42]


@pytest.mark.parametrize(
    "schedule, counts, ratios",
    [("published", [18, 28, 33], [1.37, 1.72, 1.98]), ("matched", [11, 20, 24], [1.20, 1.43, 1.56])],
)
def test_token_steps_of_flux(schedule, counts, ratios):
    plans = [
        resolution_schedule(flux_sigmas(), FLUX_SIZES, FLUX_LATENT, delta, schedule=schedule)
        for delta in (0.01, 0.05, 0.1)
    ]
    assert [plan.stages[0].num_steps for plan in plans] == counts
    assert [round(plan.token_step_ratio, 2) for plan in plans] == ratios


# Power far above, near and far below the noise, at early, middle and late levels.
@pytest.mark.parametrize("power", [40.0, 1.0, 0.27, 1e-3])
@pytest.mark.parametrize("t", [0.95, 0.6, 0.1])
def test_velocity_error_by_simulation(power, t):
    """Draw data and noise. The reference's velocity is the best predictor of noise - x from z (its residual is
    uncorrelated with z), and its distance to the noise is the closed form. Six standard errors."""
    rng, n = np.random.default_rng(5), 200_000
    x, noise = rng.standard_normal(n) * power**0.5, rng.standard_normal(n)
    z = (1 - t) * x + t * noise
    v = reference.optimal_velocity(z, power, t)
    products = (noise - x - v) * z
    assert abs(products.mean()) < 6 * products.std() / n**0.5
    squares = (v - noise) ** 2
    assert abs(squares.mean() - velocity_error(power, t)) < 6 * squares.std() / n**0.5
    assert velocity_error(power, t) == pytest.approx(reference.velocity_error(power, t), rel=1e-14)


@pytest.mark.parametrize("power", [1e-6, 0.27, 1.0, 200.0])
@pytest.mark.parametrize("share", [1e-9, 0.01, 0.5, 0.999])
def test_activation_time_inverts_the_error(power, share):
    """For every legal delta, 0 < delta < 1 + P; the error falls as t grows."""
    delta = share * (1 + power)
    t = activation_time(power, delta)
    assert 0 < t < 1
    assert velocity_error(power, t) == pytest.approx(delta, rel=1e-6)
    assert velocity_error(power, t * (1 + 1e-4) if t < 0.99 else 1 - (1 - t) / 2) < delta
    assert t == pytest.approx(reference.activation_time(power, delta), rel=1e-14)
    assert activation_time(torch.tensor([power]).double(), delta).item() == pytest.approx(
        activation_time(float(torch.tensor(power)), delta), rel=1e-14
    )


def test_activation_time_needs_a_legal_delta():
    for delta in (0.0, -0.1, 1.27, 5.0, math.nan):
        with pytest.raises(ValueError, match=r"the largest legal delta is just below 1\.27"):
            activation_time(0.27, delta)
    with pytest.raises(ValueError, match="power must be positive"):
        activation_time(0.0, 0.1)
    with pytest.raises(ValueError, match=r"below 1 \+ power = 1\.5"):
        activation_time(torch.tensor([3.0, 0.5]), 2.0)


def test_power_law_scales_with_its_grid():
    law = PowerLaw(100.0, 2.0, reference_size=(64, 64))
    assert law.at((128, 64)).amplitude == 200.0
    assert law(2.0) == 25.0 and FLUX_LATENT.at((256, 256)) is FLUX_LATENT
    assert law(0.0) == math.inf and law(torch.tensor([2.0, 0.0])).tolist() == [25.0, math.inf]
    # 128 on a 64 measurement: four times the power at the same cycles per image, so detail appears earlier.
    scaled = resolution_schedule(flux_sigmas(), FLUX_SIZES, law, 0.05)
    assert scaled.stages[0].sigma_out <= transition_time(law.at((128, 128)), (64, 64), 0.05)
    assert (
        scaled.stages[0].num_steps
        < resolution_schedule(flux_sigmas(), FLUX_SIZES, PowerLaw(100.0, 2.0), 0.05).stages[0].num_steps
    )
    with pytest.raises(ValueError, match="PowerLaw: exponent"):
        PowerLaw(1.0, -2.0)
    with pytest.raises(ValueError, match="PowerLaw: reference_size"):
        PowerLaw(1.0, 2.0, reference_size=(64,))


# Two, three and four stages; halvings, a rectangle with odd sides, one axis at a time.
SIZES = [
    FLUX_SIZES,
    [(32, 32), (64, 64), (128, 128)],
    [(15, 26), (30, 52), (45, 78), (60, 104)],
    [(45, 80), (90, 80), (90, 160)],
]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("schedule", ["published", "respaced", "matched"])
def test_stages_fit_together(sizes, schedule):
    sigmas = flux_sigmas()
    plan = resolution_schedule(sigmas, sizes, FLUX_LATENT, 0.02, schedule=schedule)
    assert [s.size for s in plan.stages] == sizes and plan.num_steps == 50 and not plan.notes
    assert [s.first_step for s in plan.stages] == list(np.cumsum([0] + [s.num_steps for s in plan.stages[:-1]]))
    for j, stage in enumerate(plan.stages):
        assert stage.ratio == math.sqrt(sizes[-1][0] * sizes[-1][1] / (stage.size[0] * stage.size[1]))
        assert all(a > b for a, b in pairwise(stage.sigmas))
        if j + 1 < len(sizes):
            after = plan.stages[j + 1]
            assert align_time(stage.sigma_out, stage.ratio / after.ratio)[0] == pytest.approx(after.sigma_in, rel=1e-14)
            # A stage runs while its level is above its transition, and not a step longer.
            threshold = transition_time(FLUX_LATENT, stage.size, 0.02)
            assert stage.sigmas[-2] > threshold
            assert stage.sigma_out <= threshold
    full = plan.full_sigmas
    assert len(full) == 51 and all(a > b for a, b in pairwise(full)) and full[-1] == 0
    assert len(plan.sigmas) == 51
    for k in range(50):
        assert full[k] == align_time(plan.sigmas[k], plan.stage_of(k).ratio)[0]
    if schedule == "matched":
        assert full == pytest.approx(sigmas, rel=1e-14)


def test_published_replaces_one_entry():
    """The entry of the first fine step becomes t', everything else stays."""
    sigmas = flux_sigmas()
    plan = resolution_schedule(sigmas, FLUX_SIZES, FLUX_LATENT, 0.01, schedule="published")
    expected = sigmas.copy()
    expected[18] = 2 * sigmas[18] / (1 + sigmas[18])
    assert plan.sigmas == pytest.approx(expected, rel=1e-15)
    assert plan.stages[0].sigma_out == sigmas[18]


def test_respaced_keeps_the_spacing():
    """In the schedule's own variable, the fractional index, the fine steps are even: with 1000 steps the shifted
    schedule is smooth enough for its formula to say where they lie."""
    n, mu = 1000, 1.15
    plan = resolution_schedule(flux_sigmas(n), FLUX_SIZES, FLUX_LATENT, 0.05, schedule="respaced")
    published = resolution_schedule(flux_sigmas(n), FLUX_SIZES, FLUX_LATENT, 0.05, schedule="published")
    assert plan == resolution_schedule(flux_sigmas(n), FLUX_SIZES, FLUX_LATENT, 0.05), "it is the default"
    assert plan.stages[0] == published.stages[0]
    fine = np.array(plan.stages[1].sigmas[:-1])
    index = n * (1 - 1 / (1 + (1 / fine - 1) * math.exp(mu)))
    spacing = np.diff([*index, n])
    # Linear interpolation of a function of curvature 2 (e^mu)^2 at most: an index error of h^2/8 f''/f' < 0.5 / n.
    assert np.ptp(spacing) < 0.01 and spacing.mean() > 1.3


def test_unaligned_levels_do_not_move():
    plan = resolution_schedule(flux_sigmas(), FLUX_SIZES, FLUX_LATENT, 0.01, align=False)
    assert plan.sigmas == plan.full_sigmas == tuple(flux_sigmas())
    assert {stage.ratio for stage in plan.stages} == {1.0} and plan.stages[0].num_steps == 18


def test_transition_sigmas_replace_the_spectrum():
    plan = resolution_schedule(flux_sigmas(), [(32, 32), *FLUX_SIZES], transition_sigmas=[0.9, 0.8])
    assert plan.stages[0].sigma_out <= 0.9 < plan.stages[0].sigmas[-2]
    assert plan.stages[1].sigma_out <= 0.8 < plan.stages[1].sigmas[-2]


def test_a_transition_that_never_fires_runs_plain():
    sigmas = flux_sigmas(4)
    with pytest.warns(UserWarning, match="never fires"):
        plan = resolution_schedule(sigmas, FLUX_SIZES, FLUX_LATENT, 0.9)
    assert len(plan.stages) == 1 and plan.sigmas == tuple(sigmas) and plan.token_step_ratio == 1
    assert "never fires" in str(plan)
    # Only the finer of two transitions is beyond the last step: the coarser stage still runs.
    with pytest.warns(UserWarning, match=re.escape("from (64, 64) never fires")):
        plan = resolution_schedule(flux_sigmas(10), [(32, 32), *FLUX_SIZES], transition_sigmas=[0.8, 0.01])
    assert [s.size for s in plan.stages] == [(32, 32), (128, 128)] and plan.stages[1].sigma_in > 0.8


def test_a_stage_without_steps_is_left_out():
    plan = resolution_schedule(flux_sigmas()[40:], FLUX_SIZES, FLUX_LATENT, 0.01)
    assert len(plan.stages) == 1 and "gets no step" in plan.notes[0]
    both = resolution_schedule(flux_sigmas(10), [(32, 32), *FLUX_SIZES], transition_sigmas=[0.85, 0.84])
    assert [s.size for s in both.stages] == [(32, 32), (128, 128)]
    # Skipping a stage composes two alignments by 2 into one by 4.
    assert both.stages[1].sigma_in == pytest.approx(align_time(both.stages[0].sigma_out, 4.0)[0])


def test_costs_and_print():
    plan = resolution_schedule(flux_sigmas(), FLUX_SIZES, FLUX_LATENT, 0.05)
    assert plan.token_steps == 28 * 64 * 64 + 22 * 128 * 128
    assert plan.cost_ratio(0.0) == pytest.approx(plan.token_step_ratio)
    assert plan.cost_ratio(1.0) == pytest.approx(50 / (28 / 16 + 22))
    text = str(plan)
    assert "1.72x fewer token-steps" in text and re.search(r"64 x 64 +0 +28 +1\.0000", text)
    with pytest.raises(ValueError, match="cost_ratio: attention"):
        plan.cost_ratio(30)
    with pytest.raises(ValueError, match="stage_of: step"):
        plan.stage_of(50)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sigmas": [1.0, 0.5, 0.5, 0.0]}, "each below the one before"),
        ({"sigmas": [0.0, 0.5, 1.0]}, "each below the one before"),
        ({"sigmas": [1.0, math.nan, 0.0]}, "each below the one before"),
        ({"sigmas": [14.6, 3.0, 0.0]}, "variance-exploding"),
        ({"sigmas": [1.0]}, "at least two levels"),
        ({"sizes": []}, "at least the full size"),
        ({"sizes": [(64, 64), (128, 32)]}, "in no axis smaller"),
        ({"sizes": [(64, 64), (64, 64)]}, "larger than the one before"),
        ({"sizes": [(1, 1), (2, 2)]}, r"at least \(2, 2\)"),
        ({"delta": 0.0}, "largest legal delta"),
        ({"delta": 7.0}, "largest legal delta"),
        ({"delta": None}, "either spectrum and delta, or"),
        ({"transition_sigmas": [0.5]}, "either spectrum and delta, or"),
        ({"schedule": "fast"}, "published, respaced, matched"),
        ({"schedule": "matched", "align": False}, "needs align=True"),
    ],
)
def test_bad_input(change, message):
    arguments = dict(sigmas=flux_sigmas(), sizes=FLUX_SIZES, spectrum=FLUX_LATENT, delta=0.05) | change
    with pytest.raises(ValueError, match=message):
        resolution_schedule(**arguments)


def test_a_first_level_one_bit_above_one_is_one():
    """e^mu / (e^mu + 0) comes out as 1.0000000000000002 for some mu."""
    plan = resolution_schedule([1.0000000000000002, *flux_sigmas()[1:]], FLUX_SIZES, FLUX_LATENT, 0.05)
    assert plan.sigmas[0] == 1.0
    with pytest.raises(ValueError, match="variance-exploding"):
        resolution_schedule([1.001, 0.5, 0.0], FLUX_SIZES, FLUX_LATENT, 0.05)


@pytest.mark.parametrize("levels", [[0.9], [0.8, 0.9], [0.9, 0.0], [1.0, 0.5]])
def test_bad_transition_sigmas(levels):
    with pytest.raises(ValueError, match="transition_sigmas must"):
        resolution_schedule(flux_sigmas(), [(32, 32), *FLUX_SIZES], transition_sigmas=levels)


def test_stage_sizes():
    assert stage_sizes((90, 160), [0.25, 0.5, 1.0], multiple=2) == [(22, 40), (44, 80), (90, 160)]
    assert stage_sizes((90, 160), [(1.0, 0.5), 1.0]) == [(90, 80), (90, 160)]
    assert stage_sizes((60, 104), [0.01, 1.0], multiple=(4, 2)) == [(4, 2), (60, 104)]
    for scales, message in [
        ([0.5, 0.75], "end at 1"),
        ([], "end at 1"),
        ([0.5, 0.25, 1.0], "larger than the one before"),
        ([0.5, 0.501, 1.0], "larger than the one before"),
        ([-0.5, 1.0], "positive"),
    ]:
        with pytest.raises(ValueError, match=f"stage_sizes: .*{message}"):
            stage_sizes((64, 64), scales)
    with pytest.raises(ValueError, match="divisible"):
        stage_sizes((63, 64), [0.5, 1.0], multiple=2)
