# SPDX-License-Identifier: Apache-2.0
"""The test vectors: written by the reference, reproduced by every backend that can run here."""

import json

import pytest
import torch

from reference import golden
from spectral_kernels import dispatch, selftest


@pytest.mark.parametrize("name", golden.FILES)
def test_committed_vectors_are_the_reference_s(name):
    assert (golden.FOLDER / name).read_text() == golden.text(golden.FILES[name]())


def test_every_committed_file_has_its_writer_and_is_read():
    files = {file.name for file in golden.FOLDER.glob("*.json")}
    assert files == set(golden.FILES)
    assert len(selftest.vectors()) == sum(len(json.loads((golden.FOLDER / name).read_text())) for name in files)


@pytest.mark.parametrize("backend", dispatch.BACKENDS)
def test_backend_reproduces_every_vector(backend):
    results = selftest.run([backend])
    if results[0].op == "all":
        pytest.skip(results[0].detail)
    assert len(results) == len(selftest.vectors())
    assert [r for r in results if r.outcome == "failed"] == []
    left_out = [r for r in results if r.outcome == "skipped"]
    interpreted = backend == "triton" and not torch.cuda.is_available()
    assert len(left_out) == (3 if interpreted else 0)  # the states as large as FLUX


def test_selftest_reports_a_wrong_digest_and_an_op_that_raises():
    row = selftest.vectors()[0]
    wrong = {**row, "sha256": "0" * 64}
    unknown = {**row, "op": "no such op"}
    outcomes = [r.outcome for r in selftest.run(["torch"], [row, wrong, unknown])]
    assert outcomes == ["passed", "failed", "failed"]


def test_selftest_says_why_a_backend_is_missing(monkeypatch):
    monkeypatch.setattr(dispatch, "missing", lambda name: "it is Sunday")
    assert selftest.run(["torch"]) == [selftest.Result("torch", "all", "skipped", "it is Sunday")]
