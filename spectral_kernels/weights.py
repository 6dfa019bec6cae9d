# SPDX-License-Identifier: Apache-2.0
"""Forecast weights: every forecaster is a row of K numbers.

Made on the host in float64, in one canonical order of scalar operations (that of `reference/forecast.py`), rounded once
to float32. For times on a GPU the Chebyshev weights are made there, with the same bits.
"""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from spectral_kernels.dispatch import forecast as ops

Steps = Sequence[float] | Tensor
Target = float | Sequence[float] | Tensor


def chebyshev_weights(
    steps: Steps,
    target: Target,
    num_steps: int,
    *,
    degree: int = 4,
    ridge: float = 0.1,
    blend: float = 0.5,
    sigmas: Sequence[float] | None = None,
) -> Tensor:
    """Weights of Spectrum's forecast: a ridge fit in Chebyshev polynomials, blended with the line through the last two.

        w = blend Phi (Phi^T Phi + ridge I)^-1 phi(target) + (1 - blend) linear
        phi(x) = [T_0(tau), ..., T_degree(tau)],  tau = 2 x / num_steps - 1,  x = the step (or its place among `sigmas`)

    Parameters
    ----------
    steps : K step indices that were evaluated, ascending, in [0, num_steps]. A float64 tensor on a GPU stays there (see
        Notes).
    target : the step to forecast, not before the last of `steps`; a sequence of G targets gives a [G, K] matrix.
    num_steps : number of steps of the run; it sets the scale of the polynomials.
    degree : highest polynomial, `degree + 1` functions.
    ridge : regularisation, `>= 0`; 0 needs at least `degree + 1` steps.
    blend : share of the fit, in [0, 1]; 1 is the paper's predictor, 0 is `linear_weights`.
    sigmas : noise levels of the run, `num_steps + 1` of them, strictly falling; then x is how far the noise level has
        come, `num_steps (s_0 - s_i) / (s_0 - s_N)`, instead of the step index.

    Returns
    -------
    float32 tensor [K] or [G, K] on the CPU (on the device of `steps` where they are there).

    Raises
    ------
    ValueError
        No steps, unsorted or duplicate steps, a target before the last step or beyond the run, num_steps < 1, degree <
        0, ridge < 0, blend outside [0, 1], or a singular system (ridge 0 with too few steps).

    Notes
    -----
    For steps on a GPU the same operations run there in the same order, and give the same bits, without a host
    synchronisation; nothing can be raised there, so bad values give weights that are NaN.

    Source: Han et al., "Adaptive Spectral Feature Forecasting for Diffusion Sampling Acceleration" (2026), equations
    8-14; the blend is the later recommendation of its authors' README (`algo.w`).
    """
    fit_options("chebyshev_weights", num_steps, degree, ridge, blend)
    if isinstance(steps, Tensor) and ops.on_device(steps):
        x, goals, single = device_times("chebyshev_weights", steps, target, sigmas)
        rows = ops.chebyshev_weights(x, goals, float(num_steps), degree, float(ridge), float(blend))
        return rows[0] if single else rows
    x, goals, single = _times("chebyshev_weights", steps, target, num_steps, sigmas)
    return _tensor(_kept(_chebyshev)(x, goals, float(num_steps), int(degree), float(ridge), float(blend)), single)


def taylor_weights(
    steps: Steps, target: Target, num_steps: int, *, order: int = 1, sigmas: Sequence[float] | None = None
) -> Tensor:
    """Weights of TaylorSeer's forecast: finite differences of the last `order + 1` features, expanded at the last one.

        sum_j D_j d^j / j!,   d = target - x_K,   D_0 = h_K,   D_{j+1}(k) = (D_j(k) - D_j(k-1)) / (x_k - x_{k-1})

    `order >= 0`; with fewer than `order + 1` steps the expansion stops at the order that history allows. The other
    parameters, the shape of the result and the errors are those of `chebyshev_weights`. Source: Liu et al., "From
    Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers" (2025).
    """
    _order("taylor_weights", order)
    x, goals, single = _times("taylor_weights", steps, target, num_steps, sigmas)
    return _tensor([_expansion(x, goal, order, None) for goal in goals], single)


def hermite_weights(
    steps: Steps,
    target: Target,
    num_steps: int,
    *,
    order: int = 2,
    scale: float = 0.5,
    sigmas: Sequence[float] | None = None,
) -> Tensor:
    """Weights of HiCache's forecast: `taylor_weights` with scaled Hermite polynomials instead of powers.

        sum_j D_j scale^j H_j(scale d) / j!,   H_0 = 1,  H_1(u) = 2 u,  H_{j+1}(u) = 2 u H_j(u) - 2 j H_{j-1}(u)

    `d` is counted in steps, so the result depends on the unit of time. `0 < scale <= 1`. The other parameters, the
    shape of the result and the errors are those of `taylor_weights`. Source: "HiCache: Training-free Acceleration of
    Diffusion Models via Hermite Polynomial-based Feature Caching" (2025).
    """
    _order("hermite_weights", order)
    if not 0 < scale <= 1:
        raise ValueError(f"hermite_weights: scale must lie in (0, 1], got {scale}; HiCache uses 0.5")
    x, goals, single = _times("hermite_weights", steps, target, num_steps, sigmas)
    return _tensor([_expansion(x, goal, order, float(scale)) for goal in goals], single)


def linear_weights(steps: Steps, target: Target, num_steps: int, *, sigmas: Sequence[float] | None = None) -> Tensor:
    """Weights of the line through the last two features:  h_K + q (h_K - h_{K-1}),  q = (target - x_K) / (x_K -
    x_{K-1}).

    One feature alone is used as it is. Parameters, result and errors as in `chebyshev_weights`.
    """
    x, goals, single = _times("linear_weights", steps, target, num_steps, sigmas)
    return _tensor([_line(x, goal) for goal in goals], single)


def reuse_weights(steps: Steps, target: Target, num_steps: int, *, sigmas: Sequence[float] | None = None) -> Tensor:
    """Weights that repeat the last feature (FORA). Parameters, result and errors as in `chebyshev_weights`."""
    x, goals, single = _times("reuse_weights", steps, target, num_steps, sigmas)
    return _tensor([tuple([0.0] * (len(x) - 1) + [1.0]) for _ in goals], single)


# ---------------------------------------------------------------- the moments form


def chebyshev_row(step: float, num_steps: int, degree: int, sigmas: Sequence[float] | None = None) -> Tensor:
    """phi(step) = [T_0, ..., T_degree] as float32: what one evaluation adds to the moments, per feature element."""
    (x,), _, _ = _times("chebyshev_row", [step], step, num_steps, sigmas)
    return torch.tensor(_basis(x, float(num_steps), degree), dtype=torch.float64, device="cpu").to(torch.float32)


def moment_weights(
    steps: Steps,
    target: Target,
    num_steps: int,
    *,
    degree: int = 4,
    ridge: float = 0.1,
    blend: float = 0.5,
    sigmas: Sequence[float] | None = None,
) -> Tensor:
    """The forecast of `chebyshev_weights` as a sum over the moments and the last two features.

        [S_0, ..., S_degree, h_{K-1}, h_K],   S = Phi^T H:     weights [blend c, (1 - blend) (-q), (1 - blend) (1 + q)]

    with c = (Phi^T Phi + ridge I)^-1 phi(target). With one step so far h_{K-1} is left out. Everything else as in
    `chebyshev_weights`.
    """
    fit_options("moment_weights", num_steps, degree, ridge, blend)
    x, goals, single = _times("moment_weights", steps, target, num_steps, sigmas)
    return _tensor(_kept(_moments)(x, goals, float(num_steps), int(degree), float(ridge), float(blend)), single)


# ---------------------------------------------------------------- canonical arithmetic (float64, one operation at a
# time)


def _basis(x: float, num_steps: float, degree: int) -> tuple[float, ...]:
    tau = 2.0 * x / num_steps - 1.0
    row = [1.0, tau]
    while len(row) <= degree:
        row.append(2.0 * tau * row[-1] - row[-2])
    return tuple(row[: degree + 1])


def _factor(x: tuple[float, ...], num_steps: float, degree: int, ridge: float) -> list[list[float]]:
    """The Cholesky factor of Phi^T Phi + ridge I."""
    size = degree + 1
    gram = [[0.0] * size for _ in range(size)]
    for row in (_basis(v, num_steps, degree) for v in x):
        for a in range(size):
            for b in range(a + 1):
                gram[a][b] = gram[a][b] + row[a] * row[b]
    lower = [[0.0] * size for _ in range(size)]
    for a in range(size):
        gram[a][a] = gram[a][a] + ridge
        for b in range(a + 1):
            rest = gram[a][b]
            for p in range(b):
                rest = rest - lower[a][p] * lower[b][p]
            if b < a:
                lower[a][b] = rest / lower[b][b]
            elif rest > size * 2.0**-52 * gram[a][a]:
                lower[a][a] = math.sqrt(rest)
            else:
                raise ValueError(
                    f"chebyshev_weights: the fit is singular: {len(x)} steps do not determine degree {degree} with "
                    f"ridge = {ridge}; "
                    "use a larger ridge, a lower degree, or more steps"
                )
    return lower


def _solve(lower: list[list[float]], right: Sequence[float]) -> list[float]:
    """Both substitutions."""
    y = list(right)
    for a in range(len(y)):
        for p in range(a):
            y[a] = y[a] - lower[a][p] * y[p]
        y[a] = y[a] / lower[a][a]
    for a in reversed(range(len(y))):
        for p in reversed(range(a + 1, len(y))):
            y[a] = y[a] - lower[p][a] * y[p]
        y[a] = y[a] / lower[a][a]
    return y


# Branches and blocks of a model ask for the same weights, and so does every further run of a schedule.
@lru_cache(maxsize=1024)
def _chebyshev(
    x: tuple[float, ...], goals: tuple[float, ...], num_steps: float, degree: int, ridge: float, blend: float
) -> list[list[float]]:
    lower = _factor(x, num_steps, degree, ridge)
    basis = [_basis(v, num_steps, degree) for v in x]
    rows = []
    for goal in goals:
        c = _solve(lower, _basis(goal, num_steps, degree))
        row = []
        for values, local in zip(basis, _line(x, goal), strict=True):
            w = 0.0
            for value, coefficient in zip(values, c, strict=True):
                w = w + value * coefficient
            row.append(blend * w + (1.0 - blend) * local)
        rows.append(row)
    return rows


@lru_cache(maxsize=1024)
def _moments(
    x: tuple[float, ...], goals: tuple[float, ...], num_steps: float, degree: int, ridge: float, blend: float
) -> list[list[float]]:
    lower = _factor(x, num_steps, degree, ridge)
    rows = []
    for goal in goals:
        c = _solve(lower, _basis(goal, num_steps, degree))
        rows.append([blend * v for v in c] + [(1.0 - blend) * v for v in _line(x, goal)[-2:]])
    return rows


def _kept(made: Any) -> Any:
    """The function with its memory; torch.compile, which can look into none, gets it without."""
    return made.__wrapped__ if torch.compiler.is_compiling() else made


def _line(x: Sequence[float], goal: float) -> list[float]:
    row = [0.0] * len(x)
    row[-1] = 1.0
    if len(x) > 1:
        q = (goal - x[-1]) / (x[-1] - x[-2])
        row[-1], row[-2] = 1.0 + q, -q
    return row


def _expansion(x: Sequence[float], goal: float, order: int, scale: float | None) -> list[float]:
    """Taylor (scale None: powers of d) or scaled Hermite expansion at the last step."""
    derivatives: list[list[float]] = []
    for k in range(len(x)):
        rows = [[1.0 if i == k else 0.0 for i in range(len(x))]]
        for j in range(min(order, len(derivatives))):
            gap = x[k] - x[k - 1]
            rows.append([(a - b) / gap for a, b in zip(rows[j], derivatives[j], strict=True)])
        derivatives = rows
    distance = goal - x[-1]
    u = distance if scale is None else scale * distance
    weights, power, hermite = [0.0] * len(x), 1.0, [1.0, 2.0 * u]
    for j, row in enumerate(derivatives):
        if j > 0:
            power = power * (distance if scale is None else scale)
        if j > 1:
            hermite.append(2.0 * u * hermite[-1] - 2.0 * (j - 1) * hermite[-2])
        factor = (power if scale is None else power * hermite[j]) / float(math.factorial(j))
        weights = [w + factor * r for w, r in zip(weights, row, strict=True)]
    return weights


# ---------------------------------------------------------------- what was given


def positions(steps: Sequence[float], num_steps: int, sigmas: Sequence[float] | None = None) -> tuple[float, ...]:
    """Where steps lie on the axis of the fit: what `chebyshev_weights` takes for times on the device."""
    return _times("positions", steps, steps[-1], num_steps, sigmas)[0]


def _tensor(rows: Sequence[Sequence[float]], single: bool) -> Tensor:
    """Rounded once: from the float64 scalars to float32."""
    return torch.tensor(rows[0] if single else rows, dtype=torch.float64, device="cpu").to(torch.float32)


def _times(
    op: str, steps: Steps, target: Target, num_steps: int, sigmas: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """Positions of the steps and of the targets on the axis of the fit, and whether one target was asked for."""
    if num_steps < 1:
        raise ValueError(f"{op}: num_steps must be at least 1, got {num_steps}")
    steps = steps.tolist() if isinstance(steps, Tensor) else list(steps)
    wanted: Any = target.tolist() if isinstance(target, Tensor) else target
    single = isinstance(wanted, Real)
    goals: list[Any] = [wanted] if single else list(wanted)
    if not steps:
        raise ValueError(f"{op}: no steps were evaluated yet; a forecast needs at least one feature")
    if not goals:
        raise ValueError(f"{op}: no target was given")
    if any(not a < b for a, b in itertools.pairwise(steps)):
        raise ValueError(f"{op}: steps must ascend without duplicates, got {steps}")
    if not 0 <= steps[0] <= steps[-1] <= num_steps:
        raise ValueError(f"{op}: steps must lie in [0, {num_steps}] (num_steps = {num_steps}), got {steps}")
    for goal in goals:
        if not steps[-1] <= goal <= num_steps:
            raise ValueError(
                f"{op}: a target must not lie before the last evaluated step {steps[-1]} nor beyond num_steps = "
                f"{num_steps}, got {goal}"
            )
    if sigmas is None:
        return tuple(float(i) for i in steps), tuple(float(i) for i in goals), single
    levels = [float(s) for s in (sigmas.tolist() if isinstance(sigmas, Tensor) else sigmas)]
    if len(levels) != num_steps + 1 or any(not a > b for a, b in itertools.pairwise(levels)):
        raise ValueError(
            f"{op}: sigmas must be num_steps + 1 = {num_steps + 1} strictly falling noise levels (the last one ends "
            f"the run), got {levels}"
        )
    if any(i != int(i) for i in [*steps, *goals]):
        raise ValueError(f"{op}: with sigmas, steps and targets must be whole step indices, got {steps} and {goals}")
    span = levels[0] - levels[-1]
    x, y = ([float(num_steps) * (levels[0] - levels[int(i)]) / span for i in v] for v in (steps, goals))
    return tuple(x), tuple(y), single


def device_times(op: str, steps: Tensor, target: Target, sigmas: Sequence[float] | None) -> tuple[Tensor, Tensor, bool]:
    if sigmas is not None:
        raise ValueError(
            f"{op}: steps on the device are positions already; map sigmas there first, or pass steps from the host"
        )
    if steps.ndim != 1 or steps.numel() == 0:
        raise ValueError(f"{op}: steps must be a tensor [K] with K >= 1, got shape {tuple(steps.shape)}")
    goals = target if isinstance(target, Tensor) else torch.tensor(target, dtype=torch.float64, device=steps.device)
    if goals.ndim > 1 or goals.numel() == 0 or goals.device != steps.device:
        raise ValueError(
            f"{op}: target must be one number or a tensor [G] on {steps.device}, got shape {tuple(goals.shape)} on "
            f"{goals.device}"
        )
    return steps.to(torch.float64), goals.to(torch.float64).reshape(-1), goals.ndim == 0


def fit_options(op: str, num_steps: int, degree: int, ridge: float, blend: float) -> None:
    if num_steps < 1:
        raise ValueError(f"{op}: num_steps must be at least 1, got {num_steps}")
    if degree < 0 or degree != int(degree):
        raise ValueError(f"{op}: degree must be a whole number >= 0, got {degree}")
    if not 0 <= ridge < math.inf:
        raise ValueError(f"{op}: ridge must be >= 0 and finite, got {ridge}; the paper uses 0.1")
    if not 0 <= blend <= 1:
        raise ValueError(f"{op}: blend must lie in [0, 1], got {blend}; 1 is the fit alone, 0 the line alone")


def _order(op: str, order: int) -> None:
    if order < 0 or order != int(order):
        raise ValueError(f"{op}: order must be a whole number >= 0, got {order}")
