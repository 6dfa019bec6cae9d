# SPDX-License-Identifier: Apache-2.0
"""How a GPU is used: graphs, streams, a second GPU, memory, launches, no wait for the device, torch.compile."""

import pytest
import torch

from bench.measure import captured, launches
from spectral_kernels import (
    bases,
    chebyshev_forecast,
    chebyshev_weights,
    dct_expand,
    dct_truncate,
    dctn,
    dwt2,
    dwt_expand,
    forecast,
    laplacian_pyramid,
    laplacian_reconstruct,
    noise_levels,
    normal,
    spectral_lift,
)
from tests.bits import assert_same_bits

launch = pytest.importorskip("spectral_kernels.kernels.launch")

pytestmark = pytest.mark.gpu


def tensor(*shape, device="cuda", seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def features(x):
    return [x * (1 + k / 8) for k in range(4)]


STEPS = [0, 1, 2, 4]
# name: a function of a tensor [2, 3, 16, 20] that gives a tensor or several; what it needs besides lies on that device.
OPS = {
    "expand": lambda x: dct_expand(x, 2, t=0.4, seed=7).x,
    "expand, given": lambda x: dct_expand(x[..., :8, :10], 2, t=0.4, noise=x).x,
    "expand, two launches": lambda x: dct_expand(x, size=(300, 40), t=0.4, seed=7).x,
    "expand, times and seeds of samples": lambda x: dct_expand(x, 2, t=[0.4, 0.8], seed=[7, 9]).x,
    "expand, tensors of both": lambda x: (
        dct_expand(x, 2, t=x[:, 0, 0, 0].abs().clamp(max=1), seed=torch.full((2,), 3, device=x.device)).x
    ),
    "tapered": lambda x: dct_expand(x, 2, t=0.4, seed=7, taper=0.25).x,
    "fast": lambda x: dct_expand(x, 2, t=0.4, seed=7, precision="fast").x,
    "truncate": lambda x: dct_truncate(x, size=(7, 9), t=0.4),
    "lift": lambda x: spectral_lift(x, x[..., :8, :10], t=0.4),
    "dctn": dctn,
    "Haar": lambda x: dwt_expand(x, 2, t=0.4, seed=7).x,
    "dwt2": dwt2,
    "normal": lambda x: normal(x.shape, 7, device=x.device),
    "forecast": lambda x: forecast(features(x), chebyshev_weights(STEPS, 6, 50)),
    "forecast, several": lambda x: forecast(features(x), chebyshev_weights(STEPS, [6, 7], 50)),
    "forecast, times on the device": lambda x: chebyshev_forecast(
        features(x), torch.arange(4.0, dtype=torch.float64, device=x.device), x.new_full((), 6.0).double(), 50
    ),
    "pyramid": lambda x: laplacian_pyramid(x, 3),
    "bilinear pyramid": lambda x: laplacian_pyramid(x, 2, "bilinear"),
    "pyramid, up": lambda x: laplacian_reconstruct([x[..., :8, :10], x]),
    "noised levels": lambda x: (
        noise_levels([x[..., :8, :10], x], x.new_full((2, 2), 0.4).double(), 7, mask=x[:, :2, 0, 0] < 9).noisy
    ),
}


def several(answer):
    return list(answer) if isinstance(answer, list | tuple) else [answer]


def assert_all_same(found, expected):
    for one, other in zip(several(found), several(expected), strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("name", OPS)
def test_a_graph_replays_with_what_its_memory_then_holds(name):
    """Nothing waits for the device, copies from the host or remembers a value; and nothing waits in plain calls."""
    x = tensor(2, 3, 16, 20)
    OPS[name](x)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        OPS[name](x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    answers = []
    replay = captured(lambda: answers.append(OPS[name](x)))
    for seed in (1, 2):
        x.copy_(tensor(2, 3, 16, 20, seed=seed))
        expected = [one.clone() for one in several(OPS[name](x))]
        for one in several(answers[-1]):
            one.fill_(float("nan"))
        replay()
        assert_all_same(answers[-1], expected)


def test_a_graph_keeps_its_tables():
    """The caches let tables go, a graph that was captured with them still reads them."""
    x = tensor(1, 2, 18, 22)
    expected = dct_expand(x, size=(27, 31), t=0.4, seed=7).x.clone()
    answers = []
    replay = captured(lambda: answers.append(dct_expand(x, size=(27, 31), t=0.4, seed=7).x))
    for side in range(1, 260):
        bases.sliced("dct", "analysis", side, side, x.device)
    rubbish = [torch.full((1 << k,), float("nan"), device="cuda") for k in range(7, 20) for _ in range(20)]
    replay()
    assert_same_bits(answers[-1], expected)
    del rubbish


@pytest.mark.parametrize("name", OPS)
def test_work_goes_to_the_current_stream(name):
    """The input is written late on a stream of its own; work on another one would read what was there before."""
    expected = [one.clone() for one in several(OPS[name](tensor(2, 3, 16, 20, seed=5)))]
    late, x = tensor(2, 3, 16, 20, seed=5), tensor(2, 3, 16, 20)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        x.copy_(late)
        found = OPS[name](x)
    stream.synchronize()
    assert_all_same(found, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("name", OPS)
def test_a_gpu_that_is_not_the_current_one(name):
    expected = OPS[name](tensor(2, 3, 16, 20))
    found = OPS[name](tensor(2, 3, 16, 20, device="cuda:1"))
    assert all(one.device.index == 1 for one in several(found))
    assert_all_same(found, expected)


@pytest.fixture
def bare_memory(monkeypatch):
    """Fresh memory as it is: filling it takes launches."""
    monkeypatch.setattr("poison.poison", lambda fresh: fresh)


# name: allocations of a call beside its inputs, launches. Two launches of an expansion have two halves in memory.
COSTS = {
    "expand": (1, 1),
    "expand, two launches": (3, 2),
    "expand, times and seeds of samples": (1, None),
    "truncate": (1, 1),
    "dctn": (1, 1),
    "Haar": (1, 1),
    "dwt2": (1, 1),
    "normal": (1, 1),
    "pyramid": (4, 2),
}


@pytest.mark.parametrize("name", COSTS)
def test_memory_and_launches(name, bare_memory):
    if COSTS[name] == (1, 1) and launch.fused_side("exact", torch.device("cuda", 0)) == 0:
        pytest.skip("this chip does every plane product in two launches")
    x = tensor(2, 3, 16, 20)
    OPS[name](x)
    allocations, kernels = COSTS[name]

    def count() -> int:
        return torch.cuda.memory_stats()["allocation.all.allocated"]

    before = count()
    answer = OPS[name](x)
    if name != "expand, times and seeds of samples":  # checking times takes launches of its own
        assert count() - before == allocations
    assert answer is not None
    if kernels is not None:
        assert launches(lambda: OPS[name](x)) == kernels


def test_memory_and_launches_of_a_forecast(bare_memory):
    """16-byte loads for all but a tail; without one there is one launch."""
    given = features(tensor(64, 1024, dtype=torch.bfloat16))
    weights = chebyshev_weights(STEPS, 6, 50)
    assert launches(lambda: forecast(given, weights)) == 1
    uneven = [h[:63, :1001].contiguous() for h in given]
    assert launches(lambda: forecast(uneven, weights)) == 2
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    kept = forecast(given, weights)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] - before == 1
    del kept


@pytest.mark.parametrize("name", ["expand", "expand, given", "lift", "Haar", "forecast", "bilinear pyramid"])
def test_compiled_by_inductor(name):
    """Beside code that Inductor makes itself."""
    torch._dynamo.reset()
    x = tensor(2, 3, 16, 20)
    function = lambda x: [one * 2 for one in several(OPS[name](x * 0.5))]  # noqa: E731
    assert_all_same(torch.compile(function, fullgraph=True)(x), function(x))
