# SPDX-License-Identifier: Apache-2.0
"""The comparison of decomposable flow matching: equal compute, rows that are not measured twice, and its picture."""

import pytest
import torch

from bench import decomposable, rows
from bench.decomposable_plot import DOCUMENT, document
from bench.oracles import photograph_crops


@pytest.fixture
def few_crops(monkeypatch):
    pytest.importorskip("skimage")
    monkeypatch.setattr(decomposable, "photograph_crops", lambda count, side, seed=0: photograph_crops(128, side, seed))


def test_all_methods_get_the_same_compute_and_rows_are_kept(few_crops, monkeypatch, tmp_path):
    monkeypatch.setattr(decomposable, "ABLATIONS", {"haar": {"basis": "haar"}, "tied times": {"tied": True}})
    monkeypatch.setattr(decomposable, "SAMPLING", [((1, 1), 0.5)])
    command = ["--steps", "4", "--seeds", "1", "--samples", "8", "--results", str(tmp_path)]
    assert decomposable.main([*command, "--share", "1/2"]) == 0
    share = list(rows.read(tmp_path, "decomposable"))
    assert {r["method"] for r in share} == {"decomposable", "pyramidal", "tied times"}
    assert decomposable.main(command) == 0
    found = list(rows.read(tmp_path, "decomposable"))
    assert found[: len(share)] == share  # what was there is not measured again
    assert {r["method"] for r in found} == {*decomposable.METHODS, "haar", "tied times"}
    assert len(found) == 4 * 3 + 1 + 2
    for steps in (1, 2, 4):
        spent = [r["training_gflops"] for r in found if r["steps"] == steps]
        assert min(spent) > 0.9 * steps * 2  # GFLOPs a step: 6 per weight of a block, token and sample make 2.4
        assert max(spent) <= 1.05 * min(spent) + 1  # the second level's embedding and head; figures are rounded
    pytest.importorskip("matplotlib")
    assert decomposable.main(["--plot", "--results", str(tmp_path)]) == 0
    assert (tmp_path / "decomposable.png").stat().st_size > 10_000


def test_the_jump_of_the_pyramidal_flow_leaves_white_noise():
    low, noise = torch.randn(2, 4096, 1, 4, 4)
    y = decomposable.enlarged(2 / 3 * low + 1 / 3 * noise, torch.randn(4096, 1, 8, 8))
    rest = (y - 0.5 * torch.nn.functional.interpolate(low, scale_factor=2)).flatten(1)
    covariance = rest.T @ rest / len(rest)
    assert (covariance - 0.25 * torch.eye(64)).abs().max() < 6 * 0.25 * (2 / len(rest)) ** 0.5  # six deviations


def test_the_document_says_what_the_rows_say():
    given = DOCUMENT.read_text(encoding="utf-8")
    assert given.count("<!-- rows:") == 4
    assert document(given, rows.RESULTS) == given
