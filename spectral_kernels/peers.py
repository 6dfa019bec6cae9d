# SPDX-License-Identifier: Apache-2.0
"""How others compute a spectral expansion: the same state, the same noise, float32 inside.

All of them take x [..., h, w] and spectral noise [..., H, W] and give

    y = kappa T_H^T [T_h x T_w^T in the corner, t noise elsewhere] T_W
"""

import importlib.util
import math
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor


def kappa(x_shape: tuple[int, ...], size: tuple[int, int], t: float) -> float:
    """r / (1 + (r - 1) t), r = sqrt(H W / (h w))."""
    r = math.sqrt(size[0] * size[1] / (x_shape[-2] * x_shape[-1]))
    return r / (1 + (r - 1) * t)


def expected(x: Tensor, noise: Tensor, t: float) -> np.ndarray:
    """The answer in float64, by SciPy."""
    import scipy.fft

    y = t * noise.double().cpu().numpy()
    h, w = x.shape[-2:]
    y[..., :h, :w] = scipy.fft.dctn(x.double().cpu().numpy(), axes=(-2, -1), norm="ortho")
    size = (noise.shape[-2], noise.shape[-1])
    return kappa(x.shape, size, t) * scipy.fft.idctn(y, axes=(-2, -1), norm="ortho")


# ---------------------------------------------------------------- torch.fft, as sglang and torch-dct do it


@cache
def _twiddle(n: int, device: torch.device) -> Tensor:
    """exp(-i pi k / 2n), k = 0 .. n-1."""
    angle = -math.pi * torch.arange(n, dtype=torch.float64, device=device) / (2 * n)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def dct_by_fft(x: Tensor) -> Tensor:
    """Orthonormal DCT-II of the last axis by one complex FFT of the same length (Makhoul 1980).

    v = even samples, then odd samples backwards;  X_k = Re(exp(-i pi k / 2n) FFT(v)_k) times sqrt(2/n) (k=0: sqrt(1/n))
    """
    n = x.shape[-1]
    v = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], dim=-1)
    spectrum = (torch.fft.fft(v) * _twiddle(n, x.device)).real * math.sqrt(2 / n)
    spectrum[..., 0] *= math.sqrt(0.5)
    return spectrum


def idct_by_fft(spectrum: Tensor) -> Tensor:
    """The inverse: V_k = exp(i pi k / 2n) (X_k - i X_{n-k}), X_n = 0, and the reordering undone."""
    n = spectrum.shape[-1]
    full = spectrum * math.sqrt(n / 2)
    full[..., 0] *= math.sqrt(2)
    mirrored = torch.cat([torch.zeros_like(full[..., :1]), full[..., 1:].flip(-1)], dim=-1)
    v = torch.fft.ifft(torch.complex(full, -mirrored) * _twiddle(n, full.device).conj()).real
    x = torch.empty_like(v)
    x[..., ::2] = v[..., : (n + 1) // 2]
    x[..., 1::2] = v[..., (n + 1) // 2 :].flip(-1)
    return x


def torch_fft(x: Tensor, noise: Tensor, t: float) -> Tensor:
    """Each axis by an FFT, the other axis by a transpose; pad, fill with noise, back."""
    h, w = x.shape[-2:]
    spectrum = dct_by_fft(dct_by_fft(x.float()).transpose(-2, -1)).transpose(-2, -1)
    y = t * noise.float()
    y[..., :h, :w] = spectrum
    y = idct_by_fft(idct_by_fft(y).transpose(-2, -1)).transpose(-2, -1)
    size = (noise.shape[-2], noise.shape[-1])
    return (kappa(x.shape, size, t) * y).to(x.dtype)


# ---------------------------------------------------------------- matrix products with a cached basis


@cache
def _basis(n: int, device: torch.device) -> Tensor:
    """Rows are the orthonormal DCT-II basis vectors, ascending; float64, rounded once to float32."""
    angle = math.pi * torch.arange(n, dtype=torch.float64)[:, None] * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    table = math.sqrt(2 / n) * torch.cos(angle)
    table[0] *= math.sqrt(0.5)
    return table.to(torch.float32).to(device)


def matmul(x: Tensor, noise: Tensor, t: float) -> Tensor:
    """Four float32 matrix products with cached tables."""
    h, w = x.shape[-2:]
    high, wide = noise.shape[-2:]
    y = t * noise.float()
    y[..., :h, :w] = _basis(h, x.device) @ x.float() @ _basis(w, x.device).mT
    y = _basis(high, x.device).mT @ y @ _basis(wide, x.device)
    return (kappa(x.shape, (high, wide), t) * y).to(x.dtype)


# ---------------------------------------------------------------- the real Fourier basis: 1, cos 1, sin 1, cos 2, ...


@cache
def _fourier_basis(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    k, j = torch.arange(n)[:, None], torch.arange(n)
    angle = (2 * math.pi / n) * (((k + 1) // 2) * j % n).double()
    table = math.sqrt(2 / n) * torch.where((k % 2 == 1) | (k == 0), angle.cos(), angle.sin())
    table[0] *= math.sqrt(0.5)
    if n % 2 == 0:
        table[-1] *= math.sqrt(0.5)
    return table.to(dtype).to(device)


def fourier_matmul(x: Tensor, noise: Tensor, t: float) -> Tensor:
    """Four products with cached tables, in the type of x."""
    h, w, high, wide = *x.shape[-2:], *noise.shape[-2:]
    basis = {n: _fourier_basis(n, x.dtype, x.device) for n in (h, w, high, wide)}
    y = t * noise
    y[..., :h, :w] = basis[h] @ x @ basis[w].mT
    return kappa(x.shape, (high, wide), t) * (basis[high].mT @ y @ basis[wide])


def _to_complex(c: Tensor) -> Tensor:
    """Coefficients of the last axis, n real ones, as the n // 2 + 1 of rfft with norm="ortho"."""
    n, half = c.shape[-1], math.sqrt(0.5)
    pairs = c[..., 1 : n - 1 + n % 2]
    parts = [c[..., :1] + 0j, torch.complex(pairs[..., ::2], -pairs[..., 1::2]) * half]
    return torch.cat(parts if n % 2 else [*parts, c[..., -1:] + 0j], -1)


def _to_real(spectrum: Tensor, n: int) -> Tensor:
    """The inverse of `_to_complex`."""
    inner = spectrum[..., 1 : (n + 1) // 2] * math.sqrt(2)
    pairs = torch.stack([inner.real, -inner.imag], -1).flatten(-2)
    last = [] if n % 2 else [spectrum[..., -1:].real]
    return torch.cat([spectrum[..., :1].real, pairs, *last], -1)


def fourier_fft(x: Tensor, noise: Tensor, t: float) -> Tensor:
    """Each axis by a real FFT, the other by a transpose; pad, fill with noise, back."""
    h, w, high, wide = *x.shape[-2:], *noise.shape[-2:]
    across = _to_real(torch.fft.rfft(x, norm="ortho"), w).mT
    y = t * noise
    y[..., :h, :w] = _to_real(torch.fft.rfft(across, norm="ortho"), h).mT
    down = torch.fft.irfft(_to_complex(y.mT), high, norm="ortho").mT
    return kappa(x.shape, (high, wide), t) * torch.fft.irfft(_to_complex(down), wide, norm="ortho")


# ---------------------------------------------------------------- libraries


def by_library(fft: ModuleType, x: Any, noise: Any, t: float, **options: Any) -> Any:
    """SciPy's calls, or CuPy's of the same names, on float32 arrays."""
    h, w = x.shape[-2:]
    y = np.float32(t) * noise
    y[..., :h, :w] = fft.dctn(x, axes=(-2, -1), norm="ortho", **options)
    size = (noise.shape[-2], noise.shape[-1])
    return np.float32(kappa(x.shape, size, t)) * fft.idctn(y, axes=(-2, -1), norm="ortho", **options)


def torch_dct(x: Tensor, noise: Tensor, t: float) -> Tensor:
    """The torch-dct package of PyPI."""
    import torch_dct as package  # pyright: ignore[reportMissingImports]  optional, and it has no types

    h, w = x.shape[-2:]
    y = t * noise.float()
    y[..., :h, :w] = package.dct_2d(x.float(), norm="ortho")
    y = package.idct_2d(y, norm="ortho")
    return (kappa(x.shape, (noise.shape[-2], noise.shape[-1]), t) * y).to(x.dtype)


def missing(package: str) -> str:
    """Why an optional package cannot be used, empty when it can."""
    return "" if importlib.util.find_spec(package) else f"{package} is not installed"
