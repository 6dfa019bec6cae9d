# SPDX-License-Identifier: Apache-2.0
"""The Forecaster: every storage against the reference, memory, state, resets, and every error."""

import io

import numpy as np
import pytest
import torch
from bits import assert_same_bits, bit_pattern

import spectral_kernels.dispatch.forecast as ops
import spectral_kernels.forecaster as module
from reference import forecast as reference
from spectral_kernels import weights as made
from spectral_kernels.dispatch import backend, missing
from spectral_kernels.evaluation import evaluation_steps
from spectral_kernels.forecast import forecast
from spectral_kernels.forecaster import Forecaster
from spectral_kernels.history import ERROR_BOUND, Pinned, encode

BACKENDS = [name for name in ("torch", "triton") if missing(name) is None]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS = evaluation_steps(50)


def make(count: int, shape=(3, 7, 61), dtype=torch.bfloat16, seed: int = 0) -> list[torch.Tensor]:
    """1281 elements: odd, and neither a multiple of 32 nor of a kernel's block."""
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.standard_normal(shape)).to(dtype).to(DEVICE) for _ in range(count)]


def fill(forecaster: Forecaster, features: list[torch.Tensor], steps=STEPS) -> Forecaster:
    for step, feature in zip(steps, features, strict=False):
        forecaster.update(step, feature)
    return forecaster


def reference_moments(features: list[torch.Tensor], degree: int = 4) -> np.ndarray:
    moments = np.zeros((degree + 1, features[0].numel()), dtype=np.float32)
    for step, feature in zip(STEPS, features, strict=False):
        row = reference.chebyshev_row(float(step), 50, degree)
        moments = reference.update_moments(moments, feature.float().cpu().numpy().reshape(-1), row)
    return moments


# ---------------------------------------------------------------- the storages


@pytest.mark.parametrize("maker", [made.chebyshev_weights, made.taylor_weights, made.hermite_weights])
@pytest.mark.parametrize("count", [1, 2, 3, 14])  # fewer than any order needs, and a whole run
def test_features(maker, count):
    features = make(count)
    forecaster = fill(Forecaster(50, maker), features)
    kept = len(forecaster)
    assert kept == min(count, {made.taylor_weights: 2, made.hermite_weights: 3}.get(maker, count))
    target = STEPS[count - 1] + 2
    weights = maker(STEPS[:count][-kept:], target, 50)
    assert_same_bits(forecaster.predict(target), forecast(features[-kept:], weights))
    assert_same_bits(forecaster.weights(target), weights)
    if maker is not made.chebyshev_weights:
        # A bounded expansion uses what it keeps: the same numbers as with the whole history.
        whole = maker(STEPS[:count], target, 50)
        assert_same_bits(weights, whole[-kept:])
        assert not whole[:-kept].any()


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("count", [1, 2, 14])
def test_moments(name, count):
    features = make(count)
    with backend(name):
        forecaster = fill(Forecaster(50, storage="moments"), features)
        result = forecaster.predict([47, 49])
    moments = reference_moments(features)
    assert_same_bits(forecaster._moments.cpu(), moments)
    tables = [*moments, *[h.float().cpu().numpy().reshape(-1) for h in features[-2:]]]
    for row, target in zip(result, (47, 49), strict=True):
        bits = reference.forecast(tables, reference.moment_weights(STEPS[:count], target, 50), "bfloat16")
        np.testing.assert_array_equal(bit_pattern(row).view(np.uint16), bits.reshape(row.shape))


def test_moments_and_features_are_the_same_forecast():
    """Two roundings of one number. Both sum K or M + 3 float32 terms; 4e-6 is their rounding, 2^-24 (K + 7) sum |w h| <
    3e-6."""
    features = make(14, dtype=torch.float32)
    a, b = (fill(Forecaster(50, storage=s), features).predict(49) for s in ("features", "moments"))
    assert (a - b).abs().max() < 4e-6 * a.abs().max()


def test_auto_takes_the_smaller():
    for options, expected in [
        ({}, "moments"),  # 50 evaluations possible: 100 bytes per element against 24
        ({"evaluations": 14}, "moments"),  # 28 against 24
        ({"evaluations": 12}, "features"),  # 24 against 24
        ({"max_features": 8}, "features"),
        ({"encoding": "int8"}, "features"),
        ({"weights": made.taylor_weights}, "features"),
    ]:
        forecaster = Forecaster(50, storage="auto", **options)
        assert forecaster.storage == "auto"
        assert fill(forecaster, make(3)).storage == expected
    assert fill(Forecaster(50, storage="auto"), make(2, dtype=torch.float64)).storage == "features"


@pytest.mark.parametrize("encoding", ["int8", "float8"])
@pytest.mark.parametrize("name", BACKENDS)
def test_encoded_history(name, encoding):
    features = make(9)
    with backend(name):
        forecaster = fill(Forecaster(50, max_features=8, encoding=encoding), features)
        result = forecaster.predict([16, 19])
    assert len(forecaster) == 8
    decoded = [reference.decode(*reference.encode(h.float().cpu().numpy(), encoding)) for h in features[1:]]
    for row, target in zip(result, (16, 19), strict=True):
        bits = reference.forecast(decoded, reference.chebyshev_weights(STEPS[1:9], target, 50), "bfloat16")
        np.testing.assert_array_equal(bit_pattern(row).view(np.uint16), bits.reshape(row.shape))


@pytest.mark.parametrize("encoding", ["int8", "float8"])
def test_encoding_is_the_reference_and_keeps_its_bound(encoding):
    rng = np.random.default_rng(3)
    values = rng.standard_normal(5000) * 10 ** rng.uniform(-42, 38, 5000)
    values[:64] = 0  # a block of zeros, exact
    values[64:96] = np.linspace(-1, 1, 32) * 127.9 / 128  # rounds up to 128: clamped
    values[96:128] = 2.0**-149  # subnormal
    values[128:160] = np.ldexp(rng.standard_normal(32), -np.arange(32))  # every exponent of e4m3 and below
    values[160], values[200] = np.nan, np.inf
    values[4999] = np.float32(3.2e38)  # above 3.35e38 a float8 mantissa rounds up to 2^128
    values = values.astype(np.float32)
    codes, exponents = encode(torch.from_numpy(values).to(DEVICE), encoding)
    expected_codes, expected_bytes = reference.encode(values, encoding)
    assert_same_bits(codes.float().cpu() + 0.0, expected_codes + np.float32(0))  # int8 knows no negative zero
    np.testing.assert_array_equal(exponents.cpu(), expected_bytes)
    decoded = reference.decode(expected_codes, expected_bytes)
    blocks = np.pad(values, (0, -len(values) % 32)).reshape(-1, 32)
    top = np.repeat(np.abs(blocks).max(1), 32)[: len(values)]
    fine = np.isfinite(top)
    assert np.isnan(decoded[~fine]).all()
    # The grid ends at 2^-126 / 2^9; blocks of subnormals are off by that.
    error = np.abs(decoded[fine].astype(np.float64) - values[fine])
    assert (error <= ERROR_BOUND[encoding] * top[fine] + 2.0**-127).all()
    assert error[:64].max() == 0
    if encoding == "float8":
        near = np.abs(values[fine]) >= 2.0**-13 * top[fine]
        assert (error[near] <= np.abs(values[fine][near]) / 16 + 2.0**-136).all()


def test_encode_does_not_depend_on_its_chunks(monkeypatch):
    feature = make(1)[0]
    whole = encode(feature, "int8")
    monkeypatch.setattr("spectral_kernels.history._CHUNK", 64)
    for a, b in zip(encode(feature, "int8"), whole, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("encoding", ["int8", "float8"])
def test_error_bound_holds(encoding):
    features = make(9, dtype=torch.float32)
    exact = fill(Forecaster(50, blend=0.7), features)
    coded = fill(Forecaster(50, blend=0.7, encoding=encoding), features)
    assert exact.error_bound(18) == 0
    error = (coded.predict(18) - exact.predict(18)).abs().reshape(-1)
    top = torch.stack(features).abs().amax(0).reshape(-1)
    top = torch.nn.functional.pad(top, (0, -len(top) % 32)).view(-1, 32).amax(1).repeat_interleave(32)[: len(error)]
    bound = coded.error_bound(18) * top
    assert (error <= bound).all()
    assert error.max() > 0.01 * bound.max()  # the bound is of the size of the error


@pytest.mark.parametrize("encoding", [None, "int8"])
def test_offload_in_pieces(monkeypatch, encoding):
    features = make(9)
    plain = fill(Forecaster(50, encoding=encoding), features)
    monkeypatch.setattr(module, "PIECE", 256)  # several pieces and a short last one
    away = fill(Forecaster(50, encoding=encoding, offload=True), features)
    assert_same_bits(away.predict(17), plain.predict(17))
    assert_same_bits(away.predict([17, 18]), plain.predict([17, 18]))
    if torch.cuda.is_available():
        assert away.device_nbytes == 0
        assert all(h.tensor.is_pinned() for h in away._features)


@pytest.mark.gpu
def test_offload_across_streams():
    """Written on one stream behind a long queue of work, read on another: the reader must wait for the copy."""
    work = torch.randn(4096, 4096, device="cuda")
    features = make(3, (1 << 22,))
    forecaster = Forecaster(50, offload=True, weights=made.linear_weights)
    writer, reader = torch.cuda.Stream(), torch.cuda.Stream()
    expected = forecast(features[-2:], made.linear_weights([1, 2], 5, 50))
    torch.cuda.synchronize()
    with torch.cuda.stream(writer):
        for _ in range(30):
            work = work @ work * 1e-3
        for step, feature in enumerate(features):
            forecaster.update(step, feature)
    with torch.cuda.stream(reader):
        result = forecaster.predict(5)
    torch.cuda.synchronize()
    assert_same_bits(result, expected)


def test_pinned_on_the_cpu_keeps_the_tensor():
    tensor = torch.zeros(3)
    pinned = Pinned(tensor)
    assert pinned.wait(tensor.device) is tensor
    assert pinned.settle() is tensor


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("options", "per_element"),
    [
        ({}, 28),  # 14 bfloat16 features
        ({"storage": "moments"}, 24),  # 5 float32 moments and two features
        ({"storage": "moments", "degree": 2}, 16),
        ({"max_features": 8}, 16),
        ({"max_features": 8, "encoding": "int8"}, 8.25),
        ({"max_features": 8, "encoding": "float8"}, 8.25),
        ({"weights": made.taylor_weights}, 4),
        ({"weights": made.reuse_weights}, 2),
    ],
)
def test_nbytes_after_a_run_of_14(options, per_element):
    """The official form holds 14 features and 5 coefficients in bfloat16: 38 bytes; sglang's ring 100 float32: 400."""
    forecaster = fill(Forecaster(50, **options), make(14, (64, 32)))
    assert forecaster.nbytes == forecaster.device_nbytes == per_element * 2048


def test_copies_are_independent_and_references_are_not():
    for copy in (True, False):
        for storage in ("features", "moments"):
            feature = torch.ones(8, device=DEVICE)
            forecaster = Forecaster(50, made.chebyshev_weights, storage, copy=copy, blend=0.0)
            forecaster.update(0, feature)
            feature.fill_(3.0)
            assert forecaster.predict(1).unique().item() == (1.0 if copy else 3.0)


def test_gradients_are_not_kept():
    feature = torch.ones(8, requires_grad=True) * 2
    forecaster = Forecaster(50)
    forecaster.update(0, feature)
    assert not forecaster.predict(1).requires_grad


# ---------------------------------------------------------------- state


@pytest.mark.parametrize("count", [2, 9])
@pytest.mark.parametrize(
    "options", [{}, {"storage": "moments"}, {"storage": "auto"}, {"encoding": "int8"}, {"offload": True}]
)
def test_state_dict_continues_a_run(options, count):
    features = make(12)
    straight = fill(Forecaster(50, **options), features)
    stopped = fill(Forecaster(50, **options), features[:count])
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    fill(stopped, features[count:], STEPS[count:])  # must not change what was saved
    file.seek(0)
    state = torch.load(file, weights_only=False)
    for _ in range(2):  # nor may the state be used up
        resumed = Forecaster(50, **options)
        resumed.load_state_dict(state)
        fill(resumed, features[count:], STEPS[count:])
        assert resumed.steps == straight.steps
        assert_same_bits(resumed.predict(40), straight.predict(40))


def test_state_of_another_configuration_is_refused():
    state = fill(Forecaster(50, storage="moments"), make(2)).state_dict()
    for options in ({}, {"encoding": "int8"}):
        with pytest.raises(ValueError, match="the state holds moments"):
            Forecaster(50, **options).load_state_dict(state)


@pytest.mark.parametrize("storage", ["features", "moments"])
def test_a_failed_update_changes_nothing(storage, monkeypatch):
    features = make(4)
    forecaster = fill(Forecaster(50, storage=storage), features[:2])
    before = forecaster.predict(5)
    for step, feature in [
        (1, features[2]),
        (0, features[2]),
        (51, features[2]),
        (2, features[2][0]),
        (2, features[2].float()),
    ]:
        with pytest.raises(ValueError, match=r"Forecaster|positions"):
            forecaster.update(step, feature)
    with pytest.raises(TypeError):
        forecaster.update(2, [1.0])

    def broken(*_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "clone", broken)
        with pytest.raises(RuntimeError):
            forecaster.update(2, features[2])
    assert forecaster.steps == STEPS[:2]
    assert_same_bits(forecaster.predict(5), before)
    fill(forecaster, features[2:], STEPS[2:])
    assert_same_bits(forecaster.predict(5), fill(Forecaster(50, storage=storage), features).predict(5))


@pytest.mark.parametrize("storage", ["features", "moments", "auto"])
def test_reset_begins_a_run_of_another_shape(storage):
    forecaster = fill(Forecaster(50, storage=storage), make(3))
    forecaster.reset()
    assert (len(forecaster), forecaster.nbytes, forecaster.storage) == (0, 0, storage)
    other = make(2, (5, 4), torch.float32)
    assert_same_bits(fill(forecaster, other).predict(3), fill(Forecaster(50, storage=storage), other).predict(3))


def test_compile_fullgraph():
    forecaster = fill(Forecaster(50), make(5))
    compiled = torch.compile(lambda x: x + forecaster.predict(5), fullgraph=True)
    x = torch.zeros(3, 7, 61, dtype=torch.bfloat16, device=DEVICE)
    assert_same_bits(compiled(x), forecaster.predict(5) + x)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_step_on_the_device(name):
    forecaster = fill(Forecaster(50, degree=3), make(5))
    with backend(name):
        target = torch.tensor([5.0, 9.0], dtype=torch.float64, device=DEVICE)
        assert_same_bits(forecaster.predict(target), forecaster.predict([5, 9]))
        assert_same_bits(forecaster.predict(target[1]), forecaster.predict(9))
    if name == "triton":
        with backend(name), pytest.raises(ValueError, match="pass the step as a number"):
            fill(Forecaster(50, storage="moments"), make(2)).predict(target)


def test_out():
    for storage in ("features", "moments"):
        forecaster = fill(Forecaster(50, storage=storage), make(5))
        out = torch.empty(3, 7, 61, dtype=torch.bfloat16, device=DEVICE)
        assert forecaster.predict(9, out=out) is out
        assert_same_bits(out, forecaster.predict(9))


def test_sigmas_are_the_axis():
    sigmas = np.linspace(1, 0, 51) ** 2
    features = make(5)
    for storage in ("features", "moments"):
        bent = fill(Forecaster(50, storage=storage, sigmas=sigmas), features)
        assert (bent.predict(9) - fill(Forecaster(50, storage=storage), features).predict(9)).abs().max() > 1e-2
    weights = made.chebyshev_weights(STEPS[:5], 9, 50, sigmas=sigmas)
    assert_same_bits(fill(Forecaster(50, sigmas=sigmas), features).predict(9), forecast(features, weights))


def test_a_maker_of_your_own():
    def mean(steps, target, num_steps):
        return torch.full((len(steps),), 1 / len(steps))

    features = make(4)
    assert_same_bits(fill(Forecaster(50, mean), features).predict(9), forecast(features, [0.25] * 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"storage": "disk"}, "storage must be one of"),
        ({"max_features": 0}, "max_features"),
        ({"encoding": "int4"}, "encoding"),
        ({"storage": "moments", "max_features": 4}, "moments hold"),
        ({"storage": "moments", "weights": made.taylor_weights}, "moments hold"),
        ({"ridge": -1.0}, "ridge"),
        ({"blend": 2.0}, "blend"),
        ({"degree": -1}, "degree"),
        ({"num_steps": 3, "ridge": 0.0, "degree": 4}, "singular"),
    ],
)
def test_errors_when_built(options, message):
    with pytest.raises(ValueError, match=message):
        Forecaster(**{"num_steps": 50, **options})


def test_errors_in_a_run():
    forecaster = Forecaster(50, ridge=0.0)
    with pytest.raises(ValueError, match="nothing to forecast from"):
        forecaster.predict(1)
    forecaster.update(3, torch.zeros(4))
    with pytest.raises(ValueError, match="singular"):
        forecaster.predict(5)
    with pytest.raises(ValueError, match="before the last evaluated step 3"):
        forecaster.predict(2)
    with pytest.raises(ValueError, match=r"call reset\(\) before a run of another shape"):
        forecaster.update(4, torch.zeros(5))
    for dtype in (torch.int32, torch.float8_e4m3fn):
        with pytest.raises(TypeError, match=f"a feature must be a tensor of float32.*got {dtype}; convert it"):
            forecaster.update(4, torch.zeros(4, dtype=dtype))
    with pytest.raises(ValueError, match="moments are float32"):
        Forecaster(50, storage="moments").update(0, torch.zeros(4, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="no gradient"):
        codes, exponents = encode(torch.zeros(4), "int8")
        weights = torch.ones(1, 1, requires_grad=True)
        ops.forecast([codes], [exponents], weights, torch.float32)


def test_repr_prints_what_is_held():
    text = repr(fill(Forecaster(50, encoding="int8"), make(3)))
    assert "chebyshev_weights" in text
    assert "features=3" in text
