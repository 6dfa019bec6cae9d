# SPDX-License-Identifier: Apache-2.0
"""Standard normal noise that is a pure function of (seed, stream, plane, row, column).

A Philox 4x32-10 call gives four 32-bit words; each word becomes one normal deviate on the grid 2^-17 by its quantile.
Only float32 additions, subtractions and multiplications are used, each rounded on its own, so that every machine agrees
to the last bit. (A square root would be shorter, but torch.sqrt rounds 14 % of float32 numbers wrongly on a CPU.)

Philox: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Words = NDArray[np.uint32]
Floats = NDArray[np.float32]

# Derived and measured by noise_fit.py; powers ascending.
LOG2 = (
    0.584962785243988,
    0.9617959856987,
    -0.32063233852386475,
    0.14252637326717377,
    -0.07058967649936676,
    0.03746293857693672,
    -0.025123203173279762,
    0.014778721146285534,
)
NORMAL_QUANTILE = (
    2.0574676990509033,
    1.1211278438568115,
    0.1580686867237091,
    0.01924712397158146,
    0.001744984881952405,
    0.00011625913612078875,
    6.42859231447801e-06,
    3.6190027685734094e-07,
)


def philox(counter: Sequence[ArrayLike], key: Sequence[ArrayLike]) -> tuple[Words, Words, Words, Words]:
    """Philox 4x32-10: the four 32-bit words at a counter of four words under a key of two. The arguments broadcast."""
    low = np.uint64(0xFFFFFFFF)
    c0, c1, c2, c3, k0, k1 = np.broadcast_arrays(*(np.asarray(word, np.uint64) for word in (*counter, *key)))
    for _ in range(10):
        a = c0 * np.uint64(0xD2511F53)
        b = c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (b >> np.uint64(32)) ^ c1 ^ k0, b & low, (a >> np.uint64(32)) ^ c3 ^ k1, a & low
        k0 = (k0 + np.uint64(0x9E3779B9)) & low
        k1 = (k1 + np.uint64(0xBB67AE85)) & low
    return c0.astype(np.uint32), c1.astype(np.uint32), c2.astype(np.uint32), c3.astype(np.uint32)


def polynomial(coefficients: Sequence[float], x: Floats) -> Floats:
    """Horner's rule from the highest power, every product and every sum rounded to float32."""
    value = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + np.float32(coefficient)
    return value


def log2(x: Floats) -> Floats:
    """Base-two logarithm: the exponent plus a polynomial of the mantissa, float32, error below 4e-7 + rounding."""
    bits = x.view(np.uint32)
    exponent = (bits >> np.uint32(23)).astype(np.float32) - np.float32(127)
    mantissa = ((bits & np.uint32(0x7FFFFF)) | np.uint32(0x3F800000)).view(np.float32)
    return exponent + polynomial(LOG2, mantissa - np.float32(1.5))


def quantile(word: Words) -> Floats:
    """x >= 0 with P(X > x) = p, where the low 31 bits m of the word stand for p = (m + 1/2) 2^-32; float32.

    level = log2(-log2 p) in [0, log2 33]        x = polynomial in (level - 2.5)
    """
    m = (word & np.uint32(0x7FFFFFFF)).astype(np.float32) + np.float32(0.5)
    level = log2(np.float32(32) - log2(m))
    return polynomial(NORMAL_QUANTILE, level - np.float32(2.5))


def deviate(word: Words) -> Floats:
    """The normal deviate of each 32-bit word: quantile of the low 31 bits, sign of the top bit, on the grid 2^-17.

    Between 64 and 128 the float32 grid is 2^-17, so adding 96 rounds to it (to nearest, ties to even) and taking 96
    away is exact. A zero comes out as +0.
    """
    x = quantile(word)
    signed = np.where(word >> np.uint32(31) == 1, -x, x)
    return (signed + np.float32(96)) - np.float32(96)


def deviates(rows: int, columns: int, planes: int | Sequence[int], seed: int, stream: int = 0) -> Floats:
    """The noise of one sample, float32 [planes, rows, columns]; `planes` is a count or a list of plane numbers.

    Counter (column, row // 4, plane, stream), key (low half, high half of the seed); word row % 4 is the row's. So a
    slot's deviate does not know the size of the grid around it.
    """
    plane = np.arange(planes) if isinstance(planes, int) else np.asarray(planes)
    row, column = np.arange(rows)[:, None], np.arange(columns)
    words = np.stack(philox((column, row // 4, plane[:, None, None], stream), (seed & 0xFFFFFFFF, seed >> 32)))
    return deviate(np.take_along_axis(words, (row % 4)[None, None], axis=0)[0])


def normal(
    shape: Sequence[int], seed: int | Sequence[int], stream: int = 0, dtype: DTypeLike = np.float32
) -> NDArray[np.floating]:
    """Standard normal noise of a shape.

    The last two dimensions are rows and columns of a plane ((n,) is one row). With three dimensions or more the first
    one counts samples, and what lies between numbers the planes of a sample. Sample b has the seed `seed + b`, or its
    own from a list.
    """
    rows, columns = (1, *shape)[-2:]
    samples = shape[0] if len(shape) >= 3 else 1
    planes = int(np.prod(shape[1:-2]))
    seeds = [seed + b for b in range(samples)] if isinstance(seed, int) else seed
    noise = np.zeros((samples, planes, rows, columns), np.float32)
    for b in range(samples):
        noise[b] = deviates(rows, columns, planes, seeds[b], stream)
    return noise.reshape(shape).astype(dtype)
