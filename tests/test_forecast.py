# SPDX-License-Identifier: Apache-2.0
"""The forecast itself: bits against the reference on every backend, gradients, compile, graphs, and every error."""

import numpy as np
import pytest
import torch
from bits import assert_same_bits, bit_pattern
from hypothesis import given, settings
from hypothesis import strategies as st

import spectral_kernels.dispatch.forecast as ops
from reference import forecast as reference
from spectral_kernels.dispatch import backend, missing
from spectral_kernels.forecast import chebyshev_forecast, chebyshev_weights, forecast
from tests.cases import needs_gpu_memory

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# On a GPU the features lie there, where the compiled CPU core has nothing to say.
ASKED = ("torch", "triton") if DEVICE == "cuda" else ("torch", "native", "triton")
BACKENDS = [name for name in ASKED if missing(name) is None]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def make(count: int, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...], seed: int = 0) -> list[torch.Tensor]:
    """Features with 5 decades of magnitude, dtypes taken in turn."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((count, *shape)) * 10 ** rng.uniform(-3, 2, (count, *shape))
    return [torch.tensor(v).to(dtypes[k % len(dtypes)]).to(DEVICE) for k, v in enumerate(values)]


def expected(features: list[torch.Tensor], weights: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
    arrays = [h.detach().float().cpu().numpy() for h in features]
    return reference.forecast(arrays, weights.detach().cpu().numpy(), NAMES[dtype])


def assert_reference_bits(actual: torch.Tensor, features, weights) -> None:
    bits = expected(features, weights, actual.dtype)
    if actual.dtype == torch.bfloat16:
        assert actual.shape == bits.shape
        np.testing.assert_array_equal(bit_pattern(actual).view(np.uint16), bits)
    else:
        assert_same_bits(actual.cpu(), bits)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtypes", [(d,) for d in DTYPES] + [DTYPES, DTYPES[::-1]], ids=str)
# One pointer, a power of two, one above it (pointers are padded), the run's 14, the official ring's 100.
@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 14, 100])
def test_same_bits_as_the_reference(name, dtypes, count):
    features = make(count, (3, 7, 61), dtypes)  # 1281 elements: odd, more than one block of 1024, a tail of one
    weights = torch.tensor(np.random.default_rng(1).standard_normal(count), dtype=torch.float32)
    with backend(name):
        result = forecast(features, weights)
    assert result.dtype == features[-1].dtype
    assert_reference_bits(result, features, weights)


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_size_count_and_number_of_targets(name, data):
    count, targets = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 6))
    shape = tuple(data.draw(st.lists(st.integers(0, 13), min_size=0, max_size=4)))
    dtypes = tuple(data.draw(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3)))
    features = make(count, shape, dtypes, data.draw(st.integers(0, 99)))
    weights = torch.tensor(np.random.default_rng(2).standard_normal((targets, count)), dtype=torch.float32)
    with backend(name):
        assert_reference_bits(forecast(features, weights), features, weights)


@pytest.mark.parametrize("name", BACKENDS)
def test_special_values(name):
    """Infinities, NaN with payloads, subnormals, overflow, signed zeros; a NaN touches its own element only."""
    special = torch.tensor([0x7F800000, -0x800000, 0x7F800001, -1, 1, -0x80000000, 0, 0x7F7FFFFF], dtype=torch.int32)
    special = special.view(torch.float32)
    for dtype in DTYPES:
        features = [h.to(DEVICE) for h in (special.to(dtype), special.flip(0).to(dtype), special.roll(3).to(dtype))]
        for weights in ([1.0, 0.5, -2.0], [0.0, -0.0, 0.0], [3.0e38, 3.0e38, 1e-45]):
            weights = torch.tensor(weights)
            with backend(name):
                assert_reference_bits(forecast(features, weights), features, weights)
                assert_reference_bits(forecast(features[:1], weights[:1]), features[:1], weights[:1])
    features = make(4, (1000,), (torch.bfloat16,))
    with backend(name):
        clean = forecast(features, [1.0, 2.0, 3.0, 4.0])
        features[2][777] = float("nan")
        dirty = forecast(features, [1.0, 2.0, 3.0, 4.0])
    assert dirty[777].isnan()
    dirty[777] = clean[777]
    assert_same_bits(dirty, clean)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("offset", [1, 3, 8])  # not 4, 8 or 16 bytes aligned; aligned for half types only
def test_misaligned_storage(name, offset):
    base = make(3, (1100,), DTYPES)
    weights = torch.tensor([0.5, -1.5, 2.5])
    moved = []
    for h in base:
        room = torch.zeros(1100 + offset, dtype=h.dtype, device=DEVICE)
        room[offset:] = h
        moved.append(room[offset:])
    with backend(name):
        assert_same_bits(forecast(moved, weights), forecast(base, weights))


@pytest.mark.parametrize("name", BACKENDS)
def test_strides(name):
    """Dense layouts are read in place and kept; slices, expanded and mixed layouts give the same numbers."""
    base = make(3, (2, 6, 5, 4), (torch.bfloat16,))
    weights = torch.tensor([0.5, -1.5, 2.5])
    with backend(name):
        straight = forecast(base, weights)
        last = [h.contiguous(memory_format=torch.channels_last) for h in base]
        result = forecast(last, weights)
        assert result.stride() == last[0].stride()
        assert_same_bits(result, straight)
        assert_same_bits(forecast([base[0], last[1], base[2]], weights), straight)
        assert_same_bits(forecast([h[:, 1:3] for h in base], weights), straight[:, 1:3])
        assert_same_bits(
            forecast([h[0, 0, 0, 0].expand(7, 3) for h in base], weights), straight[0, 0, 0, 0].expand(7, 3)
        )
        # Tokens behind a prefix, batch 1: contiguous, but with a stride that no contiguous tensor of that shape has.
        tokens = [torch.cat([h[:, :2], h], 1)[:1, 2:] for h in base]
        assert tokens[0].is_contiguous()
        assert_same_bits(forecast([*tokens[:2], tokens[2].clone()], weights), straight[:1])
        pair = forecast(last, torch.stack([weights, -weights]))
        assert_same_bits(pair[0], straight)
        assert_same_bits(pair[1], -straight)


@pytest.mark.parametrize("name", BACKENDS)
def test_batch_and_chunks_do_not_matter(name):
    features = make(5, (6, 4, 97), (torch.bfloat16,))
    weights = torch.tensor([0.1, -0.2, 0.3, 0.4, 0.5])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with backend(name):
        whole = forecast(features, weights)
        assert_same_bits(forecast([h[order] for h in features], weights), whole[order])
        for b in range(6):
            assert_same_bits(forecast([h[b] for h in features], weights), whole[b])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("inference", [False, True])
def test_blocks_and_threads_of_torch_do_not_matter(monkeypatch, threads, inference):
    features = [h.requires_grad_() for h in make(5, (1000,), DTYPES)]
    features[1].data[777] = float("nan")
    moments = torch.zeros(2, 1000, device=DEVICE)
    row = torch.tensor([0.5, 2.0])

    def run() -> list[torch.Tensor]:
        summed = moments.clone()
        ops.update_moments(summed, features[1].detach(), row)
        return [forecast(features, [0.1, -0.2, 0.3, 0.4, 0.5]).detach(), summed]

    before = torch.get_num_threads()
    with backend("torch"):
        whole = run()
        monkeypatch.setattr(ops, "BLOCK", 32)  # 32 blocks, the last one short
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode(inference):
                parts = run()
        finally:
            torch.set_num_threads(before)
    for a, b in zip(parts, whole, strict=True):
        assert_same_bits(a, b)


@pytest.mark.skipif("triton" not in BACKENDS, reason="needs Triton")
@pytest.mark.parametrize(("block", "num_warps"), [(128, 1), (256, 2), (2048, 8), (4096, 16)])
def test_launch_settings_do_not_matter(block, num_warps):
    from spectral_kernels.kernels import forecast as kernels

    features = make(5, (5000,), DTYPES)
    weights = torch.tensor([[0.1, -0.2, 0.3, 0.4, 0.5], [1.0, 2.0, -3.0, 4.0, -5.0]])
    outs = [torch.empty(2, 5000, device=DEVICE) for _ in range(2)]
    kernels.forecast(features, [], weights, outs[0])
    kernels.forecast(features, [], weights, outs[1], kernels.Launch(block, num_warps))
    assert_same_bits(outs[1], outs[0])


@pytest.mark.parametrize("name", BACKENDS)
def test_weights_may_lie_on_the_device(name):
    features = make(3, (2, 500), (torch.float16,))
    weights = torch.tensor([[0.5, -1.5, 2.5], [1.0, 1e-3, -7.0]])
    with backend(name):
        host = forecast(features, weights)
        if name == "triton":  # the pointer variant of the kernel, which no CPU tensor would choose
            from spectral_kernels.kernels import forecast as kernels

            flat = torch.empty(2, 1000, dtype=torch.float16, device=DEVICE)

            class Device:  # says that it is not on the CPU
                device = torch.device("meta")
                shape, dtype = weights.shape, weights.dtype

                def to(self, _):
                    return weights.to(DEVICE)

            kernels.forecast([h.reshape(-1) for h in features], [], Device(), flat)
            assert_same_bits(flat.view(2, 2, 500), host)
        assert_same_bits(forecast(features, weights.to(DEVICE)), host)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("count", [1, 2, 5, 14])
@pytest.mark.parametrize("degree", [0, 1, 4, 7])
def test_weights_made_on_the_device(name, count, degree):
    steps = [0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 25, 31, 38, 46][:count]
    targets = [float(steps[-1]), 46.5, 50.0]
    options = {"degree": degree, "ridge": 0.3, "blend": 0.7}
    x, goals = (torch.tensor(v, dtype=torch.float64, device=DEVICE) for v in (steps, targets))
    features = make(count, (3, 411), DTYPES)
    with backend(name):
        weights = ops.chebyshev_weights(x, goals, 50.0, degree, 0.3, 0.7)
        fused = chebyshev_forecast(features, x, goals, 50, **options)
        one = chebyshev_forecast(features, x, goals[1], 50, **options)
    for row, target in zip(weights, targets, strict=True):
        assert_same_bits(row.cpu(), reference.chebyshev_weights(steps, target, 50, **options))
    assert_reference_bits(fused, features, weights)
    assert_same_bits(one, fused[1])


@pytest.mark.parametrize("name", BACKENDS)
def test_a_singular_system_on_the_device_is_nan(name):
    x = torch.tensor([0.0, 1.0], dtype=torch.float64, device=DEVICE)
    with backend(name):
        assert ops.chebyshev_weights(x, x[1:] + 1, 50.0, 4, 0.0, 0.5).isnan().all()


@pytest.mark.parametrize("name", BACKENDS)
def test_out(name):
    features = make(3, (2, 50), DTYPES)
    weights = torch.tensor([0.5, -1.5, 2.5])
    with backend(name):
        for dtype in DTYPES:
            out = torch.full((2, 50), float("nan"), dtype=dtype, device=DEVICE)
            assert forecast(features, weights, out=out) is out
            assert_reference_bits(out, features, weights)
            apart = torch.full((2, 100), float("nan"), dtype=dtype, device=DEVICE)[:, ::2]
            assert_same_bits(forecast(features, weights, out=apart), out)
        pair = torch.empty(2, 2, 50, device=DEVICE)
        matrix = torch.stack([weights, -weights])
        assert_reference_bits(forecast(features, matrix, out=pair), features, matrix)


# ---------------------------------------------------------------- gradients, compile, graphs


def test_gradcheck():
    features = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    weights = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    run = lambda *a: forecast(a[:-1], a[-1])  # noqa: E731
    assert torch.autograd.gradcheck(run, (*features, weights))
    assert torch.autograd.gradcheck(run, (*features, weights[0].detach().requires_grad_()))
    assert torch.autograd.gradgradcheck(run, (*features, weights.detach()))


@pytest.mark.parametrize("name", BACKENDS)
def test_gradient_is_the_weight(name):
    features = [h.requires_grad_(k != 1) for k, h in enumerate(make(3, (40,), DTYPES))]
    with backend(name):
        forecast(features, [0.5, -1.5, 2.5]).sum().backward()
    assert features[1].grad is None
    assert_same_bits(features[0].grad, torch.full((40,), 0.5, device=DEVICE))
    assert_same_bits(features[2].grad, torch.full((40,), 2.5, dtype=torch.float16, device=DEVICE))


@pytest.mark.parametrize("name", BACKENDS)
def test_opcheck(name):
    features = make(3, (2, 20), DTYPES)
    weights = torch.tensor([[0.5, -1.5, 2.5], [1.0, 2.0, 3.0]])
    x = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64, device=DEVICE)
    fit = (50.0, 2, 0.1, 0.5)
    with backend(name):
        torch.library.opcheck(ops.forecast.default, (features, [], weights, torch.bfloat16))
        torch.library.opcheck(
            ops.forecast.default, ([h.requires_grad_() for h in features], [], weights, torch.float32)
        )
        features = [h.detach() for h in features]
        torch.library.opcheck(ops.forecast_out.default, (features, [], weights, torch.empty(2, 2, 20, device=DEVICE)))
        torch.library.opcheck(ops.chebyshev_weights.default, (x, x[2:], *fit))
        torch.library.opcheck(ops.chebyshev_forecast.default, (features, x, x[2:], *fit, torch.float16))
        row = torch.tensor([1.0, 0.5])
        torch.library.opcheck(
            ops.update_moments.default, (torch.zeros(2, 40, device=DEVICE), features[0].view(-1), row)
        )


def test_compile_fullgraph_and_dynamic_batch():
    features = make(3, (2, 20), DTYPES)
    weights = torch.tensor([0.5, -1.5, 2.5])
    compiled = torch.compile(lambda a, b, c, w: forecast([a, b, c], w) * 2, fullgraph=True, dynamic=True)
    for batch in (2, 3, 5):
        features = make(3, (batch, 20), DTYPES)
        assert_same_bits(compiled(*features, weights), forecast(features, weights) * 2)
    constant = torch.compile(lambda a, b: forecast([a, b], chebyshev_weights([0, 3], 5, 50)), fullgraph=True)
    assert_same_bits(constant(*features[:2]), forecast(features[:2], chebyshev_weights([0, 3], 5, 50)))


@pytest.mark.gpu
def test_cuda_graph():
    """Device times are read at replay: one captured graph forecasts any step."""
    features = make(4, (64, 1024), (torch.bfloat16,))
    x = torch.tensor([0.0, 1.0, 2.0, 4.0], dtype=torch.float64, device="cuda")
    goal = torch.tensor(6.0, dtype=torch.float64, device="cuda")
    weights = chebyshev_weights([0, 1, 2, 4], 6, 50)
    for _ in range(2):
        forecast(features, weights), chebyshev_forecast(features, x, goal, 50)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        a, b = forecast(features, weights), chebyshev_forecast(features, x, goal, 50)
    for target in (6, 9, 17):
        goal.fill_(target)
        features[0].normal_()
        graph.replay()
        assert_reference_bits(a, features, weights)
        assert_reference_bits(b, features, chebyshev_weights([0, 1, 2, 4], target, 50))


@pytest.mark.gpu
def test_more_than_2_to_the_31_elements():
    needs_gpu_memory(20)
    size = 2**31 + 17
    features = [torch.zeros(size, dtype=torch.bfloat16, device="cuda") for _ in range(2)]
    for h, value in zip(features, (3.0, 5.0), strict=True):
        h[-1000:] = value
    result = forecast(features, torch.tensor([[2.0, 1.0], [1.0, -1.0]]))
    assert result[:, -1000:].unique(dim=1).flatten().tolist() == [11.0, -2.0]
    assert not result[:, :-1000].any()


# ---------------------------------------------------------------- errors


def test_errors():
    a, b = torch.zeros(2, 3), torch.zeros(2, 4)
    for features, weights, message in [
        ([], [], "no features"),
        ([a, b], [1, 1], r"feature 1 is \(2, 4\)"),
        ([a, a.to("meta")], [1, 1], "one shape and device"),
        ([a, a], [1.0], r"weights of shape \[2\]"),
        ([a, a], [[1.0], [2.0]], r"weights of shape \[2\]"),
        ([a, a], torch.zeros(0, 2), r"got \(0, 2\)"),
        ([a, a], [1.0, float("inf")], "finite"),
        ([a, a], [1.0, float("nan")], "finite"),
        ([a, a], torch.zeros(2, device="meta"), "weights must lie on the CPU"),
    ]:
        with pytest.raises(ValueError, match=f"forecast: .*{message}"):
            forecast(features, weights)
    with pytest.raises(TypeError, match=r"feature 0 is torch\.int64"):
        forecast([a.long()], [1.0])
    with pytest.raises(TypeError, match="feature 1 is float"):
        forecast([a, 2.0], [1.0, 1.0])
    for other, named in ((a.to(torch.float8_e4m3fn), "torch.float8_e4m3fn"), (a.to_sparse(), "torch.sparse_coo")):
        with pytest.raises(TypeError, match=f"dense tensors of float32.*feature 0 is {named}; convert it"):
            forecast([other], [1.0])
    for weights, message in (
        ("ab", "must be numbers.*got 'ab'"),
        (torch.tensor([1j]), "must be real, got .*weights.real"),
    ):
        with pytest.raises(TypeError, match=f"forecast: weights {message}"):
            forecast([a], weights)
    with pytest.raises(TypeError, match="out must be a tensor to write into, got int"):
        forecast([a], [1.0], out=3)
    for out in (a.to(torch.float8_e4m3fn), b, torch.zeros(2, 3, dtype=torch.int32), torch.zeros(1, 2, 3)):
        with pytest.raises(ValueError, match="out must be"):
            forecast([a], [1.0], out=out)
    with pytest.raises(ValueError, match="share memory"):
        forecast([a, a.clone()], [1.0, 2.0], out=a)
    with pytest.raises(ValueError, match="does not record gradients"):
        forecast([a.clone().requires_grad_()], [1.0], out=a)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="as many steps, got 2"):
        chebyshev_forecast([a], times, times[0], 50)
    with pytest.raises(ValueError, match="steps must be a tensor on the features' device"):
        chebyshev_forecast([a, a], [0, 1], times[1], 50)
