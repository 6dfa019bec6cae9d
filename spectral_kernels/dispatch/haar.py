# SPDX-License-Identifier: Apache-2.0
"""One level of Haar in both axes, on 2x2 blocks: one read, one write, one factor 1/2 in place of two 1/sqrt(2).

    y = alpha (M X + beta N E) + gamma E + 0        in float64, sums in the order of reference/wavelets.py, rows first

A NaN or an infinity stays in its block: no other block is looked at.
"""

import torch
from torch import Tensor

from spectral_kernels.deviates import deviates_of_planes
from spectral_kernels.dispatch.product import Product, canonical, flat, plane_of, weights

_CHUNK = 1 << 17  # fine pixels per pass: 1 MiB per float64 temporary, which stays in a core's cache


def run(
    backend: str,
    product: Product,
    out: Tensor,
    x: Tensor,
    other: Tensor | None,
    seeds: Tensor | None,
    times: Tensor | None,
    base_seed: int | None,
    t: float,
) -> None:
    """A `Product` for which `local` holds, on views [B, C1, C2, h/p, p, w/p, p]."""
    if backend == "triton":
        from spectral_kernels.kernels.haar import launch

        launch(product, out, x, other, seeds, times, base_seed, t)
        return
    if backend == "native" and product.formula == "one" and product.kind in ("analysis", "synthesis"):
        from spectral_kernels.dispatch import native

        native.haar(out, x, product.kind == "synthesis")
        return
    per_sample = x.shape[1] * x.shape[2]
    given, added = flat(x), None if other is None else flat(other)
    result = given.new_empty((len(given), *plane_of(out)))
    step = max(1, _CHUNK // (product.fine[0] * product.fine[1]))
    for start in range(0, len(given), step):
        part = slice(start, min(start + step, len(given)))
        planes = torch.arange(part.start, part.stop, device=x.device)
        sample = planes // per_sample
        time = t if times is None else times[sample, None, None]
        alpha, beta, gamma = weights(product.formula, product.part, time, product.ratio)
        y = local(given[part].to(torch.float64), product.kind)
        extra = None if added is None else added[part].to(torch.float64)
        if product.second and not (times is None and beta == 0):
            if extra is None:
                seed = seeds[sample] if seeds is not None else sample + (base_seed or 0)
                extra = deviates_of_planes(seed, planes % per_sample, *product.fine, product.stream).to(torch.float64)
            spectrum = extra
            if product.second == "synthesis":
                spectrum = extra.clone()
                spectrum[:, : product.coarse[0], : product.coarse[1]] = 0
            more = local(spectrum, product.second).mul_(beta).add_(y)
            y = more if times is None else torch.where(torch.as_tensor(beta) == 0, y, more)
        if product.formula != "one":
            y = y.mul_(alpha)
        if extra is not None and product.adds:
            y = y.add_(extra * gamma)
        result[part] = canonical(y.add_(0.0), x.dtype)
    out.copy_(result.view(out.shape))


def local(x: Tensor, kind: str) -> Tensor:
    """M x M^T of float64 planes [P, h, w]; see reference/wavelets.py."""
    if kind == "analysis":
        pairs = x.unflatten(1, (-1, 2))
        rows = torch.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 1).flatten(1, 2)
        left, right = rows[:, :, ::2], rows[:, :, 1::2]
        return torch.cat([left + right, left - right], 2).mul_(0.5)
    if kind == "synthesis":
        low, high = x.unflatten(1, (2, -1)).unbind(1)
        low, high = torch.stack([low + high, low - high], 2).flatten(1, 2).unflatten(2, (2, -1)).unbind(2)
        return torch.stack([low + high, low - high], 3).flatten(2, 3).mul_(0.5)
    if kind == "down":
        pairs = x.unflatten(1, (-1, 2))
        rows = pairs[:, :, 0] + pairs[:, :, 1]
        return (rows[:, :, ::2] + rows[:, :, 1::2]).mul_(0.5)
    if kind == "up":
        blocks = (x * 0.5)[:, :, None, :, None].expand(-1, -1, 2, -1, 2)
        return blocks.contiguous().view(len(x), 2 * x.shape[1], 2 * x.shape[2])
    return local(local(x, "down"), "up")
