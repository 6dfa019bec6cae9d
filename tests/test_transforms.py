# SPDX-License-Identifier: Apache-2.0
"""dctn and idctn: against SciPy in float64, and every backend against the definition by bits."""

import math

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import expand as reference
from spectral_kernels import dctn, idctn
from tests.bits import assert_same_bits
from tests.cases import DTYPES, HALVES, STRIDES, array, available, on_every_backend, random, rounded, share_rounded

TRANSFORMS = {"dctn": (dctn, scipy.fft.dctn, False), "idctn": (idctn, scipy.fft.idctn, True)}
both = pytest.mark.parametrize("name", TRANSFORMS)

# One pixel; lines; primes; a tile and one more; several tiles; past the first shortening of slices.
SIZES = [(1, 1), (1, 16), (13, 1), (7, 5), (16, 17), (33, 48), (257, 3)]


@both
@pytest.mark.parametrize("size", [*SIZES, (128, 128), (300, 270)], ids=str)
def test_reference_is_scipys_result_correctly_rounded(size, name):
    _, by_scipy, inverse = TRANSFORMS[name]
    x = array(random((max(2, 20000 // (size[0] * size[1])), *size)))
    found = reference.transform(x, inverse=inverse)
    true = by_scipy(x.astype(np.float64), axes=(-2, -1), norm="ortho")
    assert np.linalg.norm(found - true) <= 4e-8 * np.linalg.norm(true)
    assert share_rounded(found, true) >= 0.999


@on_every_backend
@both
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_size_has_the_reference_bits(size, name, backend):
    transform, _, inverse = TRANSFORMS[name]
    x = random((1, *size))
    with available(backend) as device:
        found = transform(x.to(device))
    assert_same_bits(found, reference.transform(array(x), inverse=inverse))


@on_every_backend
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_types_are_rounded_like_the_reference(dtype, backend):
    x = random((2, 13, 11), dtype=dtype)
    with available(backend) as device:
        found = dctn(x.to(device))
    assert_same_bits(found, rounded(reference.transform(array(x)), dtype))


@on_every_backend
@pytest.mark.parametrize("strided", STRIDES[1:], ids=lambda f: f.__name__)
def test_strides_do_not_matter(strided, backend):
    with available(backend) as device:
        x = strided(random((2, 2, 9, 7), device=device))
        found = dctn(x)
    assert_same_bits(found, reference.transform(array(x)))


@pytest.mark.parametrize("dims", [(-2, -1), (0, 1), (-1, 0), (1, -3), (2, 1)])
def test_dims(dims):
    x = random((5, 6, 7))
    moved = np.moveaxis(array(x), dims, (-2, -1))
    assert_same_bits(dctn(x, dims), np.moveaxis(reference.transform(moved), (-2, -1), dims))
    assert_same_bits(idctn(x, dims), np.moveaxis(reference.transform(moved, inverse=True), (-2, -1), dims))


@on_every_backend
def test_other_precisions(backend):
    x = random((2, 33, 20))
    with available(backend) as device:
        double, back = dctn(x.double().to(device)).cpu(), idctn(dctn(x.double().to(device))).cpu()
        fast = dctn(x.to(device), precision="fast").cpu()
    true = scipy.fft.dctn(array(x.double()), axes=(-2, -1), norm="ortho")
    assert np.abs(double.numpy() - true).max() <= 1e-12
    assert np.abs(array(back - x)).max() <= 1e-12
    assert np.linalg.norm(fast.numpy() - true) <= 2e-6 * np.linalg.norm(true)


@on_every_backend
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_one_bad_number_spoils_its_plane_alone(bad, backend):
    x = random((3, 5, 7))
    x[1, 4, 6] = bad
    with available(backend) as device:
        found = dctn(x.to(device))
    assert found[1].isnan().all()
    assert_same_bits(found, reference.transform(array(x)))


@settings(max_examples=40)
@given(
    st.integers(1, 64), st.integers(1, 64), st.sampled_from(STRIDES), st.integers(-149, 120), st.sampled_from(DTYPES)
)
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_any_plane_has_the_reference_bits(backend, h, w, strided, exponent, dtype):
    limit = torch.finfo(dtype).max
    x = strided((random((2, 2, h, w), h * 64 + w).double() * 2.0**exponent).clamp(-limit, limit).to(dtype))
    with available(backend):
        assert_same_bits(dctn(x), rounded(reference.transform(array(x)), dtype))
        assert_same_bits(idctn(x), rounded(reference.transform(array(x), inverse=True), dtype))
