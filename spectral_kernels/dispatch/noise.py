# SPDX-License-Identifier: Apache-2.0
"""The custom op `spectral_kernels::normal`: noise of a shape, from one seed or one seed per sample; no gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor

from spectral_kernels.dispatch import choose
from spectral_kernels.dispatch.operator import operator


@operator("normal")
def normal(
    shape: Sequence[int],
    base_seed: int | None,
    seeds: Tensor | None,
    stream: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Sample b has the seed `base_seed + b`, or `seeds[b]`; exactly one of the two is given."""
    from spectral_kernels.noise import plane_counts

    samples, planes, rows, columns = plane_counts(shape)
    chosen = choose(torch.empty(0, device=device))
    if chosen == "native":
        from spectral_kernels.dispatch import native

        noise = torch.empty((samples, planes, rows, columns), dtype=dtype)
        native.normal(noise, base_seed if seeds is None else seeds, stream)
    elif chosen == "triton":
        from spectral_kernels.kernels.noise import normal as kernel

        noise = kernel(samples, planes, rows, columns, base_seed, seeds, stream, dtype, device)
    else:
        from spectral_kernels.deviates import deviates

        noise = deviates(samples, planes, rows, columns, base_seed, seeds, stream, device).to(dtype)
    return noise.view(shape)


@normal.register_fake
def _(shape, base_seed, seeds, stream, dtype, device):
    return torch.empty(shape, dtype=dtype, device=device)
