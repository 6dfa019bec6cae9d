# SPDX-License-Identifier: Apache-2.0
"""The way into the compiled CPU core: tensors become arrays, tables become handles, nothing is computed here.

Tensors travel as DLPack capsules: the core would ask a tensor for its own by a Python call, 2 us each in place of 0.3.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, to_dlpack

from spectral_kernels import _native, bases  # pyright: ignore[reportAttributeAccessIssue]
from spectral_kernels.dispatch.product import Operands, Product

Tables = tuple["_native.Table", "_native.Table"]
Seeds = Tensor | int | None


def _given(operand: Any) -> Any:
    return to_dlpack(operand) if isinstance(operand, Tensor) else operand


@lru_cache(maxsize=512)
def table(basis: str, kind: str, fine: int, coarse: int, mode: str) -> "_native.Table":
    """A table folded and packed for the core, kept for the next call. Modes are "exact", "double" and "fast"."""
    cpu = torch.device("cpu")
    if mode == "fast" and basis == "dct" and kind in ("analysis", "synthesis"):
        return _native.fast_dct(fine, kind == "synthesis")
    if mode == "exact":
        return _native.Table(bases.sliced(basis, kind, fine, coarse, cpu))
    return _native.Table(bases.rounded(basis, kind, fine, coarse, torch.float64, cpu), mode)


@lru_cache(maxsize=512)
def _tables(basis: str, kind: str, fine: tuple[int, int], coarse: tuple[int, int], mode: str) -> Tables:
    return table(basis, kind, fine[0], coarse[0], mode), table(basis, kind, fine[1], coarse[1], mode)


def plane_product(product: Product, operands: Operands, weights: Tensor | Sequence) -> None:
    """out = alpha (M_r X M_c^T + beta (N_r E N_c^T)) + gamma E + 0, see dispatch/planes.py.

    `weights` is (alpha, beta, gamma), or float64 [B, 3]; E is zero in the corner for the second term.
    """
    out, x, other, seeds, _, base_seed, _ = operands
    mode, kind, basis, fine, coarse = product.mode(x), product.kind, product.basis, product.fine, product.coarse
    # Without a promise of bits an expansion may go through the spectrum: analysis on the coarse grid into the corner of
    # the noise, one synthesis on the fine grid. A quarter fewer operations than two terms.
    masked = product.masked
    spectral = masked and mode == "fast"
    _native.plane_product(
        to_dlpack(out),
        to_dlpack(x),
        _given(other),
        _tables(basis, "analysis", coarse, coarse, mode) if spectral else _tables(basis, kind, fine, coarse, mode),
        _tables(basis, product.second, fine, coarse, mode) if product.second else None,
        coarse if masked else (0, 0),
        base_seed if seeds is None else to_dlpack(seeds),
        product.stream,
        _given(weights),
        torch.get_num_threads(),
        spectral,
    )


def normal(out: Tensor, seeds: Seeds, stream: int) -> None:
    """Deviates into `out` [samples, planes, rows, columns]."""
    _native.normal(to_dlpack(out), _given(seeds), stream, torch.get_num_threads())


def forecast(features: Sequence[Tensor], weights: Tensor, out: Tensor) -> None:
    """out [G, n] from contiguous features of n elements in float32, float16 or bfloat16 and float32 weights [G, K]."""
    runs = [to_dlpack(h) for h in features]
    _native.forecast(to_dlpack(out), runs, _float32(weights), torch.get_num_threads())


def _float32(numbers: Tensor) -> Any:
    return to_dlpack(numbers.to(torch.float32).contiguous())


def update_moments(moments: Tensor, feature: Tensor, row: Tensor) -> None:
    """moments[m] += row[m] * feature: contiguous float32 moments [P, F], feature [F] of float32 or a half type."""
    _native.update_moments(to_dlpack(moments), to_dlpack(feature), _float32(row), torch.get_num_threads())


def haar(product: Product, operands: Operands, weights: Tensor | Sequence) -> None:
    """out = alpha (M X + beta N E) + gamma E + 0 on blocks of 2^levels, see dispatch/haar.py; weights as above."""
    out, x, other, seeds, _, base_seed, _ = operands
    _native.haar(
        to_dlpack(out),
        to_dlpack(x),
        _given(other),
        product.kind,
        product.second,
        product.levels,
        base_seed if seeds is None else to_dlpack(seeds),
        product.stream,
        _given(weights),
        torch.get_num_threads(),
    )


def pyramid_split(x: Tensor, coarse: Tensor, detail: Tensor, resample: str) -> None:
    """One level down for views [B, C1, C2, h, 1, w, 1]."""
    _native.pyramid_split(to_dlpack(x), to_dlpack(coarse), to_dlpack(detail), resample, torch.get_num_threads())


def pyramid_merge(coarse: Tensor, detail: Tensor, out: Tensor, resample: str, subtract: bool) -> None:
    """One level up for views [B, C1, C2, h, 1, w, 1]."""
    capsules = to_dlpack(coarse), to_dlpack(detail), to_dlpack(out)
    _native.pyramid_merge(*capsules, resample, subtract, torch.get_num_threads())


def noise_levels(
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    times: Tensor,
    mask: Tensor | None,
    seeds: Seeds,
    stream: int,
) -> None:
    """All levels at once; `targets` are the noisy levels, then the velocities, as views of their layouts."""
    results = [to_dlpack(view) for view in targets]
    _native.noise_levels(
        [to_dlpack(view) for view in sources],
        results[: len(sources)],
        results[len(sources) :],
        to_dlpack(times.contiguous()),
        None if mask is None else to_dlpack(mask.contiguous().view(torch.uint8)),
        _given(seeds),
        stream,
        torch.get_num_threads(),
    )
