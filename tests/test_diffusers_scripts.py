# SPDX-License-Identifier: Apache-2.0
"""The examples and the end-to-end benchmark run, on tiny models: that they say something, and what they write."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="needs the extra [diffusers]")

import torch
from PIL import Image

from bench import e2e

ROOT = Path(__file__).parents[1]


def python(*arguments: str, cwd: Path = ROOT) -> str:
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("family", ["flux", "zimage", "wan"])
def test_example(family, tmp_path):
    out = tmp_path / "out.png"
    script = str(ROOT / "examples/compare.py")
    said = python(script, family, "--random-weights", "--forecast", "--progressive", "0.2", "--out", str(out))
    assert "first step" in said and "steps evaluated" in said and "as it is:" in said
    size = (192, 80) if family == "wan" else (256, 144)  # two pictures beside each other, a line of text above
    assert Image.open(out).size == size


# Parameters in 10^9 and coarse + fine steps at delta = 0.05 as published; 1024 x 1024 pixels are 64 x 64 tokens, 81
# frames of 480 x 832 are 21 x 30 x 52. Z-Image's published 35 steps are those of its own code, see docs/schedules.md.
PUBLISHED = {
    "flux": (11.90, 4096, [28, 22]),
    "klein": (3.88, 4096, [18, 12]),
    "zimage": (6.15, 4096, [36, 14]),
    "wan": (1.42, 32760, [33, 17]),
    "qwen": (20.43, 4096, [13, 17]),
}


class Reached(Exception):
    pass


def test_benchmark_measures_models_of_the_published_size():
    # In a process of its own: where tests poison fresh memory, weights without memory would get some.
    code = """
from bench.e2e import SUBJECTS, denoiser_of
for name, subject in SUBJECTS.items():
    print(name, sum(weight.numel() for weight in denoiser_of(subject, "meta", tiny=False).parameters()))
"""
    found = {name: int(count) / 1e9 for name, count in map(str.split, python("-c", code).splitlines())}
    assert found == pytest.approx({name: parameters for name, (parameters, _, _) in PUBLISHED.items()}, abs=0.005)


@pytest.mark.parametrize("name", e2e.SUBJECTS)
def test_benchmark_runs_the_published_steps(name):
    """The first call of a full-size run, of a tiny denoiser."""
    subject, (_, tokens, steps) = e2e.SUBJECTS[name], PUBLISHED[name]
    pipe, call = e2e.build(subject, "cpu", tiny=True, tiny_call=False)

    def stop(*_):
        raise Reached

    pipe.transformer.register_forward_pre_hook(stop)
    with e2e.VARIANTS["progressive 0.05"](pipe) as handle, pytest.raises(Reached), torch.no_grad():
        pipe(**call | {"num_inference_steps": subject.published_steps})
    stages = handle.summary()["stages"]
    frames = 21 if name == "wan" else 1
    assert stages[-1]["tokens"] * frames == tokens and stages[0]["tokens"] * frames == tokens // 4
    assert [stage["steps"] for stage in stages] == steps
    assert set(subject.published) <= set(e2e.VARIANTS)


def test_benchmark_of_whole_loops(tmp_path):
    said = python(
        "-m", "bench.e2e", "--device", "cpu", "--tiny", "--steps", "8", "--model", "klein", "--results", str(tmp_path)
    )
    found = [json.loads(line) for line in (tmp_path / "e2e.jsonl").read_text().splitlines()]
    ours = [row for row in found if not row["variant"].startswith("diffusers")]
    assert len(ours) == 10 and len(found) == 12 and said.count("klein") == 12
    for row in ours:
        assert row["seconds"] > 0 and row["speed_up"] > 0 and 0 <= row["own_share"] < 1, row
    assert ours[0]["own_share"] == 0 and all(row["own_share"] > 0 for row in ours[1:])
