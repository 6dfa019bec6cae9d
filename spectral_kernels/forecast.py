# SPDX-License-Identifier: Apache-2.0
"""Feature forecasting: one pass over K features, whatever the forecaster (its weights come from `weights.py`)."""

import math
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from spectral_kernels.arguments import FLOATS, readable
from spectral_kernels.dispatch import forecast as ops
from spectral_kernels.weights import (
    chebyshev_weights,
    device_times,
    fit_options,
    hermite_weights,
    linear_weights,
    reuse_weights,
    taylor_weights,
)

__all__ = [
    "chebyshev_forecast",
    "chebyshev_weights",
    "forecast",
    "hermite_weights",
    "linear_weights",
    "reuse_weights",
    "taylor_weights",
]


def forecast(features: Sequence[Tensor], weights: Tensor | Sequence, *, out: Tensor | None = None) -> Tensor:
    """The weighted sum of K features, each read once; G rows of weights give G forecasts in the same pass.

        out = sum_k weights[k] features[k]          per element

    Parameters
    ----------
    features : K tensors of one shape on one device, oldest first: float32, float16, bfloat16, also mixed. They are read
        where they lie: never stacked, never copied (except one whose strides differ from the newest one's, or are not
        dense).
    weights : K numbers, or a [G, K] matrix: from a weight maker, or your own. On the CPU (they travel as kernel
        arguments: no transfer, no synchronisation, and a CUDA graph keeps the values of its capture) or on the
        features' device (a CUDA graph reads them at replay).
    out : tensor of the result's shape to write into; its dtype decides the rounding. Not for autograd.

    Returns
    -------
    tensor of the features' shape, [G, ...] for a matrix, in the newest feature's dtype and memory layout.

    Same bits as `reference.forecast.forecast` on every backend: float32 products and sums, rounded one by one, from the
    oldest feature to the newest, then rounded to the output dtype; NaN is the quiet NaN. With float64 features the sum
    is float64, without a promise of bits. Differentiable with respect to features and weights.

    Raises
    ------
    ValueError
        No features, different shapes or devices, weights of another length or (on the CPU) not finite, an `out` that
        does not fit.
    TypeError
        Features that are not dense tensors of these types or float64, weights that are no real numbers.
    """
    features = list(features)
    _check_features("forecast", features)
    weights = _check_weights("forecast", features, weights)
    single = weights.ndim == 1
    matrix = weights[None] if single else weights
    if out is None:
        result = ops.forecast(features, [], matrix, features[-1].dtype)
        return result[0] if single else result
    _check_out(features, weights, out)
    ops.forecast_out(features, [], matrix, out[None] if single else out)
    return out


def chebyshev_forecast(
    features: Sequence[Tensor],
    steps: Tensor,
    target: Tensor,
    num_steps: int,
    *,
    degree: int = 4,
    ridge: float = 0.1,
    blend: float = 0.5,
) -> Tensor:
    """`forecast(features, chebyshev_weights(steps, target, ...))` in one launch, for times that live on the device.

    Basis, Gram matrix, Cholesky, substitutions, blend and sum run in the kernel: no host synchronisation, so a CUDA
    graph replays with the times of the moment. `steps` is a float64 tensor [K] of positions in [0, num_steps], `target`
    float64 of shape [] or [G], on the features' device. Same bits as the two calls. Values cannot be checked there:
    unsorted times are undefined, a singular system gives NaN. Not differentiable: weights made on the device are
    constants; use the two calls for gradients. Other parameters and errors as in `chebyshev_weights` and `forecast`.
    """
    features = list(features)
    _check_features("chebyshev_forecast", features)
    fit_options("chebyshev_forecast", num_steps, degree, ridge, blend)
    for name, times in (("steps", steps), ("target", target)):
        if not isinstance(times, Tensor) or times.device != features[0].device:
            raise ValueError(
                f"chebyshev_forecast: {name} must be a tensor on the features' device {features[0].device}; for "
                "times on the "
                "host use forecast(features, chebyshev_weights(...))"
            )
    x, goals, single = device_times("chebyshev_forecast", steps, target, None)
    if x.numel() != len(features):
        raise ValueError(f"chebyshev_forecast: {len(features)} features need as many steps, got {x.numel()}")
    options = (float(num_steps), degree, float(ridge), float(blend))
    result = ops.chebyshev_forecast(features, x, goals, *options, features[-1].dtype)
    return result[0] if single else result


def _check_features(op: str, features: list[Tensor]) -> None:
    if not features:
        raise ValueError(f"{op}: no features were given; a forecast needs at least one")
    first = features[0]
    for k, h in enumerate(features):
        if not isinstance(h, Tensor) or h.dtype not in FLOATS or h.layout != torch.strided:
            what = type(h).__name__
            if isinstance(h, Tensor):
                what = h.layout if h.dtype in FLOATS else h.dtype
            raise TypeError(
                f"{op}: features must be dense tensors of float32, float16, bfloat16 or float64, feature {k} is "
                f"{what}; convert it"
            )
        if h is not first and (h.shape != first.shape or h.device != first.device):
            raise ValueError(
                f"{op}: features must share one shape and device; feature 0 is {tuple(first.shape)} on "
                f"{first.device}, feature {k} is "
                f"{tuple(h.shape)} on {h.device}"
            )


def _check_weights(op: str, features: list[Tensor], weights: Tensor | Sequence) -> Tensor:
    kind = torch.float64 if ops.wide(features) else torch.float32
    if not isinstance(weights, Tensor):
        try:
            weights = torch.tensor(weights, dtype=torch.float64, device="cpu")
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{op}: weights must be numbers, one per feature, or rows of them, got {weights!r}"
            ) from error
    if weights.is_complex():
        raise TypeError(f"{op}: weights must be real, got {weights.dtype}; give weights.real")
    if weights.ndim not in (1, 2) or weights.shape[-1] != len(features) or weights.numel() == 0:
        raise ValueError(
            f"{op}: {len(features)} features need weights of shape [{len(features)}] or [G, {len(features)}], got "
            f"{tuple(weights.shape)}"
        )
    if weights.device.type != "cpu" and weights.device != features[0].device:
        raise ValueError(
            f"{op}: weights must lie on the CPU or with the features on {features[0].device}, got {weights.device}"
        )
    if readable(weights):
        values = weights.tolist()  # on the host, looping over a few numbers is faster than a tensor op
        if not all(map(math.isfinite, values if weights.ndim == 1 else chain.from_iterable(values))):
            raise ValueError(f"{op}: weights must be finite, got {values}")
    return weights.to(kind)


def _check_out(features: list[Tensor], weights: Tensor, out: Tensor) -> None:
    shape = (*weights.shape[:-1], *features[0].shape)
    if not isinstance(out, Tensor):
        raise TypeError(f"forecast: out must be a tensor to write into, got {type(out).__name__}")
    if tuple(out.shape) != shape or out.device != features[0].device or out.dtype not in FLOATS:
        raise ValueError(
            f"forecast: out must be a tensor {shape} of float32, float16, bfloat16 or float64 on {features[0].device}, "
            f"got {out.dtype} {tuple(out.shape)} on {out.device}"
        )
    if not torch.compiler.is_compiling():
        memory = out.untyped_storage().data_ptr()
        if memory != 0 and any(h.untyped_storage().data_ptr() == memory for h in features):
            raise ValueError("forecast: out must not share memory with a feature; give it a buffer of its own")
    if torch.is_grad_enabled() and any(t.requires_grad for t in [*features, weights, out]):
        raise ValueError("forecast: out= does not record gradients; leave it away or use torch.no_grad()")
