# SPDX-License-Identifier: Apache-2.0
"""`python -m spectral_kernels COMMAND`. A command is a function below and its line in COMMANDS."""

import argparse
import importlib.util
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from spectral_kernels import dispatch
from spectral_kernels.plan import plan, spectrum

Run = Callable[[argparse.Namespace], int]


def info(parser: argparse.ArgumentParser) -> Run:
    """versions, devices, and each backend or why it is missing"""
    del parser  # takes no arguments

    def run(arguments: argparse.Namespace) -> int:
        del arguments
        from spectral_kernels.info import report

        print(report())
        return 0

    return run


def selftest(parser: argparse.ArgumentParser) -> Run:
    """test vectors on every backend of this machine: the promise of equal bits, checked here"""
    parser.add_argument("--backend", action="append", choices=dispatch.BACKENDS, help="only this one (repeatable)")

    def run(arguments: argparse.Namespace) -> int:
        from spectral_kernels import selftest

        failed = 0
        for name in arguments.backend or dispatch.BACKENDS:
            begun = time.perf_counter()
            results = selftest.run([name])
            count = Counter(result.outcome for result in results)
            for result in results:
                if result.outcome == "skipped":
                    what = "missing" if result.op == "all" else f"{result.op} left out"
                    print(f"{name}: {what}, {result.detail}")
                elif result.outcome == "failed":
                    print(f"{name}: {result.op} FAILED, {result.detail}")
            tried = count["passed"] + count["failed"]
            if tried:
                print(f"{name}: {count['passed']} of {tried} test vectors agree, {time.perf_counter() - begun:.1f} s")
            failed += count["failed"]
            # Whoever asks for a backend by name wants it tested.
            failed += sum(result.op == "all" for result in results) if arguments.backend else 0
        return 1 if failed else 0

    return run


def demo(parser: argparse.ArgumentParser) -> Run:
    """a photograph expanded: a picture, and a table of errors, bits and times (needs the extra "demo")"""
    parser.add_argument("--out", type=Path, default=Path("demo.png"), help="where the picture goes (default: demo.png)")

    def run(arguments: argparse.Namespace) -> int:
        for package in ("matplotlib", "skimage"):
            if importlib.util.find_spec(package) is None:
                print(f"demo: {package} is not installed; pip install '.[demo]'")
                return 1
        import torch

        if not torch.cuda.is_available():
            os.environ.setdefault(
                "TRITON_INTERPRET", "1"
            )  # before Triton is imported: its kernels then run on a CPU too
        from spectral_kernels import demo

        return 0 if demo.run(arguments.out) else 1

    return run


# Each takes its parser, adds its arguments, and returns what is to run; the first line of its docstring is the help.
# What a command needs is imported when it runs.
COMMANDS = (info, selftest, demo, plan, spectrum)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m spectral_kernels", description="Spectral kernels.")
    choices = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        meaning = (command.__doc__ or "").partition("\n")[0]
        choice = choices.add_parser(command.__name__, help=meaning, description=meaning)
        choice.set_defaults(run=command(choice))
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except OSError as error:  # a file that is not there, that is no picture, or that cannot be written
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
