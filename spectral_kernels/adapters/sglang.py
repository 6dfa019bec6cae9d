# SPDX-License-Identifier: Apache-2.0
"""sglang's two Spectrum classes, with their call shapes, over `Forecaster`.

They stand in for `ChebyshevForecaster` and `SpectrumForecaster` of
`sglang.multimodal_gen.runtime.cache.spectrum`:

    from sglang.multimodal_gen.runtime.cache import spectrum
    from spectral_kernels.adapters import sglang as ours

    spectrum.ChebyshevForecaster, spectrum.SpectrumForecaster = ours.ChebyshevForecaster, ours.SpectrumForecaster

What differs: the history is what was evaluated, in the features' dtype, or moments, instead of `K` float32 rows
allocated at the first update; a forecast is one pass without coefficients, so their rounding to the feature's dtype is
gone; the line is the only local predictor (`taylor_order=1`, the official setting); steps must ascend and lie within
`num_steps`.
"""

from typing import Any

import torch
from torch import Tensor

from spectral_kernels.forecaster import Forecaster


class ChebyshevForecaster(torch.nn.Module):
    """Ridge fit in T_0..T_M over at most K evaluated steps. `options` go to `Forecaster` (`encoding`, `offload`,
    ...)."""

    def __init__(
        self,
        M: int = 4,
        K: int = 100,
        lam: float = 0.1,
        num_steps: int = 50,
        device: torch.device | None = None,
        feature_shape: torch.Size | None = None,
        *,
        storage: str = "features",
        **options: Any,
    ):
        super().__init__()
        self.M, self.K, self.lam, self.num_steps = M, K, lam, num_steps
        self.device, self.feature_shape = device, feature_shape
        bound = None if storage == "moments" else K
        self.forecaster = Forecaster(
            num_steps, storage=storage, max_features=bound, degree=M, ridge=lam, blend=1.0, **options
        )

    @property
    def P(self) -> int:
        return self.M + 1

    def ready(self) -> bool:
        return len(self.forecaster) > 0

    def update(self, t: float | Tensor, h: Tensor) -> None:
        if self.feature_shape is not None and h.shape != self.feature_shape:
            raise ValueError(
                f"ChebyshevForecaster: features must have shape {tuple(self.feature_shape)}, got {tuple(h.shape)}; "
                "build a new one for "
                "another shape"
            )
        self.forecaster.update(float(t), h if self.device is None else h.to(self.device))

    def predict(self, t_star: float | Tensor) -> Tensor:
        return self.forecaster.predict(float(t_star))


class SpectrumForecaster(torch.nn.Module):
    """The fit blended with the line through the last two features: w = 1 is the fit alone, w = 0 the line alone."""

    def __init__(self, cheb: ChebyshevForecaster, *, taylor_order: int = 1, w: float = 1.0):
        super().__init__()
        if taylor_order != 1:
            raise ValueError(f"SpectrumForecaster: taylor_order must be 1 (the line), got {taylor_order}")
        if not 0 <= w <= 1:
            raise ValueError(f"SpectrumForecaster: w must lie in [0, 1], got {w}")
        self.cheb, self.taylor_order, self.w = cheb, taylor_order, w

    def ready(self) -> bool:
        return self.cheb.ready()

    def update(self, t: float | Tensor, h: Tensor) -> None:
        self.cheb.update(t, h)

    def predict(self, t_star: float | Tensor) -> Tensor:
        return self.cheb.forecaster.predict(float(t_star), blend=self.w)
