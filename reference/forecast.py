# SPDX-License-Identifier: Apache-2.0
"""Feature forecasting: the definition, in NumPy and plain Python floats.

A diffusion model was evaluated at some steps of a run; `features` are what its last block gave there, oldest first. The
feature at a later step is forecast as a weighted sum of them. Everything is in two parts:

* **weights**: a handful of float64 scalars, made by the operations below in the order below, then rounded once to
  float32. A Python float is an IEEE double and CPython never contracts `a * b + c`, so the text is the specification.
* **sum**: per element, in float32, `acc = w[0] h[0]`, then `acc = acc + w[k] h[k]` for ascending k, product and sum
  rounded apart; the result is rounded to nearest even in the output dtype. A NaN is the quiet one, 0x7FC00000, cut to
  half types.

Half types travel as float32 arrays here (every half value is a float32 value); `round_to` rounds to them and returns
bits.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

QUIET_NAN = np.array(0x7FC00000, dtype=np.uint32).view(np.float32)


# ---------------------------------------------------------------- times


def positions(steps: Sequence[float], num_steps: int, sigmas: Sequence[float] | None = None) -> list[float]:
    """Where a step lies on the axis of the fit, from 0 (first step) to `num_steps` (the end of the run).

    The step index itself, or, when the noise levels `sigmas[0..num_steps]` of the run are given, how far the noise
    level has come:  x = N (s_0 - s_i) / (s_0 - s_N).
    """
    if sigmas is None:
        return [float(i) for i in steps]
    first, last = float(sigmas[0]), float(sigmas[-1])
    return [float(num_steps) * (first - float(sigmas[int(i)])) / (first - last) for i in steps]


def chebyshev_row(position: float, num_steps: int, degree: int) -> list[float]:
    """T_0 .. T_M at tau = 2 x / N - 1:  T_0 = 1,  T_1 = tau,  T_m = 2 tau T_{m-1} - T_{m-2}."""
    tau = 2.0 * position / float(num_steps) - 1.0
    row = [1.0, tau]
    while len(row) <= degree:
        row.append(2.0 * tau * row[-1] - row[-2])
    return row[: degree + 1]


# ---------------------------------------------------------------- weights


def ridge_coefficients(rows: Sequence[Sequence[float]], target: Sequence[float], ridge: float) -> list[float]:
    """c = (Phi^T Phi + ridge I)^-1 phi(target), by Cholesky and two substitutions.

    A pivot not above `P 2^-52` times its diagonal entry means that the system is singular: `ValueError`.
    """
    size = len(target)
    gram = [[0.0] * size for _ in range(size)]
    for row in rows:
        for a in range(size):
            for b in range(a + 1):
                gram[a][b] = gram[a][b] + row[a] * row[b]
    for a in range(size):
        gram[a][a] = gram[a][a] + ridge
    lower = [[0.0] * size for _ in range(size)]
    for a in range(size):
        for b in range(a + 1):
            rest = gram[a][b]
            for p in range(b):
                rest = rest - lower[a][p] * lower[b][p]
            if a == b:
                if not rest > size * 2.0**-52 * gram[a][a]:
                    raise ValueError(f"the normal equations are singular at pivot {a} ({rest})")
                lower[a][a] = math.sqrt(rest)
            else:
                lower[a][b] = rest / lower[b][b]
    y = list(target)
    for a in range(size):
        for p in range(a):
            y[a] = y[a] - lower[a][p] * y[p]
        y[a] = y[a] / lower[a][a]
    for a in reversed(range(size)):
        for p in reversed(range(a + 1, size)):
            y[a] = y[a] - lower[p][a] * y[p]
        y[a] = y[a] / lower[a][a]
    return y


def linear_row(x: Sequence[float], target: float) -> list[float]:
    """The line through the last two:  h_K + q (h_K - h_{K-1}),  q = (x* - x_K) / (x_K - x_{K-1}); one feature:
    itself."""
    row = [0.0] * len(x)
    row[-1] = 1.0
    if len(x) > 1:
        q = (target - x[-1]) / (x[-1] - x[-2])
        row[-1] = 1.0 + q
        row[-2] = -q
    return row


def chebyshev_weights(
    steps: Sequence[float],
    target: float,
    num_steps: int,
    degree: int = 4,
    ridge: float = 0.1,
    blend: float = 0.5,
    sigmas: Sequence[float] | None = None,
) -> Array:
    """w = b Phi (Phi^T Phi + ridge I)^-1 phi(x*) + (1 - b) linear, rounded to float32."""
    x = positions(steps, num_steps, sigmas)
    (goal,) = positions([target], num_steps, sigmas)
    rows = [chebyshev_row(v, num_steps, degree) for v in x]
    c = ridge_coefficients(rows, chebyshev_row(goal, num_steps, degree), ridge)
    line = linear_row(x, goal)
    weights: list[float] = []
    for row, local in zip(rows, line, strict=True):
        w = 0.0
        for value, coefficient in zip(row, c, strict=True):
            w = w + value * coefficient
        weights.append(blend * w + (1.0 - blend) * local)
    return np.array(weights, dtype=np.float64).astype(np.float32)


def moment_weights(
    steps: Sequence[float],
    target: float,
    num_steps: int,
    degree: int = 4,
    ridge: float = 0.1,
    blend: float = 0.5,
    sigmas: Sequence[float] | None = None,
) -> Array:
    """The same forecast as a sum over [S_0 .. S_M, h_{K-1}, h_K]:  [b c, (1 - b) times the line's last two weights].

    S = Phi^T H, so b phi(x*) C = b c . S. With one feature h_{K-1} is absent.
    """
    x = positions(steps, num_steps, sigmas)
    (goal,) = positions([target], num_steps, sigmas)
    rows = [chebyshev_row(v, num_steps, degree) for v in x]
    c = ridge_coefficients(rows, chebyshev_row(goal, num_steps, degree), ridge)
    line = linear_row(x, goal)[-2:]
    return np.array([blend * v for v in c] + [(1.0 - blend) * v for v in line], dtype=np.float64).astype(np.float32)


def derivative_rows(x: Sequence[float], order: int) -> list[list[float]]:
    """TaylorSeer's derivatives at the last evaluation, as weight rows: D_0 = h_K, and at each evaluation k

    D_{j+1}(k) = (D_j(k) - D_j(k-1)) / (x_k - x_{k-1})        as far as history reaches
    """
    previous: list[list[float]] = []
    for k in range(len(x)):
        current = [[1.0 if i == k else 0.0 for i in range(len(x))]]
        for j in range(min(order, len(previous))):
            gap = x[k] - x[k - 1]
            current.append([(a - b) / gap for a, b in zip(current[j], previous[j], strict=True)])
        previous = current
    return previous


def taylor_weights(
    steps: Sequence[float], target: float, num_steps: int, order: int = 1, sigmas: Sequence[float] | None = None
) -> Array:
    """sum_j D_j d^j / j!,  d = x* - x_K; powers by repeated product, ascending j."""
    x = positions(steps, num_steps, sigmas)
    (goal,) = positions([target], num_steps, sigmas)
    distance = goal - x[-1]
    weights, power = [0.0] * len(x), 1.0
    for j, row in enumerate(derivative_rows(x, order)):
        if j > 0:
            power = power * distance
        factor = power / float(math.factorial(j))
        weights = [w + factor * r for w, r in zip(weights, row, strict=True)]
    return np.array(weights, dtype=np.float64).astype(np.float32)


def hermite_weights(
    steps: Sequence[float],
    target: float,
    num_steps: int,
    order: int = 2,
    scale: float = 0.5,
    sigmas: Sequence[float] | None = None,
) -> Array:
    """HiCache: d^j of Taylor becomes scale^j H_j(scale d);  H_{j+1}(u) = 2 u H_j(u) - 2 j H_{j-1}(u)."""
    x = positions(steps, num_steps, sigmas)
    (goal,) = positions([target], num_steps, sigmas)
    u = scale * (goal - x[-1])
    weights, power = [0.0] * len(x), 1.0
    hermite = [1.0, 2.0 * u]
    for j, row in enumerate(derivative_rows(x, order)):
        if j > 0:
            power = power * scale
        if j > 1:
            hermite.append(2.0 * u * hermite[-1] - 2.0 * (j - 1) * hermite[-2])
        factor = power * hermite[j] / float(math.factorial(j))
        weights = [w + factor * r for w, r in zip(weights, row, strict=True)]
    return np.array(weights, dtype=np.float64).astype(np.float32)


def reuse_weights(
    steps: Sequence[float], target: float, num_steps: int, sigmas: Sequence[float] | None = None
) -> Array:
    """The last feature again."""
    return np.array([0.0] * (len(steps) - 1) + [1.0], dtype=np.float32)


def linear_weights(
    steps: Sequence[float], target: float, num_steps: int, sigmas: Sequence[float] | None = None
) -> Array:
    """The line through the last two features."""
    x = positions(steps, num_steps, sigmas)
    (goal,) = positions([target], num_steps, sigmas)
    return np.array(linear_row(x, goal), dtype=np.float64).astype(np.float32)


# ---------------------------------------------------------------- sums


def round_to(value: Array, dtype: str) -> Array:
    """float32 to "float32", "float16" or "bfloat16", nearest even; bfloat16 is returned as uint16 bits."""
    nan = np.isnan(value)
    if dtype == "bfloat16":
        bits = np.array(value, dtype=np.float32).view(np.uint32).astype(np.uint64)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return np.where(nan, 0x7FC0, bits).astype(np.uint16)
    with np.errstate(over="ignore"):
        result = value.astype(dtype)
    quiet = {"float32": QUIET_NAN, "float16": np.array(0x7E00, np.uint16).view(np.float16)}[dtype]
    return np.where(nan, quiet, result)


def forecast(features: Sequence[Array], weights: Array, dtype: str = "float32") -> Array:
    """sum_k w[k] h[k] per element; `weights` [K] gives one output, [G, K] gives [G, ...]."""
    if weights.ndim == 2:
        return np.stack([forecast(features, row, dtype) for row in weights])
    weights = weights.astype(np.float32)
    with np.errstate(all="ignore"):
        total = weights[0] * features[0].astype(np.float32)
        for w, h in zip(weights[1:], features[1:], strict=True):
            total = total + w * h.astype(np.float32)
    return round_to(total, dtype)


def update_moments(moments: Array, feature: Array, row: Sequence[float]) -> Array:
    """S_m + phi_m h for every m, phi rounded to float32, product and sum rounded apart."""
    out = moments.copy()
    with np.errstate(all="ignore"):
        for m, value in enumerate(np.array(row, dtype=np.float64).astype(np.float32)):
            out[m] = moments[m] + value * feature.astype(np.float32)
    out[np.isnan(out)] = QUIET_NAN
    return out


# ---------------------------------------------------------------- schedule


def evaluation_steps(num_steps: int, window: float = 2, warmup: int = 5, flex: float = 0.75) -> list[int]:
    """The evaluated steps: the warm-up, then a step when (skipped in a row + 1) is a multiple of floor(window);
    after each of those the window grows by flex (kept to three decimals)."""
    steps: list[int] = []
    skipped = 0
    for step in range(num_steps):
        if step < warmup:
            steps.append(step)
        elif (skipped + 1) % math.floor(window) == 0:
            steps.append(step)
            skipped, window = 0, round(window + flex, 3)
        else:
            skipped += 1
    return steps


# ---------------------------------------------------------------- features in one byte


def encode(feature: Array, encoding: str) -> tuple[Array, Array]:
    """32 neighbours share a power of two 2^s; each is an int8 or a float8 e4m3 on that grid. -> (decoded codes, bytes s
    + 127)

    s brings the largest magnitude m of the 32 into [64, 128) for int8 and [128, 256) for float8: with m = f 2^e, f in
    [1/2, 1), s = e - 7 or e - 8, at least -126. code = x 2^-s, rounded to nearest even, int8 clamped to 127. A block
    that is not finite: byte 255, codes 0. Codes are returned as float32 values.
    """
    flat = feature.astype(np.float32).reshape(-1)
    codes, bytes_ = np.zeros_like(flat), np.zeros(-(-flat.size // 32), dtype=np.uint8)
    for b in range(bytes_.size):
        block = flat[32 * b : 32 * b + 32]
        top = np.abs(block).max()
        if not np.isfinite(top):
            bytes_[b] = 255
            continue
        # frexp counts subnormals down to -148; the byte ends at 1, which a block of zeros takes too.
        s = max(int(np.frexp(top)[1]) - {"int8": 7, "float8": 8}[encoding], -126) if top > 0 else -126
        bytes_[b] = s + 127
        scaled = np.ldexp(block.astype(np.float64), -s)
        if encoding == "int8":
            codes[32 * b : 32 * b + 32] = np.clip(np.rint(scaled), -127, 127)
        else:
            # Three bits after the leading one; below 2^-6 the grid of the smallest normals, 2^-9.
            grid = np.ldexp(1.0, np.maximum(np.frexp(scaled)[1] - 1, -6) - 3)
            codes[32 * b : 32 * b + 32] = np.rint(scaled / grid) * grid
    return codes, bytes_


def decode(codes: Array, bytes_: Array) -> Array:
    """code * 2^(byte - 127), exact in float32; byte 255 is NaN."""
    scale = (bytes_.astype(np.uint32) << 23).view(np.float32)
    with np.errstate(all="ignore"):
        return codes * np.repeat(scale, 32)[: codes.size]
