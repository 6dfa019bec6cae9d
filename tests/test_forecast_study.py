# SPDX-License-Identifier: Apache-2.0
"""The study's instruments, each checked on a case whose answer is known."""

import numpy as np
import pytest
import torch

from bench import forecast_study as study
from spectral_kernels import Forecaster, chebyshev_weights, linear_weights, reuse_weights


def test_the_papers_bounds_hold_and_are_not_empty():
    rows = study.check_bounds()
    assert {row["sweep"] for row in rows} == {"series bound", "ridge bound", "Taylor bound"}
    assert max(row["error"] / row["bound"] for row in rows) > 0.5


def test_a_broken_forecast_breaks_the_bound(monkeypatch):
    monkeypatch.setattr(study.makers, "chebyshev_weights", lambda *a, **k: 3 * chebyshev_weights(*a, **k))
    with pytest.raises(ArithmeticError, match="ridge forecast"):
        study.check_bounds()


def test_analytic_functions_have_the_rate_of_their_ellipse():
    """Chebyshev coefficients fall like rho^-m: between m = 5 and m = 25 by rho^-20, to a factor of 4."""
    values = study.analytic(1.5, count=64).double().numpy()
    tau = 2 * np.arange(51) / 50 - 1
    series = np.polynomial.chebyshev.chebfit(tau, values, 35)
    size = np.sqrt((series**2).mean(1))
    assert abs((study.analytic(1.5, 0.3, 64).double().numpy() - values).std() - 0.3) < 0.02
    assert 1.5**20 / 4 < size[5] / size[25] < 1.5**20 * 4


def test_posterior_mean_is_bayes_rule():
    data, z, t = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.3, 0.4]]), 0.6
    likelihood = torch.exp(-((z - 0.4 * data) ** 2).sum(1) / (2 * t * t))
    expected = (likelihood[:, None] * data).sum(0) / likelihood.sum()
    assert (study.posterior_mean(z, t, data)[0] - expected).abs().max() < 1e-6


def test_patches_of_one_image_are_that_image():
    """With one patch of a constant the local denoiser gives the constant everywhere, so every pixel is covered
    evenly."""
    z = torch.randn(2, 32, 32)
    v = study.patch_velocity(z, 0.5, torch.full((1, 8, 8), 0.7))
    assert (z - 0.5 * v - 0.7).abs().max() < 1e-5


def test_errors_of_known_trajectories():
    line = torch.arange(51.0)[:, None] * torch.ones(1, 8) + 1
    steps = study.FIXED[14]
    assert study.feature_error(line, Forecaster(50, linear_weights), steps) < 1e-6
    skipped = [i for i in range(50) if i not in steps]
    last = [max(s for s in steps if s <= i) for i in skipped]
    expected = np.sqrt(np.mean([((i - j) / (i + 1)) ** 2 for i, j in zip(skipped, last, strict=True)]))
    assert abs(study.feature_error(line, Forecaster(50, reuse_weights), steps) - expected) < 1e-6


def test_a_constant_velocity_is_forecast_without_error():
    noise = torch.randn(2, 4, 4)
    velocity = lambda z, t: torch.ones_like(z)  # noqa: E731
    whole, _ = study.sample(noise, velocity, None, [])
    skipped, _ = study.sample(noise, velocity, Forecaster(50, linear_weights), study.ADAPTIVE[10])
    assert len(whole) == 51
    assert (whole[-1] - (noise - 1)).abs().max() < 1e-5
    assert study.psnr(skipped[-1], whole[-1]) > 100
    assert study.psnr(noise + 0.2, noise) == pytest.approx(20, abs=0.01)


def test_a_study_gives_whole_rows():
    rows = list(study.study("analytic rho=2 noise=0.1"))
    assert {row["sweep"] for row in rows} == {"forecasters", "ridge", "degree", "axis", "storage"}
    assert all(np.isfinite(row["feature_error"]) and row["nfe"] == len(row["steps"]) for row in rows)
