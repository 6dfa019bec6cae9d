# SPDX-License-Identifier: Apache-2.0
"""The plane product, the one custom op behind every spectral op:

    y = alpha (M_r X M_c^T + beta (N_r E N_c^T)) + gamma E + 0

M and N are tables of a basis, named by kind, between the grids `fine` and `coarse`; E is the tensor `other`, or noise
drawn from a seed; with N = synthesis, E is zero in the coarse corner. reference/expand.py is the contract.
The weights follow from the coarse time t and the ratio r by a named formula.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spectral_kernels import bases, exact, layouts
from spectral_kernels import dispatch as backends
from spectral_kernels.deviates import deviates_of_planes


@dataclass(frozen=True)
class Product:
    """What a backend is asked for, besides its tensors.

    kind, second     tables of the first and the second term; second is "" without one
    formula, part    the weights, see `weights`
    precision        "exact" or "fast"; float64 inputs are computed plainly in float64
    """

    kind: str
    second: str
    basis: str
    fine: tuple[int, int]
    coarse: tuple[int, int]
    formula: str
    part: str
    precision: str
    stream: int

    @property
    def ratio(self) -> float:
        """r = sqrt(H W / (h w))."""
        return math.sqrt(self.fine[0] * self.fine[1] / (self.coarse[0] * self.coarse[1]))

    @property
    def adds(self) -> bool:
        """Whether gamma can be anything but 0: where it cannot, gamma E is left out, for E may hold a NaN."""
        return self.formula in ("lift", "hold") and self.part != "first"

    def mode(self, x: Tensor) -> str:
        return "double" if x.dtype == torch.float64 else self.precision

    def bits(self, table: Tensor) -> int:
        """Bits per slice of the product with this table."""
        return exact.bits_for(table.shape[-1])

    def names(self, kind: str) -> tuple[tuple[str, str, int, int], ...]:
        """What `bases` calls the row and the column table of one term."""
        return tuple((self.basis, kind, self.fine[axis], self.coarse[axis]) for axis in (0, 1))

    def tables(self, kind: str, mode: str, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row and column tables of one term: slices [2, m, K] in mode "exact", else [m, K] as float32 or float64."""
        rows, columns = self.names(kind)
        if mode == "exact":
            return bases.sliced(*rows, device), bases.sliced(*columns, device)
        dtype = torch.float64 if mode == "double" else torch.float32
        return bases.rounded(*rows, dtype, device), bases.rounded(*columns, dtype, device)


def weights(formula: str, part: str, t: float | Tensor, ratio: float) -> tuple[float | Tensor, ...]:
    """(alpha, beta, gamma) in float64. With u = 1 + (r - 1) t:

    expand     r / u, t, 0            fill      1, t, 0
    truncate   u / r, 0, 0            one       1, 0, 0
    lift       u, -u / (r t), u / (r t)         written as 1 / t' with t' = (r t) / u
    hold       1, -1 / t, 1 / t                 the lift without alignment

    Parts are the adjoints: "first" is (alpha, 0, 0), "second" is (alpha beta, 0, gamma).
    """
    u = 1.0 + (ratio - 1.0) * t
    zero = 0.0 * t
    one = zero + 1.0
    if formula == "lift":
        gamma = 1.0 / ((ratio * t) / u)
        values = (u, -gamma, gamma)
    elif formula == "hold":
        gamma = 1.0 / t
        values = (one, -gamma, gamma)
    else:
        values = {
            # A number over a tensor is a reciprocal and a product in PyTorch, rounded twice: divide tensors.
            "expand": ((zero + ratio) / u, t, zero),
            "fill": (one, t, zero),
            "truncate": (u / ratio, zero, zero),
            "one": (one, zero, zero),
        }[formula]
    if part == "first":
        return values[0], zero, zero
    if part == "second":
        return values[0] * values[1], zero, values[2]
    return values


@torch.library.custom_op("spectral_kernels::plane_product", mutates_args=())
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
    product = Product(kind, second, basis, (fine[0], fine[1]), (coarse[0], coarse[1]), formula, part, precision, stream)
    out = x.new_empty(_out_shape(x, kind, fine, coarse, layout))
    if out.numel() == 0:
        return out
    source = layouts.view(x, layout, coarse if kind == "up" else fine)
    target = layouts.view(out, layout, coarse if kind == "down" else fine)
    added = None if other is None else layouts.view(other, layout, fine)
    chosen = backends.choose(x)
    if chosen == "triton":
        from spectral_kernels.kernels.planes import launch

        launch(product, target, source, added, seeds, times, base_seed, t)
    elif chosen == "native":
        _native(product, target, source, added, seeds, times, base_seed, t)
    else:
        _torch(product, target, source, added, seeds, times, base_seed, t)
    return out


def _out_shape(x: Tensor, kind: str, fine: list[int], coarse: list[int], layout: str) -> list[int]:
    return layouts.resized(x.shape, layout, coarse if kind == "down" else fine)


@plane_product.register_fake
def _(x, other, seeds, times, base_seed, t, kind, second, basis, fine, coarse, layout, *_):
    return x.new_empty(_out_shape(x, kind, fine, coarse, layout))


def _setup_context(ctx, inputs, output) -> None:
    _, other, _, times, _, ctx.t, *ctx.names = inputs
    ctx.has_other = other is not None
    ctx.save_for_backward(times)


def _backward(ctx, grad: Tensor):
    """The adjoint is a plane product too: alpha M_r^T G M_c for x, and alpha beta N_r^T G N_c + gamma G for E."""
    (times,) = ctx.saved_tensors
    kind, second, basis, fine, coarse, layout, formula, own_part, precision, stream = ctx.names

    def adjoint(of: str, part: str, added: Tensor | None) -> Tensor:
        names = (bases.ADJOINT[of], "", basis, fine, coarse, layout, formula, part, precision, stream)
        return plane_product(grad, added, None, times, None, ctx.t, *names)

    if (
        own_part == "second"
    ):  # the adjoint of an adjoint; its x and E are one tensor, which gets the whole gradient here
        return adjoint(kind, "second", grad), *(None,) * 15
    grad_x = adjoint(kind, "first", None) if ctx.needs_input_grad[0] else None
    grad_other = None
    if ctx.has_other and ctx.needs_input_grad[1]:
        grad_other = adjoint(second, "second", grad)
        if second == "synthesis":
            rows, columns = (torch.arange(side, device=grad.device) for side in fine)
            corner = (rows[:, None] < coarse[0]) & (columns < coarse[1])
            planes = layouts.view(grad_other, layout, fine)
            planes.masked_fill_(corner.view(planes.shape[3:]), 0)
    return grad_x, grad_other, *(None,) * 14


plane_product.register_autograd(_backward, setup_context=_setup_context)

_CHUNK = 1 << 20  # fine pixels per pass: 8 MiB per float64 temporary, so memory does not grow with the batch


def _torch(
    product: Product,
    out: Tensor,
    x: Tensor,
    other: Tensor | None,
    seeds: Tensor | None,
    times: Tensor | None,
    base_seed: int | None,
    t: float,
) -> None:
    """PyTorch backend: a chunk of planes at a time, as [rows, planes, columns]."""
    mode = product.mode(x)
    first = product.tables(product.kind, mode, x.device)
    second = product.tables(product.second, mode, x.device) if product.second else None
    per_sample = x.shape[1] * x.shape[2]
    given, added = _flat(x), None if other is None else _flat(other)
    result = _flat(out)  # the memory of the output itself, unless its planes lie apart in it
    step = max(1, _CHUNK // (product.fine[0] * product.fine[1]))
    for start in range(0, len(given), step):
        planes = torch.arange(start, min(start + step, len(given)), device=x.device)
        part, sample = slice(start, start + len(planes)), planes // per_sample
        time = t if times is None else times[sample, None]
        alpha, beta, gamma = weights(product.formula, product.part, time, product.ratio)
        y = exact.plane_product(given[part], *first, mode == "exact")
        extra = None if added is None else added[part]
        if second is not None and not (times is None and beta == 0):
            if extra is None:
                seed = seeds[sample] if seeds is not None else sample + (base_seed or 0)
                extra = deviates_of_planes(seed, planes % per_sample, *product.fine, product.stream)
            spectrum = extra
            if product.second == "synthesis":
                spectrum = extra.clone()
                spectrum[:, : product.coarse[0], : product.coarse[1]] = 0
            more = exact.plane_product(spectrum, *second, mode == "exact").mul_(beta).add_(y)
            y = more if times is None else torch.where(torch.as_tensor(beta) == 0, y, more)
        y = y.mul_(alpha)
        if extra is not None and product.adds:
            y = y.add_(extra.permute(1, 0, 2).to(y.dtype) * gamma)
        result[part] = _canonical(y.add_(0.0), x.dtype).permute(1, 0, 2)
    if result.data_ptr() != out.data_ptr():
        out.copy_(result.view(out.shape))


def _native(
    product: Product,
    out: Tensor,
    x: Tensor,
    other: Tensor | None,
    seeds: Tensor | None,
    times: Tensor | None,
    base_seed: int | None,
    t: float,
) -> None:
    """The compiled core takes tables, weights and views as they are."""
    from spectral_kernels.dispatch import native

    rows = weights(product.formula, product.part, t if times is None else times, product.ratio)
    if times is None:
        table = torch.tensor([rows], dtype=torch.float64, device="cpu")
    else:
        table = torch.stack([torch.as_tensor(row) for row in rows], 1)
    native.plane_product(
        out,
        x,
        other,
        product.names(product.kind),
        product.names(product.second) if product.second else None,
        product.coarse if product.second == "synthesis" else (0, 0),
        product.mode(x),
        base_seed if seeds is None else seeds,
        product.stream,
        table,
    )


def _canonical(y: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 -> float32 -> dtype, every NaN the same quiet NaN."""
    if dtype == torch.float64:
        return y
    y = y.to(torch.float32)
    return y.to(dtype).masked_fill_(y.isnan(), torch.nan)


def _plane(view: Tensor) -> tuple[int, int]:
    return view.shape[3] * view.shape[4], view.shape[5] * view.shape[6]


def _flat(view: Tensor) -> Tensor:
    """Planes [P, h, w] of a view."""
    return view.reshape(-1, *_plane(view))
