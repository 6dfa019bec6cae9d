# SPDX-License-Identifier: Apache-2.0
"""The state of a forecast over one run: evaluated steps in, forecasts out, memory bounded and counted."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from spectral_kernels.arguments import FLOATS
from spectral_kernels.dispatch import forecast as ops
from spectral_kernels.forecast import chebyshev_forecast, forecast
from spectral_kernels.history import ERROR_BOUND, SHARED, Pinned, encode
from spectral_kernels.weights import (
    chebyshev_row,
    chebyshev_weights,
    hermite_weights,
    linear_weights,
    moment_weights,
    positions,
    reuse_weights,
    taylor_weights,
)

STORAGES = ("features", "moments", "auto")

# Offloaded features come back in pieces of this many elements, so that predicting needs little device memory.
PIECE = 1 << 24


class Forecaster:
    """Collects the features of evaluated steps and forecasts those of skipped steps.

        forecaster.update(step, feature)      where the network ran
        feature = forecaster.predict(step)    where it did not

    One Forecaster serves one stream of features (one branch of classifier-free guidance, one output). It is plain
    state: no hooks, no threads, no globals. A failed call changes nothing.

    Parameters
    ----------
    num_steps : steps of the run, `>= 1`.
    weights : a weight maker: `chebyshev_weights`, `taylor_weights`, `hermite_weights`, `linear_weights`,
        `reuse_weights`, or a function `(steps, target, num_steps, **options)` of your own.
    storage : "features" keeps the features in their dtype. "moments" keeps S = Phi^T H, `degree + 1` float32 values per
        element however many steps were evaluated, and the last two features (Chebyshev only). "auto" takes whichever is
        smaller by the end of the run.
    max_features : keep only the newest so many features. Default: all (Taylor and Hermite: order + 1, line: 2, reuse:
        1).
    encoding : None, "int8" or "float8": one byte and 1/32 per element instead of the feature's dtype; see
        `error_bound`.
    offload : keep the features in pinned host memory; forecasting copies them back piece by piece.
    copy : False keeps a reference to the given tensor instead of a copy: for callers that never write into it again.
    evaluations : how many steps will be evaluated, if known: lets "auto" compare sizes exactly.
    sigmas : noise levels of the run, see `chebyshev_weights`.
    options : passed on to the weight maker (degree, ridge, blend, order, ...).

    Source: Spectrum, algorithm 1; the moments form and the weights form are exact rearrangements of its equations 13
    and 14.
    """

    def __init__(
        self,
        num_steps: int,
        weights: Callable[..., Tensor] = chebyshev_weights,
        storage: str = "features",
        *,
        max_features: int | None = None,
        encoding: str | None = None,
        offload: bool = False,
        copy: bool = True,
        evaluations: int | None = None,
        sigmas: Sequence[float] | None = None,
        **options: Any,
    ):
        if num_steps < 1:
            raise ValueError(f"Forecaster: num_steps must be at least 1, got {num_steps}")
        if storage not in STORAGES:
            raise ValueError(f"Forecaster: storage must be one of {', '.join(STORAGES)}, got {storage!r}")
        if max_features is not None and max_features < 1:
            raise ValueError(f"Forecaster: max_features must be at least 1, got {max_features}")
        if encoding is not None and encoding not in ERROR_BOUND:
            raise ValueError(f"Forecaster: encoding must be None, {' or '.join(ERROR_BOUND)}, got {encoding!r}")
        if storage == "moments" and (weights is not chebyshev_weights or max_features or encoding or offload):
            raise ValueError(
                "Forecaster: moments hold the whole run in float32 for chebyshev_weights; max_features, encoding, "
                "offload and other "
                "weights need storage='features'"
            )
        self.num_steps, self.sigmas, self.options = num_steps, sigmas, options
        self.copy, self.encoding, self.offload = copy, encoding, offload
        self._maker, self._asked = weights, storage
        self._bound = max_features if max_features is not None else _history(weights, options)
        self._evaluations = num_steps if evaluations is None else evaluations
        self.reset()
        # A wrong option is an error now, not in the middle of a run. Steps over the whole run determine any fit that a
        # run can; 64 of them are as good as all.
        tried = min(num_steps, 64)
        self._weights([num_steps * i // tried for i in range(tried + 1)], num_steps, {})

    def reset(self) -> None:
        """Forget everything: the next update begins a new run, of any shape, dtype and device."""
        self.steps: list[float] = []
        self._features: list[Any] = []
        self._exponents: list[Any] = []
        self._moments: Tensor | None = None
        self._shape: torch.Size | None = None
        self._dtype: torch.dtype | None = None
        self._device: torch.device | None = None
        self._times: Tensor | None = None
        self._storage = self._asked

    # ------------------------------------------------------------ in

    def update(self, step: float, feature: Tensor) -> None:
        """Take the feature of an evaluated step.

        Steps must ascend and the shape, dtype and device must stay until `reset`, else `ValueError`. Gradients are not
        kept: use `forecast` to train through a forecast.
        """
        if not isinstance(feature, Tensor) or feature.dtype not in FLOATS:
            what = feature.dtype if isinstance(feature, Tensor) else type(feature).__name__
            raise TypeError(
                f"Forecaster: a feature must be a tensor of float32, float16, bfloat16 or float64, got {what}; convert "
                "it"
            )
        if self._shape is not None and (feature.shape, feature.dtype, feature.device) != (
            self._shape,
            self._dtype,
            self._device,
        ):
            raise ValueError(
                f"Forecaster: the run began with {self._dtype} {tuple(self._shape)} on {self._device}, got "
                f"{feature.dtype} "
                f"{tuple(feature.shape)} on {feature.device}; call reset() before a run of another shape"
            )
        if self.steps and step <= self.steps[-1]:
            raise ValueError(
                f"Forecaster: steps must ascend, got {step} after {self.steps[-1]}; call reset() before a new run"
            )
        positions([step], self.num_steps, self.sigmas)  # checks the step
        feature = feature.detach()
        storage = self._choose(feature) if self._asked == "auto" else self._asked
        if storage == "moments":
            self._add_moments(step, feature)
        else:
            self._keep(feature)
        self._storage, self._times = storage, None
        self._shape, self._dtype, self._device = feature.shape, feature.dtype, feature.device
        self.steps = [*self.steps, step] if storage == "moments" else [*self.steps, step][-len(self._features) :]

    def _keep(self, feature: Tensor) -> None:
        exponent = None
        if self.encoding is not None:
            stored, exponent = encode(feature, self.encoding)
        else:
            stored = feature.clone() if self.copy and not (self.offload and feature.is_cuda) else feature
        if self.offload:
            stored = Pinned(stored.reshape(-1))
            exponent = None if exponent is None else Pinned(exponent)
        first = max(0, len(self._features) + 1 - self._bound) if self._bound is not None else 0
        self._features = [*self._features, stored][first:]
        self._exponents = [*self._exponents, exponent][first:] if exponent is not None else []

    def _add_moments(self, step: float, feature: Tensor) -> None:
        if feature.dtype == torch.float64:
            raise ValueError("Forecaster: moments are float32 sums; float64 features need storage='features'")
        row = chebyshev_row(step, self.num_steps, self.options.get("degree", 4), self.sigmas)
        flat = feature.reshape(-1)
        last = flat.clone() if self.copy else flat
        moments = self._moments
        if moments is None:
            moments = torch.zeros(row.numel(), flat.numel(), dtype=torch.float32, device=flat.device)
        ops.update_moments(moments, flat, row)
        self._moments, self._features = moments, [*self._features, last][-2:]

    def _choose(self, feature: Tensor) -> str:
        if self.steps:
            return self._storage
        limited = self._bound is not None or self.encoding or self.offload
        if self._maker is not chebyshev_weights or limited or feature.dtype == torch.float64:
            return "features"
        moments = 4 * (self.options.get("degree", 4) + 1) + 2 * feature.element_size()
        return "moments" if moments < self._evaluations * feature.element_size() else "features"

    # ------------------------------------------------------------ out

    def predict(self, step: float | Sequence[float] | Tensor, *, out: Tensor | None = None, **options: Any) -> Tensor:
        """The forecast at a step that is not before the last update; several steps give [G, ...] from one pass over the
        history.

        A tensor on the features' device is read there (Chebyshev on plain features only): position or positions in [0,
        num_steps], float64; nothing is synchronised, and a CUDA graph may replay with other values. `ValueError`
        without any feature.
        """
        if not self.steps:
            raise ValueError("Forecaster: nothing to forecast from: update() was not called since the last reset()")
        if isinstance(step, Tensor) and ops.on_device(step):
            return self._predict_on_device(step, out, options)
        weights = self.weights(step, **options)
        if self._storage == "features" and not self.encoding and not self.offload:
            return forecast(self._features, weights, out=out)
        matrix = weights if weights.ndim == 2 else weights[None]
        if self.offload:
            result = self._from_host(matrix)
        else:
            tables = [*self._moments.unbind(0), *self._features] if self._moments is not None else self._features
            result = ops.forecast(tables, self._exponents, matrix, self._dtype)
        assert self._shape is not None
        result = result.view(len(matrix), *self._shape)
        result = result if weights.ndim == 2 else result[0]
        return result if out is None else out.copy_(result)

    def weights(self, step: float | Sequence[float] | Tensor, **options: Any) -> Tensor:
        """The weights of `predict(step, ...)`: over the kept features, or over [moments, last two features]."""
        return self._weights(self.steps, step, options)

    def error_bound(self, step: float) -> float:
        """Largest error that the encoding can add to the forecast at a step, as a multiple of the largest magnitude
        among the 32 neighbours
        of an element over the kept features:  sum_k |w_k| times 1/127 (int8) or 1/16 (float8); 0 without encoding."""
        if self.encoding is None:
            return 0.0
        return ERROR_BOUND[self.encoding] * float(self.weights(step).double().abs().sum())

    def _weights(self, steps: Sequence[float], target: Any, options: dict[str, Any]) -> Tensor:
        maker = (
            moment_weights if self._asked == "moments" or getattr(self, "_moments", None) is not None else self._maker
        )
        axis = {} if self.sigmas is None else {"sigmas": self.sigmas}
        return maker(steps, target, self.num_steps, **axis, **{**self.options, **options})

    def _predict_on_device(self, step: Tensor, out: Tensor | None, options: dict[str, Any]) -> Tensor:
        if self._maker is not chebyshev_weights or self._storage != "features" or self.encoding or self.offload:
            raise ValueError(
                "Forecaster: a step on the device needs chebyshev_weights on plain features on the device; pass the "
                "step as a number"
            )
        if self._times is None:
            x = positions(self.steps, self.num_steps, self.sigmas)
            self._times = torch.tensor(x, dtype=torch.float64, device=self._device)
        options = {**self.options, **options}
        result = chebyshev_forecast(self._features, self._times, step, self.num_steps, **options)
        return result if out is None else out.copy_(result)

    def _from_host(self, matrix: Tensor) -> Tensor:
        """Piece by piece: K pieces up, one piece of the result, on the current stream."""
        assert self._shape is not None
        features = [h.wait(self._device) for h in self._features]
        exponents = [e.wait(self._device) for e in self._exponents]
        result = torch.empty(len(matrix), math.prod(self._shape), dtype=self._dtype, device=self._device)
        for start in range(0, result.shape[1], PIECE):
            stop = min(start + PIECE, result.shape[1])
            parts = [h[start:stop].to(self._device, non_blocking=True) for h in features]
            scales = [e[start // SHARED : -(-stop // SHARED)].to(self._device, non_blocking=True) for e in exponents]
            result[:, start:stop] = ops.forecast(parts, scales, matrix, self._dtype)
        return result

    # ------------------------------------------------------------ facts and persistence

    def __len__(self) -> int:
        """Number of features the forecast rests on."""
        return len(self.steps)

    @property
    def storage(self) -> str:
        """ "features" or "moments"; "auto" until the first update decides."""
        return self._storage

    @property
    def shape(self) -> torch.Size | None:
        """Shape of the features of this run; None before the first update."""
        return self._shape

    @property
    def nbytes(self) -> int:
        """Bytes held, on the device and on the host together."""
        return sum(t.numel() * t.element_size() for t in self._tensors())

    @property
    def device_nbytes(self) -> int:
        """Bytes held on the features' device: with offload on a GPU, none."""
        return sum(t.numel() * t.element_size() for t in self._tensors() if t.device == self._device)

    def _tensors(self) -> list[Tensor]:
        held = [*self._features, *self._exponents]
        tensors = [h.tensor if isinstance(h, Pinned) else h for h in held]
        return tensors if self._moments is None else [*tensors, self._moments]

    def state_dict(self) -> dict[str, Any]:
        """Everything collected so far (not the configuration), for `load_state_dict` of a Forecaster built alike.
        Features are not copied."""
        held = ([h.settle() if isinstance(h, Pinned) else h for h in t] for t in (self._features, self._exponents))
        features, exponents = held
        return {
            "steps": list(self.steps),
            "storage": self._storage,
            "shape": self._shape,
            "dtype": self._dtype,
            "device": self._device,
            "features": features,
            "exponents": exponents,
            "moments": None if self._moments is None else self._moments.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`; `ValueError` when the configuration does not fit the state."""
        encoded = bool(state["exponents"])
        fits = self._asked in ("auto", state["storage"]) and encoded == (self.encoding is not None)
        if state["steps"] and not fits:
            raise ValueError(
                f"Forecaster: the state holds {state['storage']}{' encoded' if encoded else ''}, this Forecaster was "
                "built with "
                f"storage={self._asked!r}, encoding={self.encoding!r}; build it alike"
            )
        wrap = (lambda t: Pinned(t)) if self.offload else (lambda t: t)
        features, exponents = ([wrap(t) for t in state[name]] for name in ("features", "exponents"))
        moments = state["moments"]
        self.reset()
        self.steps, self._storage = list(state["steps"]), state["storage"]
        self._shape, self._dtype, self._device = state["shape"], state["dtype"], state["device"]
        self._features, self._exponents = features, exponents
        self._moments = moments.clone() if moments is not None else None

    def __repr__(self) -> str:
        encoded = f", encoding={self.encoding!r}" if self.encoding else ""
        name = getattr(self._maker, "__name__", repr(self._maker))
        return (
            f"Forecaster(num_steps={self.num_steps}, weights={name}, storage={self._storage!r}{encoded}, "
            f"features={len(self)}, "
            f"nbytes={self.nbytes:,})"
        )


def _history(maker: Callable[..., Tensor], options: dict[str, Any]) -> int | None:
    """How many features a weight maker ever uses."""
    if maker is taylor_weights:
        return options.get("order", 1) + 1
    if maker is hermite_weights:
        return options.get("order", 2) + 1
    return {linear_weights: 2, reuse_weights: 1}.get(maker)
