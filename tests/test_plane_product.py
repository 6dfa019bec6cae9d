# SPDX-License-Identifier: Apache-2.0
"""The plane product as PyTorch sees it: custom op, gradients, compilation, devices, memory, launches."""

import itertools

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from reference import expand as reference
from spectral_kernels import (
    Tokens,
    dct_expand,
    dct_truncate,
    dctn,
    dispatch,
    dwt_expand,
    fft_expand,
    idctn,
    normal,
    spectral_lift,
)
from spectral_kernels.dispatch.planes import weights
from tests.bits import assert_same_bits
from tests.cases import array, available, on_every_backend, random

OP = torch.ops.spectral_kernels.plane_product.default
NAMES = ([5, 7], [3, 4], "planes")


def double(*shape, seed=0):
    return random(shape, seed).double().requires_grad_()


@pytest.mark.parametrize("formula", ["expand", "fill", "truncate", "lift", "hold", "one"])
@pytest.mark.parametrize("part", ["", "first", "second"])
def test_weights_of_many_times_are_those_of_one(formula, part):
    """Division of a number by a tensor rounds twice in PyTorch; one time in seven would show it."""
    times = torch.linspace(0.01, 1, 300, dtype=torch.float64)
    for ratio in (1.0, 1.7320508075688772, 2.0, 3.3):
        many = weights(formula, part, times, ratio)
        alone = [weights(formula, part, t, ratio) for t in times.tolist()]
        for i in range(3):
            column = torch.tensor([row[i] for row in alone], dtype=torch.float64)
            assert_same_bits(torch.as_tensor(many[i]).expand(300), column)


CALLS = {
    "drawn": lambda: (double(2, 1, 3, 4), None, None, None, 7, 0.4, "up", "synthesis", "dct", *NAMES, "expand"),
    "given": lambda: (
        double(2, 1, 3, 4), double(2, 1, 5, 7), None, None, None, 0.4, "up", "synthesis", "dct", *NAMES, "expand",
    ),
    "times": lambda: (
        double(2, 1, 3, 4), None, torch.tensor([3, 9]), torch.tensor([0.2, 0.5]).double(), None, 0.0, "up",
        "synthesis", "dct", *NAMES, "fill",
    ),
    "lift": lambda: (
        double(2, 1, 3, 4), double(2, 1, 5, 7), None, None, None, 0.4, "up", "lowpass", "fft", *NAMES, "lift",
    ),
    "down": lambda: (double(2, 1, 5, 7), None, None, None, None, 0.4, "down", "", "dct", *NAMES, "truncate"),
    "transform": lambda: (
        double(2, 1, 5, 7), None, None, None, None, 0.0, "analysis", "", "dct", [5, 7], [5, 7], "planes", "one",
    ),
    "tokens": lambda: (
        double(2, 12, 3), None, None, None, 7, 0.4, "up", "synthesis", "dct", [5, 7], [3, 4], "tokens", "expand",
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_custom_op_is_sound(call):
    torch.library.opcheck(OP, (*CALLS[call](), "", "exact", 0))


GRADIENTS = {
    "expand": (lambda x, e: dct_expand(x, size=(5, 7), t=[0.3, 1.0], noise=e).x, (3, 4), (5, 7)),
    "fill": (lambda x, e: fft_expand(x, size=(5, 7), t=0.3, noise=e, align=False).x, (3, 4), (5, 7)),
    "drawn": (lambda x: dct_expand(x, size=(5, 7), t=0.3, seed=1).x, (3, 4), None),
    "truncate": (lambda x: dct_truncate(x, size=(3, 4), t=[0.3, 0.0]), (5, 7), None),
    "lift": (lambda v, z: spectral_lift(z, v, t=[0.3, 0.8]), (3, 4), (5, 7)),
    "hold": (lambda v, z: spectral_lift(z, v, t=0.3, align=False, basis="fft"), (3, 4), (5, 7)),
    "dctn": (dctn, (3, 4), None),
    "idctn": (lambda x: idctn(x, (0, 2)), (3, 4), None),
}


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_and_their_gradients(name, backend):
    function, *sizes = GRADIENTS[name]
    inputs = [double(2, 1, *size, seed=i) for i, size in enumerate(sizes) if size is not None]
    with available(backend):
        torch.autograd.gradcheck(function, inputs)
        torch.autograd.gradgradcheck(function, inputs)


@on_every_backend
def test_gradients_are_exact_adjoints_too(backend):
    """In float32 the gradient has the bits of the adjoint's own definition, and none in the ignored corner."""
    x, noise = random((1, 3, 4)), random((1, 5, 7), 1)
    seen = random((1, 5, 7), 2)
    with available(backend) as device:
        x, noise = x.to(device).requires_grad_(), noise.to(device).requires_grad_()
        dct_expand(x, size=(5, 7), t=0.3, noise=noise).x.backward(seen.to(device))
    kappa = reference.align_time(np.float64(0.3), reference.resolution_ratio((5, 7), (3, 4)))[1]
    down = reference.both_sides(array(seen), "dct", "down", (5, 7), (3, 4))
    assert_same_bits(x.grad, reference.rounded(kappa * down))
    inner = reference.both_sides(array(seen), "dct", "analysis", (5, 7), (5, 7))
    expected = reference.rounded(kappa * 0.3 * inner)
    expected[:, :3, :4] = 0
    assert_same_bits(noise.grad, expected)


def test_only_the_gradients_that_are_asked_for_are_computed():
    calls = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.overloadpacket is OP.overloadpacket:
                calls.append(args[6])
            return function(*args, **(kwargs or {}))

    x, noise = random((1, 3, 4)).requires_grad_(), random((1, 5, 7), 1)
    with Count():
        dct_expand(x, size=(5, 7), t=0.3, noise=noise).x.sum().backward()
    assert calls == ["up", "down"]


X = random((2, 3, 6, 8))
# name: function, calls that one graph must serve
ONE_GRAPH = {
    "times": (lambda x, t: dct_expand(x, 2, t=t, seed=7).x, [(X, t) for t in (0.1, 0.35, 0.7, 0.9)]),
    "times of samples": (
        lambda x, a, b: dct_expand(x, 2, t=[a, b], seed=7).x,
        [(X, 0.1, 0.2), (X, 0.3, 0.4), (X, 0.5, 0.6)],
    ),
    "tensors of times": (
        lambda x, t: dct_expand(x, 2, t=t, seed=7),
        [(X, torch.tensor([0.1, 0.2])), (X, torch.tensor([0.5, 1.0]))],
    ),
    "times that are returned, and sizes": (
        lambda x, t, h, w: dct_expand(x, size=(h, w), t=t, seed=7),
        [(X, torch.tensor(t), h, w) for t, h, w in ((0.1, 10, 12), (0.2, 13, 17), (0.7, 24, 25))],
    ),
    "tapers": (lambda x, t: dct_expand(x, 2, t=t, seed=7, taper=0.25).x, [(X, t) for t in (0.1, 0.35, 0.7)]),
    "seeds": (lambda x, s: dct_expand(x, 2, t=0.5, seed=s).x, [(X, 1), (X, 2**40), (X, 5)]),
    "scales": (lambda x, s: dct_expand(x, s, t=0.4, seed=7).x, [(X, 2), (X, 3), (X, 4)]),
    "pairs of scales": (lambda x, a, b: dct_expand(x, (a, b), t=0.4, seed=7).x, [(X, 2, 3), (X, 3, 2), (X, 4, 4)]),
    "fractional scales": (lambda x, s: dct_expand(x, s, t=0.4, seed=7).x, [(X, 1.5), (X, 2.5), (X, 3.25), (X, 1.5)]),
    "sizes": (
        lambda x, h, w: dct_expand(x, size=(h, w), t=0.4, seed=7),
        [(X, 10, 12), (X, 13, 17), (X, 24, 25)],
    ),
    "inputs": (
        lambda x: dct_truncate(dct_expand(x, 1.5, t=0.4, seed=7).x, 0.5, t=0.3),
        [(random((b, 3, h, w)),) for b, h, w in ((2, 8, 9), (4, 6, 13), (3, 16, 20))],
    ),
    "truncations": (lambda x, t: dct_truncate(x, 0.5, t=t), [(X, t) for t in (0.1, 0.35, 0.7)]),
    "truncations of clean images": (lambda x, h: dct_truncate(x, size=(h, 5)), [(X, 3), (X, 4), (X, 5)]),
    "lifts": (
        lambda x, t: spectral_lift(torch.ones(2, 3, 12, 16), x, t=t),
        [(X, t) for t in (0.1, 0.35, 0.7)],
    ),
    "transforms": (
        lambda x: idctn(dctn(x) * 2),
        [(random((b, h, w)),) for b, h, w in ((2, 8, 9), (4, 6, 13), (3, 16, 20))],
    ),
}


@pytest.mark.parametrize("name", ONE_GRAPH)
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_one_graph_serves_all(name, compiler):
    """No ratio, time, size or seed is compiled anew; nothing breaks the graph; the bits are those of eager mode."""
    function, calls = ONE_GRAPH[name]
    # PyTorch's tracer keeps a float symbolic, its compilers fix one that sizes depend on (tensorify_python_scalars): a
    # graph that is given up, and one a value.
    graphs = 1 + 3 if (name, compiler) == ("fractional scales", "aot_eager") else 1
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(compiler)
    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=True)
    for call in calls:
        found, expected = compiled(*call), function(*call)
        assert_same_bits(*((y if isinstance(y, torch.Tensor) else y.x) for y in (found, expected)))
        if isinstance(getattr(expected, "t", None), torch.Tensor):
            assert_same_bits(found.t, expected.t)
    assert counter.frame_count == graphs


def test_static_compilation_and_a_time_that_leaves_the_graph():
    """The time t' comes back as a number; compilers that carry no numbers out of a graph compile it for each."""
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(lambda x, t: dct_expand(x, 2, t=t, seed=7), fullgraph=True, backend=counter, dynamic=False)
    for t in (0.0, 0.35, 1.0):
        found, expected = compiled(X, t), dct_expand(X, 2, t=t, seed=7)
        assert_same_bits(found.x, expected.x)
        assert found.t == expected.t
    assert counter.frame_count == 3


def test_compiled_gradients_have_the_same_bits():
    def loss(x, noise, t):
        return dct_expand(x, 1.5, t=t, noise=noise).x.square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    gradients = []
    for function in (compiled, loss):
        x, noise = X.clone().requires_grad_(), random((2, 3, 9, 12), 1).requires_grad_()
        function(x, noise, 0.3).backward()
        gradients.append((x.grad, noise.grad))
    for found, expected in zip(*gradients, strict=True):
        assert_same_bits(found, expected)


def test_errors_are_raised_while_compiling():
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, t: dct_expand(x, 2, t=t, seed=7), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="must lie in"):
        compiled(X, 1.5)


def test_a_time_out_of_range_that_cannot_be_seen_becomes_nan():
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, t: dct_expand(x, 2, t=t, seed=7).x, fullgraph=True, backend="eager")
    found = compiled(X, torch.tensor([0.25, 1.5]))
    assert found[1].isnan().all()
    assert_same_bits(found[:1], dct_expand(X[:1], 2, t=0.25, seed=7).x)


def test_inference_mode_leaves_nothing_behind_that_breaks_training():
    times = [0.123, 0.456]
    with torch.inference_mode():
        dct_expand(X, 2, t=times, seed=1)
        dct_expand(X, size=(7, 9), t=0.5, seed=1)
    x = X.clone().requires_grad_()
    (dct_expand(x, 2, t=times, seed=1).x.sum() + dct_expand(x, size=(7, 9), t=0.5, seed=1).x.sum()).backward()
    assert x.grad is not None


def test_meta_and_fake_results_have_shape_dtype_and_device():
    x = torch.empty(2, 3, 8, 8, device="meta", dtype=torch.bfloat16)
    y, t = dct_expand(x, 1.5, t=0.5, seed=1)
    assert (y.shape, y.dtype, y.device.type) == ((2, 3, 12, 12), torch.bfloat16, "meta")
    assert dct_truncate(x, 0.5).shape == (2, 3, 4, 4)
    assert dctn(x).shape == x.shape
    assert spectral_lift(y, x, t=0.5).shape == y.shape
    assert 0 < t < 1


@on_every_backend
def test_seed_is_the_noise_that_normal_draws(backend):
    with available(backend) as device:
        x = X[:1, :1].to(device)
        drawn = dct_expand(x, 2, t=0.5, seed=11).x
        given = dct_expand(x, 2, t=0.5, noise=normal((1, 1, 12, 16), 11, device=device)).x
    assert_same_bits(drawn, given)


class Memory(TorchDispatchMode):
    """The most bytes of storage made inside and alive at once, and whether anything was read back to the host."""

    def __init__(self, given):
        super().__init__()
        self.given = given.untyped_storage().data_ptr()
        self.alive, self.most, self.reads = {}, 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if "_local_scalar_dense" in str(function) or "nonzero" in str(function):
            self.reads.append(str(function))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() != self.given:
                    self.alive[storage.data_ptr()] = (
                        torch.multiprocessing.reductions.StorageWeakRef(storage),
                        storage.nbytes(),
                    )
        self.alive = {key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return result


@pytest.mark.parametrize("times", [0.5, "tensor"])
def test_memory_of_the_torch_backend_does_not_grow_with_the_batch(times, monkeypatch):
    """Beyond the output: temporaries of one pass over 2^17 fine pixels a thread, 8 bytes each."""
    from spectral_kernels.dispatch import planes

    threads, extra, outputs = 4, [], []
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for batch in (80, 160):  # six passes and twelve
        x = random((batch, 1, 96, 96))
        t = torch.full((batch,), 0.5, dtype=torch.float64) if times == "tensor" else times
        with dispatch.backend("torch"):
            dct_expand(x[:1], 2, t=0.5, seed=1)  # tables
            with Memory(x) as memory:
                y = planes.plane_product.function(
                    x, None, None, t if times == "tensor" else None, 1, 0.5, "up", "synthesis", "dct", [192, 192],
                    [96, 96], "planes", "expand", "", "exact", 0,
                )  # fmt: skip
        extra.append(memory.most - y.nbytes)
        outputs.append(y.nbytes)
        assert memory.reads == []
    assert extra[1] <= extra[0] + 1e6
    assert outputs[1] > outputs[0] + 10e6
    assert extra[0] <= 10 * 8 * threads * planes._CHUNK


@pytest.mark.parametrize(
    ("fine", "names"), [((16, 16), ["fused"]), ((256, 2), ["fused"]), ((257, 2), ["rows", "columns"])]
)
def test_triton_launches_one_kernel_to_256_and_two_above(fine, names, monkeypatch):
    """Noise, both contractions, the factor and the cast are all inside."""
    pytest.importorskip("triton")
    from spectral_kernels.kernels import noise, planes

    launched = []

    class Recorded:
        def __init__(self, name):
            self.name = name

        def __getitem__(self, grid):
            return lambda *_, **__: launched.append(self.name)

    for name in ("fused", "rows", "columns"):
        monkeypatch.setattr(planes, name, Recorded(name))
    monkeypatch.setattr(noise, "normal_kernel", Recorded("normal"))
    with available("triton") as device:
        x = random((2, 3, *(side // 2 for side in fine)), device=device)
        dct_expand(x, size=fine, t=0.5, seed=1)
        dct_expand(x.bfloat16(), size=fine, t=[0.5, 0.2], seed=[4, 9])
    assert launched == names * 2


def test_every_backend_can_be_forced_and_missing_ones_say_why(monkeypatch):
    for first, second in itertools.permutations(["torch", "native"]):
        if dispatch.missing(first) or dispatch.missing(second):
            continue
        with dispatch.backend(first):
            expected = dct_expand(X, 2, t=0.5, seed=1).x
        with dispatch.backend(second):
            assert_same_bits(dct_expand(X, 2, t=0.5, seed=1).x, expected)
    with pytest.raises(ValueError, match="backend: name must be one of torch, native, triton, got 'cuda'"):
        with dispatch.backend("cuda"):
            pass
    if not dispatch.missing("native"):
        with dispatch.backend("native"), pytest.raises(RuntimeError, match="CPU core, the tensor is on meta; move it"):
            dispatch.choose(torch.empty(1, device="meta"))
    monkeypatch.setattr(dispatch, "missing", lambda name: "it is Sunday")
    with pytest.raises(RuntimeError, match="backend: native is not available here: it is Sunday"):
        with dispatch.backend("native"):
            pass


def each(function, *inputs, dims):
    """What vmap must give: the function on every slice, stacked."""
    mapped = [None if d is None else tensor.unbind(d) for tensor, d in zip(inputs, dims, strict=True)]
    count = next(len(slices) for slices in mapped if slices is not None)
    slices = ([t if m is None else m[i] for t, m in zip(inputs, mapped, strict=True)] for i in range(count))
    return torch.stack([function(*arguments) for arguments in slices])


MAPS = {
    "drawn": (lambda x: dct_expand(x, 1.5, t=0.4, seed=7).x, [(3, 2, 1, 4, 5)], (0,)),
    "a dimension inside": (lambda x: dct_expand(x, 1.5, t=0.4, seed=[3, 9]).x, [(2, 1, 3, 4, 5)], (2,)),
    "times": (lambda x: dct_expand(x, 1.5, t=[0.4, 0.7], seed=7).x, [(3, 2, 1, 4, 5)], (0,)),
    "a lone plane": (lambda x: dct_expand(x, 1.5, t=0.4, seed=7).x, [(3, 4, 5)], (0,)),
    "state and noise": (
        lambda x, e: dct_expand(x, size=(6, 8), t=0.4, noise=e).x, [(3, 2, 4, 5), (2, 3, 6, 8)], (0, 1),
    ),
    "noise alone": (lambda x, e: dct_expand(x, size=(6, 8), t=0.4, noise=e).x, [(2, 4, 5), (3, 2, 6, 8)], (None, 0)),
    "state alone": (lambda x, e: dct_expand(x, size=(6, 8), t=0.4, noise=e).x, [(3, 4, 5), (6, 8)], (0, None)),
    "truncation": (lambda x: dct_truncate(x, 0.5, t=[0.3, 0.5]), [(3, 2, 1, 4, 6)], (0,)),
    "lift": (lambda z, v: spectral_lift(z, v, t=0.4), [(3, 2, 4, 6), (3, 2, 2, 3)], (0, 0)),
    "tokens": (lambda x: dct_expand(x, 2, t=0.4, seed=1, layout=Tokens(2, 3)).x, [(3, 2, 6, 4)], (0,)),
    "Haar": (lambda x: dwt_expand(x, 2, t=0.4, seed=7).x, [(3, 2, 4, 5)], (0,)),
    "no sample": (lambda x: dct_expand(x, 2, t=0.4, seed=7).x, [(3, 0, 4, 5)], (0,)),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPS)
def test_vmap_has_the_bits_of_a_loop(name):
    function, shapes, dims = MAPS[name]
    inputs = [random(shape, i) for i, shape in enumerate(shapes)]
    assert_same_bits(torch.func.vmap(function, in_dims=dims)(*inputs), each(function, *inputs, dims=dims))


def test_vmap_over_times_and_seeds():
    x, seeds = random((3, 2, 1, 4, 5)), torch.arange(6).view(3, 2)
    t = torch.tensor([[0.5, 0.25], [0.0, 1.0], [0.75, 0.3]])
    mapped = torch.func.vmap(lambda x, t, s: tuple(dct_expand(x, 1.5, t=t, seed=s)))(x, t, seeds)
    loop = [dct_expand(*each, 1.5, t=a, seed=b) for *each, a, b in zip(x, t, seeds, strict=True)]
    assert_same_bits(mapped[0], torch.stack([y.x for y in loop]))
    assert_same_bits(mapped[1], torch.stack([y.t for y in loop]))
    noise = torch.func.vmap(lambda s: dct_expand(x[0], 1.5, t=0.5, seed=s).x)(seeds)
    assert_same_bits(noise, torch.stack([dct_expand(x[0], 1.5, t=0.5, seed=s).x for s in seeds]))


def test_gradients_go_through_vmap():
    def loss(x, e):
        return dct_expand(x, size=(6, 8), t=0.4, noise=e).x.square().sum()

    gradients = []
    for many in (torch.func.vmap(loss), lambda x, e: torch.stack([loss(*pair) for pair in zip(x, e, strict=True)])):
        x, e = random((3, 2, 4, 5)).requires_grad_(), random((3, 2, 6, 8), 1).requires_grad_()
        many(x, e).sum().backward()
        gradients += [x.grad, e.grad]
    assert_same_bits(gradients[0], gradients[2])
    assert_same_bits(gradients[1], gradients[3])
