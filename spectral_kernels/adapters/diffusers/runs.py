# SPDX-License-Identifier: Apache-2.0
"""Which call of a pipeline is under way, and at which step it is. Read off the scheduler, never counted.

A run begins when the scheduler gets new timesteps and ends with its last step or when the pipeline's progress bar
closes, which exceptions do too. So a pipeline that stopped half-way leaves nothing behind, and another pipeline that
shares a denoiser, but not the scheduler, is not mistaken for this one. One that shares both runs as this one does.
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


def refuse_second(op: str, method: str, module: Any, clock: Any) -> None:
    """Raise where a denoiser's hooks would meet the same method of another handle in one run.

    Runs are told apart by their scheduler. A module that belongs to no pipeline has no scheduler: it is always met.
    """
    for hook in (*module._forward_pre_hooks.values(), *unwrapped(module)._forward_pre_hooks.values()):
        if isinstance(hook, Hook) and hook.method == method and _one_run(hook.clock, clock):
            ways = "call remove() on its handle first"
            if isinstance(hook.clock, Watch) and isinstance(clock, Watch):
                ways += (
                    ", which serves every pipeline that shares scheduler and denoiser, or give this one a scheduler of "
                    "its own: pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)"
                )
            raise ValueError(f"{op}: {type(unwrapped(module)).__name__} is {method} already; {ways}")


def _one_run(clock: Any, other: Any) -> bool:
    watches = [each for each in (clock, other) if isinstance(each, Watch)]
    if any(each.pipe is None for each in watches):
        return False
    return len(watches) < 2 or watches[0].scheduler is watches[1].scheduler


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
    """A module's hook, which compiled code steps around and copies of the module do not have.

    A pre-hook says which method it belongs to, and the `Watch` or clock that tells its runs apart.
    """

    def __init__(self, function: Callable[..., Any], method: str | None = None, clock: Any = None):
        self._function, self.method, self.clock = uncompiled(function), method, clock

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
        if timesteps is None or timesteps is self._closed:
            return None
        # A run of another pipeline with this scheduler closes no bar of this one: it is over after its last step.
        step = getattr(self.scheduler, "step_index", None)
        return timesteps if step is None or step < len(timesteps) else None

    @property
    def step(self) -> int:
        """The index of the present step."""
        scheduler = self.scheduler
        if not hasattr(scheduler, "step_index"):
            raise ValueError(
                f"apply_forecast: {type(scheduler).__name__} keeps no step_index, so its pipeline's steps cannot be "
                "told apart; use another scheduler, or apply_forecast on the denoiser with step_index= and num_steps="
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

    def claim(self, op: str, method: str, handle: Any, modules: dict[str, Any]) -> None:
        """Enter what is applied to the pipeline and its denoisers, by attribute; a method twice is an error."""
        if method in self.applied:
            raise ValueError(f"{op}: {type(self.pipe).__name__} is {method} already; call remove() on its handle first")
        for module in modules.values():
            refuse_second(op, method, module, self)
        self.applied[method] = handle
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
