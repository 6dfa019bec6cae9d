# SPDX-License-Identifier: Apache-2.0
"""Orthonormal wavelets with periodic borders as tables; filters come from PyWavelets, Haar needs nothing.

The coarse state of a wavelet is its lowpass band, so T_h = I; T_H of k levels is [lowpass of k levels, details of level
k, ..., details of level 1]. `reference/wavelets.py` is the definition.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

# Taps are data of PyWavelets: its symlets are orthonormal to 1.4e-11 (in 1.9), all others here to 3e-16, dmey only to
# 2e-3, so it is not one of them. A float32 result does not see 1e-10.
ORTHONORMAL = 1e-10

LOCAL_LEVELS = 4  # blocks of 16 x 16, which a tile of a GPU program holds


def canonical(op: str, wavelet: str, what: str = "wavelet") -> str:
    """The basis name of an orthogonal wavelet, or an error that lists the good ones; `what` is its name there."""
    if not isinstance(wavelet, str):
        raise TypeError(f'{op}: {what} must be a name such as "haar" or "db2", got {wavelet!r}')
    name = wavelet.lower()
    if name in ("haar", "db1"):
        return "haar"
    try:
        import pywt  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'{op}: {what} must be "haar" where PyWavelets is not installed, got {wavelet!r}; '
            "pip install PyWavelets for the Daubechies, symlet and coiflet families"
        ) from error
    if name not in names():
        raise ValueError(
            f"{op}: {what} must be orthogonal with a finite filter, one of {', '.join(names())}; got {wavelet!r}"
        )
    return name


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """All orthogonal wavelets that PyWavelets knows, and Haar."""
    import pywt  # its names are made at run time, so the type checker does not see them

    every: list[str] = pywt.wavelist(kind="discrete")  # pyright: ignore[reportAttributeAccessIssue]
    discrete = (name for name in every if _wavelet(name).orthogonal)
    return ("haar", *(name for name in discrete if name not in ("haar", "db1") and _orthonormal(taps(name))))


@lru_cache(maxsize=256)
def taps(name: str) -> tuple[float, ...]:
    """The lowpass filter h of analysis."""
    return tuple(_wavelet(name).dec_lo)


def _wavelet(name: str) -> Any:
    import pywt

    return pywt.Wavelet(name)  # pyright: ignore[reportAttributeAccessIssue]


def _orthonormal(h: tuple[float, ...]) -> bool:
    """sum h_m = sqrt(2) and sum h_m h_(m + 2i) = [i = 0]."""
    shifts = (abs(sum(a * b for a, b in zip(h, h[i:], strict=False)) - (i == 0)) for i in range(0, len(h), 2))
    return abs(sum(h) - math.sqrt(2)) < ORTHONORMAL and max(shifts) < ORTHONORMAL


def local_levels(name: str, fine: tuple[int, int], coarse: tuple[int, int]) -> int:
    """Levels that the local form does at once: k for Haar where both sides change by 2^k, k <= 4; 0 means tables."""
    if name != "haar":
        return 0
    levels = (fine[0] // coarse[0]).bit_length() - 1
    same = fine == (coarse[0] << levels, coarse[1] << levels)
    return levels if same and levels <= LOCAL_LEVELS else 0


def table(name: str, fine: int, coarse: int) -> Tensor:
    """T_H [fine, fine] in float64, log2(fine / coarse) levels."""
    return _haar(fine, coarse) if name == "haar" else _filter_bank(taps(name), fine, coarse)


def _haar(fine: int, coarse: int) -> Tensor:
    """Means and differences of blocks; entries +-2^(-level / 2), correctly rounded."""
    block = fine // coarse
    bands = [torch.kron(_identity(coarse), _row(block))]
    while block > 1:
        half = _row(block)[:, : block // 2]
        bands.append(torch.kron(_identity(fine // block), torch.cat([half, -half], 1)))
        block //= 2
    return torch.cat(bands)


def _row(block: int) -> Tensor:
    return torch.full((1, block), math.sqrt(1 / block), dtype=torch.float64, device="cpu")


def _identity(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64, device="cpu")


def _filter_bank(h: tuple[float, ...], fine: int, coarse: int) -> Tensor:
    """The periodic filter bank on the rows of I, taps ascending, each product and each sum rounded once."""
    T, side, length = _identity(fine), fine, len(h)
    while side > coarse:
        low = torch.zeros((side // 2, fine), dtype=torch.float64, device="cpu")
        high = torch.zeros_like(low)
        for m in range(length):
            source = T[(2 * torch.arange(side // 2, device="cpu") + length // 2 - m) % side]
            low += h[m] * source
            high += (-1) ** (m + 1) * h[length - 1 - m] * source
        T = torch.cat([low, high, T[side:]])
        side //= 2
    return T
