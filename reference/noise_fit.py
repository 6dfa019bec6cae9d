# SPDX-License-Identifier: Apache-2.0
"""Where the two polynomials of noise.py come from: run `python -m reference.noise_fit` to derive and measure them.

With l = log2(-log2 p) the normal quantile x(l) = -Phi^-1(2^-(2^l)) is smooth over the whole range of p: degree 7
reaches 2.6e-7. In the customary variable sqrt(-2 ln p) the same error takes degree 14 (measured), and a square root
that rounds correctly everywhere; here one short logarithm serves twice.
"""

from collections.abc import Callable

import numpy as np
from numpy.polynomial import Polynomial, chebyshev
from numpy.typing import NDArray
from scipy.special import ndtri_exp

Numbers = NDArray[np.float64]


def near_minimax(
    function: Callable[[Numbers], Numbers], low: float, high: float, centre: float, degree: int
) -> NDArray[np.float32]:
    """Coefficients of (argument - centre)^k, k ascending, rounded to float32.

    A Chebyshev least-squares fit: its largest error is within a few per cent of the best polynomial's here.
    """
    nodes = np.cos((np.arange(4096) + 0.5) * np.pi / 4096)
    at = (low + high) / 2 + (high - low) / 2 * nodes
    fit = Polynomial(chebyshev.cheb2poly(chebyshev.chebfit(nodes, function(at), degree)))
    # nodes as a function of (argument - centre)
    shift = Polynomial([(centre - (low + high) / 2) * 2 / (high - low), 2 / (high - low)])
    return fit(shift).coef.astype(np.float32)


def quantile(level: Numbers) -> Numbers:
    """x > 0 with P(X > x) = 2^-(2^level) for a standard normal X."""
    return -ndtri_exp(-np.log(2) * 2.0**level)  # pyright: ignore[reportUnknownVariableType]  SciPy has no types for it


def log2() -> NDArray[np.float32]:
    """log2(1.5 + u) for a mantissa 1.5 + u in [1, 2): degree 7, error 3.2e-7."""
    return near_minimax(np.log2, 1.0, 2.0, 1.5, 7)


def normal_quantile() -> NDArray[np.float32]:
    """x as a polynomial of level - 2.5 for p in [2^-33, 2^-1]: degree 7, error 2.6e-7."""
    return near_minimax(quantile, 0.0, np.log2(33.0), 2.5, 7)


def measure() -> None:
    """Every float32 that can stand for p, against the exact quantile: largest error, and the law's even moments."""
    from reference import noise

    largest, weights, moments = 0.0, 0, np.zeros(3)
    for low in range(0, 1 << 31, 1 << 27):
        # Above 2^24 several words share one float32; a stride visits each octave's floats at least once.
        stride = max(1, low >> 24)
        word = np.arange(low, low + (1 << 27), stride, dtype=np.uint32)
        p = (word.astype(np.float64) + 0.5) * 2.0**-32
        drawn = noise.quantile(word).astype(np.float64)
        largest = max(largest, float(np.abs(drawn + ndtri_exp(np.log(p))).max()))
        weights += len(word) * stride
        moments += stride * np.array([np.sum(drawn**2), np.sum(drawn**4), np.sum(drawn**6)])
    print("largest error before rounding to the grid", largest)
    print("moments 2, 4, 6 of the law (1, 3, 15 for the normal)", *(moments / weights))


if __name__ == "__main__":
    for name, coefficients in (("LOG2", log2()), ("NORMAL_QUANTILE", normal_quantile())):
        print(name, "= (" + ", ".join(str(float(c)) for c in coefficients) + ")")
    measure()
