# SPDX-License-Identifier: Apache-2.0
"""The drop-ins: the call shapes and the numbers of the classes they stand in for."""

import numpy as np
import pytest
import torch
from bits import assert_same_bits

from spectral_kernels.adapters.sglang import ChebyshevForecaster, SpectrumForecaster
from spectral_kernels.adapters.taylorseer import TaylorSeerState
from spectral_kernels.evaluation import evaluation_steps
from spectral_kernels.forecast import chebyshev_weights, forecast, linear_weights, taylor_weights

STEPS = evaluation_steps(30)


def make(count: int, shape=(2, 5, 16), dtype=torch.float32) -> list[torch.Tensor]:
    return [torch.tensor(np.random.default_rng(k).standard_normal(shape)).to(dtype) for k in range(count)]


# ---------------------------------------------------------------- sglang


@pytest.mark.parametrize("w", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sglang_numbers(w, dtype):
    """Against the published form written out: float32 normal equations, coefficients, product, lerp with the line.

    Bound: float32 least squares of 5 unknowns with ridge 0.1 (condition below 1200) loses at most 1200 x 2^-24 x 8 <
    6e-4 of the features' size; bfloat16 coefficients, product and blend round by 2^-8 of sums of up to 12 terms below
    4: 0.12.
    """
    features = make(9, dtype=dtype)
    forecaster = SpectrumForecaster(
        ChebyshevForecaster(M=4, K=100, lam=0.1, num_steps=30, feature_shape=features[0].shape), taylor_order=1, w=w
    )
    assert not forecaster.ready()
    for step, feature in zip(STEPS, features, strict=False):
        forecaster.update(float(step), feature)
    assert forecaster.ready()
    for target in (17.0, torch.tensor(19.0)):
        taus = torch.tensor([*STEPS[:9], float(target)]) * (2 / 30) - 1
        x = torch.stack(
            [torch.ones(10), taus, 2 * taus**2 - 1, 4 * taus**3 - 3 * taus, 8 * taus**4 - 8 * taus**2 + 1], 1
        )
        flat = torch.stack([h.flatten().float() for h in features])
        gram = x[:-1].T @ x[:-1] + 0.1 * torch.eye(5)
        coefficients = torch.cholesky_solve(x[:-1].T @ flat, torch.linalg.cholesky(gram)).to(dtype)
        fit = (x[-1:].to(dtype) @ coefficients).float()
        k = (float(target) - STEPS[8]) / (STEPS[8] - STEPS[7])
        line = flat[-1] + k * (flat[-1] - flat[-2])
        expected = torch.lerp(line, fit[0], w).view(2, 5, 16)
        actual = forecaster.predict(target)
        assert actual.shape == features[0].shape
        assert actual.dtype == dtype
        scale = max(line.abs().max().item(), 4.0)
        assert (actual.float() - expected).abs().max() <= (6e-4 if dtype == torch.float32 else 0.03 * scale)
        weights = chebyshev_weights(STEPS[:9], float(target), 30, blend=w)
        assert_same_bits(actual, forecast(features, weights))


def test_sglang_memory_and_errors():
    cheb = ChebyshevForecaster(M=2, K=4, lam=0.5, num_steps=30)
    assert (cheb.P, cheb.M, cheb.K, cheb.lam) == (3, 2, 4, 0.5)
    for step, feature in zip(STEPS, make(9), strict=False):
        cheb.update(step, feature)
    assert cheb.forecaster.nbytes == 4 * 160 * 4  # the ring of K, not more
    assert cheb.forecaster.steps == STEPS[5:9]
    assert_same_bits(
        cheb.predict(20), forecast(make(9)[5:], chebyshev_weights(STEPS[5:9], 20, 30, degree=2, ridge=0.5, blend=1))
    )
    small = ChebyshevForecaster(num_steps=30, storage="moments")
    for step, feature in zip(STEPS, make(9), strict=False):
        small.update(step, feature)
    assert small.forecaster.nbytes == 7 * 160 * 4
    with pytest.raises(ValueError, match="reset"):
        small.update(30, torch.zeros(3))
    with pytest.raises(ValueError, match="must have shape"):
        ChebyshevForecaster(feature_shape=torch.Size([3])).update(0, torch.zeros(4))
    with pytest.raises(ValueError, match="taylor_order"):
        SpectrumForecaster(cheb, taylor_order=2)
    with pytest.raises(ValueError, match=r"w must lie in \[0, 1\]"):
        SpectrumForecaster(cheb, w=1.5)


# ---------------------------------------------------------------- diffusers


def run(state, outputs: dict[int, tuple[torch.Tensor, ...]], last: int) -> dict[int, list[torch.Tensor]]:
    """As the hook does: count the step, then update where there is an output, predict where there is none."""
    predicted = {}
    for step in range(last + 1):
        state.current_step += 1
        if step in outputs:
            state.update(outputs[step])
        else:
            predicted[step] = state.predict()
    return predicted


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_taylorseer_is_diffusers_state(order):
    """Same numbers as the original with float32 factors; its repeated differences round in float32, 2^-24 each, grown
    by the distance: 1e-4
    of features below 4 and distances below 4."""
    module = pytest.importorskip("diffusers.hooks.taylorseer_cache", reason="needs diffusers")
    outputs = {s: (make(9)[i], make(9, (3, 4))[i]) for i, s in enumerate([0, 1, 2, 5, 9, 13])}
    theirs = run(module.TaylorSeerState(torch.float32, order), outputs, 16)
    ours = run(TaylorSeerState(torch.float32, order), outputs, 16)
    assert ours.keys() == theirs.keys()
    for step in theirs:
        for a, b in zip(ours[step], theirs[step], strict=True):
            assert a.dtype == b.dtype
            assert (a - b).abs().max() < 1e-4


def test_taylorseer_behaviour():
    state = TaylorSeerState(max_order=1)
    with pytest.raises(ValueError, match="nothing to predict"):
        state.predict()
    features = make(4)
    predicted = run(state, {0: (features[0],), 1: (features[1],), 4: (features[2],)}, 6)
    stored = [h.bfloat16() for h in features]
    assert_same_bits(predicted[3][0], forecast(stored[:2], taylor_weights([0, 1], 3, 30)).float())
    assert_same_bits(predicted[6][0], forecast(stored[1:3], taylor_weights([1, 4], 6, 30)).float())
    with pytest.raises(ValueError, match="ascend"):
        state.current_step = 4
        state.update((features[0],))
    state.current_step = 8
    state.update((torch.ones(3),))  # another shape: the expansion starts again
    state.current_step = 9
    assert_same_bits(state.predict()[0], torch.ones(3))
    state.reset()
    assert (state.current_step, state.last_update_step) == (-1, None)
    with pytest.raises(ValueError, match="nothing to predict"):
        state.predict()
    idle = TaylorSeerState(is_inactive=True)
    idle.update((torch.ones(3, dtype=torch.float16),))
    assert_same_bits(idle.predict()[0], torch.zeros(3, dtype=torch.float16))


def test_taylorseer_with_other_weights():
    state = TaylorSeerState(None, weights=chebyshev_weights, num_steps=30, storage="moments")
    features = make(3)
    predicted = run(state, {i: (h,) for i, h in enumerate(features)}, 4)
    exact = forecast(features, chebyshev_weights([0, 1, 2], 4, 30))
    assert (predicted[4][0] - exact).abs().max() < 1e-5


def test_taylorseer_under_the_hook():
    """The real cache of diffusers, on a small model, with the state replaced: close to its own result."""
    module = pytest.importorskip("diffusers.hooks.taylorseer_cache", reason="needs diffusers")

    from diffusers.models.cache_utils import CacheMixin

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x * 2

    class Model(torch.nn.Module, CacheMixin):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x):
            return self.block(x)

    results = []
    for replaced in (False, True):
        model = Model()
        config = module.TaylorSeerCacheConfig(
            cache_interval=3,
            disable_cache_before_step=3,
            taylor_factors_dtype=torch.float32,
            cache_identifiers=["block"],
        )
        with pytest.MonkeyPatch.context() as patch:
            if replaced:
                patch.setattr(module, "TaylorSeerState", TaylorSeerState)
            model.enable_cache(config)
            with torch.no_grad(), model.cache_context("cond"):
                results.append([model(torch.full((2, 3), step / 10.0)) for step in range(12)])
        assert model.block.calls < 12
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() < 1e-5


# ---------------------------------------------------------------- cache-dit


def cache_dit():
    calibrators = pytest.importorskip("cache_dit.caching.cache_contexts.calibrators", reason="needs cache-dit")
    from spectral_kernels.adapters.cache_dit import ForecastCalibrator

    return calibrators, ForecastCalibrator


def drive(calibrator, outputs: dict[int, torch.Tensor], last: int) -> dict[int, torch.Tensor]:
    calibrator.reset_cache()
    predicted = {}
    for step in range(last + 1):
        calibrator.mark_step_begin()
        if step in outputs:
            calibrator.update(outputs[step], name="hidden")
        else:
            predicted[step] = calibrator.approximate(name="hidden")
    return predicted


@pytest.mark.parametrize("order", [1, 2])
def test_cache_dit_taylor_numbers(order):
    """The original counts a stream's steps from its first update and takes no difference at its first two; from then on
    both agree."""
    calibrators, ForecastCalibrator = cache_dit()
    theirs = calibrators.TaylorSeerCalibrator(n_derivatives=order)
    ours = ForecastCalibrator(30, weights=taylor_weights, order=order)
    assert isinstance(ours, calibrators.CalibratorBase)
    theirs.maybe_init_state("hidden")
    outputs = dict(zip([0, 1, 2, 3, 4, 5, 9, 13, 18], make(9), strict=True))
    a, b = drive(ours, outputs, 20), drive(theirs, outputs, 20)
    assert a.keys() == b.keys()
    for step in a:
        assert (a[step] - b[step]).abs().max() < 1e-4


def test_cache_dit_behaviour():
    _, ForecastCalibrator = cache_dit()
    calibrator = ForecastCalibrator(30, weights=linear_weights, max_warmup_steps=2, skip_interval_steps=3)
    with pytest.raises(ValueError, match="no stream 'hidden'"):
        calibrator.approximate("hidden")
    features = make(8)
    computed = [calibrator.step(h) is h for h in features]
    assert computed == [True, True, False, False, True, False, False, True]
    assert_same_bits(
        (calibrator.mark_step_begin(), calibrator.approximate())[1],
        forecast([features[4], features[7]], linear_weights([4, 7], 8, 30)),
    )
    calibrator.mark_step_begin()
    calibrator.update(torch.ones(3))  # another shape begins anew
    calibrator.mark_step_begin()
    assert_same_bits(calibrator.approximate(), torch.ones(3))
    calibrator.reset_cache()
    calibrator.mark_step_begin()
    calibrator.update(features[0])
    assert_same_bits(calibrator.approximate(), features[0])
    with pytest.raises(ValueError, match="storage"):
        ForecastCalibrator(30, storage="disk")
