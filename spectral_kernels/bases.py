# SPDX-License-Identifier: Apache-2.0
"""Orthonormal bases as float64 tables: rows are basis vectors in ascending frequency; each proves itself when built.

Every spectral op is a pair of tables between a coarse and a fine grid, so a new basis is one function in ANALYSIS.
Cosines come from big integers, correctly rounded: no entry depends on a C library, and entries equal by symmetry have
equal bits, which is what lets a kernel fold.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from math import isqrt

import torch
from torch import Tensor

from spectral_kernels import wavelets
from spectral_kernels.cached import cached
from spectral_kernels.exact import exact_matmul, split_table

KINDS = ("analysis", "synthesis", "up", "down", "lowpass")
ADJOINT = {"analysis": "synthesis", "synthesis": "analysis", "up": "down", "down": "up", "lowpass": "lowpass"}

_ONE = 1 << 224  # fixed point: 53 bits of result, the rest against the recurrence


def _pi() -> int:
    """pi in fixed point by Machin's formula, 16 arctan(1/5) - 4 arctan(1/239)."""

    def arctan_of_inverse(x: int) -> int:
        total, power, k = 0, _ONE // x, 1
        while power:
            total += power // k if k % 4 == 1 else -(power // k)
            power, k = power // (x * x), k + 2
        return total

    return 16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)


def quarter_cosines(n: int, numerator: int) -> Tensor:
    """sqrt(numerator / n) cos(pi a / (2 n)) for a = 0..n in float64, correctly rounded.

    Chebyshev's recurrence cos((a + 1) u) = 2 cos(u) cos(a u) - cos((a - 1) u) loses at most 2 log2(n) + 2 bits.
    """
    angle = _pi() // (2 * n)
    first, term, k = 0, _ONE, 0
    while term:
        first += term if k % 4 == 0 else -term
        term = term * angle // _ONE * angle // _ONE // ((k + 1) * (k + 2))
        k += 2
    weight = isqrt(numerator * _ONE * _ONE // n)
    values, before, now = [], first, _ONE
    for _ in range(n):
        values.append(now * weight / (_ONE * _ONE))
        before, now = now, 2 * first * now // _ONE - before
    return torch.tensor([*values, 0.0], dtype=torch.float64, device="cpu")


def cosines(quarter_turns: Tensor, n: int, values: Tensor) -> Tensor:
    """Entries for the angles pi a / (2 n), any integer a, from those of the first quarter turn."""
    a = quarter_turns % (4 * n)
    a = torch.minimum(a, 4 * n - a)
    return torch.where(a <= n, values[a.clamp(max=n)], -values[(2 * n - a).clamp(max=n)])


def indices(n: int) -> tuple[Tensor, Tensor]:
    index = torch.arange(n, device="cpu")
    return index[:, None], index[None, :]


def dct(n: int) -> Tensor:
    """DCT-II: T[k, j] = s_k cos(pi (2 j + 1) k / (2 n)), s_0 = sqrt(1 / n), s_k = sqrt(2 / n)."""
    k, j = indices(n)
    table = cosines((2 * j + 1) * k, n, quarter_cosines(n, 2))
    table[0] = quarter_cosines(n, 1)[0]
    return table


def fft(n: int) -> Tensor:
    """Real Fourier basis: 1, cos 1, sin 1, cos 2, sin 2, ...; even n ends with the Nyquist row (-1)^j / sqrt(n)."""
    k, j = indices(n)
    sine = (k % 2 == 0) & (k > 0)
    table = cosines(4 * ((k + 1) // 2) * j - n * sine, n, quarter_cosines(n, 2))
    level = quarter_cosines(n, 1)[0]
    table[0] = level
    if n % 2 == 0:
        table[n - 1] = torch.where(j[0] % 2 == 0, level, -level)
    return table


ANALYSIS: dict[str, Callable[[int], Tensor]] = {"dct": dct, "fft": fft}


@lru_cache(maxsize=64)
def analysis(basis: str, n: int) -> Tensor:
    """T_n [n, n] in float64, orthonormal to rounding."""
    return _checked(ANALYSIS[basis](n), basis, 1e-12)


@lru_cache(maxsize=64)
def wavelet(name: str, n: int, coarse: int) -> Tensor:
    """T_n [n, n] of the levels that lead down to `coarse` points, as orthonormal as the wavelet's filter."""
    return _checked(wavelets.table(name, n, coarse), name, wavelets.ORTHONORMAL)


def _checked(table: Tensor, basis: str, tolerance: float) -> Tensor:
    error = float((table @ table.T - torch.eye(len(table), dtype=torch.float64, device="cpu")).abs().max())
    if not error < tolerance:
        raise ArithmeticError(f"bases: {basis} of size {len(table)} is not orthonormal, T T^T - 1 reaches {error:.1e}")
    return table


def band(basis: str, fine: int, coarse: int) -> Tensor:
    """Weights w of the coarse band: 1, and over its last e = round(taper coarse) a quarter cosine where a side grows.

    w[coarse - e + j] = cos(pi (2 j + 1) / (4 e)); "dct~0.25" is "dct" with a taper of 0.25.
    """
    weights = torch.ones(coarse, dtype=torch.float64, device="cpu")
    edge = math.floor(float(basis.partition("~")[2] or 0) * coarse + 0.5) if fine > coarse else 0
    if edge:
        weights[coarse - edge :] = quarter_cosines(2 * edge, 2 * edge)[1 : 2 * edge : 2]
    return weights


@cached(maxsize=64)
def noise_weights(basis: str, fine: tuple[int, int], coarse: tuple[int, int], device: torch.device) -> Tensor:
    """sqrt(1 - (w_k w_l)^2) in the coarse corner, 1 elsewhere, in float64 [H, W]; without a taper the corner is 0."""
    rows, columns = (band(basis, fine[axis], coarse[axis]) for axis in (0, 1))
    weights = torch.ones(fine, dtype=torch.float64, device="cpu")
    both = rows[:, None] * columns
    weights[: coarse[0], : coarse[1]] = torch.sqrt(1.0 - both * both)
    return weights.to(device)


@lru_cache(maxsize=128)
def table(basis: str, kind: str, fine: int, coarse: int) -> Tensor:
    """The map named `kind` between grids of `fine` and `coarse` points, float64. A wavelet has T_h = I.

    analysis  T_H                  fine x fine        synthesis  T_H^T              fine x fine
    up        T_H[:h]^T W T_h      fine x coarse      down       T_h^T W T_H[:h]    coarse x fine
    lowpass   T_H[:h]^T W T_H[:h]  fine x fine        products exact to three slices, so that their bits are defined

    W = diag(w) is 1 without a taper, see `band`.
    """
    name = basis.partition("~")[0]
    full = analysis(name, fine) if name in ANALYSIS else wavelet(name, fine, coarse)
    if kind == "analysis":
        return full
    if kind == "synthesis":
        return full.T.contiguous()
    low = full[:coarse]
    soft = (low * band(basis, fine, coarse)[:, None]).T.contiguous()
    if kind == "up":
        return exact_matmul(soft, analysis(name, coarse), slices=3) if name in ANALYSIS else soft
    if kind == "down":
        return table(basis, "up", fine, coarse).T.contiguous()
    return exact_matmul(soft, low, slices=3)


@cached(maxsize=256)
def sliced(basis: str, kind: str, fine: int, coarse: int, device: torch.device) -> Tensor:
    """The two slices of a table as float32 [2, m, K] on a device; each slice fits float32 exactly."""
    return torch.stack(split_table(table(basis, kind, fine, coarse))).to(torch.float32).to(device)


@cached(maxsize=256)
def rounded(basis: str, kind: str, fine: int, coarse: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A table [m, K] in float32 (tier "fast") or float64 (float64 inputs) on a device."""
    return table(basis, kind, fine, coarse).to(dtype).to(device)
