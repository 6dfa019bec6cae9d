# SPDX-License-Identifier: Apache-2.0
"""The study of quality: its samplers, its measures, and that its tables are those of the committed rows."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from bench import quality_plots
from bench.oracles import GaussianField, PosteriorMean
from bench.quality import features, frechet, shifted, spectrum_error
from bench.samplers import bilinear, dpm_2m, unshared
from spectral_kernels import FLUX_LATENT, dct_truncate, dctn, resolution_schedule
from spectral_kernels.flow import euler, initial_noise

SIZE = (16, 16)
RESULTS = Path(__file__).parents[1] / "bench" / "results"


def noise(seed: int = 0):
    return initial_noise((2, 1, *SIZE), seed, dtype=torch.float64)


def test_tables_are_those_of_the_rows():
    points, bounds = quality_plots.read(RESULTS)
    assert (RESULTS / "quality.md").read_text(encoding="utf-8") == quality_plots.tables(points)
    text = quality_plots.DOCUMENT.read_text(encoding="utf-8")
    assert text.count("<!-- rows:") == 5 and text == quality_plots.document(text, points, bounds)


def test_multi_step_solver_is_of_second_order():
    field = GaussianField(FLUX_LATENT, SIZE)
    # From below pure noise, where the first log-SNR is finite.
    levels = [0.8 * (1 - k / 512) + 0.1 for k in range(513)]
    exact = dpm_2m(field, noise(), levels)
    errors = [float((dpm_2m(field, noise(), levels[::n]) - exact).norm()) for n in (32, 16)]
    first = [float((euler(field, noise(), levels[::n]) - exact).norm()) for n in (32, 16)]
    assert 3 < errors[0] / errors[1] < 6 and first[0] / first[1] < 2.5 and errors[1] < first[1]


def test_samplers_end_at_the_only_image():
    """One image is the posterior mean whatever the state, so every sampler ends there, bilinear upsampling too."""
    image = torch.randn(1, 1, *SIZE, dtype=torch.float64)
    sigmas = shifted(12, 0.7)
    plan = resolution_schedule(sigmas, [(8, 8), SIZE], transition_sigmas=[0.6])
    for x in (
        dpm_2m(PosteriorMean(image), noise(), sigmas),
        bilinear(PosteriorMean(image), plan, noise(), solver=dpm_2m),
        bilinear(PosteriorMean(image), plan, noise()),
    ):
        torch.testing.assert_close(x, image.expand_as(x), rtol=0, atol=1e-9)


def test_bilinear_upsampling_noises_to_the_level_of_the_next_stage():
    flat, seen = torch.ones(1, 1, *SIZE, dtype=torch.float64), []
    plan = resolution_schedule(shifted(12, 0.7), [(8, 8), SIZE], transition_sigmas=[0.6])

    def velocity(x, t):
        seen.append((x, t))
        return PosteriorMean(flat)(x, t)

    bilinear(velocity, plan, noise())
    x, t = next((x, t) for x, t in seen if tuple(x.shape[-2:]) == SIZE)
    assert t == plan.stages[1].sigma_in
    torch.testing.assert_close(x, (1 - t) * flat + t * noise(), rtol=0, atol=1e-9)


def test_unshared_noise_keeps_the_rest():
    a, b = noise(), noise(50)
    mixed = dctn(unshared(a, b, (8, 6)))
    torch.testing.assert_close(mixed[..., :8, :6], dctn(b)[..., :8, :6])
    mixed[..., :8, :6] = dctn(a)[..., :8, :6]
    torch.testing.assert_close(mixed, dctn(a))


def test_twins_are_truncated_in_their_basis():
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    means = torch.nn.functional.avg_pool2d(images, 2).flatten(1)
    torch.testing.assert_close(PosteriorMean(images, "haar").at((4, 4)), means)
    torch.testing.assert_close(PosteriorMean(images).at((4, 4)), dct_truncate(images, size=(4, 4)).flatten(1))


def test_measures():
    """Frechet distance by its definition, with the matrix root of SciPy; spectra by a known factor."""
    a, b = torch.randn(300, 1, *SIZE), 1.3 * torch.randn(300, 1, *SIZE) + 0.2
    fa, fb = (features(x).numpy() for x in (a, b))
    ca, cb = np.cov(fa.T), np.cov(fb.T)
    root = scipy.linalg.sqrtm(ca @ cb).real
    expected = ((fa.mean(0) - fb.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * root)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-4)
    assert frechet(a, a) == pytest.approx(0, abs=1e-5)
    assert spectrum_error(2 * a, a) == pytest.approx(math.log(4), rel=1e-5)


def test_a_contest_is_decided_beyond_two_standard_errors():
    def point(*values):
        rows = [{"seed": seed, "distance": value} for seed, value in enumerate(values)]
        return quality_plots.Point(rows)

    low, high = point(1.0, 2.0, 3.0), point(1.1, 2.1, 3.1)
    assert quality_plots.contest(low, high, "distance") == "better"  # seed by seed, though the spread is larger
    assert quality_plots.contest(high, low, "distance") == "worse"
    assert quality_plots.contest(low, point(1.5, 1.0, 3.6), "distance") == "tie"
    assert quality_plots.contest(point(1.0), point(2.0), "distance") is None
    assert low.text("distance") == "2.000 ± 0.577"
