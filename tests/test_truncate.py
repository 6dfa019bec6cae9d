# SPDX-License-Identifier: Apache-2.0
"""dct_truncate and fft_truncate: against SciPy in float64, and every backend against the definition by bits."""

import math

import numpy as np
import pytest
import scipy.fft
import torch

from reference import expand as reference
from spectral_kernels import dct_expand, dct_truncate, dctn, fft_truncate
from tests.bits import assert_same_bits
from tests.cases import (
    BATCHES,
    FEW_SIZES,
    HALVES,
    LARGE,
    SIZES,
    STRIDES,
    array,
    available,
    on_every_backend,
    random,
    rounded,
    share_rounded,
)

PRIMES = SIZES[4]


def by_scipy(x, size, t=0.0):
    spectrum = scipy.fft.dctn(x.astype(np.float64), axes=(-2, -1), norm="ortho")[..., : size[0], : size[1]]
    ratio = math.sqrt(x.shape[-1] * x.shape[-2] / (size[0] * size[1]))
    return scipy.fft.idctn(spectrum, axes=(-2, -1), norm="ortho") * (1 + (ratio - 1) * t) / ratio


@pytest.mark.parametrize("sizes", [*SIZES, ((64, 64), (128, 128)), ((270, 100), (300, 270))], ids=str)
def test_reference_is_scipys_result_correctly_rounded(sizes):
    coarse, fine = sizes
    x = array(random((max(2, 20000 // (coarse[0] * coarse[1])), *fine)))
    found, true = reference.truncate(x, coarse, t=0.2), by_scipy(x, coarse, t=0.2)
    assert np.linalg.norm(found - true) <= 4e-8 * np.linalg.norm(true)
    assert share_rounded(found, true) >= 0.999


@on_every_backend
@pytest.mark.parametrize("sizes", [*SIZES, LARGE], ids=str)
def test_every_size_has_the_reference_bits(sizes, backend):
    coarse, fine = sizes
    x = random((1, *fine))
    with available(backend) as device:
        found = dct_truncate(x.to(device), size=coarse)
    assert_same_bits(found, reference.truncate(array(x), coarse))


@on_every_backend
@pytest.mark.parametrize("sizes", FEW_SIZES, ids=str)
def test_fourier_has_the_reference_bits(sizes, backend):
    coarse, fine = sizes
    x = random((1, *fine))
    with available(backend) as device:
        found = fft_truncate(x.to(device), size=coarse)
    assert_same_bits(found, reference.truncate(array(x), coarse, basis="fft"))


@on_every_backend
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_types_are_rounded_like_the_reference(dtype, backend):
    coarse, fine = PRIMES
    x = random((2, *fine), dtype=dtype)
    with available(backend) as device:
        found = dct_truncate(x.to(device), size=coarse)
    assert_same_bits(found, rounded(reference.truncate(array(x), coarse), dtype))


@on_every_backend
def test_factors(backend):
    """None, and the one of each sample's time."""
    x = random((3, 1, 8, 9))
    with available(backend) as device:
        plain = dct_truncate(x.to(device), size=(4, 5), normalize=False)
        timed = dct_truncate(x.to(device), size=(4, 5), t=[0.0, 0.7, 1.0])
        alone = dct_truncate(x[1:2].to(device), size=(4, 5), t=0.7)
    assert_same_bits(plain, reference.truncate(array(x), (4, 5), normalize=False))
    assert_same_bits(timed, reference.truncate(array(x), (4, 5), t=np.array([0.0, 0.7, 1.0])))
    assert_same_bits(timed[1:2], alone)


@on_every_backend
@pytest.mark.parametrize("batch", [BATCHES[i] for i in (0, 4, 5, 6)], ids=str)
def test_batches(batch, backend):
    x = random((*batch, 5, 4))
    with available(backend) as device:
        found = dct_truncate(x.to(device), size=(3, 2))
    assert_same_bits(found, reference.truncate(array(x), (3, 2)))


@on_every_backend
@pytest.mark.parametrize("strided", STRIDES[1:], ids=lambda f: f.__name__)
def test_strides_do_not_matter(strided, backend):
    x = strided(random((2, 2, 9, 7)))
    with available(backend) as device:
        found = dct_truncate(strided(random((2, 2, 9, 7), device=device)), size=(5, 4))
    assert_same_bits(found, reference.truncate(array(x), (5, 4)))


@on_every_backend
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_number_spoils_its_plane_alone(bad, backend):
    x = random((3, 18, 9))
    x[1, 17, 0] = bad
    with available(backend) as device:
        found = dct_truncate(x.to(device), size=(9, 5))
    assert found[1].isnan().all()
    assert_same_bits(found, reference.truncate(array(x), (9, 5)))


@on_every_backend
def test_other_precisions(backend):
    x = random((2, 33, 20))
    true = by_scipy(array(x), (17, 9))
    with available(backend) as device:
        double = dct_truncate(x.double().to(device), size=(17, 9)).cpu()
        fast = dct_truncate(x.to(device), size=(17, 9), precision="fast").cpu()
    assert np.abs(double.numpy() - by_scipy(array(x.double()), (17, 9))).max() <= 1e-12
    assert np.linalg.norm(fast.numpy() - true) <= 2e-6 * np.linalg.norm(true)


def test_a_clean_image_keeps_its_mean_and_a_state_its_noise():
    x = random((2, 9, 12)) + 3
    low = dct_truncate(x, 0.5)
    assert low.shape == (2, 5, 6)
    assert torch.allclose(low.mean((1, 2)), x.mean((1, 2)), rtol=0, atol=1e-6)
    z, _ = dct_expand(low, size=(9, 12), t=0.4, seed=1)
    # The way back from an aligned state to the state at the coarse time: float32 in between.
    assert torch.allclose(dct_truncate(z, size=(5, 6), t=0.4), low, rtol=0, atol=2e-6)
    assert torch.allclose(dctn(dct_truncate(x, size=(5, 6), normalize=False)), dctn(x)[:, :5, :6], rtol=0, atol=1e-5)
