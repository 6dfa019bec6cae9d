# SPDX-License-Identifier: Apache-2.0
"""Faults of the published implementation, as facts that run: each as published, beside the corrected form.

Source of the published form: the authors' Spectral Progressive Diffusion code (howardhx/speed, state of August 2026,
commit ca7801c), Fourier variant, in own words. Its cosine variant has none of these faults. That commit mended a third:
the Fourier noise was the real part of unit complex noise, which has half the variance.
"""

import numpy as np

from reference.expand import both_sides


def fft_up_as_published(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The signal of the published Fourier expansion before kappa: a centred spectrum pasted into a larger one.

    Two faults. The corner is pasted at (H - h) // 2, one bin off where h is odd and H even: a constant becomes a
    wave. And an even side's highest frequency -h/2 is pasted without its mirror image h/2, so that `.real` drops half
    of its energy: on average 127/8192 of white noise at 64 x 64.
    """
    return pasted(x, size, [(size[axis] - x.shape[axis - 2]) // 2 for axis in (0, 1)])


def fft_up_centred(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The same with frequency 0 pasted onto frequency 0, H // 2 - h // 2: right where both sides of x are odd."""
    return pasted(x, size, [size[axis] // 2 - x.shape[axis - 2] // 2 for axis in (0, 1)])


def pasted(x: np.ndarray, size: tuple[int, int], offset: list[int]) -> np.ndarray:
    """The centred spectrum of x [..., h, w] at an offset in a spectrum of zeros; the real part of its inverse."""
    h, w = x.shape[-2:]
    spectrum = np.zeros((*x.shape[:-2], *size), np.complex128)
    centred = np.fft.fftshift(np.fft.fft2(x, norm="ortho"), axes=(-2, -1))
    spectrum[..., offset[0] : offset[0] + h, offset[1] : offset[1] + w] = centred
    return np.fft.ifft2(np.fft.ifftshift(spectrum, axes=(-2, -1)), norm="ortho").real


def fft_up(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Corrected: A_H x A_W^T in the real orthonormal basis: each coefficient has one slot and keeps its energy."""
    h, w = x.shape[-2:]
    return both_sides(x, "fft", "up", size, (h, w))
