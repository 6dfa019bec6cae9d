# SPDX-License-Identifier: Apache-2.0
"""Measure a suite: `python -m bench.run --suite expand`.

The suite's tests run first, and nothing is timed unless they pass. Every provider's answer is then compared with
float64; only those within their tolerance are timed, side by side, and each gives a row in `bench/results/SUITE.jsonl`.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import measure, rows, suites
from bench.case import Case, Provider

ROOT = Path(__file__).parents[1]


def gate(tests: Sequence[str]) -> bool:
    """Whether the suite's tests pass."""
    print(f"gate: pytest {' '.join(tests)}", flush=True)
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", *tests], cwd=ROOT).returncode == 0


def run_case(case: Case, device: str, seconds: float) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of one case (without their circumstances), and what went wrong."""
    print(f"{case.op} {case.name} {case.shape} {case.dtype}", flush=True)
    problems, calls, found = [], [], []
    wanted = case.expected()
    for provider in case.providers:
        if provider.answer is None:
            print(f"  {provider.name}: not measured, {provider.missing}", flush=True)
            continue
        try:
            row = _checked(case, provider, wanted, device)
            modes = _modes(provider, provider.answer, device)
        except Exception as error:  # one broken provider must not hide the others
            problems.append(f"{case.name}, {provider.name}: {type(error).__name__}: {error}")
            continue
        for mode, call in modes:
            calls.append(call)
            found.append({**row, "mode": mode})
    for row, samples in zip(found, measure.interleaved(calls, device, seconds), strict=True):
        row["ms"] = measure.quantiles(samples)
        row["samples"] = len(samples)
        row["GBps"] = round(case.bytes / row["ms"][1] / 1e6, 3)
        count = "" if row["launches"] is None else f", {row['launches']} launches"
        print(f"  {row['provider']:24} {row['mode']:6} {row['ms'][1]:10.4f} ms{count}", flush=True)
    return found, problems


def _checked(case: Case, provider: Provider, wanted: Any, device: str) -> dict[str, Any]:
    """The row of a provider whose answer is right; raises where it is not."""
    assert provider.answer is not None
    error = None
    if provider.tolerance is not None:
        own = provider.expected() if provider.expected else wanted
        error = measure.relative_error(provider.answer(), own)
        if not error <= provider.tolerance:
            raise ValueError(f"relative error {error:.3g} against float64, at most {provider.tolerance:.3g} is allowed")
    return {
        "op": case.op,
        "case": case.name,
        "provider": provider.name,
        "shape": list(case.shape),
        "dtype": case.dtype,
        **case.facts,
        "bytes": case.bytes,
        "flops": case.flops,
        "launches": measure.launches(provider.answer) if device == "cuda" else None,
        "error": error,
    }


def _modes(provider: Provider, answer: Callable[[], Any], device: str) -> list[tuple[str, Callable[[], Any]]]:
    if device == "cuda" and provider.graph:
        return [("eager", answer), ("graph", measure.captured(answer))]
    return [("eager", answer)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description="Measure a suite and append its rows.")
    parser.add_argument("--suite", action="append", choices=suites.SUITES, help="only this one (repeatable)")
    parser.add_argument("--case", action="append", help="only the case of this name (repeatable)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seconds", type=float, default=5.0, help="per case, for all providers together")
    parser.add_argument("--tiny", action="store_true", help="sizes of a rehearsal")
    parser.add_argument("--no-gate", metavar="WHY", help="do not run the tests first; the reason goes into the rows")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, help="folder of the rows")
    arguments = parser.parse_args(argv)

    problems: list[str] = []
    for name in arguments.suite or suites.SUITES:
        suite = suites.load(name)
        if arguments.no_gate is None and not gate(suite.TESTS):
            problems.append(f"suite {name}: its tests do not pass, so nothing was timed")
            continue
        where = {
            **rows.circumstances(arguments.device),
            "suite": name,
            "gate": "tests passed" if arguments.no_gate is None else f"not run: {arguments.no_gate}",
        }
        for case in suite.cases(arguments.device, tiny=arguments.tiny):
            if arguments.case and case.name not in arguments.case:
                continue
            found, wrong = run_case(case, arguments.device, arguments.seconds)
            problems += wrong
            for row in found:
                rows.append({**where, **row}, name, arguments.results)
    for problem in problems:
        print(f"NOT MEASURED: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
