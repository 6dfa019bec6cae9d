# SPDX-License-Identifier: Apache-2.0
"""spectral_lift: against its meaning in float64, and every backend against the definition by bits."""

import math

import numpy as np
import pytest
import scipy.fft

from reference import expand as reference
from spectral_kernels import align_time, dct_expand, dct_truncate, dctn, spectral_lift
from tests.bits import assert_same_bits
from tests.cases import (
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


def by_scipy(z, v, t):
    """v' = (z - r up(x0)) / t', x0 = down(z) t / t' - t v with spectra cut and padded by slicing."""
    z, v = z.astype(np.float64), v.astype(np.float64)
    (h, w), size = v.shape[-2:], z.shape[-2:]
    ratio = math.sqrt(size[0] * size[1] / (h * w))
    aligned = ratio * t / (1 + (ratio - 1) * t)

    def down(full):
        return scipy.fft.idctn(
            scipy.fft.dctn(full, axes=(-2, -1), norm="ortho")[..., :h, :w], axes=(-2, -1), norm="ortho"
        )

    def up(low):
        spectrum = np.zeros(z.shape)
        spectrum[..., :h, :w] = scipy.fft.dctn(low, axes=(-2, -1), norm="ortho")
        return scipy.fft.idctn(spectrum, axes=(-2, -1), norm="ortho")

    clean = down(z) * t / aligned - t * v
    return (z - ratio * up(clean)) / aligned


@pytest.mark.parametrize("sizes", [*SIZES, ((64, 64), (128, 128)), ((150, 100), (300, 270))], ids=str)
@pytest.mark.parametrize("t", [0.05, 0.8, 1.0])
def test_reference_is_scipys_result_correctly_rounded(sizes, t):
    coarse, fine = sizes
    planes = max(2, 20000 // (fine[0] * fine[1]))
    z, v = array(random((planes, *fine))), array(random((planes, *coarse), 1))
    found, true = reference.lift(z, v, t), by_scipy(z, v, t)
    assert np.linalg.norm(found - true) <= 4e-8 * np.linalg.norm(true)
    # With no high band the definition cancels: z / t' goes in and out again, and slices of 44 bits do not hold it.
    if coarse != fine:
        assert share_rounded(found, true) >= 0.999


@on_every_backend
@pytest.mark.parametrize("sizes", [*SIZES[1:], LARGE], ids=str)
def test_every_size_has_the_reference_bits(sizes, backend):
    coarse, fine = sizes
    z, v = random((1, *fine)), random((1, *coarse), 1)
    with available(backend) as device:
        found = spectral_lift(z.to(device), v.to(device), t=0.6)
    assert_same_bits(found, reference.lift(array(z), array(v), 0.6))


@on_every_backend
@pytest.mark.parametrize("sizes", FEW_SIZES[:2], ids=str)
def test_other_basis_and_no_alignment(sizes, backend):
    coarse, fine = sizes
    z, v = random((1, *fine)), random((1, *coarse), 1)
    with available(backend) as device:
        fourier = spectral_lift(z.to(device), v.to(device), t=0.6, basis="fft")
        held = spectral_lift(z.to(device), v.to(device), t=0.6, align=False)
    assert_same_bits(fourier, reference.lift(array(z), array(v), 0.6, basis="fft"))
    assert_same_bits(held, reference.lift(array(z), array(v), 0.6, align=False))


@on_every_backend
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_types_are_rounded_like_the_reference(dtype, backend):
    z, v = random((2, 13, 11), dtype=dtype), random((2, 7, 5), 1, dtype)
    with available(backend) as device:
        found = spectral_lift(z.to(device), v.to(device), t=0.6)
    assert_same_bits(found, rounded(reference.lift(array(z), array(v), 0.6), dtype))


@on_every_backend
def test_samples_have_their_own_times(backend):
    z, v = random((3, 1, 8, 9)), random((3, 1, 5, 4), 1)
    with available(backend) as device:
        z, v = z.to(device), v.to(device)
        found = spectral_lift(z, v, t=[0.1, 1.0, 0.5])
        alone = [spectral_lift(z[i : i + 1], v[i : i + 1], t=t) for i, t in enumerate((0.1, 1.0, 0.5))]
    assert_same_bits(found, reference.lift(array(z), array(v), np.array([0.1, 1.0, 0.5])))
    for i in range(3):
        assert_same_bits(found[i : i + 1], alone[i])


@on_every_backend
@pytest.mark.parametrize("strided", STRIDES[1:], ids=lambda f: f.__name__)
def test_strides_do_not_matter(strided, backend):
    with available(backend) as device:
        z, v = strided(random((2, 2, 9, 7), device=device)), strided(random((2, 2, 5, 4), 1, device=device))
        found = spectral_lift(z, v, t=0.6)
    assert_same_bits(found, reference.lift(array(z), array(v), 0.6))


@on_every_backend
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_number_spoils_its_plane_alone(bad, backend):
    z, v = random((4, 9, 18)), random((4, 5, 9), 1)
    z[1, 8, 17] = bad
    v[2, 4, 0] = bad
    with available(backend) as device:
        found = spectral_lift(z.to(device), v.to(device), t=0.6)
    assert found[1:3].isnan().all()
    assert_same_bits(found, reference.lift(array(z), array(v), 0.6))


@on_every_backend
def test_other_precisions(backend):
    z, v = random((2, 33, 20)), random((2, 17, 9), 1)
    true = by_scipy(array(z), array(v), 0.6)
    with available(backend) as device:
        double = spectral_lift(z.double().to(device), v.double().to(device), t=0.6).cpu()
        fast = spectral_lift(z.to(device), v.to(device), t=0.6, precision="fast").cpu()
    assert np.abs(double.numpy() - by_scipy(array(z.double()), array(v.double()), 0.6)).max() <= 1e-12
    assert np.linalg.norm(fast.numpy() - true) <= 2e-6 * np.linalg.norm(true)


def test_a_step_in_full_resolution_coordinates_is_the_coarse_step():
    """One Euler step with the lifted velocity, between aligned times, truncated: the coarse step itself."""
    size, (t, later) = (12, 18), (0.7, 0.6)
    x, v = random((1, 8, 12)).double(), random((1, 8, 12), 1).double()
    z, aligned = dct_expand(x, size=size, t=t, noise=random((1, *size), 2).double())
    stepped = z + (align_time(later, 1.5)[0] - aligned) * spectral_lift(z, v, t=t)
    assert np.abs(array(dct_truncate(stepped, size=(8, 12), t=later) - (x + (later - t) * v))).max() < 1e-12
    # The high band: noise at the aligned time.
    ratio = align_time(later, 1.5)[0] / aligned
    assert np.abs(array(dctn(stepped)[:, 8:] - ratio * dctn(z)[:, 8:])).max() < 1e-12
