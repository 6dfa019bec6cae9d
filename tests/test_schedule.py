# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch

import reference.schedule as reference
from spectral_kernels.schedule import align_time

# Ends, a typical transition, and levels where 1 - t or t is small enough to lose digits if the formula were rearranged.
TIMES = (0.0, 1e-12, 0.1, 0.35, 0.852, 0.999, 1 - 1e-12, 1.0)
# Doubling, the odd size 65 -> 90 on one axis only, four times, and no change.
RATIOS = (2.0, math.sqrt(90 / 65), 4.0, 1.0)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("t", TIMES)
def test_aligned_state_lies_on_the_flow(t, ratio):
    """kappa (1 - t) = (1 - t') r for the signal and kappa t = t' for the noise: appendix A.2."""
    aligned, kappa = align_time(t, ratio)
    assert kappa * (1 - t) == pytest.approx((1 - aligned) * ratio, rel=0, abs=8e-16)
    assert kappa * t == pytest.approx(aligned, rel=4e-16)


@pytest.mark.parametrize("t", TIMES)
def test_alignments_compose_and_invert(t):
    twice, _ = align_time(align_time(t, 2.0)[0], 2.0)
    assert twice == pytest.approx(align_time(t, 4.0)[0], rel=1e-15)
    assert align_time(twice, 0.25)[0] == pytest.approx(t, rel=1e-15, abs=0)


def test_published_value():
    """FLUX.1, 50 steps: the first fine step after 18 coarse ones has sigma 0.8488 and is rewound to 0.9182."""
    sigma = math.exp(1.15) / (math.exp(1.15) + 1 / (1 - 18 / 50) - 1)
    aligned, kappa = align_time(sigma, 2.0)
    assert (round(sigma, 4), round(aligned, 4), round(kappa, 4)) == (0.8488, 0.9182, 1.0818)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tensors_follow_the_floats_bit_for_bit(dtype):
    t = torch.tensor(TIMES, dtype=dtype)
    aligned, kappa = align_time(t, 1.7)
    assert aligned.dtype == kappa.dtype == torch.float64
    expected = [align_time(float(v), 1.7) for v in t.double()]
    assert [(a, k) for a, k in zip(aligned.tolist(), kappa.tolist(), strict=True)] == expected


@pytest.mark.parametrize("t", [-0.1, 1.0001, math.nan, 851.9])
def test_bad_time(t):
    with pytest.raises(ValueError, match=r"align_time: t must be in \[0, 1\]"):
        align_time(t, 2.0)


@pytest.mark.parametrize("ratio", [0.0, -2.0, math.inf, math.nan])
def test_bad_ratio(ratio):
    with pytest.raises(ValueError, match="align_time: ratio must be positive"):
        align_time(0.5, ratio)


def test_integer_tensor():
    with pytest.raises(TypeError, match="floating-point"):
        align_time(torch.tensor([1]), 2.0)


def test_aligned_times_stay_in_range():
    """1 + (ratio - 1) rounds for ratios below 1/2; a level above 1 could not be aligned again."""
    ratios = [1 / (2 + k / 97) for k in range(1, 400)]
    assert any(r / (1 + (r - 1)) > 1 for r in ratios)
    for ratio in ratios:
        assert align_time(1.0, ratio)[0] <= 1
        assert align_time(torch.ones(1), ratio)[0].item() <= 1


@pytest.mark.parametrize("ratio", RATIOS)
def test_reference(ratio):
    t = np.array(TIMES)
    aligned, kappa = reference.align_time(t, ratio)
    assert [align_time(float(v), ratio) for v in t] == list(zip(aligned.tolist(), kappa.tolist(), strict=True))
