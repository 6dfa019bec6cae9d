# SPDX-License-Identifier: Apache-2.0
"""Everything that wants a GPU, in pieces of a few minutes: `make gpu`.

Pieces that have passed for the present sources are not run again, so a run that is cut off is continued by calling it
once more; rows are on disk as soon as they are measured. `--dry` rehearses every piece on a CPU with tiny sizes.
"""

import argparse
import importlib.util
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import rows, suites

ROOT = Path(__file__).parents[1]
# bench.e2e imports diffusers, this file must not.
E2E = ("flux", "klein", "zimage", "wan", "qwen")
E2E_GROUPS = ("forecast", "progressive", "caches")

C_API = "tests/test_gpu_loader.py"


@dataclass(frozen=True)
class Piece:
    """A command with a name; `seconds` is when it is stopped. It passes with one of the exit codes `passing`,
    and is not begun before the piece `needs` has passed: no speed without right answers.
    """

    name: str
    command: list[str]
    seconds: int
    passing: tuple[int, ...] = (0,)
    needs: str = ""


def pieces(dry: bool, results: Path) -> list[Piece]:
    """In the order of worth: first whether bits are right, then what is fast."""
    common = ["--device", "cpu" if dry else "cuda", "--results", str(results)]
    common += ["--tiny", "--seconds", "0.1"] if dry else []
    tests = ["-m", "pytest", "-q", "--maxfail", "20"]
    # A rehearsal collects a suite's tests instead of running them.
    gates = {name: [*suites.load(name).TESTS, *(["--collect-only"] if dry else [])] for name in suites.SUITES}
    found = [
        Piece("info", ["-m", "spectral_kernels", "info"], 60),
        Piece("selftest", ["-m", "spectral_kernels", "selftest", *(["--backend", "torch"] if dry else [])], 240),
        # Exit code 5: no test has the marker.
        Piece(
            "gpu tests",
            [*tests, "-m", "gpu", "--ignore", C_API, *(gates[suites.SUITES[0]] if dry else [])],
            240,
            (0, 5),
        ),
        # Test vectors through the C library, which is built here with the kernels for this GPU inside.
        Piece("C library", [*tests, "-m", "gpu", C_API, *(["--collect-only"] if dry else [])], 400, (0, 5)),
    ]
    found += [Piece(f"tests of {name}", [*tests, *gate], 300) for name, gate in gates.items()]
    for name in suites.SUITES:
        tune = ["-m", "bench.tune", "--suite", name, *common]
        found.append(Piece(f"tune {name}", tune, 240, needs=f"tests of {name}"))
    for name in suites.SUITES:
        measure = ["-m", "bench.run", "--suite", name, "--no-gate", "make gpu ran the tests before", *common]
        found.append(Piece(f"measure {name}", measure, 300, needs=f"tests of {name}"))
    # Whole denoising loops of full-size models with random weights: the slowest, so the last. One is a rehearsal.
    tiny = ["--tiny", "--steps", "8"] if dry else []
    loops = list(itertools.product(E2E, E2E_GROUPS)) if importlib.util.find_spec("diffusers") else []
    for name, group in loops[: len(E2E_GROUPS)] if dry else loops:
        loop = ["-m", "bench.e2e", "--model", name, "--group", group, "--device", "cpu" if dry else "cuda"]
        piece = [*loop, "--results", str(results), *tiny]
        found.append(Piece(f"loop {name} {group}", piece, 400, needs="gpu tests"))
    return found


def run(todo: Sequence[Piece], state: Path, seconds: float) -> int:
    """Run what has not passed yet until the time is over. 0: all passed; 1: something failed; 3: time is over."""
    state.mkdir(parents=True, exist_ok=True)
    begun, failed = time.monotonic(), []
    for piece in todo:
        mark = _mark(state, piece.name)
        if mark.exists():
            print(f"=== {piece.name}: passed before, skipped", flush=True)
            continue
        if piece.needs and not _mark(state, piece.needs).exists():
            print(f"=== {piece.name}: not begun, {piece.needs!r} has not passed", flush=True)
            failed.append(piece.name)
            continue
        left = seconds - (time.monotonic() - begun)
        if left < min(30, piece.seconds):
            print(f"=== time is over before {piece.name!r}; the same command continues there", flush=True)
            return 1 if failed else 3
        print(f"=== {piece.name}", flush=True)
        start = time.monotonic()
        try:
            code = subprocess.run(
                [sys.executable, *piece.command], cwd=ROOT, timeout=min(left, piece.seconds)
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        took = time.monotonic() - start
        if code in piece.passing:
            mark.write_text(f"{took:.1f} s\n")
            print(f"=== {piece.name}: passed, {took:.0f} s", flush=True)
        else:
            why = "stopped, its time was over" if code == -1 else f"failed with exit code {code}"
            print(f"=== {piece.name}: {why}, {took:.0f} s", flush=True)
            failed.append(piece.name)
    print(f"=== FAILED: {', '.join(failed)}" if failed else "=== all pieces passed", flush=True)
    return 1 if failed else 0


def _mark(state: Path, name: str) -> Path:
    """The file that says that a piece has passed."""
    return state / name.replace(" ", "-")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="GPU tests, tuning and benchmarks.")
    parser.add_argument("--dry", action="store_true", help="rehearse on a CPU with tiny sizes")
    parser.add_argument("--minutes", type=float, default=8.5, help="stop starting pieces after this time")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, help="folder of the rows")
    arguments = parser.parse_args(argv)
    if not arguments.dry and not torch.cuda.is_available():
        print("make gpu: PyTorch sees no GPU here; `python -m bench.gpu --dry` rehearses on a CPU", file=sys.stderr)
        return 2
    if arguments.dry:
        os.environ.setdefault("TRITON_INTERPRET", "1")  # for the pieces: the kernels run without a GPU
    state = arguments.results / ".gpu-state" / (rows.state_key() + ("-dry" if arguments.dry else ""))
    return run(pieces(arguments.dry, arguments.results), state, arguments.minutes * 60)


if __name__ == "__main__":
    sys.exit(main())
