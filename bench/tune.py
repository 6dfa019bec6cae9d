# SPDX-License-Identifier: Apache-2.0
"""Launch settings: `python -m bench.tune` times every candidate of every suite's `tunables` on this GPU.

Bits are compared before time: a candidate that changes one is an error, not a choice. Rows go to
`results/tuning.jsonl`; whoever keeps the kernel reads them and writes the better setting into the kernel's table, with
what it bought.
"""

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import measure, rows, suites
from bench.case import Tunable
from spectral_kernels import info


def tune(tunable: Tunable, device: str, seconds: float) -> tuple[list[dict[str, Any]], list[str]]:
    """One row per candidate, the current setting first, and what went wrong."""
    print(f"{tunable.op} {tunable.name} {tunable.shape} {tunable.dtype}", flush=True)
    wanted = tunable.answer(tunable.current)
    settings, problems = [], []
    for setting in [tunable.current, *(c for c in tunable.candidates if c != tunable.current)]:
        try:
            same = _same(tunable.answer(setting), wanted, tunable.tolerance)
        except Exception as error:  # too much shared memory, say: this candidate cannot run on this GPU
            print(f"  {setting}: cannot run here, {type(error).__name__}: {error}", flush=True)
            continue
        if same:
            settings.append(setting)
        else:
            problems.append(f"{tunable.name}: {setting} changes the result")
    calls = [partial(tunable.answer, setting) for setting in settings]
    # Replays, so that only the device's time counts: the way a setting is put in place costs the host some.
    calls = [measure.captured(call) for call in calls] if device == "cuda" else calls
    timed = measure.interleaved(calls, device, seconds)
    found = []
    for setting, samples in zip(settings, timed, strict=True):
        found.append(
            {
                "op": tunable.op,
                "case": tunable.name,
                "shape": list(tunable.shape),
                "dtype": tunable.dtype,
                "setting": str(setting),
                "current": setting == tunable.current,
                "ms": measure.quantiles(samples),
                "samples": len(samples),
            }
        )
    for row in sorted(found, key=lambda row: row["ms"][1])[:5]:
        print(f"  {row['ms'][1]:10.4f} ms  {row['setting']}{'  (current)' if row['current'] else ''}", flush=True)
    return found, problems


def compile_ahead(suite: str, processes: int, seconds: float) -> None:
    """Call every candidate once, in processes of their own: compiling takes seconds on one core, and Triton keeps what
    it compiled on disk. Whatever goes wrong there goes wrong again, and is told, when it is timed."""
    command = [sys.executable, "-m", "bench.tune", "--suite", suite, "--device", "cuda"]
    running = [
        subprocess.Popen(
            [*command, "--share", str(share), str(processes)],
            cwd=rows.ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for share in range(processes)
    ]
    end = time.monotonic() + seconds
    for process in running:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def call_share(tunables: Iterable[Tunable], share: int, processes: int) -> None:
    """The part of `compile_ahead` that one process does."""
    calls = [(tunable, setting) for tunable in tunables for setting in tunable.candidates]
    for tunable, setting in calls[share::processes]:
        with contextlib.suppress(Exception):
            tunable.answer(setting)


def _same(answer: torch.Tensor, wanted: torch.Tensor, tolerance: float | None) -> bool:
    if tolerance is None:
        return torch.equal(_bits(answer), _bits(wanted))
    return measure.relative_error(answer, wanted.detach().cpu().double().numpy()) <= tolerance


def _bits(answer: torch.Tensor) -> torch.Tensor:
    return answer.contiguous().flatten().view(torch.uint8).cpu()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tune", description="Time launch settings.")
    parser.add_argument("--suite", action="append", choices=suites.SUITES, help="only this one (repeatable)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seconds", type=float, default=5.0, help="per size, for all candidates together")
    parser.add_argument("--tiny", action="store_true", help="sizes of a rehearsal")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, help="folder of the rows")
    parser.add_argument(
        "--share", type=int, nargs=2, metavar=("I", "N"), help="only call every Nth candidate from I on"
    )
    arguments = parser.parse_args(argv)
    problems: list[str] = []
    for name in arguments.suite or suites.SUITES:
        tunables = getattr(suites.load(name), "tunables", None)
        if tunables is None:
            print(f"suite {name} has nothing to tune")
            continue
        if arguments.share:
            call_share(tunables(arguments.device, tiny=arguments.tiny), *arguments.share)
            continue
        if arguments.device == "cuda":
            compile_ahead(name, max(1, info.cores() - 2), 150)
        where = {**rows.circumstances(arguments.device), "suite": name}
        for tunable in tunables(arguments.device, tiny=arguments.tiny):
            found, wrong = tune(tunable, arguments.device, arguments.seconds)
            problems += wrong
            for row in found:
                rows.append({**where, **row}, "tuning", arguments.results)
    for problem in problems:
        print(f"WRONG: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
