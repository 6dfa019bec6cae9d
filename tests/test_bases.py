# SPDX-License-Identifier: Apache-2.0
"""The tables: the reference's bits, SciPy's numbers, orthonormal, and independent of any C library."""

import math
from decimal import Decimal

import numpy as np
import pytest
import scipy.fft
import torch

from reference import bases as reference
from spectral_kernels import bases
from tests.bits import assert_same_bits

# The smallest, where every rule has an exception; odd, prime, powers of two and their neighbours; all folds.
SIZES = [1, 2, 3, 4, 5, 7, 8, 12, 17, 31, 45, 64, 96, 127, 160]
KINDS = ["analysis", "synthesis", "up", "down", "lowpass"]
CPU = torch.device("cpu")


@pytest.mark.parametrize("basis", ["dct", "fft"])
@pytest.mark.parametrize("n", SIZES)
def test_analysis_has_the_reference_bits(basis, n):
    assert_same_bits(bases.analysis(basis, n), reference.ANALYSIS[basis](n))


# Nothing to do; one pixel; ratio 2; a ratio that is no fraction of small numbers; primes; one apart.
PAIRS = [(1, 1), (5, 1), (16, 8), (45, 31), (61, 47), (64, 63)]


@pytest.mark.parametrize("basis", ["dct", "fft"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fine", "coarse"), PAIRS)
def test_maps_between_grids_have_the_reference_bits(basis, kind, fine, coarse):
    assert_same_bits(
        bases.table(basis, kind, fine, coarse), np.ascontiguousarray(reference.table(basis, kind, fine, coarse))
    )


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 97, 256, 1000])
def test_cosines_of_both_makers_agree(n):
    """Decimal arithmetic with 60 digits there, big integers of 224 bits here."""
    assert_same_bits(bases.quarter_cosines(n, 2), reference.quarter_cosines(n, Decimal(2) / n))
    assert_same_bits(bases.quarter_cosines(n, 1)[0], reference.quarter_cosines(1, Decimal(1) / n)[0])


def test_cosines_of_the_largest_side_agree():
    assert_same_bits(bases.quarter_cosines(4096, 2), reference.quarter_cosines(4096, Decimal(2) / 4096))


def nearest_tie(n: int, numerator: int) -> float:
    """How close an exact value comes to the middle between two doubles, in units of their distance."""
    one = 1 << 400
    angle, term, first, k = pi(one) // (2 * n), one, 0, 0
    while term:
        first, k = first + (term if k % 4 == 0 else -term), k + 2
        term = term * angle // one * angle // one // (k * (k - 1))
    weight, before, now, closest = math.isqrt(numerator * one * one // n), first, one, 1.0
    for _ in range(n):
        value = now * weight // one
        spare = value.bit_length() - 53
        closest = min(closest, abs((value & ((1 << spare) - 1)) - (1 << (spare - 1))) / 2**spare)
        before, now = now, 2 * first * now // one - before
    return closest


def pi(one: int) -> int:
    """Gauss's formula, another one than the tables use: 48 arctan(1/18) + 32 arctan(1/57) - 20 arctan(1/239)."""

    def arctan_of_inverse(x: int) -> int:
        return sum((-1) ** k * (one // ((2 * k + 1) * x ** (2 * k + 1))) for k in range(400))

    return 48 * arctan_of_inverse(18) + 32 * arctan_of_inverse(57) - 20 * arctan_of_inverse(239)


@pytest.mark.parametrize("n", [3, 45, 61, 64, 128, 256, 1000, 4096])
def test_no_entry_lies_where_the_last_bits_of_a_cosine_could_move_it(n):
    """Correct rounding needs the value to the distance of the next tie. Both makers carry over 150 bits; 40 after the
    53 of a double are enough when no value is nearer to a tie than 2^-40 of its last bit."""
    assert nearest_tie(n, 2) > 2.0**-40


@pytest.mark.parametrize("n", [2, 7, 64, 160])
def test_no_c_library_is_asked(n, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a table asked a C library")

    expected = bases.dct(n), bases.fft(n)
    for module, names in ((math, ("cos", "sin", "sqrt", "pi")), (np, ("cos", "sin", "sqrt")), (torch, ("cos", "sin"))):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    for made, reference_made, table in zip(
        (bases.dct(n), bases.fft(n)), (reference.dct(n), reference.fft(n)), expected, strict=True
    ):
        assert_same_bits(made, table)
        assert_same_bits(made, reference_made)


@pytest.mark.parametrize("n", [*SIZES, 1000])
def test_dct_is_scipys(n):
    """Both have entries below 1 that are right to 2^-53 and what SciPy's transform adds: log2(n) roundings."""
    expected = scipy.fft.dct(np.eye(n), axis=0, norm="ortho")
    assert np.abs(bases.analysis("dct", n).numpy() - expected).max() <= 2.0**-52 * (2 + math.log2(n))


@pytest.mark.parametrize("n", SIZES)
def test_fft_is_scipys_real_transform_sorted_by_frequency(n):
    spectrum = scipy.fft.rfft(np.eye(n), axis=0) / math.sqrt(n)
    expected = [spectrum[0].real]
    for k in range(1, (n - 1) // 2 + 1):
        expected += [math.sqrt(2) * spectrum[k].real, -math.sqrt(2) * spectrum[k].imag]
    if n % 2 == 0:
        expected.append(spectrum[n // 2].real)
    assert np.abs(bases.analysis("fft", n).numpy() - np.array(expected)).max() <= 2.0**-52 * (4 + math.log2(n))


@pytest.mark.parametrize("basis", ["dct", "fft"])
@pytest.mark.parametrize("n", [*SIZES, 257, 720])
def test_rows_are_orthonormal(basis, n):
    """n products of entries with a relative error of 2^-53 each: below 2 * 2^-53 by Cauchy, and n 2^-53 for the sum."""
    table = bases.analysis(basis, n)
    error = (table @ table.T - torch.eye(n, dtype=torch.float64)).abs().max()
    assert error <= (n + 2) * 2.0**-53


@pytest.mark.parametrize("n", [8, 45, 64])
def test_symmetry_is_exact(n):
    """What lets a kernel fold: T[k, n-1-j] = (-1)^k T[k, j] in bits, in the slices too."""
    table = bases.analysis("dct", n)
    sign = 1 - 2 * (torch.arange(n) % 2)[:, None]
    assert_same_bits(table.flip(1) * sign + 0.0, table + 0.0)
    for part in bases.sliced("dct", "analysis", n, n, CPU):
        assert_same_bits(part.flip(1) * sign + 0.0, part + 0.0)


def test_a_wrong_table_is_refused(monkeypatch):
    monkeypatch.setitem(bases.ANALYSIS, "slanted", lambda n: bases.dct(n) + 1e-9)
    with pytest.raises(ArithmeticError, match="slanted of size 9 is not orthonormal"):
        bases.analysis("slanted", 9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fine", "coarse"), [(45, 31), (300, 150)])
def test_slices_are_float32_and_hold_the_table(kind, fine, coarse):
    table = bases.table("dct", kind, fine, coarse)
    high, low = bases.sliced("dct", kind, fine, coarse, CPU)
    assert high.dtype == low.dtype == torch.float32
    bits = 22 if table.shape[1] <= 256 else 21
    largest = 2.0 ** math.ceil(math.log2(float(table.abs().max())))
    assert (high.double() + low.double() - table).abs().max() <= largest * 2.0 ** (-2 * bits - 1)


def test_up_and_down_are_one_another_s_transpose_and_give_the_low_pass():
    up, down, low = (bases.table("dct", kind, 45, 31) for kind in ("up", "down", "lowpass"))
    assert_same_bits(up.T.contiguous(), down)
    assert (up @ down - low).abs().max() < 1e-14
    assert (down @ up - torch.eye(31, dtype=torch.float64)).abs().max() < 1e-14
    assert (low @ low - low).abs().max() < 1e-14


def test_default_device_and_dtype_do_not_matter():
    expected = bases.dct(23)
    with torch.device("meta"):
        assert_same_bits(bases.dct(23), expected)
        assert_same_bits(bases.fft(23), reference.fft(23))
    torch.set_default_dtype(torch.float64)
    try:
        assert_same_bits(bases.dct(23), expected)
    finally:
        torch.set_default_dtype(torch.float32)
