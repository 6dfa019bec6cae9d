# SPDX-License-Identifier: Apache-2.0
"""The tapered band edge of dct_expand and spectral_lift: its weights, its law, and the reference's bits everywhere."""

import math

import numpy as np
import pytest
import scipy.fft
import torch

from reference import bases as reference_bases
from reference import expand as reference
from spectral_kernels import Patches, Tokens, bases, dct_expand, normal, spectral_lift
from spectral_kernels.dispatch.planes import weigh_noise
from tests.bits import assert_same_bits
from tests.cases import DTYPES, LARGE, SIZES, array, available, on_every_backend, random, rounded, slow

TAPERS = [0.25, 1.0]


def by_definition(fine, coarse, taper):
    """w of one axis from its formula in plain float64."""
    edge = math.floor(taper * coarse + 0.5) if fine > coarse else 0
    return np.array([1.0] * (coarse - edge) + [math.cos(math.pi * (2 * j + 1) / (4 * edge)) for j in range(edge)])


@pytest.mark.parametrize("taper", [0.0, 0.1, 0.25, 1 / 3, 1.0])
@pytest.mark.parametrize(("fine", "coarse"), [(1, 1), (2, 1), (16, 8), (16, 16), (61, 47), (4096, 2048)])
def test_weights_are_a_quarter_cosine(fine, coarse, taper):
    found, expected = bases.band(f"dct~{taper}", fine, coarse), by_definition(fine, coarse, taper)
    assert_same_bits(found, reference_bases.band(fine, coarse, taper))
    assert np.abs(found.numpy() - expected).max() <= 2.0**-50  # that of angles and cosines in float64
    if fine == coarse:
        assert found.min() == 1


@pytest.mark.parametrize("kind", bases.KINDS)
@pytest.mark.parametrize(("fine", "coarse"), [(16, 8), (45, 31), (64, 63)])
def test_tables_have_the_reference_bits(kind, fine, coarse):
    for taper in TAPERS:
        assert_same_bits(
            bases.table(f"dct~{taper}", kind, fine, coarse),
            np.ascontiguousarray(reference_bases.table("dct", kind, fine, coarse, taper)),
        )
    assert_same_bits(bases.table("dct~0.0", kind, fine, coarse), bases.table("dct", kind, fine, coarse))


def expand_by_scipy(x, noise, size, t, taper):
    """w_k w_l X + sqrt(1 - (w_k w_l)^2) t E in the corner, t E elsewhere, in float64."""
    h, w = x.shape[-2:]
    weight = by_definition(size[0], h, taper)[:, None] * by_definition(size[1], w, taper)
    y = t * noise.astype(np.float64)
    y[..., :h, :w] *= np.sqrt(1 - weight**2)
    y[..., :h, :w] += weight * scipy.fft.dctn(x.astype(np.float64), axes=(-2, -1), norm="ortho")
    ratio = math.sqrt(size[0] * size[1] / (h * w))
    return scipy.fft.idctn(y, axes=(-2, -1), norm="ortho") * ratio / (1 + (ratio - 1) * t)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("taper", TAPERS)
def test_reference_is_scipys_result(sizes, taper):
    coarse, fine = sizes
    x, noise = array(random((2, *coarse))), array(random((2, *fine), 1))
    found, _ = reference.expand(x, fine, 0.35, noise=noise, taper=taper)
    true = expand_by_scipy(x, noise, fine, 0.35, taper)
    # Rounding of the output, and of weighted noise to float32: twice 2^-24 at most.
    assert np.linalg.norm(found - true) <= 2 * 2.0**-24 * np.linalg.norm(true)


@on_every_backend
@pytest.mark.parametrize("sizes", [SIZES[4], SIZES[6], LARGE], ids=str)
def test_expansion_has_the_reference_bits(sizes, backend):
    coarse, fine = sizes
    x, noise = random((2, *coarse)), random((2, *fine), 1)
    with available(backend) as device:
        drawn = dct_expand(x.to(device), size=fine, t=[0.35, 0.0], seed=7, taper=0.25).x
        given = dct_expand(x.to(device), size=fine, t=0.35, noise=noise.to(device), taper=1.0).x
        clean = dct_expand(x.to(device), size=fine, t=0, taper=0.25).x
    assert_same_bits(drawn, reference.expand(array(x), fine, [0.35, 0.0], seed=7, taper=0.25)[0])
    assert_same_bits(given, reference.expand(array(x), fine, 0.35, noise=array(noise), taper=1.0)[0])
    assert_same_bits(clean, reference.expand(array(x), fine, 0.0, taper=0.25)[0])


@on_every_backend
@pytest.mark.parametrize("sizes", [SIZES[4], SIZES[6]], ids=str)
def test_lift_has_the_reference_bits(sizes, backend):
    coarse, fine = sizes
    z, v = random((2, *fine)), random((2, *coarse), 1)
    with available(backend) as device:
        found = spectral_lift(z.to(device), v.to(device), t=[0.6, 0.3], taper=0.25)
        held = spectral_lift(z.to(device), v.to(device), t=0.6, align=False, taper=0.25)
    assert_same_bits(found, reference.lift(array(z), array(v), [0.6, 0.3], taper=0.25))
    assert_same_bits(held, reference.lift(array(z), array(v), 0.6, align=False, taper=0.25))


@on_every_backend
def test_layouts_and_types(backend):
    x = random((2, 4, 6, 10))
    tokens = x.flatten(2).mT.contiguous()
    patches = x.view(2, 4, 3, 2, 5, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 15, 16).contiguous()
    expected = reference.expand(array(x), (8, 14), 0.35, seed=3, taper=0.25)[0]
    with available(backend) as device:
        for dtype in DTYPES[: 1 if slow(backend) else 3]:
            found = dct_expand(x.to(device, dtype), size=(8, 14), t=0.35, seed=3, taper=0.25).x
            of_type = reference.expand(array(x.to(dtype)), (8, 14), 0.35, seed=3, taper=0.25)[0]
            assert_same_bits(found, rounded(of_type, dtype))
        by_tokens = dct_expand(
            tokens.to(device), size=(8, 14), t=0.35, seed=3, taper=0.25, layout=Tokens(6, 10)
        ).x.cpu()
        by_patches = dct_expand(
            patches.to(device), size=(8, 14), t=0.35, seed=3, taper=0.25, layout=Patches(6, 10)
        ).x.cpu()
    assert_same_bits(by_tokens.mT.reshape(2, 4, 8, 14), expected)
    assert_same_bits(by_patches.view(2, 4, 7, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(2, 4, 8, 14), expected)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_float64_and_fast(backend):
    x, noise = random((2, 20, 33)), random((2, 47, 48), 1)
    true = expand_by_scipy(array(x), array(noise), (47, 48), 0.35, 0.25)
    with available(backend):
        double = dct_expand(x.double(), size=(47, 48), t=0.35, noise=noise.double(), taper=0.25).x
        fast = dct_expand(x, size=(47, 48), t=0.35, noise=noise, taper=0.25, precision="fast").x
    assert np.abs(double.numpy() - true).max() <= 1e-12
    assert np.linalg.norm(fast.numpy() - true) <= 2e-6 * np.linalg.norm(true)


@pytest.mark.parametrize("taper", [0.0, 0.25, 1.0])
def test_noise_keeps_unit_variance_at_every_frequency(taper):
    """At t = 1 a state is noise; each coefficient's mean square over 4000 planes is chi squared, within six sigma."""
    x = normal((4000, 8, 6), 3)
    y = dct_expand(x, size=(12, 10), t=1.0, seed=90000, taper=taper).x
    spectrum = scipy.fft.dctn(y.double().numpy(), axes=(-2, -1), norm="ortho")
    assert np.abs((spectrum**2).mean(0) - 1).max() < 6 * math.sqrt(2 / 4000)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_gradients(backend):
    x, e = random((2, 1, 3, 4)).double().requires_grad_(), random((2, 1, 5, 7), 1).double().requires_grad_()
    with available(backend):
        torch.autograd.gradcheck(lambda x, e: dct_expand(x, size=(5, 7), t=[0.3, 1.0], noise=e, taper=0.5).x, (x, e))
        torch.autograd.gradcheck(lambda v, z: spectral_lift(z, v, t=0.4, taper=0.5), (x, e))


@pytest.mark.parametrize("basis", ["dct", "dct~0.5"])
def test_weighing_noise_is_a_sound_op(basis):
    for e, layout in ((random((2, 1, 5, 7)), "planes"), (random((2, 35, 3)), "tokens")):
        given = e.double().requires_grad_()
        torch.library.opcheck(weigh_noise.default, (given, basis, (5, 7), (3, 4), layout))
        torch.autograd.gradcheck(weigh_noise, (given, basis, (5, 7), (3, 4), layout))


def test_noise_without_weight_is_never_looked_at():
    x, noise = random((2, 8, 8)), random((2, 16, 16), 1)
    clean = dct_expand(x, size=(16, 16), t=0.5, noise=noise, taper=0.25).x
    noise[..., :6, :6] = math.nan
    assert_same_bits(dct_expand(x, size=(16, 16), t=0.5, noise=noise, taper=0.25).x, clean)
    noise[0, 7, 7] = math.nan
    assert dct_expand(x, size=(16, 16), t=0.5, noise=noise, taper=0.25).x[0].isnan().all()
