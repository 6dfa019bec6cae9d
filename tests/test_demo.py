# SPDX-License-Identifier: Apache-2.0
"""The demo's claims: its picture is drawn, its spectrum is the theory's, its result beats the usual way."""

import numpy as np
import pytest

pytest.importorskip("skimage", reason="the extra demo is not installed")
pytest.importorskip("matplotlib", reason="the extra demo is not installed")

from spectral_kernels import demo


@pytest.fixture(scope="module")
def run():
    return demo.states()


def test_power_of_the_expanded_state_is_that_of_a_state_at_the_aligned_time(run):
    t = run["t"]
    frequency, clean = demo.power(run["photo"])
    _, found = demo.power(run["fine"])
    new = frequency > 140  # above the coarse grid's 128 cycles: noise alone, no photograph
    # Rings above 140 cycles hold 3 (pi / 2) 2 140 > 1300 coefficients: standard error below sqrt(2 / 1300) = 0.04.
    assert np.abs(found[new] / t**2 - 1).max() < 5 * 0.04
    shared = (frequency > 8) & (frequency < 100)
    theory = (1 - t) ** 2 * clean + t**2
    assert np.abs(found[shared].sum() / theory[shared].sum() - 1) < 0.02
    # The usual way is far off on the new band, so this test can tell.
    _, usual = demo.power(run["usual"])
    assert np.abs(usual[new] / t**2 - 1).min() > 0.1


def test_one_step_is_nearer_to_the_photograph_than_after_bilinear_upsampling(run, tmp_path):
    errors = demo.picture(run, tmp_path / "demo.png")
    assert errors["ours"] < 0.95 * errors["usual"]
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_every_backend_gives_the_same_bits():
    verdicts = dict(demo.bits())
    assert verdicts["triton"] == "same bits"
    assert "DIFFERENT BITS" not in verdicts.values()
