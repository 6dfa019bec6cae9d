# SPDX-License-Identifier: Apache-2.0
"""Orthonormal bases and the maps between a coarse and a fine grid, as float64 tables.

A basis of size n is a matrix T_n, one basis vector per row, in ascending frequency. Cosines are computed with 50
decimal digits from angles reduced to a quarter turn and rounded once, so no entry depends on a C library, and
entries that are equal by symmetry are equal in bits.
"""

import math
from decimal import Context, Decimal, localcontext

import numpy as np
from numpy.typing import NDArray

from reference import wavelets
from reference.exact import Doubles, exact_matmul

Basis = str | tuple[float, ...]  # "dct", "fft", "haar", or the lowpass taps of an orthogonal wavelet

DIGITS = 50


def quarter_cosines(n: int, weight: Decimal) -> Doubles:
    """sqrt(weight) cos(pi a / (2 n)) for a = 0..n, correctly rounded: Taylor series of the smallest angles' powers.

    exp(i pi a / 2n) is built by multiplying with exp(i pi / 2n); 50 digits leave 40 after 4096 products.
    """
    with localcontext(Context(prec=DIGITS + 10)):
        angle = pi() / (2 * n)
        step_cos, step_sin = taylor_cos_sin(angle)
        scale = weight.sqrt()
        cos, sin = Decimal(1), Decimal(0)
        values: list[float] = []
        for _ in range(n):
            values.append(float(scale * cos))
            cos, sin = cos * step_cos - sin * step_sin, sin * step_cos + cos * step_sin
        return np.array([*values, 0.0])


def pi() -> Decimal:
    """Machin: pi = 16 arctan(1/5) - 4 arctan(1/239)."""

    def arctan_of_inverse(x: int) -> Decimal:
        total, power, k = Decimal(0), Decimal(1) / x, 0
        while power.adjusted() > -DIGITS - 15:
            total += power / (2 * k + 1) * (-1) ** k
            power, k = power / (x * x), k + 1
        return total

    return 16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)


def taylor_cos_sin(angle: Decimal) -> tuple[Decimal, Decimal]:
    """cos and sin of an angle of at most pi / 2 by their Taylor series."""
    sums, term, k = [Decimal(0), Decimal(0)], Decimal(1), 0
    while term and term.adjusted() > -DIGITS - 15:
        sums[k % 2] += term if k % 4 < 2 else -term
        term, k = term * angle / (k + 1), k + 1
    return sums[0], sums[1]


def cosines(n: int, quarter_turns: NDArray[np.int64], values: Doubles) -> Doubles:
    """Entries for angles pi a / (2 n) with any integer a, from the quarter turn `values` by symmetry."""
    a = quarter_turns % (4 * n)
    a = np.minimum(a, 4 * n - a)
    mirrored = 2 * n - a
    return np.where(a <= n, values[np.minimum(a, n)], -values[np.minimum(mirrored, n)])


def dct(n: int) -> Doubles:
    """DCT-II: T[k, j] = s_k cos(pi (2 j + 1) k / (2 n)), s_0 = sqrt(1 / n), s_k = sqrt(2 / n); frequency k/2."""
    k, j = np.ogrid[:n, :n]
    table = cosines(n, (2 * j + 1) * k, quarter_cosines(n, Decimal(2) / n))
    table[0] = quarter_cosines(1, Decimal(1) / n)[0]
    return table


def fft(n: int) -> Doubles:
    """Real Fourier rows 1, cos 1, sin 1, cos 2, sin 2, ...; even n end with the Nyquist row (-1)^j / sqrt(n)."""
    k, j = np.ogrid[:n, :n]
    turns = 4 * ((k + 1) // 2) * j - np.where((k % 2 == 0) & (k > 0), n, 0)
    table = cosines(n, turns, quarter_cosines(n, Decimal(2) / n))
    level = quarter_cosines(1, Decimal(1) / n)[0]
    table[0] = level
    if n % 2 == 0:
        table[n - 1] = np.where(np.arange(n) % 2 == 0, level, -level)
    return table


ANALYSIS = {"dct": dct, "fft": fft}


def pair(basis: Basis, fine: int, coarse: int) -> tuple[Doubles, Doubles | None]:
    """T_H and T_h; None stands for T_h = I, since the coarse state of a wavelet is its lowpass band."""
    if basis == "haar":
        return wavelets.haar(fine, coarse), None
    if isinstance(basis, tuple):
        return wavelets.table(basis, fine, coarse), None
    return ANALYSIS[basis](fine), ANALYSIS[basis](coarse)


def band(fine: int, coarse: int, taper: float) -> Doubles:
    """Weights w of the coarse band: 1, and over its last e = round(taper coarse) coefficients a quarter cosine,

        w[coarse - e + j] = cos(pi (2 j + 1) / (4 e)),   j = 0, ..., e - 1        correctly rounded

    A side that does not grow has no edge: its weights are 1.
    """
    weights = np.ones(coarse)
    edge = math.floor(taper * coarse + 0.5) if fine > coarse else 0
    if edge:
        weights[coarse - edge :] = quarter_cosines(2 * edge, Decimal(1))[1 : 2 * edge : 2]
    return weights


def table(basis: Basis, kind: str, fine: int, coarse: int, taper: float = 0.0) -> Doubles:
    """The map named `kind` between grids of `fine` and `coarse` points; W = diag(w) is the `band`, 1 without a taper.

        analysis   T_H                      fine x fine
        synthesis  T_H^T                    fine x fine
        up         T_H[:h]^T W T_h          fine x coarse
        down       T_h^T W T_H[:h]          coarse x fine
        lowpass    T_H[:h]^T W T_H[:h]      fine x fine

    W scales the rows of T_H[:h], each entry rounded once. Products of two tables are exact products with three slices,
    far below the last bit of float64.
    """
    T_fine, T_coarse = pair(basis, fine, coarse)
    low = T_fine[:coarse]
    soft = low * band(fine, coarse, taper)[:, None]
    if kind == "analysis":
        return T_fine
    if kind == "synthesis":
        return T_fine.T
    if kind == "up":
        return soft.T if T_coarse is None else exact_matmul(soft.T, T_coarse, slices=3)
    if kind == "down":
        return table(basis, "up", fine, coarse, taper).T
    if kind == "lowpass":
        return exact_matmul(soft.T, low, slices=3)
    raise ValueError(f"table: unknown kind {kind!r}")
