# SPDX-License-Identifier: Apache-2.0
import functools
import math

import pytest
import scipy.fft
import torch

from bench.oracles import GaussianField, LocalPosteriorMean, PosteriorMean
from spectral_kernels import (
    FLUX_LATENT,
    PowerLaw,
    activation_time,
    dct_expand,
    dct_truncate,
    dctn,
    evaluation_steps,
    linear_weights,
    normal,
    resolution_schedule,
)
from spectral_kernels.flow import (
    edit,
    euler,
    fine_tuning_loss,
    fine_tuning_pair,
    forecast_euler,
    full_resolution,
    heun,
    initial_noise,
    passthrough,
    progressive,
    radial_frequency,
)
from tests.bits import assert_same_bits
from tests.test_resolution_schedule import flux_sigmas

# Small, one side odd at the coarse size, so that ratio is not a power of two on both axes.
SIZE = (16, 18)
SIZES = [(8, 9), SIZE]
SIGMAS = flux_sigmas(12)
field = GaussianField(FLUX_LATENT, SIZE)


def noise(seed=0, dtype=torch.float64, channels=2):
    return initial_noise((3, channels, *SIZE), seed, dtype=dtype)


def plan(schedule="published", delta=0.3, sizes=SIZES, sigmas=SIGMAS, **options):
    made = resolution_schedule(sigmas, sizes, FLUX_LATENT, delta, schedule=schedule, **options)
    assert len(made.stages) == len(sizes)
    return made


def recorded(velocity, calls):
    def call(x, t):
        calls.append((tuple(x.shape[-2:]), t))
        return velocity(x, t)

    return call


def test_solvers_converge_with_their_order():
    """dz/dt = z cos(3 t) from 1 to 1/4; halving the step divides the error by 2 and 4."""
    exact = math.exp((math.sin(0.75) - math.sin(3)) / 3)
    for solver, order in ((euler, 2), (heun, 4)):
        errors = []
        for n in (64, 128):
            sigmas = [1 - 0.75 * k / n for k in range(n + 1)]
            one = torch.ones((), dtype=torch.float64)
            errors.append(float(solver(lambda x, t: x * math.cos(3 * t), one, sigmas)) - exact)
        assert errors[0] / errors[1] == pytest.approx(order, rel=0.05)


def test_heun_does_not_evaluate_at_zero():
    calls = []
    heun(recorded(field, calls), noise(), [1.0, 0.5, 0.0])
    assert [t for _, t in calls] == [1.0, 0.5, 0.5]


@pytest.mark.parametrize("schedule", ["published", "respaced", "matched"])
@pytest.mark.parametrize("run", [progressive, full_resolution])
def test_the_model_sees_the_plan(schedule, run):
    """At every step the grid and the level that the plan names."""
    made, calls = plan(schedule), []
    run(recorded(field, calls), made, noise())
    assert [size for size, _ in calls] == [made.stage_of(k).size for k in range(12)]
    assert [t for _, t in calls] == pytest.approx(made.sigmas[:-1], rel=1e-14)


@pytest.mark.parametrize("basis", ["dct", "fft", "haar", "db2"])
@pytest.mark.parametrize("sizes", [[(4, 5), (8, 10), (16, 20)], [(4, 5), (16, 20)]])
@pytest.mark.parametrize("run", [progressive, full_resolution])
def test_bases_expand_white_noise_to_white_noise(basis, run, sizes):
    """With data of no power the velocity is z / t and states stay t * noise: a run from one noise returns that noise
    at the last level, whatever the basis, if its expansions fill exactly what its truncations took away."""
    if basis == "db2":
        pytest.importorskip("pywt")
    z = initial_noise((3, 2, 16, 20), 0, dtype=torch.float64)
    made = plan(sizes=sizes, sigmas=[*flux_sigmas(40)[:-1], 0.01])
    x = run(lambda x, t: x / t, made, z, basis=basis)
    torch.testing.assert_close(x, 0.01 * z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", ["published", "matched"])
def test_full_resolution_coordinates_are_the_method_in_wavelets(schedule):
    """The coarse state is the low band itself; Euler does not see whether it is expanded or held at full size."""
    z = initial_noise((2, 1, 16, 20), 0, dtype=torch.float64)
    made = plan(schedule, sizes=[(4, 5), (16, 20)])
    x, y = (run(GaussianField(FLUX_LATENT, (16, 20)), made, z, basis="haar") for run in (progressive, full_resolution))
    torch.testing.assert_close(x, y, rtol=0, atol=1e-11 * float(x.abs().max()))


def test_edit_and_fine_tuning_in_wavelets():
    """The kept band of Haar is the mean over blocks; a pair's two ends share it."""
    image, z = torch.randn(1, 1, 8, 8, dtype=torch.float64), initial_noise((1, 1, 8, 8), 0, dtype=torch.float64)
    made, seen = plan("respaced", sizes=[(4, 4), (8, 8)]), []

    def velocity(x, t):
        seen.append((x, t))
        return torch.zeros_like(x)

    edit(velocity, made, image, z, basis="haar")
    means = torch.nn.functional.avg_pool2d
    x, t = seen[0]
    torch.testing.assert_close(means(x, 2), (1 - t) * means(image, 2) + t * means(z, 2), rtol=0, atol=1e-12)
    state, _ = fine_tuning_pair(image, z, made, 1, torch.tensor([t], dtype=torch.float64), basis="haar")
    torch.testing.assert_close(state, x, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="progressive: wavelet must be"):
        progressive(velocity, made, z, basis="hair")


def test_seeds_are_the_noise_inside_expansion():
    """A run from `initial_noise(seed)` is the run whose expansions draw their noise by that seed."""
    made = plan()
    x = initial_noise((3, 2, 8, 9), 11, dtype=torch.float32)
    x = euler(field, x, made.stages[0].sigmas)
    x, t = dct_expand(x, size=SIZE, t=made.stages[0].sigma_out, seed=11)
    assert t == made.stages[1].sigma_in
    x = euler(field, x, made.stages[1].sigmas)
    ours = progressive(field, made, initial_noise((3, 2, *SIZE), 11, dtype=torch.float32))
    # The second path transforms the noise to pixels and back: float32 rounding, carried through 12 steps.
    torch.testing.assert_close(ours, x, rtol=0, atol=2e-5)
    spectrum = scipy.fft.dctn(initial_noise((3, 2, *SIZE), 11).double().numpy(), axes=(-2, -1), norm="ortho")
    torch.testing.assert_close(torch.tensor(spectrum).float(), normal((3, 2, *SIZE), 11), rtol=0, atol=1e-5)


@pytest.mark.parametrize("schedule, restarts", [("published", True), ("respaced", True), ("matched", False)])
def test_solvers_start_anew_where_levels_are_rewound(schedule, restarts):
    """A multi-step solver keeps its history through a matched run, which is one run of its own schedule."""
    made, starts = plan(schedule, sizes=[(4, 6), (8, 9), SIZE], sigmas=flux_sigmas(40)), []

    def solver(velocity, x, sigmas):
        starts.append(list(sigmas))
        return euler(velocity, x, sigmas)

    x = full_resolution(field, made, noise(), solver=solver)
    assert len(starts) == (3 if restarts else 1)
    if not restarts:
        assert starts[0] == pytest.approx(flux_sigmas(40), rel=1e-14)
    other = full_resolution(field, made, noise(), solver=solver, restart=not restarts)
    assert len(starts) == 4
    torch.testing.assert_close(x, other, rtol=0, atol=1e-11)


def test_a_corrector_at_a_transition_asks_the_finer_model():
    made, calls = plan("matched"), []
    full_resolution(recorded(field, calls), made, noise(), solver=heun)
    sizes = [size for size, _ in calls]
    coarse = made.stages[0].num_steps
    assert sizes == [(8, 9)] * (2 * coarse - 1) + [SIZE] * (2 * (12 - coarse))


def test_plain_run_where_there_is_one_stage():
    made = resolution_schedule(SIGMAS, [SIZE])
    for run in (progressive, full_resolution):
        assert_same_bits(run(field, made, noise()), euler(field, noise(), SIGMAS))


def test_unaligned_plans():
    """Without alignment levels and states stay: expansion pads the spectrum with t * noise and nothing else."""
    made, z = plan(align=False), noise()
    low = euler(field, dct_truncate(z, size=(8, 9), normalize=False), made.stages[0].sigmas)
    spectrum = made.stages[0].sigma_out * dctn(z)
    spectrum[..., :8, :9] = dctn(low)
    x = torch.tensor(scipy.fft.idctn(spectrum.numpy(), axes=(-2, -1), norm="ortho"))
    torch.testing.assert_close(progressive(field, made, z), euler(field, x, made.stages[1].sigmas), rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match="full_resolution: plan must be aligned"):
        full_resolution(field, made, z)


def test_forecast_is_exact_for_velocities_it_can_represent():
    """A velocity linear in the step index and the weights of a line: skipped steps cost no accuracy."""
    calls = []

    def linear(x, t):
        calls.append(t)
        return torch.full_like(x, 3.0 - 2.0 * t)

    sigmas = [1 - k / 20 for k in range(21)]
    x = forecast_euler(linear, torch.zeros(1, 1, 4, 4, dtype=torch.float64), sigmas, warmup=3, weights=linear_weights)
    assert len(calls) < 12
    expected = euler(linear, torch.zeros(1, 1, 4, 4, dtype=torch.float64), sigmas)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("window, warmup, flex", [(2, 5, 0.75), (3, 4, 0.5), (4, 1, 0.0)])
def test_forecast_evaluates_the_steps_of_its_schedule(window, warmup, flex):
    calls, sigmas = [], flux_sigmas(30)
    options = {} if (window, warmup, flex) == (2, 5, 0.75) else {"window": window, "warmup": warmup, "flex": flex}
    forecast_euler(recorded(field, calls), noise(dtype=torch.float32), sigmas, **options)
    assert [sigmas.index(t) for _, t in calls] == list(evaluation_steps(30, window, warmup, flex))


def test_forecast_in_a_progressive_run():
    """Each stage warms up anew, because features change size; the result stays near the evaluated run."""
    made, calls = plan(sigmas=flux_sigmas(40)), []
    solver = functools.partial(forecast_euler, warmup=3, weights=linear_weights)
    x = progressive(recorded(field, calls), made, noise(dtype=torch.float32), solver=solver)
    steps = [min(range(40), key=lambda k: abs(made.sigmas[k] - t)) for _, t in calls]
    second = made.stages[1].first_step
    assert steps[:3] == [0, 1, 2] and {second, second + 1, second + 2} <= set(steps) and len(steps) < 28
    exact = progressive(field, made, noise(dtype=torch.float32))
    assert float((x - exact).norm() / exact.norm()) < 0.1


def test_edit_keeps_the_band_and_draws_the_rest():
    """The new model decides the content, the edited image only its own band."""
    image, other = noise(1)[:1], noise(2)[:1]
    made, z = plan(), noise()[:1]
    # The model of the single image reproduces it whatever the start; so do its edits.
    out = edit(PosteriorMean(image), made, other, z)
    torch.testing.assert_close(out, image, rtol=0, atol=1e-9)
    # The Gaussian model is linear: the result's shared band depends on the image's shared band only.
    flat = dct_expand(dct_truncate(other, size=(8, 9)), size=SIZE, t=0).x
    torch.testing.assert_close(edit(field, made, other, z), edit(field, made, flat, z), rtol=0, atol=1e-10)
    assert float((edit(field, made, other, z) - edit(field, made, image, z)).abs().max()) > 0.1
    with pytest.raises(ValueError, match=r"edit: stage must be a coarse one, 0\.\.0, got 1"):
        edit(field, made, image, z, stage=1)


def test_edit_starts_on_the_flow():
    """The state after expansion is (1 - t') low-pass(image) + t' noise on the kept band, t' noise above."""
    image, made, z, seen = torch.randn(1, 2, *SIZE, dtype=torch.float64), plan(), noise()[:1], []

    def velocity(x, t):
        seen.append((x, t))
        return torch.zeros_like(x)

    edit(velocity, made, image, z)
    x, t = seen[0]
    expected = t * dctn(z)
    expected[..., :8, :9] += (1 - t) * dctn(image)[..., :8, :9]
    assert t == made.stages[1].sigma_in
    torch.testing.assert_close(dctn(x), expected, rtol=0, atol=1e-12)


def test_passthrough():
    """For tiny delta nothing waits, for a large one the new frequencies stay noise until the end; in between, every
    frequency is the noise until its own activation time."""
    z = noise()
    plain = euler(field, z, SIGMAS)
    torch.testing.assert_close(passthrough(field, z, SIGMAS, FLUX_LATENT, 1e-9), plain, rtol=0, atol=1e-8)
    moved = [float((passthrough(field, z, SIGMAS, FLUX_LATENT, d) - plain).norm()) for d in (0.01, 0.1, 0.9)]
    assert moved[0] < moved[1] < moved[2]
    steep, states = PowerLaw(100.0, 4.0), []

    def velocity(x, t):
        states.append((x, t))
        return field(x, t)

    passthrough(velocity, z, SIGMAS, steep, 0.5)
    frequency = radial_frequency(SIZE)
    for x, t in states:
        waiting = [[bool(f) and t > activation_time(steep(float(f)), 0.5) for f in row] for row in frequency]
        waits = torch.tensor(waiting)
        spectrum = dctn(x)
        torch.testing.assert_close(spectrum[..., waits], t * dctn(z)[..., waits], rtol=0, atol=1e-12)
    assert waits.any() and not waits.all()
    # A law that names its grid is brought to the run's.
    scaled = PowerLaw(100.0 * 4, 4.0)
    named = PowerLaw(100.0, 4.0, reference_size=(SIZE[0] // 2, SIZE[1] // 2))
    assert_same_bits(passthrough(field, z, SIGMAS, named, 0.5), passthrough(field, z, SIGMAS, scaled, 0.5))


def test_radial_frequency():
    f = radial_frequency((4, 8))
    assert f[1, 0] == 0.5 and f[0, 2] == 0.5 and f[3, 0] == 1.5 and f[0, 0] == 0


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_fine_tuning_pairs(stage):
    sizes = [(4, 6), (8, 9), SIZE]
    made = plan("respaced", sizes=sizes, sigmas=flux_sigmas(40))
    x, z = torch.randn(3, 2, *SIZE, dtype=torch.float64), noise(5)
    here = made.stages[stage]
    ends = []
    for level in (here.sigma_in, here.sigma_out):
        state, v = fine_tuning_pair(x, z, made, stage, torch.full((3,), level, dtype=torch.float64))
        ends.append((level, state))
        clean = dctn(x)[..., : here.size[0], : here.size[1]] / here.ratio
        eps = dctn(z)[..., : here.size[0], : here.size[1]]
        h, w = made.stages[stage - 1].size if stage else here.size
        # On the band that was there before, the path is the plain flow's.
        torch.testing.assert_close(dctn(state)[..., :h, :w], ((1 - level) * clean + level * eps)[..., :h, :w])
        torch.testing.assert_close(dctn(v)[..., :h, :w], (eps - clean)[..., :h, :w])
        if level == here.sigma_out:
            torch.testing.assert_close(dctn(state), (1 - level) * clean + level * eps)
        elif stage:
            # At the start the new band is noise alone.
            new = torch.ones(here.size, dtype=torch.bool)
            new[:h, :w] = False
            torch.testing.assert_close(dctn(state)[..., new], level * eps[..., new])
    (a, start), (b, end) = ends
    torch.testing.assert_close(start - end, (a - b) * v)
    mixed, _ = fine_tuning_pair(x, z, made, stage, torch.tensor([a, b, (a + b) / 2], dtype=torch.float64))
    torch.testing.assert_close(mixed, torch.stack([start[0], end[1], (start[2] + end[2]) / 2]))


def test_fine_tuning_loss():
    """A generator decides the stage, the levels and the noise; levels stay in their stage; gradients flow."""
    made = plan("respaced", sigmas=flux_sigmas(40))
    x = 3 * torch.randn(64, 1, *SIZE, generator=torch.Generator().manual_seed(0))
    scale = torch.ones((), requires_grad=True)  # not 0: the loss is to depend on the levels
    seen = []

    def velocity(z, t):
        seen.append((tuple(z.shape), float(t.min()), float(t.max())))
        return scale * z

    seeds = (torch.Generator().manual_seed(k) for k in (1, 1, 2, 3, 4, 5))
    losses = [fine_tuning_loss(velocity, x, made, generator=seed) for seed in seeds]
    assert losses[0] == losses[1] and losses[0] != losses[2]
    losses[0].backward()
    assert scale.grad is not None and scale.grad != 0
    for shape, low, high in seen:
        stage = next(s for s in made.stages if s.size == shape[-2:])
        assert shape[0] == 64 and stage.sigma_out <= low < high <= stage.sigma_in
    assert {shape[-2:] for shape, _, _ in seen} == set(SIZES)


def test_fine_tuning_loss_is_that_of_the_true_velocity():
    """Data of no power: the state is t * noise at every stage, its velocity z / t."""
    made, x = plan("respaced", sigmas=flux_sigmas(40)), torch.zeros(2, 1, *SIZE, dtype=torch.float64)
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        loss = fine_tuning_loss(lambda z, t: z / t.view(-1, 1, 1, 1), x, made, generator=generator)
        assert float(loss) == pytest.approx(0, abs=1e-20)


def test_stages_are_trained_as_often_as_they_have_steps():
    made = resolution_schedule(flux_sigmas(20), SIZES, transition_sigmas=[flux_sigmas(20)[3]])
    assert [stage.num_steps for stage in made.stages] == [3, 17]
    x, sizes = torch.zeros(1, 1, *SIZE), []

    def velocity(z, t):
        sizes.append(tuple(z.shape[-2:]))
        return z

    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        fine_tuning_loss(velocity, x, made, generator=generator)
    # A binomial of p = 0.15: four standard deviations are 0.1.
    assert sizes.count(SIZES[0]) / 200 == pytest.approx(0.15, abs=0.1)


def test_states_of_another_size_than_the_plan_are_refused():
    made, z, larger = plan(), noise(), torch.zeros(3, 1, 32, 36)
    calls = [
        lambda: progressive(field, made, larger),
        lambda: full_resolution(field, made, larger),
        lambda: edit(field, made, larger, z),
        lambda: edit(field, made, z, larger),
        lambda: fine_tuning_pair(z, larger, made, 1, torch.full((3,), 0.5)),
    ]
    for call, name in zip(calls, ("noise", "noise", "image", "noise", "noise"), strict=True):
        with pytest.raises(
            ValueError, match=rf"{name} must have the full size of the plan, \({SIZE[0]}, {SIZE[1]}\), got"
        ):
            call()


def test_fine_tuning_bad_input():
    x = noise()
    with pytest.raises(ValueError, match=r"stage must be in 0\.\.1, got 2"):
        fine_tuning_pair(x, x, plan(), 2, torch.zeros(3))
    with pytest.raises(ValueError, match="plan must be aligned"):
        fine_tuning_pair(x, x, plan(align=False), 1, torch.zeros(3))


def test_oracles_agree_where_they_must():
    images = torch.randn(40, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    whole = PosteriorMean(images)
    z, t = torch.randn(2, 1, 8, 8, dtype=torch.float64), 0.4
    # The posterior by the definition, one image at a time.
    weights = torch.stack([torch.exp(-((z - (1 - t) * x) ** 2).flatten(1).sum(1) / (2 * t * t)) for x in images])
    mean = torch.einsum("kn,kchw->nchw", weights / weights.sum(0), images)
    torch.testing.assert_close(whole(z, t), (z - mean) / t)
    # Low resolution: the truncated images.
    low = dct_truncate(z, size=(4, 4), normalize=False)
    twin = PosteriorMean(dct_truncate(images, size=(4, 4)))
    torch.testing.assert_close(whole(low, t), twin(low, t))
    # A patch wider than the image sees all of it; a small one is the mean over patches, written out for one pixel.
    local = LocalPosteriorMean(images, PowerLaw(30.0, 2.4), count=50)
    assert local.width(8, 0.99) > 8 and local.width(8, 0.05) == 3
    torch.testing.assert_close(local(z, 0.99), whole(z, 0.99))
    patches, centres, _ = local.patches((8, 8), 3)
    around = z[0, 0, 1:4, 4:7].flatten()
    weight = torch.softmax(-((around - 0.95 * patches) ** 2).sum(1) / (2 * 0.05**2), 0)
    torch.testing.assert_close(local.clean(z, 0.05)[0, 0, 2, 5], weight @ centres)
    corner = z[0, 0, :2, :2].flatten()
    inside = patches.view(-1, 3, 3)[:, 1:, 1:].flatten(1)
    weight = torch.softmax(-((corner - 0.95 * inside) ** 2).sum(1) / (2 * 0.05**2), 0)
    torch.testing.assert_close(local.clean(z, 0.05)[0, 0, 0, 0], weight @ centres)
