# SPDX-License-Identifier: Apache-2.0
"""Wavelets: PyWavelets as oracle, tables, the local form of Haar, expansion and truncation, bits, errors."""

import sys

import numpy as np
import pytest
import torch
from bits import assert_same_bits

import spectral_kernels as sk
from reference import bases as reference_bases
from reference import expand as reference
from spectral_kernels import Patches, Tokens, bases, dispatch, wavelets
from spectral_kernels.dispatch.planes import plane_product

pywt = pytest.importorskip("pywt")
# Sides shorter than the filter: PyWavelets warns, and wraps around as it should.
pytestmark = pytest.mark.filterwarnings("ignore:Level value of")

# Shortest, an even and an odd half-length, symmetric, and filters longer than the side, which wrap around it.
NAMES = ["haar", "db2", "db3", "sym4", "coif1", "db10"]
BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(dispatch.missing(name) is not None, reason=str(dispatch.missing(name))))
    for name in dispatch.BACKENDS
]


def device_of(backend):
    return "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"


def image(*shape, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(shape).normal(size=shape)).to(dtype)


def basis_of(name):
    """The reference takes taps where the package takes a name."""
    return "haar" if name == "haar" else wavelets.taps(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(2, 2), (4, 6), (16, 10)])
def test_one_level_is_that_of_pywavelets(name, size):
    x = image(3, *size, dtype=torch.float64)
    expected, _ = pywt.coeffs_to_array(pywt.wavedec2(x.numpy(), name, "periodization", level=1), axes=(-2, -1))
    # Taps of a symlet reproduce the sums of squares to 1e-12 only; the reconstruction below sees that.
    np.testing.assert_allclose(sk.dwt2(x, name), expected, atol=1e-12)
    np.testing.assert_allclose(sk.idwt2(sk.dwt2(x, name), name), x, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_bands_are_in_their_corners(name):
    x = image(8, 12, dtype=torch.float64)
    low, (horizontal, vertical, diagonal) = pywt.dwt2(x.numpy(), name, "periodization")
    y = sk.dwt2(x, name)
    for corner, band in ((y[:4, :6], low), (y[:4, 6:], vertical), (y[4:, :6], horizontal), (y[4:, 6:], diagonal)):
        np.testing.assert_allclose(corner, band, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("fine", "coarse"), [(16, 8), (16, 2), (12, 3), (8, 8), (2, 1)])
def test_tables(name, fine, coarse):
    levels = (fine // coarse).bit_length() - 1
    unit = np.eye(fine)
    expected = np.concatenate(pywt.wavedec(unit, name, "periodization", level=levels, axis=0))
    for kind in bases.KINDS:
        table = bases.table(name, kind, fine, coarse)
        assert_same_bits(table, np.ascontiguousarray(reference_bases.table(basis_of(name), kind, fine, coarse)))
    np.testing.assert_allclose(bases.table(name, "analysis", fine, coarse), expected, atol=1e-12)
    np.testing.assert_allclose(bases.table(name, "down", fine, coarse), expected[:coarse], atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["haar", "db2", "sym4"])
# Blocks short of a tile, more than one tile each way, one block; heights of every remainder mod 4, where rows of noise
# fall differently into calls of the generator.
@pytest.mark.parametrize("size", [(4, 6), (5, 3), (10, 66), (7, 4), (1, 1)])
def test_expansion_bits(backend, name, size):
    if name != "haar" and size == (10, 66) and backend == "triton" and not torch.cuda.is_available():
        pytest.skip("a table product like that of the DCT; slow in the interpreter")
    x, fine = image(2, 2, *size), (2 * size[0], 2 * size[1])
    with dispatch.backend(backend):
        given = x.to(device_of(backend))
        times = torch.tensor([0.3, 0.0], dtype=torch.float64)
        for t in (0.35, times):
            expected, aligned = reference.expand(x.numpy(), fine, np.asarray(t), basis=basis_of(name), seed=9)
            result = sk.dwt_expand(given, 2, t=t, seed=9, wavelet=name)
            assert_same_bits(result.x, expected)
            np.testing.assert_array_equal(np.asarray(result.t), aligned)
        noise = image(2, 2, *fine)
        expected, _ = reference.expand(x.numpy(), fine, 0.35, basis=basis_of(name), noise=noise.numpy(), align=False)
        result = sk.dwt_expand(given, size=fine, t=0.35, noise=noise.to(given.device), wavelet=name, align=False)
        assert_same_bits(result.x, expected)
        assert_same_bits(
            sk.dwt_truncate(noise.to(given.device), size=size, wavelet=name, t=0.2),
            reference.truncate(noise.numpy(), size, basis=basis_of(name), t=0.2),
        )
        expected = reference.lift(noise.numpy(), x.numpy(), 0.4, basis=basis_of(name))
        assert_same_bits(sk.spectral_lift(noise.to(given.device), given, t=0.4, basis=name), expected)


# Coarse heights of several remainders mod 4, so that rows of noise shift differently at each level; more than a tile
# each way, more than the 16 coarse columns and the 32 rows of blocks that the compiled core does at once.
LEVELS = [(2, (5, 35)), (3, (6, 3)), (4, (3, 18)), (4, (1, 1))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("levels", "size"), LEVELS)
def test_bits_of_levels_in_one_pass(backend, levels, size):
    fine = (size[0] << levels, size[1] << levels)
    # 13 decades of magnitude: sums lose bits even in float64, so their order shows.
    x, noise = (image(2, 1, *s) * 10.0 ** (image(2, 1, *s, dtype=torch.float64) * 3).float() for s in (size, fine))
    times = torch.tensor([0.3, 0.0], dtype=torch.float64)
    with dispatch.backend(backend):
        state, given = x.to(device_of(backend)), noise.to(device_of(backend))
        expected, _ = reference.expand(x.numpy(), fine, times.numpy(), basis="haar", seed=9)
        assert_same_bits(sk.dwt_expand(state, 2**levels, t=times, seed=9).x, expected)
        expected, _ = reference.expand(x.numpy(), fine, 0.35, basis="haar", noise=noise.numpy())
        assert_same_bits(sk.dwt_expand(state, size=fine, t=0.35, noise=given).x, expected)
        expected = reference.truncate(noise.numpy(), size, basis="haar", t=0.2)
        assert_same_bits(sk.dwt_truncate(given, size=size, t=0.2), expected)
        expected = reference.lift(noise.numpy(), x.numpy(), 0.4, basis="haar")
        assert_same_bits(sk.spectral_lift(given, state, t=0.4, basis="haar"), expected)
        for kind in ("analysis", "synthesis"):
            names = (kind, "", "haar", fine, size, "planes", "one", "", "exact", 0)
            y = plane_product(given, None, None, None, None, 0.0, *names)
            expected = reference.transform(noise.numpy(), basis="haar", inverse=kind == "synthesis", coarse=size)
            assert_same_bits(y, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_levels_of_packed_tokens(backend):
    x, noise = image(2, 2, 6, 4), image(2, 2, 24, 16)

    def packed(planes):
        b, c, h, w = planes.shape
        return planes.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)

    with dispatch.backend(backend):
        x, noise = x.to(device_of(backend)), noise.to(device_of(backend))
        for source in ({"seed": 4}, {"noise": noise}):
            wide = {name: packed(value) if name == "noise" else value for name, value in source.items()}
            y = sk.dwt_expand(packed(x), 4, t=0.3, layout=Patches(6, 4), **wide).x
            assert_same_bits(y, packed(sk.dwt_expand(x, 4, t=0.3, **source).x).cpu().numpy())
        y = sk.dwt_truncate(packed(noise), 0.25, layout=Patches(24, 16))
        assert_same_bits(y, packed(sk.dwt_truncate(noise, 0.25)).cpu().numpy())


def test_levels_are_those_of_wavedec2():
    """The coefficients of PyWavelets, and two expansions by 2 from one seed are one by 4."""
    x, fine = image(2, 3, 3, 5, dtype=torch.float64), image(2, 3, 12, 20, dtype=torch.float64)
    expected, _ = pywt.coeffs_to_array(pywt.wavedec2(fine.numpy(), "haar", "periodization", level=2), axes=(-2, -1))
    found = reference.both_sides(fine.numpy(), "haar", "analysis", (12, 20), (3, 5))
    np.testing.assert_allclose(found, expected, atol=1e-14)
    once = sk.dwt_expand(x, 4, t=0.3, seed=5)
    middle = sk.dwt_expand(x, 2, t=0.3, seed=5)
    twice = sk.dwt_expand(middle.x, 2, t=middle.t, seed=5)
    np.testing.assert_allclose(twice.x, once.x, atol=1e-14)
    np.testing.assert_allclose(twice.t, once.t, rtol=1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_transform_bits(backend, dtype):
    numpy = {torch.float32: np.float32, torch.float16: np.float16}[dtype]
    # 13 decades of magnitude: sums of four that lose bits even in float64, so their order shows. Two tiles each way.
    x = (image(2, 18, 132) * 10.0 ** (image(18, 132) * 3)).to(dtype)
    with dispatch.backend(backend):
        given = x.to(device_of(backend))
        for inverse, op in ((False, sk.dwt2), (True, sk.idwt2)):
            expected = reference.transform(x.numpy(), basis="haar", inverse=inverse, coarse=(9, 66), dtype=numpy)
            assert_same_bits(op(given), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_order_of_four_terms(backend):
    """2^60 and 1 do not meet in 53 bits: (a + c) + (b + d) keeps what (a + b) + (c + d) loses."""
    block = torch.tensor([[2.0**60, 1.0], [-(2.0**60), 1.0]])
    with dispatch.backend(backend):
        y = sk.dwt2(block.to(device_of(backend)))
        assert y.tolist() == [[1.0, -1.0], [2.0**60, 2.0**60]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts(backend):
    x = image(2, 2, 6, 4)
    with dispatch.backend(backend):
        given = x.to(device_of(backend))
        tokens = given.permute(0, 2, 3, 1).reshape(2, 24, 2).contiguous()
        patches = given.view(2, 2, 3, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 6, 8).contiguous()
        expected = sk.dwt_expand(given, 2, t=0.3, seed=4).x
        y = sk.dwt_expand(tokens, 2, t=0.3, seed=4, layout=Tokens(6, 4)).x
        assert_same_bits(y.view(2, 12, 8, 2).permute(0, 3, 1, 2), expected.cpu().numpy())
        y = sk.dwt_expand(patches, 2, t=0.3, seed=4, layout=Patches(6, 4)).x
        y = y.view(2, 6, 4, 2, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(2, 2, 12, 8)
        assert_same_bits(y, expected.cpu().numpy())


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides(backend):
    """A transposed and sliced view, and a stride of 0."""
    with dispatch.backend(backend):
        x = image(9, 14, 3).to(device_of(backend)).permute(2, 1, 0)[:, 2:, 1:]
        assert_same_bits(sk.dwt2(x), sk.dwt2(x.contiguous()).cpu().numpy())
        x = image(1, 6, 1).to(device_of(backend)).expand(2, 6, 4)
        assert_same_bits(sk.dwt2(x), sk.dwt2(x.contiguous()).cpu().numpy())


@pytest.mark.parametrize("backend", BACKENDS)
def test_haar_keeps_a_nan_in_its_block(backend):
    x = image(1, 4, 6)
    x[0, 1, 2], x[0, 2, 0] = torch.nan, torch.inf
    with dispatch.backend(backend):
        y = sk.dwt2(x.to(device_of(backend))).cpu()
    assert_same_bits(y, reference.transform(x.numpy(), basis="haar", coarse=(2, 3)))
    assert sorted(map(tuple, (~y.isfinite()).nonzero()[:, 1:].tolist())) == sorted(
        (i, j) for block in ((0, 1), (1, 0)) for i in (block[0], block[0] + 2) for j in (block[1], block[1] + 3)
    )
    x = image(1, 8, 12)
    x[0, 3, 6] = torch.nan
    with dispatch.backend(backend):
        y = sk.dwt_truncate(x.to(device_of(backend)), 0.25).cpu()
    assert y.isnan().nonzero().tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("name", ["haar", "db2", "sym4"])
@pytest.mark.parametrize("size", [(4, 6), (8, 12), (2, 12)])
def test_gradients(name, size):
    """Factors 2 and 4 both ways (the local form of Haar), and factors 1 and 4 (tables)."""
    x = image(2, 2, 3, dtype=torch.float64).requires_grad_()
    noise = image(2, *size, dtype=torch.float64).requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda x, e: sk.dwt_expand(x, size=size, t=0.3, noise=e, wavelet=name).x, (x, noise))
    assert check(lambda e: sk.dwt_truncate(e, size=(2, 3), wavelet=name), (noise,))
    assert check(lambda z, v: sk.spectral_lift(z, v, t=0.3, basis=name), (noise, x))
    assert check(lambda e: sk.idwt2(sk.dwt2(e, name) ** 2, name), (noise.detach()[:, :, :6].requires_grad_(),))


@pytest.mark.parametrize("name", ["haar", "db3"])
@pytest.mark.parametrize(("coarse", "fine"), [((2, 3), (4, 6)), ((2, 3), (8, 12)), ((2, 2), (8, 4)), ((3, 2), (3, 4))])
def test_noise_covariance_is_the_projector(name, coarse, fine):
    count = fine[0] * fine[1]
    units = torch.eye(count, dtype=torch.float64).view(count, *fine)
    state = torch.zeros(count, *coarse, dtype=torch.float64)
    noise_map = sk.dwt_expand(state, size=fine, t=1.0, noise=units, align=False, wavelet=name).x.view(count, count).T
    units = torch.eye(coarse[0] * coarse[1], dtype=torch.float64).view(-1, *coarse)
    up = sk.dwt_expand(units, size=fine, t=0.0, align=False, wavelet=name).x.view(-1, count).T
    np.testing.assert_allclose(noise_map @ noise_map.T, np.eye(count) - (up @ up.T).numpy(), atol=1e-12)


def test_a_constant_keeps_its_value():
    flat = torch.full((1, 4, 8), 0.7)
    for name in NAMES:
        np.testing.assert_allclose(sk.dwt_expand(flat, 4, t=0.0, wavelet=name).x, 0.7, rtol=1e-6)
        np.testing.assert_allclose(sk.dwt_truncate(flat, 0.25, wavelet=name), 0.7, rtol=1e-6)


def test_custom_op():
    x, noise = image(2, 2, 3), image(2, 4, 6)
    names = ("up", "synthesis", "haar", [4, 6], [2, 3], "planes", "expand", "", "exact", 0)
    torch.library.opcheck(plane_product.default, (x.requires_grad_(), noise, None, None, None, 0.3, *names))


def test_good_wavelets_are_listed():
    names = wavelets.names()
    assert {"haar", "db2", "db38", "sym20", "coif17"} < set(names)
    assert not {"dmey", "bior2.2", "rbio1.3", "bior1.1"} & set(names)


@pytest.mark.parametrize("wavelet", ["bior2.2", "dmey", "morl", "nonsense"])
def test_other_wavelets_are_refused_with_a_list(wavelet):
    for op in (lambda w: sk.dwt2(image(4, 4), w), lambda w: sk.dwt_expand(image(4, 4), 2, t=0.0, wavelet=w)):
        with pytest.raises(ValueError, match=r"wavelet must be orthogonal.*haar, coif1.*db2.*sym20") as error:
            op(wavelet)
        assert wavelet in str(error.value)


def test_without_pywavelets_there_is_haar(monkeypatch):
    monkeypatch.setitem(sys.modules, "pywt", None)
    sk.dwt2(image(4, 4))
    with pytest.raises(ValueError, match="pip install PyWavelets"):
        sk.dwt2(image(4, 4), "db2")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sk.dwt2(image(3, 4)), r"dwt2: both sides must be even, got \(3, 4\)"),
        (lambda: sk.idwt2(image(4, 5)), r"idwt2: both sides must be even, got \(4, 5\)"),
        (lambda: sk.dwt_expand(image(4, 4), 1.5, t=0.0), r"dwt_expand: sides must change by a power of two"),
        (lambda: sk.dwt_expand(image(4, 4), 3, t=0.0), r"dwt_expand: .* \(12, 12\); dct_expand takes any sizes"),
        (lambda: sk.dwt_truncate(image(9, 4), size=(4, 2)), r"dwt_truncate: .* dct_truncate takes any sizes"),
        (lambda: sk.spectral_lift(image(9, 9), image(3, 3), t=0.5, basis="haar"), "spectral_lift: sides must change"),
    ],
)
def test_sizes_a_wavelet_cannot_have(call, message):
    with pytest.raises(ValueError, match=message):
        call()
