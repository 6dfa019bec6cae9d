# SPDX-License-Identifier: Apache-2.0
"""What others compute for a forecast, and what they keep in memory, written from their descriptions.

`official` is Spectrum's own form: times, coefficients and products in bfloat16 around float32 normal equations, fitted
anew after each evaluation. `sglang` keeps float32 features and rounds coefficients to the feature's dtype. The chains
are what one writes by hand.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def basis(tau: Tensor, degree: int) -> Tensor:
    """[K, degree + 1] Chebyshev polynomials, in tau's dtype."""
    columns = [torch.ones_like(tau), tau]
    while len(columns) <= degree:
        columns.append(2 * tau * columns[-1] - columns[-2])
    return torch.stack(columns[: degree + 1], dim=1)


def fit(history: Tensor, times: Tensor, num_steps: int, degree: int, ridge: float, dtype: torch.dtype) -> Tensor:
    """Coefficients [degree + 1, F] of the ridge fit to history [K, F], solved in float32, kept in `dtype`."""
    phi = basis(times * 2 / num_steps - 1, degree).float()
    gram = phi.T @ phi + ridge * torch.eye(degree + 1, device=phi.device)
    return torch.cholesky_solve(phi.T @ history.float(), torch.linalg.cholesky(gram)).to(dtype)


def predict(
    history: Tensor, times: Tensor, coefficients: Tensor, target: float, num_steps: int, blend: float
) -> Tensor:
    """blend times the fit plus (1 - blend) times the line through the last two rows, in the history's dtype."""
    goal = torch.tensor([target], dtype=times.dtype, device=times.device)
    phi = basis(goal * 2 / num_steps - 1, len(coefficients) - 1).to(coefficients.dtype)
    fitted = (phi @ coefficients)[0]
    k = ((goal - times[-1]) / (times[-1] - times[-2])).to(history.dtype)
    line = history[-1] + k * (history[-1] - history[-2])
    return (1 - blend) * line + blend * fitted


def official(
    history: Tensor, steps: Sequence[int], target: float, num_steps: int, degree=4, ridge=0.1, blend=0.5
) -> Tensor:
    """Fit, prediction and blend, as after an evaluation; history bfloat16 [K, F]."""
    times = torch.tensor(steps, dtype=torch.bfloat16, device=history.device)
    coefficients = fit(history, times, num_steps, degree, ridge, torch.bfloat16)
    return predict(history, times, coefficients, target, num_steps, blend)


def sglang(
    ring: Tensor,
    dtype: torch.dtype,
    steps: Sequence[int],
    target: float,
    num_steps: int,
    degree=4,
    ridge=0.1,
    blend=0.5,
) -> Tensor:
    """The same on a float32 ring [K, F] with coefficients in the feature's dtype."""
    times = torch.tensor(steps, dtype=torch.float32, device=ring.device)
    coefficients = fit(ring, times, num_steps, degree, ridge, dtype)
    goal = torch.tensor([target], device=ring.device) * 2 / num_steps - 1
    fitted = (basis(goal, degree).to(dtype) @ coefficients)[0]
    k = (target - steps[-1]) / (steps[-1] - steps[-2])
    line = (ring[-1] + k * (ring[-1] - ring[-2])).to(dtype)
    return torch.lerp(line, fitted, blend)


def chain(features: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """acc = acc + w h in float32, one product and one sum at a time."""
    acc = weights[0] * features[0].float()
    for w, h in zip(weights[1:], features[1:], strict=True):
        acc = acc + w * h.float()
    return acc.to(features[-1].dtype)


def chain_in_place(features: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The same without new accumulators: what a careful author writes."""
    acc = features[0].float().mul_(weights[0]) if features[0].dtype != torch.float32 else features[0] * weights[0]
    for w, h in zip(weights[1:], features[1:], strict=True):
        acc.add_(h.float(), alpha=w)
    return acc.to(features[-1].dtype)


def chain_in_dtype(features: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum in the features' own dtype: rounds after every product and sum."""
    acc = weights[0] * features[0]
    for w, h in zip(weights[1:], features[1:], strict=True):
        acc = acc + w * h
    return acc


def stacked(features: Sequence[Tensor], weights: Tensor) -> Tensor:
    """One matrix product after stacking: copies the whole history first."""
    history = torch.stack([h.reshape(-1) for h in features])
    rows = weights if weights.ndim == 2 else weights[None]
    result = (rows.to(history.dtype) @ history).view(*weights.shape[:-1], *features[0].shape)
    return result


# ---------------------------------------------------------------- memory

# Bytes per feature element after K evaluations; half types have 2.
BYTES = {
    # float32 ring of 100 allocated at once, coefficients in the feature's dtype
    "sglang, ring of 100": lambda k: 100 * 4 + 5 * 2,
    # history in the feature's dtype and coefficients; the float32 copy of the history during a fit is not counted
    "official": lambda k: 2 * k + 5 * 2,
    # order 1: two factors
    "TaylorSeer, last block only": lambda k: 2 * 2,
}
