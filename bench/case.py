# SPDX-License-Identifier: Apache-2.0
"""What a suite is made of: cases, and the providers that answer each of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Answer = Callable[[], Any]
"""A call without arguments that computes the case once and returns an array, a tensor, or a sequence of them."""


@dataclass(frozen=True)
class Provider:
    """One way to compute a case.

    `answer` may be None: then `missing` says why it cannot run here. `tolerance` bounds the relative error (L2) against
    the case's `expected`; None marks a floor that computes nothing (a plain copy of the bytes). `graph` is False for
    what a CUDA graph cannot capture. `expected` replaces the case's own where the provider's input differs (noise that
    it draws itself).
    """

    name: str
    answer: Answer | None = None
    tolerance: float | None = 1e-5
    graph: bool = True
    missing: str = ""
    expected: Callable[[], np.ndarray] | None = None


@dataclass(frozen=True)
class Case:
    """One size of one op, with everybody who can compute it.

    `bytes` is what any implementation must move (inputs read once, outputs written once), `flops` the operations of the
    definition; `shape` and `facts` go into the row as they are; `expected` computes the answer in float64.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    flops: int
    expected: Callable[[], np.ndarray]
    providers: list[Provider]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tunable:
    """A kernel's launch settings at one size: what `bench.tune` walks through.

    `candidates` are settings (frozen dataclasses or dicts); `answer(setting)` computes the case once with one of them.
    A setting may change speed, never bits: every candidate's bits are compared with the current one's before time.
    Only where an op promises no bits (`precision="fast"`) does a relative `tolerance` take their place.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    current: Any
    candidates: list[Any]
    answer: Callable[[Any], Any]
    tolerance: float | None = None
