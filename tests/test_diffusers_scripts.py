# SPDX-License-Identifier: Apache-2.0
"""The examples and the end-to-end benchmark run, on tiny models: that they say something, and what they write."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="needs the extra [diffusers]")

from PIL import Image

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
