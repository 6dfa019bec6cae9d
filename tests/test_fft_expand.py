# SPDX-License-Identifier: Apache-2.0
"""`fft_expand` and `fft_truncate`: every pairing of even and odd sides, the highest frequency, whiteness, bits."""

import itertools

import numpy as np
import pytest
import torch
from bits import assert_same_bits

import spectral_kernels as sk
from reference import expand as reference
from spectral_kernels import dispatch

# Every pairing of even and odd, equal sides, and sides of one and two points, which have no sine.
GROWTH = [(1, 1), (1, 2), (2, 2), (2, 3), (2, 8), (3, 4), (3, 5), (4, 7), (6, 10), (5, 5), (7, 16)]
PAIRS = list(zip(GROWTH, [*GROWTH[3:], *GROWTH[:3]], strict=True))


def image(*shape, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(shape).normal(size=shape)).to(dtype)


def rfft_grow(x, n, axis):
    """Expansion of one axis by complex Fourier coefficients: an independent form of A_H.

    The row (-1)^j / sqrt(h) holds the rfft coefficient itself; the cosine of the same frequency on a larger grid
    holds sqrt(2) times its rfft coefficient.
    """
    h = x.shape[axis]
    coefficients = np.fft.rfft(x, axis=axis, norm="ortho")
    if h % 2 == 0 and n > h:
        at = [slice(None)] * x.ndim
        at[axis] = h // 2
        coefficients[tuple(at)] /= np.sqrt(2)
    return np.fft.irfft(coefficients, n, axis=axis, norm="ortho")


@pytest.mark.parametrize(("rows", "columns"), PAIRS)
def test_signal_is_that_of_complex_coefficients(rows, columns):
    x = image(2, rows[0], columns[0], dtype=torch.float64)
    size = (rows[1], columns[1])
    ratio = np.sqrt(size[0] * size[1] / (rows[0] * columns[0]))
    expected = ratio * rfft_grow(rfft_grow(x.numpy(), size[0], -2), size[1], -1)
    np.testing.assert_allclose(sk.fft_expand(x, size=size, t=0.0).x, expected, atol=1e-12)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize(("rows", "columns"), PAIRS)
def test_bits(rows, columns, backend):
    if why := dispatch.missing(backend):
        pytest.skip(why)
    x, size = image(2, rows[0], columns[0]), (rows[1], columns[1])
    expected, time = reference.expand(x.numpy(), size, 0.3, basis="fft", seed=5)
    down = reference.truncate(x.numpy(), (1, columns[0]), basis="fft", t=0.3)
    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
    with dispatch.backend(backend):
        result = sk.fft_expand(x.to(device), size=size, t=0.3, seed=5)
        assert_same_bits(result.x, expected)
        assert_same_bits(sk.fft_truncate(x.to(device), size=(1, columns[0]), t=0.3), down)
    assert result.t == time


@pytest.mark.parametrize(("h", "n"), [(6, 10), (6, 9), (2, 3), (8, 16)])
def test_highest_frequency_becomes_the_cosine_and_keeps_its_coefficient(h, n):
    """The statement of the docstring: (-1)^j / sqrt(h) -> sqrt(2 / n) cos(pi h j / n)."""
    x = (torch.arange(h, dtype=torch.float64) % 2 * -2 + 1)[None] / h**0.5
    grown = sk.fft_expand(x, size=(1, n), t=0.0, noise=torch.zeros(1, n, dtype=torch.float64), align=False).x
    cosine = np.sqrt(2 / n) * np.cos(np.pi * h * np.arange(n) / n)
    np.testing.assert_allclose(grown[0], cosine, atol=1e-12)
    np.testing.assert_allclose(sk.fft_truncate(grown, size=(1, h), normalize=False), x, atol=1e-12)


@pytest.mark.parametrize(("coarse", "fine"), [((3, 4), (5, 6)), ((4, 3), (5, 7)), ((2, 4), (4, 4)), ((1, 2), (3, 2))])
def test_noise_covariance_is_the_projector(coarse, fine):
    """The map E -> N, column by column: N N^T = I - P, P the projector onto the signals that come from below."""
    count = fine[0] * fine[1]
    units = torch.eye(count, dtype=torch.float64).view(count, *fine)
    state = torch.zeros(count, *coarse, dtype=torch.float64)
    noise_map = sk.fft_expand(state, size=fine, t=1.0, noise=units, align=False).x.view(count, count).T
    units = torch.eye(coarse[0] * coarse[1], dtype=torch.float64).view(-1, *coarse)
    up = sk.fft_expand(units, size=fine, t=0.0, align=False).x.view(-1, count).T
    identity = np.eye(count)
    np.testing.assert_allclose(noise_map @ noise_map.T, identity - (up @ up.T).numpy(), atol=1e-12)
    np.testing.assert_allclose(up.T @ up, np.eye(coarse[0] * coarse[1]), atol=1e-12)


@pytest.mark.parametrize(("rows", "columns"), list(itertools.product([(3, 6), (4, 7)], [(4, 8), (5, 9)])))
def test_truncation_undoes_expansion(rows, columns):
    x = image(2, 3, rows[0], columns[0], dtype=torch.float64)
    grown = sk.fft_expand(x, size=(rows[1], columns[1]), t=0.4, seed=1)
    kappa = grown.t / 0.4
    np.testing.assert_allclose(sk.fft_truncate(grown.x, size=x.shape[-2:], normalize=False) / kappa, x, atol=1e-12)


def test_gradient():
    x = image(1, 2, 3, 4, dtype=torch.float64).requires_grad_()
    noise = image(1, 2, 6, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, e: sk.fft_expand(x, size=(6, 5), t=0.3, noise=e).x, (x, noise))
    assert torch.autograd.gradcheck(lambda x: sk.fft_truncate(x, size=(2, 3)), (x,))


def test_errors_name_the_op():
    x = image(4, 4)
    with pytest.raises(ValueError, match=r"fft_expand: size must be at least .* use fft_truncate"):
        sk.fft_expand(x, size=(3, 8), t=0.0)
    with pytest.raises(ValueError, match=r"fft_truncate: size must be at most .* use fft_expand"):
        sk.fft_truncate(x, size=(3, 8))
