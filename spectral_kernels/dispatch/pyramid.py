# SPDX-License-Identifier: Apache-2.0
"""The custom ops of pyramids: one level down, one level up, and all levels noised at once.

reference/pyramid.py is the contract. Gradients are the adjoints as products with the resampling matrices, in float64.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from spectral_kernels import layouts
from spectral_kernels.cached import cached
from spectral_kernels.deviates import deviates_of_planes
from spectral_kernels.dispatch import choose
from spectral_kernels.dispatch.operator import operator

_CHUNK = 1 << 17  # pixels per pass on a CPU: float64 temporaries stay in a core's second-level cache


@operator("pyramid_split")
def split(x: Tensor, size: Sequence[int], resample: str) -> tuple[Tensor, Tensor]:
    """(down(x), x - up(down(x))) for resample "area" or "bilinear"; `x` [..., H, W], down at `size`."""
    coarse, detail = _split_outputs(x, size)
    if detail.numel() == 0:
        return coarse, detail
    chosen = choose(x)
    if chosen != "torch":
        views = _view(x), _view(coarse), _view(detail)
        if chosen == "triton":
            from spectral_kernels.kernels import pyramid as kernels

            kernels.split(*views, resample)
        else:
            from spectral_kernels.dispatch import native

            native.pyramid_split(*views, resample)
        return coarse, detail
    planes, low, high = (_planes(tensor) for tensor in (x, coarse, detail))
    # Interpolation at exactly half the size is the mean of four, and halves are exact.
    halved = (2 * low.shape[-2], 2 * low.shape[-1]) == high.shape[-2:]
    for part in _chunks(planes):
        given = planes[part]
        down = _area_down if resample == "area" or halved else _bilinear
        low[part] = _stored(down(given, low.shape[-2:]), x.dtype)
        if resample == "area":
            _nearest(given, low[part], high[part], True)
            _one_nan(high[part], low[part])
        else:
            high[part] = _stored(given - _bilinear(low[part], high.shape[-2:]), x.dtype)
    return coarse, detail


def _split_outputs(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    return x.new_empty([*x.shape[:-2], *size]), x.new_empty(x.shape)


@split.register_fake
def _(x, size, resample):
    return _split_outputs(x, size)


def _split_setup(ctx, inputs, output) -> None:
    ctx.resample = inputs[2]


def _split_backward(ctx, grad_coarse: Tensor, grad_detail: Tensor):
    """Of c = D x, d = x - U c: D^T (g_c - U^T g_d) + g_d."""
    wide = grad_detail.to(torch.float64)
    inner = grad_coarse.to(torch.float64) - adjoint(wide, grad_coarse.shape[-2:], ctx.resample, "up")
    return (adjoint(inner, wide.shape[-2:], ctx.resample, "down") + wide).to(grad_detail.dtype), None, None


split.register_autograd(_split_backward, setup_context=_split_setup)


@operator("pyramid_merge")
def merge(coarse: Tensor, detail: Tensor, resample: str, subtract: bool) -> Tensor:
    """detail + up(coarse), or detail - up(coarse); with resample "none" both have the same size already."""
    out = detail.new_empty(detail.shape)
    if out.numel() == 0:
        return out
    chosen = choose(detail)
    if chosen != "torch":
        views = _view(coarse), _view(detail), _view(out)
        if chosen == "triton":
            from spectral_kernels.kernels import pyramid as kernels

            kernels.merge(*views, resample, subtract)
        else:
            from spectral_kernels.dispatch import native

            native.pyramid_merge(*views, resample, subtract)
        return out
    low, high, result = (_planes(tensor) for tensor in (coarse, detail, out))
    for part in _chunks(high):
        if resample == "bilinear":
            up = _bilinear(low[part], high.shape[-2:])
            result[part] = _stored(high[part] - up if subtract else up + high[part], out.dtype)
        else:
            _nearest(high[part], low[part], result[part], subtract)
            _one_nan(result[part], result[part])
    return out


@merge.register_fake
def _(coarse, detail, resample, subtract):
    return detail.new_empty(detail.shape)


def _merge_setup(ctx, inputs, output) -> None:
    coarse, _, ctx.resample, ctx.subtract = inputs
    ctx.size = coarse.shape[-2:]


def _merge_backward(ctx, grad: Tensor):
    low = grad
    if ctx.resample != "none":
        low = adjoint(grad.to(torch.float64), ctx.size, ctx.resample, "up").to(grad.dtype)
    return -low if ctx.subtract else low.clone(), grad.clone(), None, None


merge.register_autograd(_merge_backward, setup_context=_merge_setup)


@operator("pyramid_adjoint")
def adjoint(grad: Tensor, size: Sequence[int], resample: str, kind: str) -> Tensor:
    """The transpose of `kind` ("up" or "down") from planes of `size`, applied to float64 planes."""
    rows, columns = (_matrix(resample, kind, grad.shape[axis - 2], size[axis], grad.device) for axis in (0, 1))
    return rows.T @ grad @ columns


@adjoint.register_fake
def _(grad, size, resample, kind):
    return grad.new_empty([*grad.shape[:-2], *size])


@operator("noise_levels")
def noise_levels(
    levels: Sequence[Tensor],
    times: Tensor,
    mask: Tensor | None,
    seeds: Tensor | None,
    base_seed: int | None,
    stream: int,
    names: str,
) -> list[Tensor]:
    """z = (1 - t) x + t e of every level, then v = e - x of every level; in the layouts `names`, comma-separated."""
    out = _noise_outputs(levels, names)
    if all(x.numel() == 0 for x in levels):
        return out
    layout = names.split(",")
    targets = [layouts.view(y, layout[i % len(levels)], levels[i % len(levels)].shape[-2:]) for i, y in enumerate(out)]
    sources = [_view(x) for x in levels]
    chosen = choose(levels[0])
    if chosen == "triton":
        from spectral_kernels.kernels import pyramid as kernels

        kernels.noise_levels(sources, targets, times, mask, seeds, base_seed, stream)
        return out
    if chosen == "native":
        from spectral_kernels.dispatch import native

        native.noise_levels(sources, targets, times, mask, base_seed if seeds is None else seeds, stream)
        return out
    for s, x in enumerate(levels):
        _noise_level(
            x,
            times[:, s],
            None if mask is None else mask[:, s],
            seeds,
            base_seed,
            stream + s,
            targets[s :: len(levels)],
        )
    return out


def _noise_outputs(levels: Sequence[Tensor], names: str) -> list[Tensor]:
    shapes = []
    for x, name in zip(levels, names.split(","), strict=True):
        if name == "planes":
            shapes.append(list(x.shape))
        else:
            patch = 2 if name == "patches" else 1
            shapes.append([x.shape[0], (x.shape[2] // patch) * (x.shape[3] // patch), x.shape[1] * patch * patch])
    return [x.new_empty(shape) for _ in range(2) for x, shape in zip(levels, shapes, strict=True)]


@noise_levels.register_fake
def _(levels, times, mask, seeds, base_seed, stream, names):
    return _noise_outputs(levels, names)


def _noise_setup(ctx, inputs, output) -> None:
    levels, times, mask, *_, ctx.names = inputs
    ctx.sizes = [x.shape for x in levels]
    ctx.save_for_backward(times, mask)


def _noise_backward(ctx, grads: Sequence[Tensor]):
    """(1 - t) of what reached z where it was shown, minus what reached v."""
    times, mask = ctx.saved_tensors
    count, found = len(ctx.sizes), []
    for s, (shape, name) in enumerate(zip(ctx.sizes, ctx.names.split(","), strict=True)):
        of_noisy, of_velocity = (layouts.view(grads[i], name, shape[-2:]) for i in (s, s + count))
        factor = 1.0 - times[:, s]
        if mask is not None:
            factor = factor * mask[:, s]
        grad = of_noisy * factor.view(-1, *(1,) * 6) - of_velocity
        found.append(grad.to(grads[s].dtype).reshape(shape))
    return found, None, None, None, None, None, None


noise_levels.register_autograd(_noise_backward, setup_context=_noise_setup)


# ---------------------------------------------------------------- PyTorch backend


def _view(x: Tensor) -> Tensor:
    return layouts.view(x, "planes", x.shape[-2:])


def _planes(x: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[-2:])


def _chunks(planes: Tensor) -> list[slice]:
    step = max(1, _CHUNK // max(1, planes.shape[-2] * planes.shape[-1]))
    return [slice(start, start + step) for start in range(0, len(planes), step)]


def _stored(y: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 or float32 -> float32 -> dtype; a zero is positive and a NaN the quiet one."""
    y = y.add(0.0)
    if dtype == torch.float64:
        return y
    y = y.to(torch.float32)
    if y.device.type != "cpu" or math.isnan(y.sum().item()):
        return y.to(dtype).masked_fill_(y.isnan(), torch.nan)
    return y.to(dtype)


def _one_nan(y: Tensor, witness: Tensor) -> None:
    """Every NaN of `y` the quiet one; there is none where the sum of the smaller `witness` is finite."""
    kind = torch.float64 if y.dtype == torch.float64 else torch.float32
    if y.device.type != "cpu" or not math.isfinite(witness.sum(dtype=kind).item()):
        y.masked_fill_(y.isnan(), torch.nan)


def _nearest(fine: Tensor, low: Tensor, out: Tensor, subtract: bool) -> None:
    """fine - up(low) or fine + up(low), in their own type: one operation on stored numbers has the same bits in float64
    with a second rounding (53 >= 2 * 24 + 2 digits)."""
    (h, w), (H, W) = low.shape[-2:], fine.shape[-2:]
    f, g = -(-H // h), -(-W // w)
    # A zero of `low` gets the sign with which no zero of the result can be negative.
    low = low.neg().add_(0.0).neg_() if subtract else low + 0.0
    line = low if g == 1 else low[..., None].expand(-1, -1, -1, g).reshape(len(low), h, w * g)[..., :W]
    for a in range(f):
        rows = fine[:, a::f]
        (torch.sub if subtract else torch.add)(rows, line[:, : rows.shape[1]], out=out[:, a::f])


def _area_down(x: Tensor, size: Sequence[int]) -> Tensor:
    (H, W), (h, w) = x.shape[-2:], size
    f, g = -(-H // h), -(-W // w)
    columns = x[:, 0::f].to(torch.float64, copy=True)
    for a in range(1, f):
        rows = x[:, a::f]
        columns[:, : rows.shape[1]].add_(rows)
    total = columns[..., 0::g].clone()
    for b in range(1, g):
        more = columns[..., b::g]
        total[..., : more.shape[-1]].add_(more)
    return total.div_(_counts(H, W, h, w, x.device))


@lru_cache(maxsize=64)
def _counts(H: int, W: int, h: int, w: int, device: torch.device) -> Tensor:
    """How many pixels each block holds, float64 [h, w]."""
    rows, columns = (
        (fine - step * torch.arange(coarse)).clamp(max=step)
        for fine, coarse, step in ((H, h, -(-H // h)), (W, w, -(-W // w)))
    )
    return torch.outer(rows, columns).to(device=device, dtype=torch.float64)


def _bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    wide = x.to(torch.float64)
    for dim, count in ((1, size[0]), (2, size[1])):
        if count == 2 * wide.shape[dim]:
            wide = _doubled(wide, dim)
            continue
        left, right, weight = _points(wide.shape[dim], count, x.device)
        weight = weight[:, None] if dim == 1 else weight
        first, second = wide.index_select(dim, left), wide.index_select(dim, right)
        wide = first.mul_(1.0 - weight).add_(second.mul_(weight))
    return wide


def _doubled(x: Tensor, dim: int) -> Tensor:
    """`_points` at twice the size read neighbours with weights 3/4 and 1/4, so slices will do."""
    out = x.new_empty([2 * side if axis == dim else side for axis, side in enumerate(x.shape)])
    y, last = out.movedim(dim, -1), x.shape[dim] - 1
    x = x.movedim(dim, -1)
    near, far = x * 0.75, x * 0.25
    torch.add(near[..., :-1], far[..., 1:], out=y[..., 1:-1:2])
    torch.add(far[..., :-1], near[..., 1:], out=y[..., 2::2])
    y[..., 0] = x[..., 0] + 0.0 * x[..., min(1, last)]
    y[..., -1] = near[..., last] + far[..., last]
    return out


@lru_cache(maxsize=64)
def _points(m: int, n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Which two of m pixels each of n reads, and the weight of the second, float64."""
    position = ((2 * torch.arange(n) + 1) * m - n).clamp(min=0)
    left = position // (2 * n)
    weight = (position % (2 * n)).to(torch.float64) / (2.0 * n)
    return left.to(device), (left + 1).clamp(max=m - 1).to(device), weight.to(device)


@cached(maxsize=64)
def _matrix(resample: str, kind: str, out: int, given: int, device: torch.device) -> Tensor:
    matrix = torch.zeros(out, given, dtype=torch.float64)
    if resample == "bilinear":
        left, right, weight = _points(given, out, torch.device("cpu"))
        matrix.scatter_add_(1, left[:, None], (1.0 - weight)[:, None])
        matrix.scatter_add_(1, right[:, None], weight[:, None])
        return matrix.to(device)
    fine, coarse = max(out, given), min(out, given)
    block = torch.arange(fine) // -(-fine // coarse)
    if kind == "up":
        matrix[torch.arange(fine), block] = 1.0
    else:
        matrix[block, torch.arange(fine)] = 1.0
        matrix /= matrix.sum(1, keepdim=True)
    return matrix.to(device)


def _noise_level(
    x: Tensor,
    times: Tensor,
    mask: Tensor | None,
    seeds: Tensor | None,
    base_seed: int | None,
    stream: int,
    targets: Sequence[Tensor],
) -> None:
    """One level in chunks of planes; the results go where their layout wants them."""
    planes = _planes(x)
    results = [planes.new_empty(planes.shape) for _ in targets]
    per_sample = len(planes) // len(x)
    for part in _chunks(planes):
        index = torch.arange(part.start, min(part.stop, len(planes)), device=x.device)
        sample = index // per_sample
        seed = sample + (base_seed or 0) if seeds is None else seeds[sample]
        e = deviates_of_planes(seed, index - sample * per_sample, x.shape[-2], x.shape[-1], stream).to(torch.float64)
        t = times[sample, None, None]
        given = planes[part].to(torch.float64)
        noisy = _stored((1.0 - t) * given + t * e, x.dtype)
        if mask is not None:
            noisy = noisy.masked_fill_(~mask[sample, None, None], 0.0)
        results[0][part] = noisy
        results[1][part] = _stored(e - given, x.dtype)
    for target, result in zip(targets, results, strict=True):
        target.copy_(_view(result.view(x.shape)).reshape(target.shape))
