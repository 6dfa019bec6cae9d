# SPDX-License-Identifier: Apache-2.0
"""The custom ops of pyramids: one level down, one level up, and all levels noised at once.

reference/pyramid.py is the contract. Gradients are the adjoints, in ordinary differentiable operations.
"""

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from spectral_kernels import layouts
from spectral_kernels.cached import cached
from spectral_kernels.deviates import deviates_of_planes
from spectral_kernels.dispatch import choose
from spectral_kernels.dispatch.operator import operator

_CHUNK = 1 << 18  # pixels per pass on a CPU where there are many temporaries: they stay in a core's second-level cache


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
    for part in _chunks(planes) if resample == "bilinear" else [slice(None)]:
        mean = _down(planes[part], low.shape[-2:], resample)
        _store(mean.add_(0.0), low[part])
        _add_up(planes[part], low[part], True, resample, high[part])
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
    wide = _wide(grad_detail)
    inner = _wide(grad_coarse) - _up_adjoint(wide, grad_coarse.shape[-2:], ctx.resample)
    return (_down_adjoint(inner, wide.shape[-2:], ctx.resample) + wide).to(grad_detail.dtype), None, None


split.register_autograd(_split_backward, setup_context=_split_setup)


@split.register_vmap
def _(info, in_dims, x, size, resample):
    return split(x.movedim(in_dims[0], 0), size, resample), (0, 0)


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
    for part in _chunks(high) if resample == "bilinear" else [slice(None)]:
        _add_up(high[part], low[part], subtract, resample, result[part])
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
        low = _up_adjoint(_wide(grad), ctx.size, ctx.resample).to(grad.dtype)
    return -low if ctx.subtract else low.clone(), grad.clone(), None, None


merge.register_autograd(_merge_backward, setup_context=_merge_setup)


@merge.register_vmap
def _(info, in_dims, coarse, detail, resample, subtract):
    coarse, detail = (
        tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip((coarse, detail), in_dims, strict=False)
    )
    return merge(coarse, detail, resample, subtract), 0


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


def _wide(x: Tensor) -> Tensor:
    """In the type of the arithmetic: float32, and float64 for itself."""
    return x if x.dtype == torch.float64 else x.to(torch.float32)


def _store(y: Tensor, out: Tensor) -> None:
    """y into `out`, every NaN the quiet one; there is none where the sum of all is finite."""
    if y is not out:
        out.copy_(y)
    wider = torch.float32 if y.dtype == torch.float16 else y.dtype  # whose sum seldom overflows
    if y.device.type != "cpu" or not math.isfinite(y.sum(dtype=wider).item()):
        out.masked_fill_(out.isnan(), torch.nan)


def _add_up(fine: Tensor, low: Tensor, negative: bool, resample: str, out: Tensor) -> None:
    """fine + up(low), or fine - up(low), into `out`: the sum with what is no negative zero is none."""
    low = 0.0 - low if negative else low + 0.0
    if resample == "bilinear":
        up = _raised(_raised(_wide(low), -1, fine.shape[-1]), -2, fine.shape[-2])
        return _store(torch.add(up, _wide(fine), out=out if out.dtype == up.dtype else up), out)
    # One operation on stored numbers: their own type's addition has the bits of float32's, rounded.
    (H, W), (h, w) = fine.shape[-2:], low.shape[-2:]
    f, g = -(-H // h), -(-W // w)
    if g == 2 and low.dtype == torch.float32:
        line = _in_turn(low, low)[..., :W]
    else:
        line = low.new_empty(len(low), h, w, g)
        for b in range(g):
            line[..., b] = low
        line = line.flatten(-2)[..., :W]
    if H == f * h:
        torch.add(fine.unflatten(1, (h, f)), line[:, :, None], out=out.unflatten(1, (h, f)))
    else:
        for a in range(f):
            rows = fine[:, a::f]
            torch.add(rows, line[:, : rows.shape[1]], out=out[:, a::f])
    _store(out, out)


def _down(x: Tensor, size: Sequence[int], resample: str) -> Tensor:
    """A tensor of its own, in the type of the arithmetic."""
    (H, W), (h, w) = x.shape[-2:], size
    if resample == "bilinear" and (H, W) != (2 * h, 2 * w):
        return _interpolated(_interpolated(_wide(x), -2, h), -1, w)
    total = _summed(_summed(x, -2, -(-H // h)), -1, -(-W // w))
    return total / _kept_counts(H, W, h, w, total.dtype, x.device)


def _summed(x: Tensor, dim: int, step: int) -> Tensor:
    """Sums of `step` neighbours in ascending order; the last may have fewer."""
    if step == 1:
        return _wide(x)
    total, *rest = (x.movedim(dim, -1)[..., a::step].movedim(-1, dim) for a in range(step))
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    whole = x.dtype == wide and rest[0].shape == total.shape
    total = total + rest.pop(0) if whole else total.to(wide, copy=True)
    for part in rest:
        total.narrow(dim, 0, part.shape[dim]).add_(part)
    return total


def _counts(H: int, W: int, h: int, w: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """How many pixels each block holds, [h, w]."""
    rows, columns = (
        (fine - step * torch.arange(coarse, device=device)).clamp(max=step)
        for fine, coarse, step in ((H, h, -(-H // h)), (W, w, -(-W // w)))
    )
    return torch.outer(rows, columns).to(dtype)


def _raised(x: Tensor, dim: int, count: int) -> Tensor:
    """Linear interpolation of an axis of planes without negative zeros, which may be overwritten; the same comes out.

    Twice the size reads neighbours with weights 3/4 and 1/4, so slices will do; a product with 3/4 is never rounded to
    zero, so no sum of the two is a negative zero.
    """
    last = x.shape[dim] - 1
    if count != 2 * (last + 1):
        return _interpolated(x, dim, count)
    pairs = x.new_empty(*x.shape[:-1], 2, x.shape[-1])
    even, odd = pairs.unbind(-2) if dim == -2 else (torch.empty_like(x), torch.empty_like(x))
    torch.add(x.narrow(dim, 0, 1), x.narrow(dim, min(1, last), 1) * 0.0, out=even.narrow(dim, 0, 1))
    far, near = x * 0.25, x.mul_(0.75)
    torch.add(far.narrow(dim, 0, last), near.narrow(dim, 1, last), out=even.narrow(dim, 1, last))
    torch.add(near.narrow(dim, 0, last), far.narrow(dim, 1, last), out=odd.narrow(dim, 0, last))
    torch.add(near.narrow(dim, last, 1), far.narrow(dim, last, 1), out=odd.narrow(dim, last, 1))
    return pairs.flatten(-3, -2) if dim == -2 else _in_turn(even, odd)


def _in_turn(even: Tensor, odd: Tensor) -> Tensor:
    """Columns of both in turn, in one pass: real and imaginary parts lie so."""
    return torch.view_as_real(torch.complex(even, odd)).flatten(-2)


def _interpolated(x: Tensor, dim: int, count: int) -> Tensor:
    if x.shape[dim] == count:
        return x
    left, right, weight = _weighted(_kept_points(x.shape[dim], count, x.device), x.dtype)
    weight = weight[:, None] if dim == -2 else weight
    first, second = x.index_select(dim, left), x.index_select(dim, right)
    return first.mul_(1.0 - weight).add_(second.mul_(weight)).add_(0.0)


def _points(m: int, n: int, device: torch.device) -> Tensor:
    """[3, n]: which two of m pixels each of n reads, and the weight of the second times 2 n."""
    position = ((2 * torch.arange(n, device=device) + 1) * m - n).clamp(min=0)
    left = position // (2 * n)
    return torch.stack([left, (left + 1).clamp(max=m - 1), position % (2 * n)])


def _weighted(points: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    left, right, part = points.unbind()
    part = part.to(dtype)
    return left, right, part / torch.full_like(part, 2 * points.shape[1])


# Kept for the next call; gradients do without, because sizes may be symbols there.
_kept_counts, _kept_points = cached(maxsize=64)(_counts), cached(maxsize=64)(_points)


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
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    factors = (1.0 - times).to(kind), times.to(kind)
    for part in _chunks(planes):
        index = torch.arange(part.start, min(part.stop, len(planes)), device=x.device)
        sample = index // per_sample
        seed = sample + (base_seed or 0) if seeds is None else seeds[sample]
        e = deviates_of_planes(seed, index - sample * per_sample, x.shape[-2], x.shape[-1], stream).to(kind)
        s, t = (factor[sample, None, None] for factor in factors)
        given = _wide(planes[part])
        noisy = (given * s).add_(e * t).add_(0.0)
        if mask is not None:
            noisy.masked_fill_(~mask[sample, None, None], 0.0)
        velocity = e.sub_(given).add_(0.0)
        for result, value in zip(results, (noisy, velocity), strict=True):
            _store(value, result[part])
    for target, result in zip(targets, results, strict=True):
        target.copy_(_view(result.view(x.shape)).reshape(target.shape))


# ---------------------------------------------------------------- gradients


def _up_adjoint(grad: Tensor, size: Sequence[int], resample: str) -> Tensor:
    """The transpose of going up from planes of `size`."""
    (H, W), (h, w) = grad.shape[-2:], size
    if resample == "bilinear":
        return _interpolation_adjoint(_interpolation_adjoint(grad, -2, h), -1, w)
    f, g = -(-H // h), -(-W // w)
    padded = functional.pad(grad, (0, w * g - W, 0, h * f - H))
    rows = padded.unflatten(-2, (h, f)).sum(-2)
    return reduce(torch.add, rows.unflatten(-1, (w, g)).unbind(-1))  # faster than a sum over so few neighbours


def _down_adjoint(grad: Tensor, size: Sequence[int], resample: str) -> Tensor:
    """The transpose of going down to the planes of `grad` from planes of `size`."""
    (h, w), (H, W) = grad.shape[-2:], size
    if resample == "bilinear" and (H, W) != (2 * h, 2 * w):
        return _interpolation_adjoint(_interpolation_adjoint(grad, -1, W), -2, H)
    f, g = -(-H // h), -(-W // w)
    share = grad / _counts(H, W, h, w, grad.dtype, grad.device)
    rows = share[..., None].expand(*share.shape, g).flatten(-2)
    return rows[..., None, :].expand(*rows.shape[:-1], f, w * g).flatten(-3, -2)[..., :H, :W]


def _interpolation_adjoint(grad: Tensor, dim: int, count: int) -> Tensor:
    """The transpose of interpolating `count` pixels along an axis, without sums in an order that changes."""
    n = grad.shape[dim]
    if n == count:
        return grad
    if n == 2 * count:
        even, odd = grad.unflatten(dim, (count, 2)).unbind(dim)
        before = torch.cat([even.narrow(dim, 0, 1), odd.narrow(dim, 0, count - 1)], dim)
        after = torch.cat([even.narrow(dim, 1, count - 1), odd.narrow(dim, count - 1, 1)], dim)
        return 0.75 * (even + odd) + 0.25 * (before + after)
    left, right, weight = _weighted(_points(count, n, grad.device), grad.dtype)
    matrix = grad.new_zeros(n, count)
    matrix = matrix.scatter_add(1, left[:, None], (1.0 - weight)[:, None]).scatter_add(
        1, right[:, None], weight[:, None]
    )
    return grad @ matrix if dim == -1 else matrix.T @ grad
