# SPDX-License-Identifier: Apache-2.0
"""The published implementation's faults can be seen, and the corrected forms do not have them."""

import numpy as np
import pytest

from reference import errata

# Wan 720p latents at half scale and back (odd to even rows); the widths of a 480p to 720p change.
ODD_TO_EVEN = [((45, 80), (90, 160)), ((60, 107), (90, 160))]


@pytest.mark.parametrize(("small", "large"), ODD_TO_EVEN)
def test_published_fourier_paste_turns_a_constant_into_a_wave(small, large):
    flat = np.ones(small)
    level = np.sqrt(small[0] * small[1] / (large[0] * large[1]))
    published = errata.fft_up_as_published(flat, large)
    assert abs(published.max() - level) < 1e-3 and abs(published.min() + level) < 1e-3
    np.testing.assert_allclose(errata.fft_up_centred(flat, large), level, rtol=1e-12)
    # The second product's data, below 1, keep 38 bits: off by 2^-39, times the 1-norm of a row, at most sqrt(107).
    np.testing.assert_allclose(errata.fft_up(flat, large), level, rtol=2.0**-34)


def test_published_fourier_paste_loses_half_of_the_highest_frequency():
    """Each of the 127 slots of the highest frequency at 64 x 64 loses half of its energy; 32 planes of noise make the
    mean loss known to 32 * 127 / 2 independent values, so 15 % is four standard deviations."""
    noise = np.random.default_rng(0).normal(size=(32, 64, 64))
    energy = float((noise**2).sum())
    lost = 1 - float((errata.fft_up_as_published(noise, (128, 128)) ** 2).sum()) / energy
    assert lost == pytest.approx(127 / 8192, rel=0.15)
    kept = float((errata.fft_up(noise, (128, 128)) ** 2).sum()) / energy
    assert kept == pytest.approx(1, rel=1e-12)


def test_forms_agree_where_the_published_one_is_right():
    """Odd to odd sides: no lone highest frequency, and both offsets are the same."""
    x = np.random.default_rng(1).normal(size=(5, 7))
    expected = errata.fft_up(x, (9, 15))
    np.testing.assert_allclose(errata.fft_up_as_published(x, (9, 15)), expected, atol=1e-12)
    np.testing.assert_allclose(errata.fft_up_centred(x, (9, 15)), expected, atol=1e-12)
