# SPDX-License-Identifier: Apache-2.0
"""The custom ops of forecasting: weighted sum, weights on the device, both in one launch, and the moments update.

Layout is settled here. Features whose strides agree and are dense are read as flat memory in place; others are copied
to the layout of the output first. Encoded features are flat codes with one power-of-two exponent per 32 (see
`history.py`).
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from spectral_kernels.dispatch import _forced, choose
from spectral_kernels.dispatch.operator import operator

# Elements per block of the PyTorch backend. Accumulator and term (256 KiB) stay in a core's second-level cache, and
# PyTorch runs a call on fewer than 32768 elements in the calling thread: no barrier between threads after every product
# and sum, of which one forecast has a thousand. A multiple of 32, the elements that share an exponent.
BLOCK = 32736

# Threads of the PyTorch backend: each call holds Python's lock for a quarter of its time, so more of them would wait.
WORKERS = 4

NAN = math.nan


def on_device(times: Tensor) -> bool:
    """Whether weights for these times are made where the times are, instead of on the host."""
    return times.device.type != "cpu" or _forced.get() == "triton"


def wide(features: Sequence[Tensor]) -> bool:
    """Whether the sum is taken in float64."""
    return torch.float64 in {h.dtype for h in features}


# ---------------------------------------------------------------- weighted sum


@operator("forecast")
def forecast(features: Sequence[Tensor], exponents: Sequence[Tensor], weights: Tensor, dtype: torch.dtype) -> Tensor:
    """sum_k weights[g, k] features[k] for each g -> [G, *shape] in `dtype`."""
    out = _empty_output(features[-1], weights.shape[0], dtype)
    _into(features, exponents, weights, out)
    return out


@forecast.register_fake
def _(features: Sequence[Tensor], exponents: Sequence[Tensor], weights: Tensor, dtype: torch.dtype) -> Tensor:
    return _empty_output(features[-1], weights.shape[0], dtype)


@operator("forecast_out", mutates=("out",))
def forecast_out(features: Sequence[Tensor], exponents: Sequence[Tensor], weights: Tensor, out: Tensor) -> None:
    """`forecast` into a given tensor [G, *shape] of any strides."""
    likely = _empty_output(features[-1], weights.shape[0], out.dtype, device="meta")
    if out.stride() == likely.stride():
        _into(features, exponents, weights, out)
    else:
        out.copy_(forecast(features, exponents, weights, out.dtype))


@forecast_out.register_fake
def _(features: Sequence[Tensor], exponents: Sequence[Tensor], weights: Tensor, out: Tensor) -> None:
    return None


def _setup(ctx, inputs, output) -> None:
    features, exponents, weights, _ = inputs
    if exponents:
        raise RuntimeError(
            "forecast: encoded features carry no gradient; keep the history in the features' own dtype to train "
            "through it"
        )
    ctx.needs_weights = weights.requires_grad
    ctx.dtypes = [h.dtype for h in features]
    ctx.save_for_backward(weights, *(features if weights.requires_grad else []))


def _backward(ctx, grad: Tensor):
    """The adjoint: feature k gets sum_g w[g, k] grad[g], the same op again; weight (g, k) gets <grad[g], h_k> in
    float64."""
    weights, *features = ctx.saved_tensors
    grads = list(grad.unbind(0))
    by_feature = [
        forecast(grads, [], weights[:, k][None].contiguous(), dtype)[0] if needed else None
        for k, (dtype, needed) in enumerate(zip(ctx.dtypes, _needed(ctx), strict=True))
    ]
    by_weight = None
    if ctx.needs_weights:
        by_weight = torch.stack([torch.stack([(g.double() * h.double()).sum() for h in features]) for g in grads])
        by_weight = by_weight.to(weights.device, weights.dtype)
    return by_feature, [], by_weight, None


def _needed(ctx) -> list[bool]:
    flags = ctx.needs_input_grad[0]
    return list(flags) if isinstance(flags, list | tuple) else [bool(flags)] * len(ctx.dtypes)


forecast.register_autograd(_backward, setup_context=_setup)


def _into(features: Sequence[Tensor], exponents: Sequence[Tensor], weights: Tensor, out: Tensor) -> None:
    """Run one backend over flat memory."""
    if out.numel() == 0:
        return
    tables = _laid_out(features)
    size = tables[-1].numel()
    result = out.as_strided((weights.shape[0], size), (size, 1))
    name = choose(out)
    if name == "triton":
        from spectral_kernels.kernels import forecast as kernels

        kernels.forecast(tables, exponents, weights, result)
    elif name == "native" and not exponents and not wide(features):
        from spectral_kernels.dispatch import native

        native.forecast([h if h.is_contiguous() else _flat(h) for h in tables], weights, result)
    else:
        _torch_forecast([_flat(h) for h in tables], exponents, weights, result)


def _torch_forecast(features: list[Tensor], exponents: Sequence[Tensor], weights: Tensor, out: Tensor) -> None:
    """Block by block, so that the accumulator stays in cache; product and sum are two torch calls, hence two
    roundings."""
    device = out.device
    kind = torch.float64 if wide(features) else torch.float32
    rows = weights.to(kind).tolist() if weights.device.type == "cpu" else [row.unbind(0) for row in weights.to(kind)]

    def work(begin: int, end: int, block: int) -> None:
        total, term = (torch.empty(min(block, end - begin), dtype=kind, device=device) for _ in range(2))
        for start in range(begin, end, block):
            stop = min(end, start + block)
            acc, product = total[: stop - start], term[: stop - start]
            for row, result in zip(rows, out, strict=True):
                for k, (w, h) in enumerate(zip(row, features, strict=True)):
                    into = product if k else acc
                    if exponents:
                        _decode(h[start:stop], exponents[k][start // 32 : -(-stop // 32)], into)
                        into.mul_(w)
                    elif h.dtype == kind:
                        torch.mul(h[start:stop], w, out=into)
                    else:
                        into.copy_(h[start:stop]).mul_(w)
                    if k:
                        acc.add_(product)
                _round_into(acc, result[start:stop])

    _shared_out(work, out.shape[1], device)


def _round_into(acc: Tensor, result: Tensor) -> None:
    """Rounded to the result's dtype, NaN with the one bit pattern that every backend writes."""
    if result is not acc:
        result.copy_(acc)
    # A sum shows whether there is a NaN, at the price of one pass over the cache; on a GPU looking would synchronise.
    if acc.device.type != "cpu" or math.isnan(acc.sum().item()):
        result.masked_fill_(acc.isnan(), NAN)


def _shared_out(work: Callable[[int, int, int], None], size: int, device: torch.device) -> None:
    """work(begin, end, block) over all elements, by several threads where that is worth it."""
    if device.type != "cpu":
        work(0, size, 1 << 24)
        return
    blocks = -(-size // BLOCK)
    workers = min(torch.get_num_threads(), WORKERS, blocks // 8)
    if workers < 2:
        work(0, size, BLOCK)
        return
    share = -(-blocks // workers) * BLOCK

    def quietly(begin: int) -> None:
        # What keeps autograd away is a property of the calling thread.
        with torch.inference_mode():
            work(begin, min(size, begin + share), BLOCK)

    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(quietly, begin) for begin in range(0, size, share)]:
            done.result()


def _decode(codes: Tensor, exponents: Tensor, out: Tensor) -> None:
    """Codes times their block's power of two, exact. Byte 255 is infinity, its codes are 0: the block is NaN."""
    scale = (exponents.to(torch.int32) << 23).view(torch.float32)
    out.copy_(codes)
    whole = out.numel() // 32 * 32
    if whole:
        out[:whole].view(-1, 32).mul_(scale[: whole // 32, None])
    if whole < out.numel():
        out[whole:].mul_(scale[-1])


def _empty_output(newest: Tensor, count: int, dtype: torch.dtype, device: str | None = None) -> Tensor:
    """[G, *shape], each forecast laid out like the newest feature (contiguous where that is not dense)."""
    if newest.is_contiguous() or not _dense(newest):
        return torch.empty((count, *newest.shape), dtype=dtype, device=device or newest.device)
    strides = (newest.numel(), *newest.stride())
    return torch.empty_strided((count, *newest.shape), strides, dtype=dtype, device=device or newest.device)


def _laid_out(features: Sequence[Tensor]) -> list[Tensor]:
    """The features in the memory order of the output: themselves where they have it, else copies."""
    newest = features[-1]
    strides = newest.stride()
    # Contiguous says more than equal strides: those of a dimension of size 1 mean nothing, and slices of tokens have
    # odd ones.
    if newest.is_contiguous() or not _dense(newest):
        return [h.contiguous() for h in features]
    if all(h.stride() == strides for h in features):
        return list(features)
    return [
        h if h.stride() == strides else torch.empty_strided(h.shape, strides, dtype=h.dtype, device=h.device).copy_(h)
        for h in features
    ]


def _flat(dense: Tensor) -> Tensor:
    return dense.view(-1) if dense.is_contiguous() else dense.as_strided((dense.numel(),), (1,))


def _dense(tensor: Tensor) -> bool:
    """Whether the elements fill one run of memory, in any order of dimensions."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


# ---------------------------------------------------------------- times on the device


@operator("chebyshev_weights")
def chebyshev_weights(
    positions: Tensor, targets: Tensor, num_steps: float, degree: int, ridge: float, blend: float
) -> Tensor:
    """float64 positions [K] and targets [G] on one device -> float32 weights [G, K] there."""
    out = torch.empty(targets.shape[0], positions.shape[0], dtype=torch.float32, device=positions.device)
    if choose(positions) == "triton":
        from spectral_kernels.kernels import forecast as kernels

        kernels.chebyshev_weights(positions, targets, num_steps, degree, ridge, blend, out)
    else:
        _torch_weights(positions, targets, num_steps, degree, ridge, blend, out)
    return out


@chebyshev_weights.register_fake
def _(positions: Tensor, targets: Tensor, num_steps: float, degree: int, ridge: float, blend: float) -> Tensor:
    return torch.empty(targets.shape[0], positions.shape[0], dtype=torch.float32, device=positions.device)


@operator("chebyshev_forecast")
def chebyshev_forecast(
    features: Sequence[Tensor],
    positions: Tensor,
    targets: Tensor,
    num_steps: float,
    degree: int,
    ridge: float,
    blend: float,
    dtype: torch.dtype,
) -> Tensor:
    """`forecast` with `chebyshev_weights` made in the same launch -> [G, *shape] in `dtype`."""
    out = _empty_output(features[-1], targets.shape[0], dtype)
    if out.numel() and choose(out) == "triton" and not wide(features):
        from spectral_kernels.kernels import forecast as kernels

        tables = _laid_out(features)
        result = out.as_strided((targets.shape[0], tables[-1].numel()), (tables[-1].numel(), 1))
        kernels.chebyshev_forecast(tables, positions, targets, num_steps, degree, ridge, blend, result)
    else:
        _into(features, [], chebyshev_weights(positions, targets, num_steps, degree, ridge, blend), out)
    return out


@chebyshev_forecast.register_fake
def _(
    features: Sequence[Tensor],
    positions: Tensor,
    targets: Tensor,
    num_steps: float,
    degree: int,
    ridge: float,
    blend: float,
    dtype: torch.dtype,
) -> Tensor:
    return _empty_output(features[-1], targets.shape[0], dtype)


def _torch_weights(
    x: Tensor, targets: Tensor, num_steps: float, degree: int, ridge: float, blend: float, out: Tensor
) -> None:
    """The canonical operations on 0-dim float64 tensors, so that nothing leaves the device; a singular system gives
    NaN."""
    size, count = degree + 1, x.shape[0]

    def basis(position: Tensor) -> list[Tensor]:
        tau = 2.0 * position / num_steps - 1.0
        row = [torch.ones_like(tau), tau]
        while len(row) <= degree:
            row.append(2.0 * tau * row[-1] - row[-2])
        return row[:size]

    rows = [basis(v) for v in x.unbind(0)]
    gram = [[torch.zeros_like(x[0]) for _ in range(size)] for _ in range(size)]
    for row in rows:
        for a in range(size):
            for b in range(a + 1):
                gram[a][b] = gram[a][b] + row[a] * row[b]
    lower = [[torch.zeros_like(x[0]) for _ in range(size)] for _ in range(size)]
    for a in range(size):
        gram[a][a] = gram[a][a] + ridge
        for b in range(a + 1):
            rest = gram[a][b]
            for p in range(b):
                rest = rest - lower[a][p] * lower[b][p]
            if b < a:
                lower[a][b] = rest / lower[b][b]
            else:
                lower[a][a] = torch.where(rest > size * 2.0**-52 * gram[a][a], rest, NAN).sqrt()
    for g, goal in enumerate(targets.unbind(0)):
        y = basis(goal)
        for a in range(size):
            for p in range(a):
                y[a] = y[a] - lower[a][p] * y[p]
            y[a] = y[a] / lower[a][a]
        for a in reversed(range(size)):
            for p in reversed(range(a + 1, size)):
                y[a] = y[a] - lower[p][a] * y[p]
            y[a] = y[a] / lower[a][a]
        line = [torch.zeros_like(goal) for _ in range(count - 1)] + [torch.ones_like(goal)]
        if count > 1:
            q = (goal - x[-1]) / (x[-1] - x[-2])
            line[-1], line[-2] = 1.0 + q, -q
        for k, row in enumerate(rows):
            w = torch.zeros_like(goal)
            for value, coefficient in zip(row, y, strict=True):
                w = w + value * coefficient
            out[g, k] = blend * w + (1.0 - blend) * line[k]


# ---------------------------------------------------------------- moments


@operator("update_moments", mutates=("moments",))
def update_moments(moments: Tensor, feature: Tensor, row: Tensor) -> None:
    """moments[m] += row[m] * feature in float32, product and sum rounded apart; moments [P, F], feature [F], row
    [P]."""
    if moments.numel() == 0:
        return
    name = choose(moments)
    if name == "triton":
        from spectral_kernels.kernels import forecast as kernels

        kernels.update_moments(moments, feature, row)
        return
    if name == "native" and feature.dtype != torch.float64 and moments.is_contiguous() and feature.is_contiguous():
        from spectral_kernels.dispatch import native

        native.update_moments(moments, feature, row)
        return
    factors = row.tolist() if row.device.type == "cpu" else row.unbind(0)

    def work(begin: int, end: int, block: int) -> None:
        values, product = (
            torch.empty(min(block, end - begin), dtype=torch.float32, device=moments.device) for _ in range(2)
        )
        for start in range(begin, end, block):
            stop = min(end, start + block)
            h = values[: stop - start].copy_(feature[start:stop])
            for factor, moment in zip(factors, moments, strict=True):
                part = moment[start:stop].add_(torch.mul(h, factor, out=product[: stop - start]))
                _round_into(part, part)

    _shared_out(work, feature.numel(), moments.device)


@update_moments.register_fake
def _(moments: Tensor, feature: Tensor, row: Tensor) -> None:
    return None
