# SPDX-License-Identifier: Apache-2.0
"""The only room that knows backends exist: it chooses one, and its neighbours hold a family of custom ops each.

`torch` runs anywhere, `native` is the compiled CPU core, `triton` needs a GPU (or Triton's interpreter). The choice
changes speed, never bits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from torch import Tensor

BACKENDS = ("torch", "native", "triton")

_forced: ContextVar[str | None] = ContextVar("spectral_kernels_backend", default=None)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Run every op inside on one backend: "torch", "native" or "triton". For tests and for `selftest`."""
    if name not in BACKENDS:
        raise ValueError(f"backend: name must be one of {', '.join(BACKENDS)}, got {name!r}")
    why = missing(name)
    if why is not None:
        raise RuntimeError(f"backend: {name} is not available here: {why}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def missing(name: str) -> str | None:
    """Why a backend cannot run here, or None when it can."""
    if name == "native":
        return _native_missing()
    if name == "triton":
        try:
            import numpy
            import triton
        except ImportError as error:
            return f"Triton is not installed ({error}); pip install triton"
        import torch

        if not torch.cuda.is_available() and not triton.knobs.runtime.interpret:  # pyright: ignore[reportAttributeAccessIssue]
            return "there is no GPU; TRITON_INTERPRET=1 runs the kernels in Triton's interpreter"
        if triton.knobs.runtime.interpret:  # pyright: ignore[reportAttributeAccessIssue]
            return _interpreter_fails(triton.__version__, numpy.__version__)
    return None


def _interpreter_fails(triton: str, numpy: str) -> str | None:
    """Triton 3.6 takes an array of one element for a number in its interpreter, which NumPy 2.4 gave up."""
    old, new = (tuple(int(part) for part in version.split(".")[:2]) for version in (triton, numpy))
    if old >= (3, 7) or new < (2, 4):
        return None
    return f"the interpreter of Triton {triton} fails with NumPy {numpy}; pip install 'triton>=3.7' or 'numpy<2.4'"


@cache
def _native_missing() -> str | None:
    try:
        from spectral_kernels import _native  # noqa: F401  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError as error:
        return f"the compiled CPU core was not built ({error}); `make native`, or pip install . with a C++ compiler"
    return None


def choose(tensor: Tensor) -> str:
    """The backend for a tensor: the forced one, else Triton on a GPU, the compiled core on a CPU, PyTorch elsewhere."""
    forced = _forced.get()
    if forced == "native" and tensor.device.type != "cpu":
        raise RuntimeError(f"backend: native is the CPU core, the tensor is on {tensor.device}; move it to the CPU")
    if forced is not None:
        return forced
    if tensor.is_cuda:
        return "triton"
    if tensor.device.type == "cpu" and missing("native") is None:
        return "native"
    return "torch"
