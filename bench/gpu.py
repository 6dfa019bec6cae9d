# SPDX-License-Identifier: Apache-2.0
"""Everything that wants a GPU, in pieces of a few minutes: `make gpu`, or `python -m bench.gpu` with a Python that has
PyTorch, Triton, NumPy, SciPy, pytest and hypothesis. It installs nothing and wants no network.

Pieces that have passed for the present sources are not run again, so a run that is cut off is continued by calling it
once more; rows, and all that is printed (`gpu.log`), are on disk as soon as they are there. `--dry` rehearses every
piece on a CPU with tiny sizes.
"""

import argparse
import importlib.util
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import rows, suites
from spectral_kernels import info

# bench.e2e imports diffusers, this file must not.
E2E = ("flux", "klein", "zimage", "wan", "qwen")
E2E_GROUPS = ("forecast", "progressive", "caches")

# What must be right on a GPU before which suites are timed there; what a CPU can show, `make test` has shown.
GPU_TESTS = {
    "planes": (["tests/test_gpu_planes.py", "tests/test_precision.py"], ("expand", "fft", "dwt", "haar")),
    "forecasts": (["tests/test_forecast.py", "tests/test_forecaster.py"], ("forecast",)),
    "pyramids": (["tests/test_pyramid.py"], ("pyramid",)),
    "graphs and streams": (["tests/test_gpu_streams.py"], ()),
}
C_API = "tests/test_gpu_loader.py"
PASSED_OR_NONE = (0, 5)  # pytest's exit code 5: no test was left to run


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
    """In the order of worth: first whether bits are right, then what is fast, then better settings, then the rest."""
    common = ["--device", "cpu" if dry else "cuda", "--results", str(results)]
    common += ["--tiny", "--seconds", "0.1"] if dry else []
    # Kernels are compiled at their first launch, seconds each on one core: several processes, one GPU.
    workers = ["-n", str(min(8, info.cores()))] if importlib.util.find_spec("xdist") and not dry else []
    # A rehearsal collects tests instead of running them.
    tests = ["-m", "pytest", "-q", "--maxfail", "20", *workers, *(["--collect-only"] if dry else [])]
    found = [
        Piece("info", ["-m", "spectral_kernels", "info"], 60),
        Piece("selftest", ["-m", "spectral_kernels", "selftest", "--backend", "torch" if dry else "triton"], 240),
    ]
    gates = {}
    for name, (files, gated) in GPU_TESTS.items():
        chosen = [*tests, "-k", "triton or gpu", *files]  # the marker gpu counts as a word
        found.append(Piece(f"gpu tests of {name}", chosen, 300, PASSED_OR_NONE))
        gates |= dict.fromkeys(gated, f"gpu tests of {name}")
    for name in suites.SUITES:
        measure = ["-m", "bench.run", "--suite", name, "--no-gate", "make gpu ran the tests before", *common]
        found.append(Piece(f"measure {name}", measure, 300, needs=gates[name]))
    for name in suites.SUITES:
        found.append(Piece(f"tune {name}", ["-m", "bench.tune", "--suite", name, *common], 300, needs=gates[name]))
    # Test vectors through the C library, which is built here with the kernels for this GPU inside.
    found.append(Piece("C library", [*tests, "-m", "gpu", C_API], 400, PASSED_OR_NONE))
    # The tests that every backend shares, for Triton alone.
    for name in suites.SUITES:
        files = [*suites.load(name).TESTS]
        found.append(Piece(f"tests of {name}", [*tests, "-m", "not gpu", "-k", "triton", *files], 400, PASSED_OR_NONE))
    # Whole denoising loops of full-size models with random weights: the slowest, so the last. One is a rehearsal.
    tiny = ["--tiny", "--steps", "8"] if dry else []
    loops = list(itertools.product(E2E, E2E_GROUPS))
    for name, group in loops[: len(E2E_GROUPS)] if dry else loops:
        loop = ["-m", "bench.e2e", "--model", name, "--group", group, "--device", "cpu" if dry else "cuda"]
        piece = [*loop, "--results", str(results), *tiny]
        found.append(Piece(f"loop {name} {group}", piece, 400, needs=gates["expand"]))
    return found


def without(piece: Piece) -> str:
    """Why a piece cannot run on this machine; empty when it can."""
    packages = {"loop": ("diffusers",), "C library": ("cmake",), "measure dwt": ("pywt",)}
    absent = [
        package
        for start, needed in packages.items()
        if piece.name.startswith(start)
        for package in needed
        if not importlib.util.find_spec(package)
    ]
    return f"{' and '.join(absent)} is not installed" if absent else ""


def run(todo: Sequence[Piece], state: Path, seconds: float, log: Path | None = None) -> int:
    """Run what has not passed yet until the time is over. 0: all passed; 1: something failed; 3: time is over."""
    state.mkdir(parents=True, exist_ok=True)
    begun, outcomes = time.monotonic(), {}
    with open(log or os.devnull, "a") as written:

        def say(line: str) -> None:
            print(line, flush=True)
            print(line, file=written, flush=True)

        for piece in todo:
            mark = _mark(state, piece.name)
            left = seconds - (time.monotonic() - begun)
            if mark.exists():
                outcomes[piece.name] = "passed before"
            elif why := without(piece):
                outcomes[piece.name] = f"left out, {why}"
            elif piece.needs and not _mark(state, piece.needs).exists():
                outcomes[piece.name] = f"not begun, {piece.needs!r} has not passed"
            elif left < min(30, piece.seconds):
                outcomes[piece.name] = "time is over, the same command continues here"
                break
            else:
                say(f"=== {piece.name}")
                start = time.monotonic()
                code = _watched(piece.command, min(left, piece.seconds), written)
                took = time.monotonic() - start
                if code in piece.passing:
                    mark.write_text(f"{took:.1f} s\n")
                    outcomes[piece.name] = f"passed, {took:.0f} s"
                else:
                    why = "stopped, its time was over" if code is None else f"failed with exit code {code}"
                    outcomes[piece.name] = f"{why}, {took:.0f} s"
            say(f"=== {piece.name}: {outcomes[piece.name]}")
        say("\n=== all pieces, in short")
        for name, outcome in outcomes.items():
            say(f"{name:32} {outcome}")
    if any(outcome.startswith(("failed", "stopped", "not begun")) for outcome in outcomes.values()):
        return 1
    return 0 if len(outcomes) == len(todo) and not any("time is over" in o for o in outcomes.values()) else 3


def _watched(command: Sequence[str], seconds: float, log) -> int | None:
    """Exit code of a Python process whose output is shown and logged; None when it was stopped, with all it started."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=rows.ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        os.killpg(process.pid, signal.SIGKILL)

    watch = threading.Timer(seconds, stop)
    watch.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            print(line, end="", file=log, flush=True)
        code = process.wait()
    finally:
        watch.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return None if stopped.is_set() else code


def _mark(state: Path, name: str) -> Path:
    """The file that says that a piece has passed."""
    return state / name.replace(" ", "-")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="GPU tests, benchmarks and tuning.")
    parser.add_argument("--dry", action="store_true", help="rehearse on a CPU with tiny sizes")
    parser.add_argument("--minutes", type=float, default=8.5, help="stop starting pieces after this time")
    parser.add_argument("--only", action="append", metavar="WORD", help="only pieces with this in their name")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, help="folder of the rows and of gpu.log")
    parser.add_argument("--state", type=Path, default=rows.RESULTS / ".gpu-state", help="folder of what has passed")
    arguments = parser.parse_args(argv)
    if not arguments.dry and not torch.cuda.is_available():
        print("make gpu: PyTorch sees no GPU here; `python -m bench.gpu --dry` rehearses on a CPU", file=sys.stderr)
        return 2
    if arguments.dry:
        os.environ.setdefault("TRITON_INTERPRET", "1")  # for the pieces: the kernels run without a GPU
    state = arguments.state / (rows.state_key() + ("-dry" if arguments.dry else ""))
    arguments.results.mkdir(parents=True, exist_ok=True)
    todo = pieces(arguments.dry, arguments.results)
    if arguments.only:
        todo = [piece for piece in todo if any(word in piece.name for word in arguments.only)]
    return run(todo, state, arguments.minutes * 60, arguments.results / "gpu.log")


if __name__ == "__main__":
    sys.exit(main())
