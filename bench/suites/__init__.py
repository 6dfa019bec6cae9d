# SPDX-License-Identifier: Apache-2.0
"""One file per suite. A suite is a module here, named in SUITES, with

TESTS                   test files that must pass before anything is timed
cases(device, tiny)     yields `bench.case.Case`; `tiny` asks for sizes that run in milliseconds, for a rehearsal
tunables(device, tiny)  optional: yields `bench.case.Tunable`, the launch settings that `bench.tune` measures
"""

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bench.case import Provider
from spectral_kernels import dispatch

SUITES = ("expand", "fft", "dwt", "forecast", "pyramid", "haar")


def load(name: str) -> ModuleType:
    if name not in SUITES:
        raise ValueError(f"bench: there is no suite {name!r}; there are {', '.join(SUITES)}")
    return importlib.import_module(f"bench.suites.{name}")


def ours(x: Tensor, answer: Callable[[], Any], tolerance: float) -> Iterator[Provider]:
    """An op of ours where `x` lies: on a GPU by Triton, on a CPU by the compiled core and by PyTorch alone."""
    names = {"triton": "triton"} if x.is_cuda else {"native": "compiled core", "torch": "pure PyTorch"}
    for backend, name in names.items():
        why = dispatch.missing(backend)

        def call(backend: str = backend) -> Any:
            with dispatch.backend(backend):
                return answer()

        yield Provider(name, missing=why) if why else Provider(name, call, tolerance)


def copy(x: Tensor) -> Provider:
    """The floor: every element read once and written once."""
    y = torch.empty_like(x)
    return Provider("copy (floor)", lambda: y.copy_(x), tolerance=None)
