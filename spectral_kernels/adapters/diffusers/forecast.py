# SPDX-License-Identifier: Apache-2.0
"""Feature forecasting on unmodified diffusers pipelines, and on any module that runs a list of blocks.

On most steps the blocks of the denoiser are left out and their feature, the output of the last block, is forecast from
those of the evaluated steps (`Forecaster`); the layers before and after the blocks run as ever. Each branch of
guidance and each denoiser has a history of its own. The step is read off the scheduler, never counted.
"""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from spectral_kernels.adapters.diffusers.config import ForecastConfig, checked
from spectral_kernels.adapters.diffusers.grids import Arguments
from spectral_kernels.adapters.diffusers.models import (
    Model,
    denoisers_of,
    facts_of,
    given_tokens,
    refuse_cache,
    unwrapped,
)
from spectral_kernels.adapters.diffusers.runs import Attached, Handle, Hook, Summary, positional, refuse_second, watch
from spectral_kernels.adapters.diffusers.swap import Blocks, answer_of, feature_of
from spectral_kernels.adapters.diffusers.transition import Grid, expand_history
from spectral_kernels.forecaster import Forecaster

OP = "apply_forecast"


class Branch:
    """The history of one branch of one denoiser."""

    def __init__(self):
        self.run: Any = None
        self.shape: tuple | None = None
        self.last = -1
        self.forecaster: Forecaster | None = None
        self.steps: set[int] = set()
        self.begins: list[int] = []
        self.evaluated: list[int] = []
        self.skipped: list[int] = []
        self.peak = 0
        self.grid: Grid | None = None


class Denoiser:
    """One denoiser under forecasting: its blocks and its branches."""

    def __init__(self, owner: "Forecasting", name: str, module: nn.Module, facts: Model):
        self.owner, self.name, self.facts = owner, name, facts
        self.base = unwrapped(module)
        self.names = positional(self.base)
        self.blocks = Blocks(self.base, facts, self.record, self.answer)
        self.branches: dict[Any, Branch] = {}
        self.context: str | None = None
        self.calls: tuple[Any, dict[Any, int]] = (None, {})
        self.branch: Branch | None = None
        self.tokens = 0
        self.run: Any = None
        self.bypassed = 0
        self.thread: int | None = None
        self.hooks = [
            module.register_forward_pre_hook(Hook(self.before, "forecast", owner.clock), with_kwargs=True),
            module.register_forward_hook(Hook(self.after), always_call=True),
        ]
        self.own_context = getattr(type(self.base), "cache_context", None)
        if self.own_context is not None:
            Attached(self.base, "cache_context", self.in_context)

    def in_context(self, name: str, **kwargs):
        """`cache_context` of the model, with its name on record: pipelines name the branch they compute."""
        assert self.own_context is not None
        return _Context(self, name, self.own_context(self.base, name, **kwargs))

    def before(self, module: nn.Module, args: tuple, kwargs: Arguments) -> None:
        """Forward pre-hook: evaluate or skip?"""
        thread = threading.get_ident()
        if self.thread not in (None, thread):
            raise RuntimeError(
                f"{OP}: two threads are in {type(self.base).__name__} at once, whose blocks are swapped during a call; "
                "let one run follow the other, or give each thread a denoiser of its own; if the other thread's call "
                "was cut off, reset() the handle"
            )
        self.thread = thread
        self.blocks.restore()  # a call that was cut off may have left them swapped
        self.branch = None
        run = self.owner.clock.timesteps
        if run is None:
            return
        if run is not self.run:
            refuse_cache(OP, module)
            self.run, self.bypassed = run, 0
        arguments = dict(zip(self.names, args, strict=False)) | kwargs
        if any(arguments.get(name) is not None for name in self.facts.bypass):
            self.bypassed += 1
            return
        step = self.owner.clock.step
        state = arguments.get(self.facts.state)
        state = state if state is not None else next(iter([*args, *kwargs.values()]), None)
        if self.facts.feature == "image":
            self.tokens = given_tokens(self.facts, state)
        self.branch = branch = self._branch(run, step)
        history = self._history(branch, run, step, _shape(state), arguments)
        branch.last = step
        if step in branch.steps or not history.steps:
            branch.evaluated.append(step)
            self.blocks.tap()
        else:
            branch.skipped.append(step)
            self.blocks.skip()

    def after(self, module: nn.Module, args: tuple, out: Any) -> None:
        """Forward hook, called after errors too: every block is back in its place."""
        if self.thread != threading.get_ident():
            return
        self.thread = None
        self.blocks.restore()
        # Not every loop says when it is over: modular ones and other pipelines with this scheduler close no bar.
        if self.branch is not None and self.branch.last == self.owner.clock.num_steps - 1:
            self.branch.forecaster = None

    def record(self, out: Any) -> None:
        branch = self.branch
        if branch is not None and branch.forecaster is not None:
            branch.forecaster.update(branch.last, feature_of(self.facts, out, self.tokens))
            branch.peak = max(branch.peak, branch.forecaster.nbytes)

    def answer(self, *args, **kwargs) -> Any:
        branch = self.branch
        assert branch is not None and branch.forecaster is not None
        predict = functools.partial(branch.forecaster.predict, branch.last)
        return answer_of(self.facts, predict, self.tokens, args, kwargs)

    def _branch(self, run: Any, step: int) -> Branch:
        """By the name the pipeline gives the call; calls without one, or again, by their place within the step."""
        present, counts = self.calls
        if present is None or present[0] is not run or present[1] != step:
            counts = {}
            self.calls = ((run, step), counts)
        number = counts.get(self.context, 0)
        counts[self.context] = number + 1
        return self.branches.setdefault((self.context, number), Branch())

    def _history(self, branch: Branch, run: Any, step: int, shape: tuple, arguments: Arguments) -> Forecaster:
        """The history of a branch; a new one where none leads here."""
        clock, config = self.owner.clock, self.owner.config
        fresh = branch.run is not run or step <= branch.last
        if not fresh and branch.forecaster is not None and shape == branch.shape:
            return branch.forecaster
        old = None if fresh else branch.forecaster
        if fresh:
            branch.evaluated, branch.skipped, branch.begins, branch.peak = [], [], [], 0
        if step != clock.first:
            branch.begins.append(step)
        branch.run, branch.shape = run, shape
        branch.steps = set(config.evaluated(clock.num_steps, clock.first, branch.begins))
        coming = sum(planned >= step for planned in branch.steps)
        branch.forecaster = history = config.forecaster(clock.num_steps, coming)
        grid = self._grid(arguments) if config.transition == "expand" else None
        if old is not None and grid is not None and branch.grid is not None:
            expand_history(old, history, branch.grid, grid)
            branch.peak = max(branch.peak, old.nbytes + history.nbytes)
        branch.grid = grid
        return history

    def _grid(self, arguments: Arguments) -> Grid:
        """How the feature's tokens lie: frames, rows, columns, and how many of reference pictures follow them."""
        facts, state = self.facts, arguments[self.facts.state]
        height, width = facts.grid(arguments)
        rows, columns = height // facts.multiple, width // facts.multiple
        frames = facts.frames(self.base, arguments)
        return frames, rows, columns, 0 if facts.layout is None else state.shape[1] - frames * rows * columns

    def forget(self) -> None:
        self.run = self.thread = None
        for branch in self.branches.values():
            branch.run, branch.forecaster = None, None

    def remove(self) -> None:
        self.blocks.restore()
        for hook in self.hooks:
            hook.remove()
        Attached.take_off(self.base, "cache_context")


class _Context:
    """A model's own `cache_context`, and the branch's name for us while it lasts."""

    def __init__(self, denoiser: Denoiser, name: str, own: Any):
        self.denoiser, self.name, self.own = denoiser, name, own

    def __enter__(self):
        self.denoiser.context = self.name
        return self.own.__enter__()

    def __exit__(self, *exception):
        self.denoiser.context = None
        return self.own.__exit__(*exception)


class Clock:
    """The step of a module that belongs to no pipeline. A step that goes back begins a new run."""

    def __init__(self, step_index: Callable[[], int], num_steps: int):
        self.step_index, self.num_steps, self.first = step_index, num_steps, 0
        self._run, self._last = object(), -1

    @property
    def step(self) -> int:
        return int(self.step_index())

    @property
    def timesteps(self) -> Any:
        if self.step < self._last:
            self._run = object()
        self._last = self.step
        return self._run


class Forecasting(Handle):
    """Forecasting on one pipeline or module, until `remove()`."""

    def __init__(self, target: Any, config: ForecastConfig, blocks: Any, feature: Any, clock: Clock | None):
        self.config = config
        self._watch = None
        if clock is None:
            modules = denoisers_of(OP, target)
            self.clock: Any = watch(target)
            self._watch = self.clock
            try:
                _ = self._watch.step
                self._watch.claim(OP, "forecast", self, modules)
            except ValueError:
                self._watch.release()
                raise
            self._watch.closing.append(self._close)
        else:
            self.clock, modules = clock, {type(unwrapped(target)).__name__: target}
            refuse_second(OP, "forecast", target, clock)
        self._target = type(target).__name__
        self._summary = Summary(pipeline=self._target, forecast="known after a call")
        self.denoisers: list[Denoiser] = []
        try:
            for name, module in modules.items():
                if getattr(unwrapped(module), "_parallel_config", None) is not None:
                    raise ValueError(f"{OP}: context parallelism is not supported; load the model without it")
                facts = Model(blocks=tuple(blocks), feature=feature) if blocks else facts_of(OP, module)
                if config.transition == "expand" and not facts.gridded:
                    raise ValueError(
                        f"{OP}: the blocks of {type(unwrapped(module)).__name__} see other tokens beside those of the "
                        'patches, which transition="expand" cannot tell apart; use transition="reset"'
                    )
                self.denoisers.append(Denoiser(self, name, module, facts))
        except Exception:
            self.remove()
            raise

    def remove(self) -> None:
        """Take everything off; blocks, hooks and histories are as if never touched. The summary stays."""
        self.summary()
        for denoiser in self.denoisers:
            denoiser.remove()
        self.denoisers = []
        if self._watch is not None and self._watch.applied.pop("forecast", None) is not None:
            self._watch.closing.remove(self._close)
            self._watch.release()

    def reset(self) -> None:
        """Forget all histories. A pipeline's runs do this themselves."""
        for denoiser in self.denoisers:
            denoiser.forget()

    def summary(self) -> Summary:
        """Evaluated and forecast steps, new beginnings and memory per branch, of the present or last call."""
        if any(denoiser.run is not None for denoiser in self.denoisers):
            self._summary = self._describe()
        return self._summary

    def _describe(self) -> Summary:
        rows = []
        for denoiser in self.denoisers:
            for (context, number), branch in denoiser.branches.items():
                if branch.run is None:
                    continue
                rows.append(
                    {
                        "denoiser": denoiser.name,
                        "branch": f"{context or 'call'} {number}" if number or not context else context,
                        "evaluated": len(branch.evaluated),
                        "forecast": len(branch.skipped),
                        "steps evaluated": branch.evaluated,
                        "new history at": branch.begins,
                        "peak bytes": branch.peak,
                    }
                )
        summary = Summary(pipeline=self._target, method=str(self.config.method), storage=self.config.storage)
        summary["blocks left out"] = [len(denoiser.blocks) for denoiser in self.denoisers]
        summary["branches"] = rows
        # Histories of one denoiser live side by side until the run ends, those of two experts as well.
        summary["memory"] = [
            {"denoiser": name, "peak bytes": sum(row["peak bytes"] for row in rows if row["denoiser"] == name)}
            for name in dict.fromkeys(row["denoiser"] for row in rows)
        ]
        bypassed = sum(denoiser.bypassed for denoiser in self.denoisers)
        if bypassed:
            summary["bypassed"] = f"{bypassed} calls with control residuals or skipped layers were never forecast"
        return summary

    def _close(self) -> None:
        """The end of a run: its numbers are kept, its features are not."""
        self.summary()
        self.reset()


def apply_forecast(
    target: Any,
    config: ForecastConfig | None = None,
    *,
    blocks: Sequence[str] | None = None,
    feature: int | None = None,
    step_index: Callable[[], int] | None = None,
    num_steps: int | None = None,
) -> Forecasting:
    """Forecast the features of most steps instead of running the denoiser's blocks.

    The pipeline is used as before. Calls that pass control residuals or skip layers are evaluated, and counted in
    `summary()`. While a call of a denoiser lasts its lists of blocks are swapped, so pipelines that share one run one
    after the other, not in threads: two in one call at once are an error.

    Parameters
    ----------
    target : a diffusers pipeline with denoisers of `models.MODELS`, or any module of yours.
    config : ForecastConfig, default `ForecastConfig()`: 14 evaluations of 50.
    blocks : of a module without a row: attributes that hold its blocks, in the order of execution, such as
        ["encoder.layers"]; the last must be a `ModuleList` that the module iterates over.
    feature : what its last block returns: None for the feature alone, else its place in a pair (0 or 1).
    step_index, num_steps : of a module: a function that gives the present step, and the length of a run.

    Returns
    -------
    Forecasting : a handle with `remove()`, `reset()` and `summary()`; also a context manager.

    Raises
    ------
    ValueError
        Unknown denoisers, context parallelism, a module without step_index and num_steps or without its blocks,
        something that is forecast already, by itself or through what shares its scheduler and denoiser.
    TypeError
        Arguments of another kind, as anywhere; arguments of a module beside a pipeline.

    Source: Spectrum, algorithm 1.
    """
    config = checked(OP, config, ForecastConfig)
    if not isinstance(target, nn.Module):
        if any(value is not None for value in (blocks, feature, step_index, num_steps)):
            raise TypeError(
                f"{OP}: blocks, feature, step_index and num_steps are of a module; {type(target).__name__}'s scheduler "
                "and the row of its denoiser say them"
            )
        return Forecasting(target, config, None, None, None)
    if step_index is None or num_steps is None:
        raise ValueError(
            f"{OP}: a module knows no steps; give step_index, a function that returns the present step, and num_steps, "
            f"or give the pipeline (got {type(target).__name__})"
        )
    if not callable(step_index):
        raise TypeError(f"{OP}: step_index must be a function that returns the present step, got {step_index!r}")
    if not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"{OP}: num_steps must be a whole number of steps, at least 1, got {num_steps!r}")
    if isinstance(blocks, str) or (blocks is not None and not blocks):
        raise TypeError(f'{OP}: blocks must be a list of attributes, such as ["blocks"], got {blocks!r}')
    if feature not in (None, 0, 1):
        raise ValueError(f"{OP}: feature must be None, or 0 or 1, its place in a pair, got {feature!r}")
    return Forecasting(target, config, blocks, feature, Clock(step_index, num_steps))


def _shape(state: Any) -> tuple:
    if isinstance(state, list | tuple):
        return tuple(_shape(one) for one in state)
    return tuple(state.shape) if isinstance(state, Tensor) else ()
