# SPDX-License-Identifier: Apache-2.0
"""The plane product, the one custom op behind every spectral op:

    y = alpha (M_r X M_c^T + beta (N_r E N_c^T)) + gamma E + 0

M and N are tables of a basis, named by kind, between the grids `fine` and `coarse`; E is the tensor `other`, or noise
drawn from a seed; with N = synthesis, E is zero in the coarse corner. reference/expand.py is the contract.
The weights follow from the coarse time t and the ratio r by a named formula.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from spectral_kernels import bases, exact, layouts
from spectral_kernels import dispatch as backends
from spectral_kernels.deviates import deviates_of_planes
from spectral_kernels.dispatch import haar
from spectral_kernels.dispatch.noise import normal
from spectral_kernels.dispatch.operator import operator
from spectral_kernels.dispatch.product import Operands, Product, canonical, flat, weights


@operator("plane_product")
def plane_product(
    x: Tensor,
    other: Tensor | None,
    seeds: Tensor | None,
    times: Tensor | None,
    base_seed: int | None,
    t: float,
    kind: str,
    second: str,
    basis: str,
    fine: list[int],
    coarse: list[int],
    layout: str,
    formula: str,
    part: str,
    precision: str,
    stream: int,
) -> Tensor:
    """One plane product in one layout; the coarse time is `t`, or float64 `times` [B], one per sample."""
    sizes = (fine[0], fine[1]), (coarse[0], coarse[1])
    product = Product(kind, second, basis, *sizes, layout, formula, part, precision, stream)
    out = x.new_empty(layouts.resized(x.shape, layout, product.result))
    if out.numel() == 0:
        return out
    if product.tapered and second == "synthesis":
        if other is None and not (times is None and t == 0):
            other = _drawn(product, x, base_seed, seeds)
        if other is not None:
            other = weigh_noise(other.to(torch.promote_types(other.dtype, torch.float32)), basis, *sizes, layout)
            seeds = base_seed = None
    operands = Operands(
        layouts.view(out, layout, product.result),
        layouts.view(x, layout, coarse if kind == "up" else fine),
        None if other is None else layouts.view(other, layout, fine),
        seeds,
        times,
        base_seed,
        t,
    )
    chosen = backends.choose(x)
    if chosen == "triton":
        from spectral_kernels.kernels import haar as on_blocks
        from spectral_kernels.kernels import planes as by_tables

        (on_blocks if product.levels else by_tables).launch(product, operands)
    elif chosen == "native":
        _native(product, operands)
    else:
        _torch(product, operands)
    return out


def _drawn(product: Product, x: Tensor, base_seed: int | None, seeds: Tensor | None) -> Tensor:
    """float32 noise in the layout of the output."""
    noise = torch.empty(layouts.resized(x.shape, product.layout, product.fine), dtype=torch.float32, device=x.device)
    view = layouts.view(noise, product.layout, product.fine)
    shape = [view.shape[0], view.shape[1] * view.shape[2], *product.fine]
    view.copy_(normal(shape, base_seed, seeds, product.stream, torch.float32, x.device).view(view.shape))
    return noise


@operator("weigh_noise")
def weigh_noise(e: Tensor, basis: str, fine: list[int], coarse: list[int], layout: str) -> Tensor:
    """E as the spectrum of an expansion counts it: 0 in the coarse corner, or faded in at a tapered edge."""
    weighed = torch.empty(e.shape, dtype=e.dtype, device=e.device)
    given = layouts.view(e, layout, fine)
    given = given.to(torch.promote_types(e.dtype, torch.float32))
    weights = bases.noise_weights(basis, (fine[0], fine[1]), (coarse[0], coarse[1]), e.device)
    weights = weights.to(given.dtype).view(given.shape[3:])
    layouts.view(weighed, layout, fine).copy_(torch.where(weights == 0, 0, given * weights))
    return weighed


@weigh_noise.register_fake
def _(e, *_):
    return torch.empty(e.shape, dtype=e.dtype, device=e.device)


weigh_noise.register_autograd(  # its own adjoint
    lambda ctx, grad: (weigh_noise(grad, *ctx.names), *(None,) * 4),
    setup_context=lambda ctx, inputs, output: setattr(ctx, "names", inputs[1:]),
)


@plane_product.register_fake
def _(x, other, seeds, times, base_seed, t, kind, second, basis, fine, coarse, layout, *_):
    return x.new_empty(layouts.resized(x.shape, layout, coarse if kind == "down" else fine))


def _setup_context(ctx, inputs, output) -> None:
    _, other, _, times, _, ctx.t, kind, second, basis, fine, coarse, *rest = inputs
    ctx.product = Product(kind, second, basis, tuple(fine), tuple(coarse), *rest)
    ctx.has_other = other is not None
    ctx.save_for_backward(times)


def _backward(ctx, grad: Tensor):
    """The adjoint is a plane product too: alpha M_r^T G M_c for x, and alpha beta N_r^T G N_c + gamma G for E."""
    (times,) = ctx.saved_tensors
    product = ctx.product

    def adjoint(of: str, part: str) -> Tensor:
        names = product._replace(kind=bases.ADJOINT[of], second="", part=part)
        return plane_product(grad, grad if names.adds else None, None, times, None, ctx.t, *names)

    if product.part == "second":
        # The adjoint of an adjoint: its x and E are one tensor, which gets the whole gradient here.
        return adjoint(product.kind, "second"), *(None,) * 15
    grad_x = adjoint(product.kind, "first") if ctx.needs_input_grad[0] else None
    grad_other = None
    if ctx.has_other and ctx.needs_input_grad[1]:
        grad_other = adjoint(product.second, "second")
        if product.second == "synthesis":
            grad_other = weigh_noise(grad_other, product.basis, product.fine, product.coarse, product.layout)
    return grad_x, grad_other, *(None,) * 14


plane_product.register_autograd(_backward, setup_context=_setup_context)


@plane_product.register_vmap
def _(info, in_dims, x, other, seeds, times, base_seed, t, *names):
    """The mapped dimension joins the batch: each slice draws the noise it would draw alone."""
    lone = x.ndim - (in_dims[0] is not None) == 2
    x, other = (_joined(tensor, dim, info.batch_size, lone) for tensor, dim in zip((x, other), in_dims, strict=False))
    seeds, times = (
        _joined(tensor, dim, info.batch_size, False) for tensor, dim in zip((seeds, times), in_dims[2:4], strict=True)
    )
    assert x is not None
    samples = len(x) // max(1, info.batch_size)
    if base_seed is not None:
        seeds = (torch.arange(samples, device=x.device) + base_seed).repeat(info.batch_size)
    y = plane_product(x, other, seeds, times, None, t, *names)
    return (y if lone else y.unflatten(0, (info.batch_size, samples))), 0


def _joined(tensor: Tensor | None, dim: int | None, count: int, lone: bool) -> Tensor | None:
    """[count B, ...] of a tensor [B, ...] that is mapped over `dim`, or the same for all; `lone` ones have no B."""
    if tensor is None:
        return None
    tensor = tensor.expand(count, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return tensor if lone else tensor.flatten(0, 1)


_CHUNK = 1 << 17  # fine pixels per pass and thread: temporaries of 1 MiB stay in a core's cache


def _torch(product: Product, operands: Operands) -> None:
    """PyTorch backend: a chunk of planes at a time."""
    out, x, other, seeds, times, base_seed, t = operands
    first = _term(product, product.kind, x)
    second = _term(product, product.second, x) if product.second else None
    per_sample = x.shape[1] * x.shape[2]
    given, added = flat(x), None if other is None else flat(other)
    result = flat(out)  # the memory of the output itself, unless its planes lie apart in it
    step = max(1, torch.get_num_threads() * _CHUNK // (product.fine[0] * product.fine[1]))
    for start in range(0, len(given), step):
        planes = torch.arange(start, min(start + step, len(given)), device=x.device)
        part, sample = slice(start, start + len(planes)), planes // per_sample
        time = t if times is None else times[sample, None, None]
        alpha, beta, gamma = weights(product.formula, product.part, time, product.ratio)
        y = first(given[part])
        extra = None if added is None else added[part]
        if second is not None and not (times is None and beta == 0):
            if extra is None:
                seed = seeds[sample] if seeds is not None else sample + (base_seed or 0)
                extra = deviates_of_planes(seed, planes % per_sample, *product.fine, product.stream)
            spectrum = extra
            if product.masked:
                spectrum = extra.clone()
                spectrum[:, : product.coarse[0], : product.coarse[1]] = 0
            more = second(spectrum).mul_(beta).add_(y)
            y = more if times is None else torch.where(torch.as_tensor(beta) == 0, y, more)
        if product.formula != "one":
            y = y.mul_(alpha)
        if extra is not None and product.adds:
            y = y.add_(extra.to(y.dtype) * gamma)
        result[part] = canonical(y.add_(0.0), x.dtype)
    if result.data_ptr() != out.data_ptr():
        out.copy_(result.view(out.shape))


def _term(product: Product, kind: str, x: Tensor) -> Callable[[Tensor], Tensor]:
    """M_r Z M_c^T of planes [P, h, w], for the tables of a kind."""
    if product.levels:
        return lambda z: haar.local(z.to(torch.float64), kind, product.levels)
    mode = product.mode(x)
    rows, columns = product.tables(kind, mode, x.device)
    return lambda z: exact.plane_product(z, rows, columns, mode == "exact").permute(1, 0, 2)


def _native(product: Product, operands: Operands) -> None:
    """The compiled core takes tables, weights and views as they are."""
    from spectral_kernels.dispatch import native

    given = operands.t if operands.times is None else operands.times
    rows = weights(product.formula, product.part, given, product.ratio)
    if operands.times is not None:
        rows = torch.stack([torch.as_tensor(row) for row in rows], 1)
    (native.haar if product.levels else native.plane_product)(product, operands, rows)
