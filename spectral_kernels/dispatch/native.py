# SPDX-License-Identifier: Apache-2.0
"""The way into the compiled CPU core: tensors become arrays, tables become handles, nothing is computed here."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from spectral_kernels import _native, bases  # pyright: ignore[reportAttributeAccessIssue]


@lru_cache(maxsize=512)
def table(basis: str, kind: str, fine: int, coarse: int, mode: str) -> "_native.Table":
    """A table folded and packed for the core, kept for the next call. Modes are "exact", "double" and "fast"."""
    cpu = torch.device("cpu")
    if mode == "fast" and basis == "dct" and kind in ("analysis", "synthesis"):
        return _native.fast_dct(fine, kind == "synthesis")
    if mode == "exact":
        return _native.Table(bases.sliced(basis, kind, fine, coarse, cpu))
    return _native.Table(bases.rounded(basis, kind, fine, coarse, torch.float64, cpu), mode)


def plane_product(
    out: Tensor,
    x: Tensor,
    other: Tensor | None,
    first: Sequence[tuple],
    second: Sequence[tuple] | None,
    corner: tuple[int, int],
    mode: str,
    seeds: Tensor | int | None,
    stream: int,
    weights: Tensor,
) -> None:
    """out = alpha (M_r X M_c^T + beta (N_r E N_c^T)) + gamma E + 0, see dispatch/planes.py.

    Tensors are views [B, C1, C2, h/p, p, w/p, p]; `first` and `second` name the row and the column table, `weights` is
    float64 [1, 3] or [B, 3]; `mode` is "exact", "double" or "fast"; E is zero in the corner for the second term.
    """
    # Without a promise of bits an expansion may go through the spectrum: analysis on the coarse grid into the corner of
    # the noise, one synthesis on the fine grid. A quarter fewer operations than two terms.
    spectral = mode == "fast" and corner != (0, 0)
    if spectral:
        first = [(basis, "analysis", coarse, coarse) for basis, _, _, coarse in first]
    _native.plane_product(
        out.detach(),
        x.detach(),
        None if other is None else other.detach(),
        tuple(table(*names, mode) for names in first),
        None if second is None else tuple(table(*names, mode) for names in second),
        corner,
        seeds,
        stream,
        weights,
        torch.get_num_threads(),
        spectral,
    )


def normal(out: Tensor, seeds: Tensor | int | None, stream: int) -> None:
    """Deviates into `out` [samples, planes, rows, columns]."""
    _native.normal(out, seeds, stream, torch.get_num_threads())


def forecast(features: Sequence[Tensor], weights: Tensor, out: Tensor) -> None:
    """out [G, n] from flat features [n] in float32, float16 or bfloat16 and float32 weights [G, K]."""
    flat = [h.detach() for h in features]
    _native.forecast(out.detach(), flat, weights.detach().to(torch.float32).contiguous(), torch.get_num_threads())


def update_moments(moments: Tensor, feature: Tensor, row: Tensor) -> None:
    """moments[m] += row[m] * feature: contiguous float32 moments [P, F], feature [F] of float32 or a half type."""
    factors = row.detach().to(torch.float32).contiguous()
    _native.update_moments(moments.detach(), feature.detach(), factors, torch.get_num_threads())


def haar(
    out: Tensor,
    x: Tensor,
    other: Tensor | None,
    kind: str,
    second: str,
    seeds: Tensor | int | None,
    stream: int,
    weights: Tensor,
) -> None:
    """out = alpha (M X + beta N E) + gamma E + 0 on 2x2 blocks, see dispatch/haar.py; views and weights as above."""
    _native.haar(
        out.detach(),
        x.detach(),
        None if other is None else other.detach(),
        kind,
        second,
        seeds,
        stream,
        weights,
        torch.get_num_threads(),
    )


def pyramid_split(x: Tensor, coarse: Tensor, detail: Tensor, resample: str) -> None:
    """One level down for views [B, C1, C2, h, 1, w, 1]."""
    _native.pyramid_split(x.detach(), coarse.detach(), detail.detach(), resample, torch.get_num_threads())


def pyramid_merge(coarse: Tensor, detail: Tensor, out: Tensor, resample: str, subtract: bool) -> None:
    """One level up for views [B, C1, C2, h, 1, w, 1]."""
    threads = torch.get_num_threads()
    _native.pyramid_merge(coarse.detach(), detail.detach(), out.detach(), resample, subtract, threads)


def noise_levels(
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    times: Tensor,
    mask: Tensor | None,
    seeds: Tensor | int | None,
    stream: int,
) -> None:
    """All levels at once; `targets` are the noisy levels, then the velocities, as views of their layouts."""
    views = [[view.detach() for view in views] for views in (sources, targets)]
    _native.noise_levels(
        views[0],
        views[1][: len(sources)],
        views[1][len(sources) :],
        times.detach().contiguous(),
        None if mask is None else mask.contiguous().view(torch.uint8),
        seeds,
        stream,
        torch.get_num_threads(),
    )
