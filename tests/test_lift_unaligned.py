# SPDX-License-Identifier: Apache-2.0
"""The lift without alignment: bits of the reference, and the velocity of the two bands."""

import numpy as np
import pytest
import torch
from bits import assert_same_bits

from reference import expand as reference
from spectral_kernels import dct_truncate, dispatch, spectral_lift


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize(
    ("fine", "coarse"),
    [((8, 12), (4, 6)), ((9, 7), (5, 4))],  # halves; odd sides and a ratio that is no power of two
)
def test_bits_of_the_reference(backend, fine, coarse):
    z, v = torch.randn(2, 3, *fine), torch.randn(2, 3, *coarse)
    with dispatch.backend(backend):
        actual = spectral_lift(z, v, t=0.3, align=False)
    assert_same_bits(actual, reference.lift(z.numpy(), v.numpy(), 0.3, align=False))


def test_low_band_is_the_coarse_velocity_and_high_band_is_noise():
    z, v = torch.randn(1, 4, 8, 12, dtype=torch.float64), torch.randn(1, 4, 4, 6, dtype=torch.float64)
    lifted = spectral_lift(z, v, t=0.25, align=False)
    low = dct_truncate(lifted, size=(4, 6), normalize=False)
    np.testing.assert_allclose(low, v, atol=1e-13)  # sums of at most 96 products of order 1
    # Subtracting t times the velocity leaves nothing in the high band: it was all noise.
    clean = z - 0.25 * lifted
    energy = dct_truncate(clean, size=(4, 6), normalize=False).square().sum()
    np.testing.assert_allclose(clean.square().sum(), energy, rtol=1e-12)
