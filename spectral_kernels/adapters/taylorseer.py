# SPDX-License-Identifier: Apache-2.0
"""The state of diffusers' TaylorSeer cache, with its call shape, over `Forecaster`.

import diffusers.hooks.taylorseer_cache as module
from spectral_kernels.adapters.taylorseer import TaylorSeerState

module.TaylorSeerState = TaylorSeerState        # before `enable_cache(TaylorSeerCacheConfig(...))`
"""

from typing import Any

import torch
from torch import Tensor

from spectral_kernels.forecaster import Forecaster
from spectral_kernels.weights import taylor_weights


class TaylorSeerState:
    """One stream per output of a module. The hook moves `current_step`, and calls `update` or `predict`.

    Beyond diffusers' arguments: `weights` another weight maker, `num_steps` the length of the run (Chebyshev needs it;
    the Taylor expansion does not depend on it), `options` of `Forecaster`. Features are stored in
    `taylor_factors_dtype` (None: as they come); differences are never stored, so they are not rounded to it.
    """

    def __init__(
        self,
        taylor_factors_dtype: torch.dtype | None = torch.bfloat16,
        max_order: int = 1,
        is_inactive: bool = False,
        *,
        weights=taylor_weights,
        num_steps: int = 1000,
        **options: Any,
    ):
        self.taylor_factors_dtype, self.max_order, self.is_inactive = taylor_factors_dtype, max_order, is_inactive
        self.weights, self.num_steps = weights, num_steps
        self.options = {"order": max_order, **options} if weights is taylor_weights else options
        self.streams: list[Forecaster] = []
        self.reset()

    def reset(self) -> None:
        self.current_step: int = -1
        self.last_update_step: int | None = None
        self.module_dtypes: tuple[torch.dtype, ...] = ()
        self.inactive_shapes: tuple[torch.Size, ...] | None = None
        self.device: torch.device | None = None
        for stream in self.streams:
            stream.reset()

    def update(self, outputs: tuple[Tensor, ...]) -> None:
        self.module_dtypes = tuple(output.dtype for output in outputs)
        self.device = outputs[0].device
        if self.is_inactive:
            self.inactive_shapes = tuple(output.shape for output in outputs)
        else:
            while len(self.streams) < len(outputs):
                self.streams.append(Forecaster(self.num_steps, self.weights, **self.options))
            for stream, output in zip(self.streams, outputs, strict=True):
                if stream.shape not in (None, output.shape):
                    stream.reset()  # a shape may change within a run (a prefix that is cached after the first step)
                stream.update(self.current_step, output.to(self.taylor_factors_dtype or output.dtype))
        self.last_update_step = self.current_step

    def predict(self) -> list[Tensor]:
        if self.last_update_step is None:
            raise ValueError("TaylorSeerState: nothing to predict from: update() was not called since the last reset()")
        if self.is_inactive:
            shapes = zip(self.inactive_shapes or (), self.module_dtypes, strict=True)
            return [torch.zeros(shape, dtype=dtype, device=self.device) for shape, dtype in shapes]
        streams = zip(self.streams, self.module_dtypes, strict=True)
        return [stream.predict(self.current_step).to(dtype) for stream, dtype in streams]
