# SPDX-License-Identifier: Apache-2.0
"""Bits on a GPU: every op of planes in every dtype, layout and class of sizes, against the reference or, where another
test holds it to the reference, against PyTorch on the CPU. What an interpreter cannot show: compiled arithmetic.
"""

import pytest
import torch

from reference import expand as reference
from spectral_kernels import (
    Patches,
    Tokens,
    dct_expand,
    dct_truncate,
    dctn,
    dispatch,
    dwt2,
    dwt_expand,
    dwt_truncate,
    fft_expand,
    fft_truncate,
    idctn,
    idwt2,
    normal,
    spectral_lift,
)
from tests.bits import assert_same_bits
from tests.cases import DTYPES, STRIDES, array, needs_gpu_memory, random, rounded

pytestmark = pytest.mark.gpu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def on_gpu(function, *tensors):
    with dispatch.backend("triton"):
        return function(*(tensor.to(DEVICE) for tensor in tensors))


def on_cpu(function, *tensors):
    with dispatch.backend("torch"):
        return function(*tensors)


# (coarse, fine): primes; several tiles of 16 and of 32, none full; FLUX; Wan at 720p; the widest of one launch; two
# launches with slices of 22 and of 21 bits.
SIZES = [
    ((7, 5), (13, 11)),
    ((20, 33), (47, 48)),
    ((64, 64), (128, 128)),
    ((45, 80), (90, 160)),
    ((100, 128), (200, 256)),
    ((150, 100), (300, 600)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_expansions_of_every_size(sizes, dtype):
    coarse, fine = sizes
    x, noise = random((2, 3, *coarse), dtype=dtype), random((2, 3, *fine), 1, dtype)
    drawn = on_gpu(lambda x: dct_expand(x, size=fine, t=0.35, seed=7).x, x)
    given = on_gpu(lambda x, e: dct_expand(x, size=fine, t=0.35, noise=e).x, x, noise)
    assert_same_bits(drawn, rounded(reference.expand(array(x), fine, 0.35, seed=7)[0], dtype))
    assert_same_bits(given, rounded(reference.expand(array(x), fine, 0.35, noise=array(noise))[0], dtype))


X, E, V = (2, 3, 10, 12), (2, 3, 15, 20), (2, 3, 15, 20)
TIMES, SEEDS = [0.2, 0.9], [2**62, 5]
# name: call, shapes of its tensors
OPS = {
    "times and seeds of samples": (lambda x: dct_expand(x, size=(15, 20), t=TIMES, seed=SEEDS).x, X),
    "given, times of samples": (lambda x, e: dct_expand(x, size=(15, 20), t=[0.0, 0.9], noise=e).x, X, E),
    "without time": (lambda x: dct_expand(x, size=(15, 20), t=0).x, X),
    "not aligned": (lambda x: dct_expand(x, size=(15, 20), t=0.4, seed=3, align=False).x, X),
    "tapered": (lambda x: dct_expand(x, size=(15, 20), t=0.4, seed=3, taper=0.25).x, X),
    "fft": (lambda x: fft_expand(x, size=(15, 20), t=0.4, seed=3).x, X),
    "truncate": (lambda x: dct_truncate(x, size=(10, 12), t=TIMES), E),
    "fft_truncate": (lambda x: fft_truncate(x, size=(10, 12), normalize=False), E),
    "lift": (lambda v, z: spectral_lift(z, v, t=0.4), X, V),
    "lift, times of samples, fft": (lambda v, z: spectral_lift(z, v, t=TIMES, basis="fft"), X, V),
    "hold": (lambda v, z: spectral_lift(z, v, t=0.4, align=False), X, V),
    "dctn": (dctn, E),
    "idctn": (idctn, E),
    "dwt2": (dwt2, (2, 3, 30, 34)),
    "idwt2": (idwt2, (2, 3, 30, 34)),
    "Haar": (lambda x: dwt_expand(x, 2, t=0.4, seed=3).x, (2, 3, 15, 70)),
    "Haar, seeds of samples": (lambda x: dwt_expand(x, 2, t=TIMES, seed=SEEDS).x, (2, 3, 16, 17)),
    "Haar, given": (lambda x, e: dwt_expand(x, 2, t=0.4, noise=e).x, (2, 3, 5, 7), (2, 3, 10, 14)),
    "Haar, down": (lambda x: dwt_truncate(x, size=(5, 7), t=0.4), (2, 3, 10, 14)),
    "Haar, lift": (lambda v, z: spectral_lift(z, v, t=0.4, basis="haar"), (2, 3, 5, 7), (2, 3, 10, 14)),
    "Haar of two levels": (lambda x: dwt_expand(x, 4, t=0.4, seed=3).x, (2, 3, 5, 7)),
    "patches": (lambda x: dct_expand(x, size=(14, 20), t=0.4, seed=3, layout=Patches(10, 12)).x, (2, 30, 12)),
    "patches, given": (
        lambda x, e: dct_expand(x, size=(14, 20), t=0.4, noise=e, layout=Patches(10, 12)).x, (2, 30, 12), (2, 70, 12),
    ),
    "patches, down": (lambda x: dct_truncate(x, size=(10, 12), t=0.4, layout=Patches(14, 20)), (2, 70, 12)),
    "patches, Haar": (lambda x: dwt_expand(x, 2, t=0.4, seed=3, layout=Patches(10, 12)).x, (2, 30, 12)),
    "tokens": (lambda x: dct_expand(x, size=(15, 20), t=0.4, seed=3, layout=Tokens(10, 12)).x, (2, 120, 5)),
    "tokens, lift": (
        lambda v, z: spectral_lift(z, v, t=0.4, size=(15, 20), layout=Tokens(10, 12)), (2, 120, 5), (2, 300, 5),
    ),
    "video": (lambda x: dct_expand(x, size=(9, 16), t=0.4, seed=3).x, (2, 3, 4, 5, 8)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPS)
def test_every_op_in_every_dtype(name, dtype):
    function, *shapes = OPS[name]
    tensors = [random(shape, i, dtype) for i, shape in enumerate(shapes)]
    assert_same_bits(on_gpu(function, *tensors), on_cpu(function, *tensors))


@pytest.mark.parametrize("name", ["given, times of samples", "lift", "Haar, lift", "Haar"])
@pytest.mark.parametrize("strided", STRIDES, ids=lambda f: f.__name__)
def test_strides(strided, name):
    function, *shapes = OPS[name]
    tensors = [strided(random(shape, i)) for i, shape in enumerate(shapes)]
    with dispatch.backend("triton"):
        found = function(*(strided(tensor.to(DEVICE)) for tensor in tensors))
    assert_same_bits(found, on_cpu(function, *tensors))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_noise(dtype):
    """5 rows past a group of four, 131 columns past a tile, an offset of the seed by the sample."""
    for shape in ((3, 2, 13, 131), (2, 257), (700,)):
        found = normal(shape, 2**40, stream=3, dtype=dtype, device=DEVICE)
        assert_same_bits(found, on_cpu(lambda shape=shape: normal(shape, 2**40, stream=3, dtype=dtype)))
    found = normal((2, 1, 9, 9), torch.tensor([5, 2**62], device=DEVICE), dtype=dtype, device=DEVICE)
    assert_same_bits(found, on_cpu(lambda: normal((2, 1, 9, 9), [5, 2**62], dtype=dtype)))


# Subnormal numbers are what a compiler flushes; the largest overflow inside the weights.
@pytest.mark.parametrize("magnitude", [2.0**-149, 1e-40, 2.0**-126, 1e5, 3e38])
@pytest.mark.parametrize("size", [(13, 11), (300, 11)], ids=["one launch", "two launches"])
def test_magnitudes_to_the_ends_of_float32(size, magnitude):
    x = (random((2, 7, 5)).double() * magnitude).clamp(-3e38, 3e38).float()
    for time in (0.01, 0.0):
        found = on_gpu(lambda x, t=time: dct_expand(x, size=size, t=t, seed=5).x, x)
        assert_same_bits(found, reference.expand(array(x), size, time, seed=5)[0])
    for function in (dctn, lambda x: dwt_expand(x, 2, t=0.01, seed=5).x):
        assert_same_bits(on_gpu(function, x), on_cpu(function, x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_a_number_spoils_its_plane_alone(dtype):
    x, noise = random((4, 5, 17), dtype=dtype), random((4, 9, 18), 1, dtype)
    x[1, 4, 16], noise[2, 8, 17], x[0] = float("nan"), float("-inf"), -0.0
    found = on_gpu(lambda x, e: dct_expand(x, size=(9, 18), t=0.35, noise=e).x, x, noise)
    assert_same_bits(found, rounded(reference.expand(array(x), (9, 18), 0.35, noise=array(noise))[0], dtype))


def test_gradients():
    x, noise, seen = random((1, 3, 10, 12)), random((1, 3, 15, 20), 1), random((1, 3, 15, 20), 2)
    found = []
    for device in (DEVICE, "cpu"):
        inputs = [tensor.to(device).requires_grad_() for tensor in (x, noise)]
        with dispatch.backend("torch" if device == "cpu" and found else "triton"):
            dct_expand(inputs[0], size=(15, 20), t=0.3, noise=inputs[1]).x.backward(seen.to(device))
        found.append([tensor.grad for tensor in inputs])
    for gradient, expected in zip(*found, strict=True):
        assert_same_bits(gradient, expected)


@pytest.mark.parametrize("sizes", [SIZES[1], SIZES[5]], ids=str)
def test_float64(sizes):
    coarse, fine = sizes
    x, noise = random((2, *coarse)).double(), random((2, *fine), 1).double()
    call = lambda x, e: dct_expand(x, size=fine, t=0.35, noise=e).x  # noqa: E731
    assert (on_gpu(call, x, noise).cpu() - on_cpu(call, x, noise)).abs().max() <= 1e-12


@pytest.mark.parametrize("op", ["dct", "haar", "noise"])
def test_more_than_2_to_the_31_elements(op):
    """The last of so many samples is what it is alone."""
    needs_gpu_memory(8)
    count = 2**31 // (16 * 128 * 128) + 3
    x = torch.randn(count, 16, 64, 64, dtype=torch.bfloat16, device=DEVICE)
    call = {
        "dct": lambda x, seed: dct_expand(x, 2, t=0.3, seed=seed).x,
        "haar": lambda x, seed: dwt_expand(x, 2, t=0.3, seed=seed).x,
        "noise": lambda x, seed: normal((len(x), 16, 128, 128), seed, dtype=x.dtype, device=x.device),
    }[op]
    found = call(x, 7)
    for i in (0, count // 2, count - 1):
        assert_same_bits(found[i : i + 1], call(x[i : i + 1], 7 + i))
