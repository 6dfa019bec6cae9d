# SPDX-License-Identifier: Apache-2.0
"""The noisy state of a run between its grids: coarse for the denoiser, and the coarse velocity back at full size."""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spectral_kernels.adapters.diffusers.grids import Size
from spectral_kernels.adapters.diffusers.models import Model, tokens_of
from spectral_kernels.expand import (
    dct_expand,
    dct_truncate,
    dwt_expand,
    dwt_truncate,
    fft_expand,
    fft_truncate,
    spectral_lift,
)
from spectral_kernels.layouts import Layout

OPS: dict[str, tuple[Any, Any]] = {"dct": (dct_expand, dct_truncate), "fft": (fft_expand, fft_truncate)}


@dataclass(frozen=True)
class States:
    """How the state of one run lies in the tensors of its pipeline.

    fine      the full grid
    frames    of the state
    clean     how many of its first frames are clean: pictures that a video begins with
    channels  of the state; a model may take clean conditions in further ones
    """

    facts: Model
    fine: Size
    frames: int
    clean: int
    channels: int | None
    basis: str
    align: bool
    precision: str

    def coarse(self, state: Tensor, size: Size, level: float) -> Tensor:
        """What the denoiser is given: the state at a coarse size, its text, references and conditions beside it."""
        if self.facts.layout is None:
            return self._coarse_state(state, size, level, channel=1)
        tokens = self.frames * tokens_of(self.facts, self.fine)
        start = state.shape[1] - tokens if self.facts.text_first else 0
        before, state, after = state.split([start, tokens, state.shape[1] - start - tokens], dim=1)
        coarse = self._coarse_state(state, size, level, channel=2)
        return torch.cat([before, coarse, after], dim=1) if before.shape[1] or after.shape[1] else coarse

    def _coarse_state(self, state: Tensor, size: Size, level: float, channel: int) -> Tensor:
        own = min(self.channels or state.shape[channel], state.shape[channel])
        noisy, conditions = state.split([own, state.shape[channel] - own], dim=channel)
        coarse = self._truncated(noisy, size, **({"t": level} if self.align else {"normalize": False}))
        if self.clean:
            pictures = self._by_frame(noisy)[:, : self.clean]
            self._by_frame(coarse)[:, : self.clean] = self._truncated(pictures, size)
        if not conditions.shape[channel]:
            return coarse
        return torch.cat([coarse, self._truncated(conditions, size)], dim=channel)

    def _by_frame(self, x: Tensor) -> Tensor:
        """The same memory, its second dimension the frames."""
        return x.transpose(1, 2) if self.facts.layout is None else x.unflatten(1, (self.frames, -1))

    def told(self, time: Tensor, timestep: float) -> Tensor:
        """The denoiser's argument of time at another level; tokens of clean frames keep theirs."""
        # UniPC's and DPM++'s timesteps are whole, the coarse level is not.
        told = torch.full_like(time, timestep, dtype=time.dtype if time.is_floating_point() else torch.float32)
        if self.clean and time.ndim == 2:
            own = self.clean * (time.shape[1] // self.frames)
            told[:, :own] = time[:, :own]
        return told

    @property
    def embeds(self) -> bool:
        """Must answers have the full size? A pipeline takes clean tokens out of them before the solver's step."""
        return bool(self.clean) and self.facts.layout is not None

    def embedded(self, answer: Tensor, size: Size) -> Tensor:
        """A coarse answer in the low band of the full grid, of the same norm: guidance that rescales sees no change."""
        planes, layout = self._planes(answer, size)
        expand = self._op(0)
        y = expand(planes, size=self.fine, t=0.0, align=False, layout=layout, precision=self.precision).x
        return y.reshape(answer.shape[0], -1, answer.shape[2])

    def lifted(self, velocity: Tensor, sample: Tensor, size: Size, level: float) -> Tensor:
        """The velocity of the state in full-resolution coordinates, from the coarse model's."""
        dtype, velocity = velocity.dtype, velocity.to(sample.dtype)
        if self.embeds:
            velocity = self._truncated(velocity, size, normalize=False)
        elif self.facts.layout is not None:
            velocity = velocity[:, : self.frames * tokens_of(self.facts, size)]
        v, layout = self._planes(velocity, size)
        z, _ = self._planes(sample, self.fine)
        options = {"basis": self.basis, "layout": layout, "precision": self.precision}
        lifted = spectral_lift(z, v, t=level, size=self.fine, align=self.align, **options)
        return lifted.reshape(sample.shape).to(dtype)

    def _truncated(self, x: Tensor, size: Size, **factor: Any) -> Tensor:
        """At a coarse size; by default of the same mean, as clean planes are."""
        planes, layout = self._planes(x, self.fine)
        y = self._op(1)(planes, size=size, layout=layout, precision=self.precision, **factor)
        return y if layout is None else y.reshape(*x.shape[:-2], -1, x.shape[-1])

    def _planes(self, x: Tensor, size: Size) -> tuple[Tensor, Layout | None]:
        """As the ops take it: every frame of tokens is a sample of its own."""
        if self.facts.layout is None or x.ndim == 5:
            return x, None
        return x.reshape(-1, tokens_of(self.facts, size), x.shape[-1]), self.facts.layout(*size)

    def _op(self, which: int) -> Any:
        if self.basis in OPS:
            return OPS[self.basis][which]
        return functools.partial((dwt_expand, dwt_truncate)[which], wavelet=self.basis)
