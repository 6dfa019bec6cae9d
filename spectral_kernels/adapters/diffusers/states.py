# SPDX-License-Identifier: Apache-2.0
"""The noisy state of a run between its grids: coarse for the denoiser, and the coarse velocity back at full size."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spectral_kernels.adapters.diffusers.grids import Arguments, Size
from spectral_kernels.adapters.diffusers.models import Model, tokens_of
from spectral_kernels.expand import spectral_lift
from spectral_kernels.flow.progressive import resizing
from spectral_kernels.layouts import Layout


@dataclass(frozen=True)
class States:
    """How the state of one run lies in the tensors of its pipeline.

    fine      the full grid
    frames    that lie on it
    clean     those of them that are pictures, at time 0
    channels  of the state; a model may take clean conditions in further ones
    """

    facts: Model
    fine: Size
    frames: int
    clean: slice
    channels: int | None
    basis: str
    align: bool
    precision: str

    def coarse(self, arguments: Arguments, size: Size, level: float) -> None:
        """The denoiser's arguments at a coarse size, in place: the state, and what beside it lies on the grid."""
        facts, state = self.facts, arguments[self.facts.state]
        if isinstance(state, list):
            arguments[facts.state] = [self._coarse_picture(one, size, level) for one in state]
        elif facts.layout is None:
            arguments[facts.state] = self._coarse_planes(state, size, level)
        else:
            arguments[facts.state] = self._coarse_tokens(state, arguments, size, level)
        for name in facts.planes:
            arguments[name] = self._truncated(arguments[name], size)
        facts.regrid(arguments, self.fine, size, self.frames)

    def _coarse_picture(self, picture: Any, size: Size, level: float) -> Any:
        """Of one sample, which may come after its reference pictures."""
        if isinstance(picture, list):
            return [*picture[:-1], self._coarse_picture(picture[-1], size, level)]
        return self._coarse_planes(picture[None], size, level)[0]

    def _coarse_tokens(self, state: Tensor, arguments: Arguments, size: Size, level: float) -> Tensor:
        """Tokens of text and of reference pictures stay."""
        tokens = self.frames * tokens_of(self.facts, self.fine)
        start = self.facts.before(arguments, state.shape[1], tokens)
        if start + tokens > state.shape[1]:
            raise ValueError(
                f"apply_progressive: {self.frames} x {self.fine} are {tokens} tokens, but the denoiser was called with "
                f"{state.shape[1]}; this pipeline lays out its state in another way, use apply_forecast alone"
            )
        before, own, after = state.tensor_split((start, start + tokens), dim=1)
        coarse = self._coarse_planes(own, size, level)
        return torch.cat([before, coarse, after], dim=1) if before.shape[1] or after.shape[1] else coarse

    def _coarse_planes(self, state: Tensor, size: Size, level: float) -> Tensor:
        channel = 1 if self.facts.layout is None else 2
        if self.facts.layout is None and tuple(state.shape[-2:]) != tuple(self.fine):
            raise ValueError(
                f"apply_progressive: the run began on a grid of {tuple(self.fine)}, and now the denoiser is called on "
                f"{tuple(state.shape[-2:])}; coarse steps know one grid: remove() the handle for this pipeline"
            )
        own = min(self.channels or state.shape[channel], state.shape[channel])
        noisy, conditions = state.split([own, state.shape[channel] - own], dim=channel)
        coarse = self._truncated(noisy, size, **({"t": level} if self.align else {"normalize": False}))
        if self.pictured:
            pictures = self._by_frame(noisy)[:, self.clean]
            self._by_frame(coarse)[:, self.clean] = self._truncated(pictures, size)
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
        if self.pictured and time.ndim == 2:
            frames = (self.frames, -1)
            told.unflatten(1, frames)[:, self.clean] = time.unflatten(1, frames)[:, self.clean]
        return told

    @property
    def pictured(self) -> bool:
        return self.clean.stop > self.clean.start

    @property
    def embeds(self) -> bool:
        """Must the denoiser's answers have the full size, because the pipeline takes the pictures out of them?"""
        return self.pictured and self.facts.unpacked

    def embedded(self, answer: Tensor, size: Size) -> Tensor:
        """A coarse answer in the low band of the full grid, of the same norm: guidance that rescales sees no change."""
        planes, layout = self._planes(answer, size)
        expand, _ = resizing(self.basis)
        y = expand(planes, size=self.fine, t=0.0, align=False, layout=layout, precision=self.precision).x
        return y.reshape(answer.shape[0], -1, answer.shape[2])

    def lifted(self, velocity: Tensor, sample: Tensor, size: Size, level: float) -> Tensor:
        """The velocity of the state in full-resolution coordinates, from the coarse model's."""
        dtype, velocity = velocity.dtype, velocity.to(sample.dtype)
        if self.embeds:
            velocity = self._truncated(velocity, size, normalize=False)
        elif self.facts.layout is not None:
            frames = sample.shape[1] // tokens_of(self.facts, self.fine)
            velocity = velocity[:, : frames * tokens_of(self.facts, size)]
        v, layout = self._planes(velocity, size)
        z, _ = self._planes(sample, self.fine)
        options = {"basis": self.basis, "layout": layout, "precision": self.precision}
        lifted = spectral_lift(z, v, t=level, size=self.fine, align=self.align, **options)
        return lifted.reshape(sample.shape).to(dtype)

    def _truncated(self, x: Tensor, size: Size, **factor: Any) -> Tensor:
        """At a coarse size; by default of the same mean, as clean planes are."""
        planes, layout = self._planes(x, self.fine)
        _, truncate = resizing(self.basis)
        y = truncate(planes, size=size, layout=layout, precision=self.precision, **factor)
        return y if layout is None else y.reshape(*x.shape[:-2], -1, x.shape[-1])

    def _planes(self, x: Tensor, size: Size) -> tuple[Tensor, Layout | None]:
        """As the ops take it: every frame of tokens is a sample of its own."""
        if self.facts.layout is None or x.ndim == 5:
            return x, None
        return x.reshape(-1, tokens_of(self.facts, size), x.shape[-1]), self.facts.layout(*size)
