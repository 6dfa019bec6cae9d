# SPDX-License-Identifier: Apache-2.0
"""Ops of DTensors sharded over samples or planes: each process computes its own planes, nothing is sent.

Noise from a seed depends on the sample's seed and the plane's number in it, so every process draws exactly the part
of the whole batch's noise that belongs to its planes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from spectral_kernels import layouts
from spectral_kernels.deviates import deviates_of_planes
from spectral_kernels.dispatch import planes
from spectral_kernels.dispatch.product import Product


def plane_product(
    op: str,
    product: Product,
    x: Tensor,
    other: Tensor | None = None,
    seeds: Tensor | None = None,
    times: Tensor | None = None,
    base_seed: int | None = None,
    *,
    t: float,
) -> Tensor:
    """`dispatch.planes.plane_product` for tensors and DTensors; `op` is the public name, for errors.

    `t` has no default: torch.compile would take one for a number that changes, as it does every float.
    """
    # The attribute instead of the class: torch.distributed.tensor takes a second to import, and few need it.
    if not hasattr(x, "device_mesh"):
        if hasattr(other, "device_mesh"):
            raise TypeError(f"{op}: a DTensor needs the state to be one too; shard the state like it")
        return planes.plane_product(x, other, seeds, times, base_seed, t, *product)
    return _sharded(op, product, x, other, seeds, times, base_seed, t)


def _sharded(op: str, product: Product, x: Any, other: Any, seeds, times, base_seed: int | None, t: float) -> Tensor:
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _check_placements(op, x, product.layout)
    if other is not None and (not isinstance(other, DTensor) or other.placements != x.placements):
        raise TypeError(
            f"{op}: noise or z must be a DTensor with the state's placements {x.placements}; redistribute it"
        )
    shape, offset = compute_local_shape_and_global_offset(x.shape, x.device_mesh, x.placements)
    first, last = (offset[0], offset[0] + shape[0]) if x.ndim > 2 else (0, 1)
    local = x.to_local()
    added = None if other is None else other.to_local()
    seeds = None if seeds is None else seeds[first:last].contiguous()
    times = None if times is None else times[first:last].contiguous()
    base_seed = None if base_seed is None else base_seed + first
    if product.second and added is None and tuple(shape[1:]) != tuple(x.shape[1:]) and not (times is None and t == 0):
        seed = seeds if seeds is not None else torch.arange(shape[0], device=local.device) + (base_seed or 0)
        added = _noise(product, local, _plane_numbers(op, x.shape, shape, offset, product.layout), seed)
        seeds = base_seed = None
    y = planes.plane_product(local, added, seeds, times, base_seed, t, *product)
    whole = torch.Size(layouts.resized(x.shape, product.layout, product.result))
    stride = torch.empty(whole, device="meta").stride()
    return DTensor.from_local(y, x.device_mesh, x.placements, run_check=False, shape=whole, stride=stride)


def planewise(op: str, function: Callable[..., Sequence[Tensor]], tensors: Sequence[Any]) -> list[Tensor]:
    """function(*tensors), which works plane by plane, of DTensors [..., h, w] sharded alike."""
    from torch.distributed.tensor import DTensor

    first = tensors[0]
    for tensor in tensors:
        if not isinstance(tensor, DTensor) or tensor.placements != first.placements:
            raise TypeError(f"{op}: all levels must be DTensors with the same placements; redistribute them")
        _check_placements(op, tensor, "planes")
    found = []
    for y in function(*(tensor.to_local() for tensor in tensors)):
        whole = torch.Size((*first.shape[:-2], *y.shape[-2:]))
        stride = torch.empty(whole, device="meta").stride()
        found.append(
            DTensor.from_local(y, first.device_mesh, first.placements, run_check=False, shape=whole, stride=stride)
        )
    return found


def _check_placements(op: str, x: Any, layout: str) -> None:
    from torch.distributed.tensor import Replicate, Shard

    spatial = (x.ndim - 2, x.ndim - 1) if layout == "planes" else (1,)
    for name, placement in zip(x.device_mesh.mesh_dim_names or range(x.device_mesh.ndim), x.placements, strict=True):
        if isinstance(placement, Replicate):
            continue
        if type(placement) is not Shard:
            raise ValueError(
                f"{op}: x must be sharded over samples or channels or replicated, got {placement} over mesh dimension "
                f"{name}; use x.redistribute(...)"
            )
        if placement.dim % x.ndim in spatial:
            raise ValueError(
                f"{op}: x is sharded over its spatial dimension {placement.dim} (mesh dimension {name}), and a "
                f"spectrum needs whole planes; use x.redistribute(...) to shard samples or channels"
            )


def _plane_numbers(op: str, whole: torch.Size, shape, offset, layout: str) -> Tensor:
    """Numbers within their sample of the planes that this process holds."""
    if layout == "planes":
        numbers = torch.arange(whole[1:-2].numel(), device="cpu").view(whole[1:-2])
        for dim in range(1, len(whole) - 2):
            numbers = numbers.narrow(dim - 1, offset[dim], shape[dim])
        return numbers.reshape(-1)
    each = 4 if layout == "patches" else 1
    if shape[2] % each or offset[2] % each:
        raise ValueError(f"{op}: channels of 2x2 patches must be sharded in fours, got {shape[2]} from {offset[2]} on")
    return torch.arange(offset[2] // each, (offset[2] + shape[2]) // each, device="cpu")


def _noise(product: Product, local: Tensor, numbers: Tensor, seed: Tensor) -> Tensor:
    """float32 noise of these planes in the layout of the output, the bits that a whole sample would have there."""
    shape = layouts.resized(local.shape, product.layout, product.fine)
    noise = torch.empty(shape, dtype=torch.float32, device=local.device)
    view = layouts.view(noise, product.layout, product.fine)
    count = len(numbers)
    numbers = numbers.to(local.device).repeat(len(seed))
    drawn = deviates_of_planes(seed.to(local.device).repeat_interleave(count), numbers, *product.fine, product.stream)
    view.copy_(drawn.view(view.shape))
    return noise
