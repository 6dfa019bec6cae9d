# SPDX-License-Identifier: Apache-2.0
"""Which call of a pipeline is under way, and at which step it is. Read off the scheduler, never counted.

A run begins when the scheduler gets new timesteps and ends when the pipeline's progress bar closes, which exceptions
do too. So a pipeline that stopped half-way leaves nothing behind, and another pipeline that shares a denoiser, but
not the scheduler, is not mistaken for this one.
"""

import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spectral_kernels.adapters.diffusers.models import unwrapped

_WATCHES: "weakref.WeakKeyDictionary[Any, Watch]" = weakref.WeakKeyDictionary()


def watch(pipe: Any) -> "Watch":
    """The watch over a pipeline, shared by everything that is applied to it; `release` it when done."""
    if pipe not in _WATCHES:
        _WATCHES[pipe] = Watch(pipe)
    _WATCHES[pipe].users += 1
    return _WATCHES[pipe]


class Attached:
    """A function in place of an object's own method. Copies of the object, and files of it, have their own again."""

    def __init__(self, owner: Any, name: str, function: Callable[..., Any]):
        functools.update_wrapper(self, getattr(owner, name))
        self._owner, self._name, self._function = weakref.ref(owner), name, function
        vars(owner)[name] = self

    def __call__(self, *args, **kwargs):
        return self._function(*args, **kwargs)

    def __reduce__(self):
        return getattr, (self._owner(), self._name)

    @staticmethod
    def take_off(owner: Any, name: str) -> None:
        vars(owner).pop(name, None)


def nothing(*args, **kwargs) -> None:
    """What is left of a hook in a copy of its module."""


class Hook:
    """A module's hook, which compiled code steps around and copies of the module do not have."""

    def __init__(self, function: Callable[..., Any]):
        self._function = uncompiled(function)

    def __call__(self, *args, **kwargs):
        return self._function(*args, **kwargs)

    def __reduce__(self):
        return Hook, (nothing,)


class Watch:
    """The present run of one pipeline.

    `timesteps` is the scheduler's own tensor; its identity tells one run from the next. `closing` are functions to be
    called when a run ends.
    """

    def __init__(self, pipe: Any):
        self._pipe = weakref.ref(pipe)
        # Levels from before are no run: a scheduler has some from the beginning, or from a call that is over.
        self._closed: Tensor | None = getattr(pipe.scheduler, "timesteps", None)
        self.users = 0
        self.applied: dict[str, Any] = {}
        self.closing: list[Callable[[], None]] = []
        self.modules: dict[str, Any] = {}
        self._has_bar = hasattr(type(pipe), "progress_bar")
        if self._has_bar:
            Attached(pipe, "progress_bar", self._open)

    @property
    def pipe(self) -> Any:
        return self._pipe()

    @property
    def scheduler(self) -> Any:
        return self.pipe.scheduler

    @property
    def timesteps(self) -> Any:
        """The timesteps of the present run, or None between two runs, and when the pipeline is gone."""
        if self.pipe is None or getattr(self.scheduler, "num_inference_steps", None) is None:
            return None
        timesteps = getattr(self.scheduler, "timesteps", None)
        return None if timesteps is self._closed else timesteps

    @property
    def step(self) -> int:
        """The index of the present step."""
        scheduler = self.scheduler
        if not hasattr(scheduler, "step_index"):
            raise ValueError(
                f"{type(scheduler).__name__} keeps no step_index, so its pipeline's steps cannot be told apart; use "
                "another scheduler, or apply_forecast on the denoiser with step_index= and num_steps="
            )
        return self.first if scheduler.step_index is None else scheduler.step_index

    @property
    def num_steps(self) -> int:
        """The number of steps a run from its beginning has."""
        return len(self.scheduler.timesteps)

    @property
    def first(self) -> int:
        """The index of the run's first step: above 0 when it starts from a picture."""
        return getattr(self.scheduler, "begin_index", None) or 0

    def expect(self, modules: dict[str, Any]) -> None:
        """The denoisers that something was applied to, by attribute."""
        self.modules = {name: weakref.ref(unwrapped(module)) for name, module in modules.items()}

    def _open(self, *args, **kwargs):
        for name, module in self.modules.items():
            present = getattr(self.pipe, name)  # perhaps a wrapper of it
            if present is None or not any(inner is module() for inner in present.modules()):
                raise ValueError(
                    f"{type(self.pipe).__name__}.{name} is not the one that the handle ({' and '.join(self.applied)}) "
                    "was applied to; remove() the handle before it is replaced, and apply again"
                )
        bar = type(self.pipe).progress_bar(self.pipe, *args, **kwargs)
        close, timesteps = bar.close, getattr(self.scheduler, "timesteps", None)

        @functools.wraps(close)
        def closing():
            bar.close = close  # a forgotten bar closes again when it is collected
            try:
                if self._pipe() is not None and getattr(self.scheduler, "timesteps", None) is timesteps:
                    self._closed = timesteps
                    for function in self.closing:
                        function()
            finally:
                close()

        bar.close = closing
        return bar

    def release(self) -> None:
        """Undo everything when the last user goes."""
        self.users -= 1
        if self.users == 0 and self.pipe is not None:
            if self._has_bar:
                Attached.take_off(self.pipe, "progress_bar")
            _WATCHES.pop(self.pipe, None)


def uncompiled(function: Callable[..., Any]) -> Any:
    """A function that compiled code steps around: guards on the state of a run would recompile at every step."""
    return torch.compiler.disable(function)


def positional(module: Any) -> list[str]:
    """Names of the arguments of a module's forward."""
    return list(inspect.signature(type(module).forward).parameters)[1:]


class Summary(dict):
    """A dict that prints as aligned lines; lists of dicts print as tables."""

    def __str__(self) -> str:
        lines = []
        for name, value in self.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                rows = [list(value[0]), *([_text(cell) for cell in row.values()] for row in value)]
                widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
                lines.append(f"{name}:")
                for row in rows:
                    lines.append("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
            else:
                lines.append(f"{name}: {_text(value)}")
        return "\n".join(lines)

    __repr__ = __str__


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return f"{value[0]} x {value[1]}"
    if isinstance(value, list | tuple):
        return " ".join(_text(item) for item in value) or "none"
    return str(value)


class Handle:
    """What an `apply_` function returns: `remove()`, `summary()`, and the same as a context manager."""

    def remove(self) -> None:
        raise NotImplementedError

    def summary(self) -> Summary:
        raise NotImplementedError

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        self.remove()
