# SPDX-License-Identifier: Apache-2.0
"""The law of the noise: standard normal, and independent between slots, planes, seeds and streams.

Seeds are fixed, so nothing here is left to chance. A statistic may lie 4.5 standard errors from its expectation: among
the thirty of this file a true normal would fail with one seed in 5000.
"""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import ndtri_exp

from reference import noise as reference
from reference import noise_fit
from spectral_kernels import normal

LIMIT = 4.5


@pytest.fixture(scope="module")
def drawn():
    """2^24 deviates [samples, planes, rows, columns] in float64, so that sums add no error of their own."""
    return normal((8, 8, 512, 512), 20260101, dtype=torch.float64)


def test_coefficients_are_the_fit_s():
    np.testing.assert_array_equal(np.array(reference.LOG2, np.float32), noise_fit.log2())
    np.testing.assert_array_equal(np.array(reference.NORMAL_QUANTILE, np.float32), noise_fit.normal_quantile())


def test_quantile_is_within_its_bound():
    # Both ends of the range in full, and a stride that visits every octave between them.
    ends = np.arange(1 << 18, dtype=np.uint32)
    word = np.concatenate([ends, np.arange(0, 1 << 31, 1999, dtype=np.uint32), np.uint32((1 << 31) - 1) - ends])
    exact = -ndtri_exp(np.log((word + 0.5) * 2.0**-32))
    assert np.abs(reference.quantile(word) - exact).max() <= 1.8e-6  # noise_fit.measure, over all words: 1.794e-6


def test_deviates_lie_on_the_grid_and_zero_has_no_sign():
    word = np.concatenate([np.arange(1 << 12), (1 << 31) - 1 - np.arange(1 << 12)]).astype(np.uint32)
    both = np.stack([reference.deviate(word), reference.deviate(word | np.uint32(1 << 31))])
    np.testing.assert_array_equal(both[0], -both[1])
    np.testing.assert_array_equal(both * 2.0**17, np.rint(both * 2.0**17))
    assert np.abs(both).max() < 6.5
    assert (both == 0).any() and not np.signbit(both[both == 0]).any()


@pytest.mark.parametrize("x", [3, 4, 5, 6])
def test_tails_hold_the_right_number_of_words(x):
    # Words are in order of falling x, and P(X > x) 2^32 of the 2^31 should lie above x: 5.8 million, 136026, 1231, 4.
    # The quantile's error of 1.8e-6 and half a step of the grid, 3.8e-6, move the border by density * 5.6e-6 * 2^32.
    expected = stats.norm.sf(x) * 2**32
    word = np.arange(1.001 * expected + 100, dtype=np.uint32)
    found = int((reference.deviate(word) > x).sum())
    assert abs(found - expected) <= 0.5 + stats.norm.pdf(x) * 5.6e-6 * 2**32


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 6])
def test_moments(drawn, order):
    expected = stats.norm.moment(order)
    error = np.sqrt((stats.norm.moment(2 * order) - expected**2) / drawn.numel())
    assert abs(float((drawn**order).mean()) - expected) <= LIMIT * error


@pytest.mark.parametrize("sigmas", [3, 4, 5])
def test_tails_of_a_sample(drawn, sigmas):
    expected = drawn.numel() * stats.norm.sf(sigmas)  # 22647, 531, 4.8: Poisson, but for the last one nearly normal
    for side in (drawn, -drawn):
        assert abs(int((side > sigmas).sum()) - expected) <= LIMIT * np.sqrt(expected)


def test_kolmogorov_smirnov(drawn):
    # Two seeds; the grid of 2^-17 moves the distribution function by 1.5e-6 at most, its resolution here is 1e-3.
    for sample in (drawn[0, 0], drawn[5, 3]):
        assert stats.kstest(sample.flatten().numpy(), "norm").pvalue > 0.01


def correlation(a, b):
    """In standard errors, for independent standard normal numbers."""
    return float((a * b).sum()) / np.sqrt(a.numel())


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("next column", np.s_[..., :-1], np.s_[..., 1:]),
        ("next row: another word, or the next call", np.s_[..., :-1, :], np.s_[..., 1:, :]),
        ("fourth row: the same word of the next call", np.s_[..., :-4, :], np.s_[..., 4:, :]),
        ("diagonal", np.s_[..., :-1, :-1], np.s_[..., 1:, 1:]),
        ("next plane", np.s_[:, :-1], np.s_[:, 1:]),
        ("next seed", np.s_[:-1], np.s_[1:]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_neighbours_are_independent(drawn, name, first, second):
    a, b = drawn[first], drawn[second]
    assert abs(correlation(a, b)) <= LIMIT
    # Magnitudes too: (x^2 - 1) / sqrt 2 has mean 0 and variance 1.
    assert abs(correlation((a * a - 1) / 2**0.5, (b * b - 1) / 2**0.5)) <= LIMIT


def test_streams_are_independent(drawn):
    for stream in (1, 2**31, 2**32 - 1):
        other = normal((1, 8, 512, 512), 20260101, stream=stream, dtype=torch.float64)
        assert abs(correlation(drawn[:1], other)) <= LIMIT


def test_rows_and_columns_do_not_mirror_each_other(drawn):
    # The counter holds row and column in different words: swapping them must give other noise.
    square = drawn[:, :, :128, :128]
    off_diagonal = ~torch.eye(128, dtype=torch.bool)
    assert (
        abs(correlation(square[..., off_diagonal], square.mT[..., off_diagonal])) <= LIMIT * 2**0.5
    )  # pairs count twice
