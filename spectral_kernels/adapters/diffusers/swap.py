# SPDX-License-Identifier: Apache-2.0
"""Leaving out the blocks of a denoiser, and seeing what its last block returns, without touching any block.

The lists of blocks are swapped for the duration of one call: for empty lists and one `Forecast` where a step is
skipped, for the same list with a `Tap` around its last block where it is evaluated. Blocks are never hooked nor
wrapped for good, so whatever compiled, offloaded or adapted them stays as it is.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from spectral_kernels.adapters.diffusers.models import Model, check_forecast
from spectral_kernels.adapters.diffusers.runs import uncompiled


class Tap(nn.Module):
    """The last block of an evaluated call: runs it and passes its feature on."""

    def __init__(self, block: nn.Module, record: Callable[[Any], None]):
        super().__init__()
        # A submodule, so that walks over the model still find it: LoRA scales are set by one at each call.
        self.block = block
        self.__dict__["record"] = record

    def __getattr__(self, name: str):
        if name == "block":
            return super().__getattr__(name)
        return getattr(self.block, name)

    def forward(self, *args, **kwargs):
        out = self.block(*args, **kwargs)
        self.__dict__["record"](out)
        return out


class Forecast(nn.Module):
    """All the blocks of a skipped call: returns the forecast as the last block would."""

    # What denoisers ask their blocks before calling them.
    context_pre_only, has_cross_attention, resnets = True, False, (None,)

    def __init__(self, answer: Callable[..., Any]):
        super().__init__()
        self.__dict__["answer"] = answer

    def forward(self, *args, **kwargs):
        return self.__dict__["answer"](*args, **kwargs)


class Blocks:
    """The lists of blocks of one denoiser, in the order of execution."""

    def __init__(self, module: nn.Module, facts: Model, record: Callable[[Any], None], answer: Callable[..., Any]):
        check_forecast("apply_forecast", type(module).__name__, facts)
        self._swapped = False
        self._places: list[tuple[nn.Module, str]] = []
        self._real: list[Any] = []
        for path in facts.blocks:
            parent, _, name = path.rpartition(".")
            try:
                self._places.append((module.get_submodule(parent), name))
                self._real.append(self._places[-1][0]._modules[name])
            except (AttributeError, KeyError) as error:
                raise ValueError(
                    f"apply_forecast: {type(module).__name__} has no submodule {path}, which blocks names"
                ) from error
        last = self._real[-1]
        if not isinstance(last, nn.ModuleList) or len(last) == 0:
            raise ValueError(
                f"apply_forecast: {facts.blocks[-1]} of {type(module).__name__} must be a list of blocks, the last of "
                f"them executed, got {type(last).__name__}"
            )
        tap = nn.ModuleList(last[:-1])
        tap.append(Tap(last[-1], uncompiled(record)))
        self._tapped: list[Any] = [*self._real[:-1], tap]
        empty = [nn.ModuleList() if isinstance(real, nn.ModuleList) else None for real in self._real[:-1]]
        self._skipped: list[Any] = [*empty, nn.ModuleList([Forecast(uncompiled(answer))])]

    def __len__(self) -> int:
        return sum(len(real) if isinstance(real, nn.ModuleList) else 1 for real in self._real)

    def tap(self) -> None:
        self._swapped = True
        self._put(self._tapped)

    def skip(self) -> None:
        self._swapped = True
        self._put(self._skipped)

    def restore(self) -> None:
        """Put the blocks back, if it was this that took them: another pipeline may share the model."""
        if self._swapped:
            self._put(self._real)
            self._swapped = False

    def _put(self, lists: list[Any]) -> None:
        for (parent, name), value in zip(self._places, lists, strict=True):
            parent._modules[name] = value


def feature_of(facts: Model, out: Any, tokens: int) -> Tensor:
    """The feature in what the last block returned; `tokens` are those of the state."""
    if facts.feature is None:
        return out
    if facts.feature == "image":
        return out[:, -tokens:]
    return out[facts.feature]


def answer_of(facts: Model, predict: Callable[..., Tensor], tokens: int, args: tuple, kwargs: dict) -> Any:
    """What the last block would return, were the forecast its feature; the text's half is whatever came in."""
    if facts.feature is None:
        return predict()
    hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    if facts.feature == "image":
        # The model cuts the text away at once: nothing is written there, and samples overlap in it. So the images of
        # all samples lie one after another, and the forecast is written where it is read.
        batch, length, width = hidden.shape
        start = (length - tokens) * width
        memory = hidden.new_empty(start + batch * tokens * width)
        predict(out=memory[start:].view(batch, tokens, width))
        return memory.as_strided((batch, length, width), (tokens * width, width, 1))
    text = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[1]
    return (predict(), text) if facts.feature == 0 else (text, predict())
