# SPDX-License-Identifier: Apache-2.0
"""Fresh memory full of NaN, for the library only: an output element that is never written shows in every test."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


def poison(fresh: torch.Tensor) -> torch.Tensor:
    if fresh.dtype.is_floating_point or fresh.dtype.is_complex:
        return fresh.fill_(float("nan"))
    if fresh.dtype == torch.bool:
        return fresh.fill_(True)
    return fresh.fill_(torch.iinfo(fresh.dtype).min + 77)


def poisoning(allocate):
    def allocate_poisoned(*args, **kwargs):
        fresh = allocate(*args, **kwargs)
        # torch.compile looks through this function; what it compiles allocates in ways of its own.
        if torch.compiler.is_compiling() or fresh.device.type == "meta":
            return fresh
        caller = sys._getframe(1).f_globals.get("__name__", "")
        return poison(fresh) if caller.split(".")[0] == "spectral_kernels" else fresh

    return allocate_poisoned


@contextmanager
def poisoned_memory() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("empty", "empty_like", "empty_strided", "empty_permuted"):
            patch.setattr(torch, name, poisoning(getattr(torch, name)))
        for name in ("new_empty", "new_empty_strided"):
            patch.setattr(torch.Tensor, name, poisoning(getattr(torch.Tensor, name)))
        yield
