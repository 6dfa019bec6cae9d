# SPDX-License-Identifier: Apache-2.0
"""Bad input: every error names the op, what was received, the rule and the next step; nothing is computed."""

import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

from spectral_kernels import (
    Forecaster,
    Patches,
    Planes,
    Tokens,
    chebyshev_weights,
    dct_expand,
    dct_truncate,
    dctn,
    dwt_expand,
    fft_expand,
    fft_truncate,
    forecast,
    idctn,
    laplacian_pyramid,
    noise_levels,
    normal,
    spectral_lift,
)
from spectral_kernels.flow.decomposable import sampling_times
from tests.bits import assert_same_bits

X = torch.ones(2, 3, 6, 8)
V = torch.ones(2, 3, 3, 4)
TOKENS = torch.ones(2, 48, 3)
PACKED = torch.ones(2, 12, 4)
NOISE = torch.ones(2, 3, 12, 16)
NESTED = torch.nested.nested_tensor([X[0, 0], V[0, 0, :, :1].expand(3, 8)], layout=torch.jagged)

# kind, words of the message in order, op, arguments, options
ERRORS = [
    # sizes
    (ValueError, r"exactly one of scale and size, got neither", dct_expand, (X,), {"t": 0.5, "seed": 1}),
    (
        ValueError,
        r"exactly one of scale and size, got both \(scale=2, size=\(12, 16\)\)",
        dct_expand,
        (X, 2),
        {"size": (12, 16), "t": 0.5, "seed": 1},
    ),
    (
        ValueError,
        r"size must be at least the input's \(6, 8\), got \(5, 9\); to shrink use dct_truncate",
        dct_expand,
        (X,),
        {"size": (5, 9), "t": 0.5, "seed": 1},
    ),
    (
        ValueError,
        r"size must be at most the input's \(6, 8\), got \(5, 9\); to grow use dct_expand",
        dct_truncate,
        (X,),
        {"size": (5, 9)},
    ),
    (ValueError, r"size must be at least .*; to shrink use fft_truncate", fft_expand, (X,), {"size": (5, 9), "t": 0}),
    (ValueError, r"size must be at most .*; to grow use fft_expand", fft_truncate, (X,), {"size": (7, 8)}),
    *(
        (ValueError, rf"above 1 and at most 4096, got {shown}; .*dct_truncate", dct_expand, (X, scale), {"t": 0})
        for scale, shown in [
            (1, "1"),
            (0.5, "0.5"),
            (0, "0"),
            (-2.0, "-2.0"),
            (math.inf, "inf"),
            (math.nan, "nan"),
            ((2, 1.0), r"\(2, 1.0\)"),
        ]
    ),
    *(
        (ValueError, rf"must be between 0 and 1, got {scale}; .*dct_expand", dct_truncate, (X, scale), {})
        for scale in (1, 2.0, 0, -0.5, math.inf, math.nan)
    ),
    (TypeError, r"scale must be a number or a pair of numbers, got '2'", dct_expand, (X, "2"), {"t": 0}),
    (TypeError, r"scale must be a number or a pair of numbers, got True", dct_expand, (X, True), {"t": 0}),
    (TypeError, r"scale must be a pair \(height, width\), got \(2, 2, 2\)", dct_expand, (X, (2, 2, 2)), {"t": 0}),
    (TypeError, r"size must be a pair \(height, width\), got 12", dct_expand, (X,), {"size": 12, "t": 0}),
    (TypeError, r"size must be a pair of integers .*got \(12.0, 16\)", dct_expand, (X,), {"size": (12.0, 16), "t": 0}),
    (
        ValueError,
        r"output sides must be between 1 and 4096, got \(4097, 8\)",
        dct_expand,
        (X,),
        {"size": (4097, 8), "t": 0},
    ),
    (ValueError, r"output sides must be between 1 and 4096, got \(0, 8\)", dct_truncate, (X,), {"size": (0, 8)}),
    (ValueError, r"sides up to 4096 are supported, got \(5000, 1\); work on tiles", dctn, (torch.ones(5000, 1),), {}),
    # states
    (TypeError, r"x must be a torch.Tensor, got list; torch.from_numpy", dct_expand, ([[1.0]], 2), {"t": 0}),
    *(
        (TypeError, rf"x must be float32, .* got {dtype}; convert with x.to", op, (X.to(dtype), *more), options)
        for dtype in (torch.int32, torch.bool, torch.complex64)
        for op, more, options in [(dct_expand, (2,), {"t": 0}), (dct_truncate, (0.5,), {}), (dctn, (), {})]
    ),
    (
        ValueError,
        r"at least two dimensions \[\.\.\., h, w\], got shape \(5,\)",
        dct_expand,
        (X[0, 0, 0, :5], 2),
        {"t": 0},
    ),
    (ValueError, r"at least two dimensions .*\(\)", dct_truncate, (torch.tensor(1.0), 0.5), {}),
    (ValueError, r"both sides of x must be at least 1, got \(2, 3, 0, 8\)", dct_expand, (X[:, :, :0], 2), {"t": 0}),
    (ValueError, r"both sides of x must be at least 1, got \(2, 3, 6, 0\)", idctn, (X[..., :0],), {}),
    (TypeError, r"x must be a dense tensor, got a torch.sparse_coo one", dct_expand, (X.to_sparse(), 2), {"t": 0}),
    (TypeError, r"x must be a dense tensor, got a nested one", dctn, (NESTED,), {}),
    # times
    *(
        (
            ValueError,
            rf"must lie in \[0, 1\], got {t}; divide diffusers' timesteps",
            dct_expand,
            (X, 2),
            {"t": t, "seed": 1},
        )
        for t in (-0.1, 1.5, 350, math.nan, math.inf)
    ),
    (ValueError, r"must lie in \[0, 1\], got 1.5", dct_expand, (X, 2), {"t": [0.5, 1.5], "seed": 1}),
    (ValueError, r"must lie in \[0, 1\], got nan", dct_expand, (X, 2), {"t": torch.tensor([0.5, math.nan]), "seed": 1}),
    (ValueError, r"must lie in \[0, 1\], got 2.0", dct_truncate, (X, 0.5), {"t": torch.tensor(2.0)}),
    (ValueError, r"one per sample \(2\), got 3", dct_expand, (X, 2), {"t": [0.1, 0.2, 0.3], "seed": 1}),
    (
        ValueError,
        r"one number or hold one per sample \(2\), got the shape \(3,\)",
        dct_expand,
        (X, 2),
        {"t": torch.zeros(3), "seed": 1},
    ),
    (ValueError, r"one per sample \(2\), got the shape \(2, 1\)", dct_expand, (X, 2), {"t": torch.zeros(2, 1)}),
    (TypeError, r"floating point.* got torch.int64; divide", dct_expand, (X, 2), {"t": torch.tensor([0, 999])}),
    (TypeError, r"got a tensor among them; use one tensor", dct_expand, (X, 2), {"t": [torch.tensor(0.5), 0.5]}),
    (
        ValueError,
        r"carries no gradient; pass t.detach\(\)",
        dct_expand,
        (X, 2),
        {"t": torch.zeros(2, requires_grad=True), "seed": 1},
    ),
    (
        ValueError,
        r"t is on meta and x on cpu; move one",
        dct_expand,
        (X, 2),
        {"t": torch.zeros(2, device="meta"), "seed": 1},
    ),
    (TypeError, r"t must be a float, .*got str '0.5'", dct_expand, (X, 2), {"t": "0.5", "seed": 1}),
    (TypeError, r"t must be a float, .*got bool True", dct_expand, (X, 2), {"t": True, "seed": 1}),
    (TypeError, r"t must be a float, .*got NoneType", dct_expand, (X, 2), {"t": None, "seed": 1}),
    (
        ValueError,
        r"t = 0.5 sets the factor of normalize=True, got normalize=False",
        dct_truncate,
        (X, 0.5),
        {"t": 0.5, "normalize": False},
    ),
    (ValueError, r"t must be above 0, got 0.0; at t = 0 the state is clean", spectral_lift, (X, V), {"t": 0.0}),
    (ValueError, r"t must be above 0, got 0.0; at t = 0", spectral_lift, (X, V), {"t": [0.5, 0.0]}),
    (ValueError, r"t must be above 0, got 0.0; at t = 0", spectral_lift, (X, V), {"t": torch.tensor([0.5, 0.0])}),
    # noise
    (ValueError, r"exactly one of seed and noise, got both", dct_expand, (X, 2), {"t": 0.5, "seed": 1, "noise": NOISE}),
    (ValueError, r"t = 0.5 needs noise .*; give seed=... or noise=", dct_expand, (X, 2), {"t": 0.5}),
    (ValueError, r"needs noise", dct_expand, (X, 2), {"t": [0.0, 0.0]}),
    (
        ValueError,
        r"noise must have shape \(2, 3, 12, 16\), got \(3, 12, 16\)",
        dct_expand,
        (X, 2),
        {"t": 0.5, "noise": NOISE[0]},
    ),
    (
        TypeError,
        r"noise must have the dtype torch.float32, got torch.float16; use noise.to\(torch.float32\)",
        dct_expand,
        (X, 2),
        {"t": 0.5, "noise": NOISE.half()},
    ),
    (
        ValueError,
        r"noise is on meta and the state on cpu; move one of them",
        dct_expand,
        (X, 2),
        {"t": 0.5, "noise": NOISE.to("meta")},
    ),
    (TypeError, r"noise must be a torch.Tensor, got list", dct_expand, (X, 2), {"t": 0.5, "noise": [0.0]}),
    (ValueError, r"noise must have shape", dct_expand, (X, 2), {"t": 0, "noise": NOISE[:1]}),
    # seeds: the rest is in test_noise.py
    (ValueError, r"seed must be 0 <= seed < 2\*\*63.*got -1; reduce it", dct_expand, (X, 2), {"t": 0.5, "seed": -1}),
    (ValueError, r"each of 2 samples, got 9223372036854775807", dct_expand, (X, 2), {"t": 0.5, "seed": 2**63 - 1}),
    (ValueError, r"one number per sample, 2, got 3", dct_expand, (X, 2), {"t": 0.5, "seed": [1, 2, 3]}),
    (TypeError, r"seed must be an int.*got float 1.0", dct_expand, (X, 2), {"t": 0.5, "seed": 1.0}),
    (ValueError, r"seed must be 0 <= seed < 2\*\*63, got -3; reduce", dct_expand, (X, 2), {"t": 0.5, "seed": [1, -3]}),
    (
        ValueError,
        r"tensor of seeds is on meta and holds no numbers for cpu",
        dct_expand,
        (X, 2),
        {"t": 0.5, "seed": torch.zeros(2, dtype=torch.int64, device="meta")},
    ),
    # switches
    (TypeError, r"align must be True or False, got 'no'", dct_expand, (X, 2), {"t": 0, "align": "no"}),
    (TypeError, r"align must be True or False, got None", spectral_lift, (X, V), {"t": 0.5, "align": None}),
    (TypeError, r"normalize must be True or False, got 'no'", dct_truncate, (X, 0.5), {"normalize": "no"}),
    # precision and basis
    (
        ValueError,
        r'precision must be "exact", "fast", "tf32" or "bf16x3", got \'float64\'',
        dct_expand,
        (X, 2),
        {"t": 0, "precision": "float64"},
    ),
    (ValueError, r'precision must be "exact", "fast", "tf32" or "bf16x3", got None', dctn, (X,), {"precision": None}),
    (ValueError, r"a basis other than dct, fft must be .*got 'dst'", spectral_lift, (X, V), {"t": 0.5, "basis": "dst"}),
    # taper
    (ValueError, r"share of the band and must lie in \[0, 1\], got 1.5", dct_expand, (X, 2), {"t": 0, "taper": 1.5}),
    (TypeError, r"taper must be a number, got None", dct_expand, (X, 2), {"t": 0, "taper": None}),
    (
        ValueError,
        r"needs the cosine basis, got basis 'fft'",
        spectral_lift,
        (X, V),
        {"t": 0.5, "basis": "fft", "taper": 0.1},
    ),
    # dims
    (TypeError, r"dims must be a pair of integers, got 2", dctn, (X, 2), {}),
    (TypeError, r"dims must be a pair of integers, got \(0.5, 1\)", dctn, (X, (0.5, 1)), {}),
    (TypeError, r"dims must be a pair of integers, got \(True, False\)", dctn, (X, (True, False)), {}),
    (ValueError, r"two different dimensions of x, which has 4, got \(1, 1\)", dctn, (X, (1, 1)), {}),
    (ValueError, r"two different dimensions of x, which has 4, got \(-1, 3\)", idctn, (X, (-1, 3)), {}),
    (ValueError, r"two different dimensions of x, which has 4, got \(0, 4\)", dctn, (X, (0, 4)), {}),
    (ValueError, r"two different dimensions of x, which has 1", dctn, (X[0, 0, 0],), {}),
    # lift
    (ValueError, r"z must have shape \(2, 3, 6, 8\), got \(1, 3, 6, 8\)", spectral_lift, (X[:1], V), {"t": 0.5}),
    (TypeError, r"z must have the dtype torch.float32, got torch.float64", spectral_lift, (X.double(), V), {"t": 0.5}),
    (ValueError, r"z is on meta and the state on cpu", spectral_lift, (X.to("meta"), V), {"t": 0.5}),
    (ValueError, r"z must be at least as large as v, got \(3, 4\) and \(6, 8\)", spectral_lift, (V, X), {"t": 0.5}),
    (TypeError, r"z must be a torch.Tensor, got list", spectral_lift, ([1.0], V), {"t": 0.5}),
    (TypeError, r"v must be float32, .* got torch.int64; convert with v.to", spectral_lift, (X, V.long()), {"t": 0.5}),
    (
        ValueError,
        r"size must be at least the input's \(3, 4\), got \(2, 8\)",
        spectral_lift,
        (X, V),
        {"t": 0.5, "size": (2, 8)},
    ),
    (
        ValueError,
        r"with a layout of tokens give size=\(H, W\)",
        spectral_lift,
        (X, TOKENS),
        {"t": 0.5, "layout": Tokens(6, 8)},
    ),
    # layouts
    (
        TypeError,
        r"layout must be Planes\(\), Patches\(height, width\) or Tokens.*got 'tokens'",
        dct_expand,
        (TOKENS, 2),
        {"t": 0, "layout": "tokens"},
    ),
    (
        ValueError,
        r"needs x \[batch, tokens, channels\], got 4 dimensions",
        dct_expand,
        (X, 2),
        {"t": 0, "layout": Tokens(6, 8)},
    ),
    (
        ValueError,
        r"holds 30 tokens, but x has 48; give the grid",
        dct_expand,
        (TOKENS, 2),
        {"t": 0, "layout": Tokens(5, 6)},
    ),
    (
        ValueError,
        r"height and width must be integers of at least 1",
        dct_expand,
        (TOKENS, 2),
        {"t": 0, "layout": Tokens(0, 6)},
    ),
    (
        ValueError,
        r"needs even sides and channels in fours",
        dct_expand,
        (PACKED, 2),
        {"t": 0, "layout": Patches(3, 16)},
    ),
    (
        ValueError,
        r"needs even sides and channels in fours",
        dct_expand,
        (PACKED[..., :3], 2),
        {"t": 0, "layout": Patches(6, 8)},
    ),
    (
        ValueError,
        r"2x2 patches must be even, got \(9, 12\); give an even size",
        dct_expand,
        (PACKED, 1.5),
        {"t": 0, "layout": Patches(6, 8)},
    ),
    (ValueError, r"2x2 patches must be even, got \(3, 4\)", dct_truncate, (PACKED, 0.5), {"layout": Patches(6, 8)}),
    (
        ValueError,
        r"2x2 patches must be even, got \(9, 12\)",
        spectral_lift,
        (PACKED, PACKED),
        {"t": 0.5, "size": (9, 12), "layout": Patches(6, 8)},
    ),
    (
        ValueError,
        r"noise must have shape \(2, 48, 4\), got \(2, 12, 4\)",
        dct_expand,
        (PACKED, 2),
        {"t": 0.5, "noise": PACKED, "layout": Patches(6, 8)},
    ),
]


@pytest.mark.parametrize(("kind", "message", "op", "arguments", "options"), ERRORS, ids=[row[1] for row in ERRORS])
def test_errors_say_what_is_wrong(kind, message, op, arguments, options):
    with pytest.raises(kind, match=f"^{op.__name__}: .*{message}") as raised:
        op(*arguments, **options)
    assert type(raised.value) is kind


def test_what_is_nearly_wrong_is_right():
    assert dct_expand(X, size=(6, 8), t=0).x.shape == X.shape
    assert dct_expand(X, 1.0001, t=0.5, seed=2**63 - 2).x.shape == X.shape
    assert dct_expand(X, (2, 1.5), t=1, seed=0).x.shape == (2, 3, 12, 12)
    assert dct_expand(X, size=[6, 9], t=0, layout=Planes()).x.shape == (2, 3, 6, 9)
    assert dct_truncate(X, size=torch.Size((1, 1)), t=1).shape == (2, 3, 1, 1)
    assert dct_truncate(X, 0.01).shape == (2, 3, 1, 1)
    assert spectral_lift(X, X, t=1.0).shape == X.shape
    assert dwt_expand(X, 2, t=0).x.shape == (2, 3, 12, 16)


def test_numbers_of_numpy_are_numbers():
    expected = dct_expand(X, size=(12, 16), t=[0.25, 0.5], seed=[3, 4], taper=0.5)
    array, times, seeds = np.array([2.0, 2.0]), np.array([0.25, 0.5], np.float32), np.array([3, 4], np.int32)
    for scale, size in ((np.int64(2), None), (array, None), (None, np.array([12, 16])), (None, (np.int32(12), 16))):
        found = dct_expand(X, scale, size=size, t=times, seed=seeds, taper=np.float32(0.5))
        assert_same_bits(found.x, expected.x)
        assert found.t.tolist() == expected.t.tolist()
    for t, seed in ((np.float32(0.25), np.int64(3)), (np.array(0.25), np.array(3))):
        found, again = dct_expand(X, 2, t=t, seed=seed), dct_expand(X, 2, t=0.25, seed=3)
        assert_same_bits(found.x, again.x)
        assert found.t == again.t
    assert_same_bits(dctn(X, (np.int64(1), np.int64(-1))), dctn(X, (1, -1)))
    for shape in ((np.int64(2), 3), np.array([2, 3])):
        assert_same_bits(normal(shape, 1, stream=np.int64(4)), normal((2, 3), 1, stream=4))
    for levels, same in ((np.int64(2), 2), (np.array([[2, 3], [6, 8]]), [(2, 3), (6, 8)]), ([np.array([6, 8])], 1)):
        for level, again in zip(laplacian_pyramid(X, levels), laplacian_pyramid(X, same), strict=True):
            assert_same_bits(level, again)
    found = dct_expand(TOKENS, 2, t=0, layout=Tokens(np.int64(6), np.int64(8))).x
    assert_same_bits(found, dct_expand(TOKENS, 2, t=0, layout=Tokens(6, 8)).x)


def every_op(x, z, times, seeds):
    generator = torch.Generator().manual_seed(1)
    yield dct_expand(x, 2, t=[0.1171875, 0.25], seed=[1, 2])  # numbers that no other test keeps
    yield fft_expand(x, 2, t=times, seed=seeds)
    yield dwt_expand(x, 2, t=0.5, seed=generator)
    yield dct_expand(x, 2, t=times, noise=z, taper=0.5)
    yield dct_truncate(z, 0.5, t=[0.125, 0.25])
    yield spectral_lift(z, x, t=times)
    yield idctn(dctn(z))
    yield normal((2, 1, 3), seeds, device=x.device)
    yield forecast([x, x], times)
    yield noise_levels(laplacian_pyramid(x, 2), times[:, None].expand(2, 2), seeds)


def test_meta_tensors():
    given = X, NOISE, torch.tensor([0.5, 0.25]), torch.tensor([1, 2])
    for found, real in zip(every_op(*(tensor.to("meta") for tensor in given)), every_op(*given), strict=True):
        for y, expected in zip(pytree.tree_leaves(found), pytree.tree_leaves(real), strict=True):
            if isinstance(y, torch.Tensor):
                assert (y.device.type, y.shape, y.dtype) == ("meta", expected.shape, expected.dtype)


def test_fake_tensors_leave_nothing_behind():
    """Tensors that are kept between calls are neither used under a FakeTensorMode nor taken from it."""
    given = X, NOISE, torch.tensor([0.5, 0.25]), torch.tensor([1, 2])
    for _ in range(2):
        with FakeTensorMode() as mode:
            for y in every_op(*map(mode.from_tensor, given)):
                assert all(isinstance(part, FakeTensor | float) for part in pytree.tree_leaves(y))
        for y in every_op(*given):
            assert not any(isinstance(part, FakeTensor) for part in pytree.tree_leaves(y))


def test_a_default_device_moves_nothing():
    """Diffusion scripts set one: what is given on the CPU stays there, and numbers travel to a GPU as arguments."""

    def on_the_cpu():
        yield from every_op(*given)
        yield noise_levels([X], [[0.5], [0.25]], 7, mask=[[True], [False]])
        yield forecast([X, X], [0.5, 2.0]), chebyshev_weights([0, 1], 2, 50)
        yield sampling_times(2, steps=(3, 2))
        for storage in ("features", "moments"):
            forecaster = Forecaster(50, storage=storage)
            for step in (0, 1):
                forecaster.update(step, X * step)
            yield forecaster.predict(2)

    given = X, NOISE, torch.tensor([0.5, 0.25]), torch.tensor([1, 2])
    expected = pytree.tree_leaves(list(on_the_cpu()))
    with torch.device("meta"):
        found = pytree.tree_leaves(list(on_the_cpu()))
    for y, wanted in zip(found, expected, strict=True):
        if isinstance(y, torch.Tensor):
            assert_same_bits(y, wanted)


# x.5 goes up, whatever the parity.
@pytest.mark.parametrize(
    ("side", "scale", "expected"), [(3, 1.5, 5), (5, 1.5, 8), (7, 1.5, 11), (1, 2.5, 3), (9, 1.1, 10)]
)
def test_sides_are_rounded_half_up(side, scale, expected):
    assert dct_expand(torch.ones(side, side), scale, t=0).x.shape == (expected, expected)
