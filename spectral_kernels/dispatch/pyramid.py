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
from spectral_kernels.deviates import deviates_of_planes
from spectral_kernels.dispatch import choose

_CHUNK = 1 << 17  # pixels per pass on a CPU: float64 temporaries stay in a core's second-level cache


@torch.library.custom_op("spectral_kernels::pyramid_split", mutates_args=())
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
    for part in _chunks(planes):
        given = planes[part]
        mean = _area_down(given, low.shape[-2:]) if resample == "area" else _bilinear(given, low.shape[-2:])
        low[part] = _stored(mean, x.dtype)
        up = _up(low[part], high.shape[-2:], resample)
        high[part] = _stored(_sum(given, up, subtract=True), x.dtype)
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


@torch.library.custom_op("spectral_kernels::pyramid_merge", mutates_args=())
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
        up = _up(low[part], high.shape[-2:], resample)
        result[part] = _stored(_sum(high[part], up, subtract), out.dtype)
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


@torch.library.custom_op("spectral_kernels::pyramid_adjoint", mutates_args=())
def adjoint(grad: Tensor, size: Sequence[int], resample: str, kind: str) -> Tensor:
    """The transpose of `kind` ("up" or "down") from planes of `size`, applied to float64 planes."""
    rows, columns = (_matrix(resample, kind, grad.shape[axis - 2], size[axis], grad.device) for axis in (0, 1))
    return rows.T @ grad @ columns


@adjoint.register_fake
def _(grad, size, resample, kind):
    return grad.new_empty([*grad.shape[:-2], *size])


@torch.library.custom_op("spectral_kernels::noise_levels", mutates_args=())
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


def _sum(fine: Tensor, up: Tensor, subtract: bool) -> Tensor:
    """fine - up or fine + up. In float32 where both are at most that: float64 and a second rounding give the same bits
    (53 >= 2 * 24 + 2 digits)."""
    if up.dtype not in (torch.float64, torch.float32):
        up = up.to(torch.float32)
    fine = fine.to(up.dtype) if fine.dtype != torch.float64 else fine
    return fine - up if subtract else fine + up


def _area_down(x: Tensor, size: Sequence[int]) -> Tensor:
    (H, W), (h, w) = x.shape[-2:], size
    f, g = -(-H // h), -(-W // w)
    if (h * f, w * g) != (H, W):
        x = torch.nn.functional.pad(x, (0, w * g - W, 0, h * f - H))
    columns = x[:, 0::f].to(torch.float64, copy=True)
    for a in range(1, f):
        columns.add_(x[:, a::f])
    total = columns[..., 0::g].clone()
    for b in range(1, g):
        total.add_(columns[..., b::g])
    return total.div_(_counts(H, W, h, w, x.device))


@lru_cache(maxsize=64)
def _counts(H: int, W: int, h: int, w: int, device: torch.device) -> Tensor:
    """How many pixels each block holds, float64 [h, w]."""
    rows, columns = (
        (fine - step * torch.arange(coarse)).clamp(max=step)
        for fine, coarse, step in ((H, h, -(-H // h)), (W, w, -(-W // w)))
    )
    return torch.outer(rows, columns).to(device=device, dtype=torch.float64)


def _up(x: Tensor, size: Sequence[int], resample: str) -> Tensor:
    if resample == "none":
        return x
    if resample == "bilinear":
        return _bilinear(x, size)
    (h, w), (H, W) = x.shape[-2:], size
    f, g = -(-H // h), -(-W // w)
    blocks = x[:, :, None, :, None].expand(-1, -1, f, -1, g)
    return blocks.reshape(len(x), h * f, w * g)[:, :H, :W]


def _bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    top, bottom, f = _points(x.shape[-2], size[0], x.device)
    left, right, g = _points(x.shape[-1], size[1], x.device)
    wide = x.to(torch.float64)
    rows = wide[:, top].mul_((1.0 - f)[:, None]).add_(wide[:, bottom].mul_(f[:, None]))
    return rows[..., left].mul_(1.0 - g).add_(rows[..., right].mul_(g))


@lru_cache(maxsize=64)
def _points(m: int, n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Which two of m pixels each of n reads, and the weight of the second, float64."""
    position = ((2 * torch.arange(n) + 1) * m - n).clamp(min=0)
    left = position // (2 * n)
    weight = (position % (2 * n)).to(torch.float64) / (2.0 * n)
    return left.to(device), (left + 1).clamp(max=m - 1).to(device), weight.to(device)


@lru_cache(maxsize=64)
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
