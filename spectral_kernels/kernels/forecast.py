# SPDX-License-Identifier: Apache-2.0
"""Forecasting on a GPU: a table of K pointers in, G sums out, each feature read once.

The pointers and, where the weights are on the host, the weights are kernel arguments: nothing is stacked, copied or
synchronised, and a CUDA graph captures them. The number of pointers is rounded up to a power of two, so that a run
whose history grows from 1 to 14 features compiles 5 kernels, not 14; the surplus pointers are masked off.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from spectral_kernels.kernels.launch import blocks, power_of_two
from spectral_kernels.kernels.rounding import round_to


@dataclass(frozen=True)
class Launch:
    """Settings that change speed, never bits."""

    block: int = 1024
    num_warps: int = 4


# A thread holds 8 elements, one 16-byte load per half-type feature: 4 warps have 128 threads on NVIDIA, 256 on AMD.
LAUNCH = Launch(2048 if torch.version.hip else 1024)

# Kernel arguments may take 4 KiB; pointers and weights stay below half of that.
MOST_POINTERS = 128
MOST_SCALARS = 256

# The tail of a size that is not a multiple of this gets a launch of its own, so that the body keeps 16-byte loads.
ALIGNED = 16


@triton.jit
def _canonical(x, dtype: tl.constexpr):
    """Rounded to the output dtype; every NaN is the quiet one with an empty payload."""
    if x.dtype == tl.float64:
        if dtype == tl.float64:
            return x
        x = x.to(tl.float32)
    elif dtype == tl.float64:
        return x.to(tl.float64)
    return round_to(tl.where(x != x, tl.full([1], 0x7FC00000, tl.int32).to(tl.float32, bitcast=True), x), dtype)


@triton.jit
def _decoded(code, exponent, encoding: tl.constexpr):
    """An encoded element as float32: exact, with integer operations where a chip may lack the type."""
    scale = (exponent.to(tl.int32) << 23).to(tl.float32, bitcast=True)
    if encoding == "int8":
        return code.to(tl.float32) * scale
    else:  # float8 e4m3: bias 7, three bits of mantissa, no infinity, NaN when all bits but the sign are set
        bits = code.to(tl.int32)
        magnitude = bits & 0x7F
        normal = ((magnitude << 20) + (120 << 23)).to(tl.float32, bitcast=True)
        small = magnitude.to(tl.float32) * 0.001953125
        value = tl.where(magnitude < 8, small, normal)
        value = tl.where(magnitude == 0x7F, float("nan"), value)
        return tl.where(bits >= 128, -value, value) * scale


@triton.jit
def _sums(features, exponents, weights, o, m, count, K: tl.constexpr, G: tl.constexpr, WIDE: tl.constexpr,
          SCALARS: tl.constexpr, encoding: tl.constexpr):  # fmt: skip
    """acc_g = w[g, 0] h_0, then acc_g = acc_g + w[g, k] h_k; `weights` a tuple of scalars [G K] or a pointer [G,
    count]."""
    sums = ()
    acc: tl.constexpr = tl.float64 if WIDE else tl.float32
    for k in tl.static_range(K):
        # More than half of the pointers are always live, the rest is masked off.
        live = m & (tl.full(m.shape, k, tl.int32) < count) if 2 * k > K else m
        code = tl.load(features[k] + o, mask=live, other=0.0)
        if encoding == "":
            h = code.to(acc)
        else:
            h = _decoded(code, tl.load(exponents[k] + o // 32, mask=live, other=0), encoding)
        grown = ()
        for g in tl.static_range(G):
            if SCALARS:
                w = weights[g * K + k]
            else:
                w = tl.load(weights + g * count + k, mask=k < count, other=0.0)
            term = w.to(acc) * h
            if k == 0:
                grown = grown + (term,)
            elif 2 * k > K:
                grown = grown + (tl.where(k < count, sums[g] + term, sums[g]),)
            else:
                grown = grown + (sums[g] + term,)
        sums = grown
    return sums


@triton.jit
def forecast_kernel(features, exponents, weights, out, start, stop, stride, count, K: tl.constexpr, G: tl.constexpr,
                    WIDE: tl.constexpr, SCALARS: tl.constexpr, encoding: tl.constexpr,
                    BLOCK: tl.constexpr):  # fmt: skip
    o = start + tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = o < stop
    sums = _sums(features, exponents, weights, o, m, count, K, G, WIDE, SCALARS, encoding)
    for g in tl.static_range(G):
        tl.store(out + g * stride + o, _canonical(sums[g], out.dtype.element_ty), mask=m)


@triton.jit
def update_moments_kernel(moments, feature, row, start, stop, stride, P: tl.constexpr, SCALARS: tl.constexpr,
                          BLOCK: tl.constexpr):  # fmt: skip
    o = start + tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = o < stop
    h = tl.load(feature + o, mask=m, other=0.0).to(tl.float32)
    for p in tl.static_range(P):
        factor = row[p] if SCALARS else tl.load(row + p)
        at = moments + p * stride + o
        tl.store(at, _canonical(tl.load(at, mask=m, other=0.0) + factor * h, tl.float32), mask=m)


# ---------------------------------------------------------------- weights on the device


@triton.jit
def _basis(position, num_steps, i, P: tl.constexpr):
    """[T_0, ..., T_{P-1}] at one position, zeros above."""
    tau = 2.0 * position / num_steps - 1.0
    before = tl.full([], 1.0, tl.float64)
    current = tau
    row = tl.where(i == 0, before, tl.zeros_like(before))
    for p in range(1, P):
        row = tl.where(i == p, current, row)
        following = 2.0 * tau * current - before
        before = current
        current = following
    return row


@triton.jit
def _at(vector, i, p):
    """Element p: a sum of zeros and one value is exact."""
    return tl.sum(tl.where(i == p, vector, 0.0), axis=0)


@triton.jit
def _weights(positions, goal, count, num_steps, ridge, blend, kk, P: tl.constexpr, PP: tl.constexpr):
    """One row of Chebyshev weights, float32, for the lanes kk; the canonical operations in their order, float64.

    Each entry of the factor is reduced column by column, which is the same sequence of subtractions as row by row.
    """
    i = tl.arange(0, PP)
    gram = tl.zeros([PP, PP], tl.float64)
    for k in range(count):
        row = _basis(tl.load(positions + k), num_steps, i, P)
        gram = gram + row[:, None] * row[None, :]
    gram = tl.where(i[:, None] == i[None, :], gram + ridge, gram)
    diagonal = tl.sum(tl.where(i[:, None] == i[None, :], gram, 0.0), axis=1)
    lower = tl.zeros([PP, PP], tl.float64)
    for p in range(P):
        column = tl.sum(tl.where(i[None, :] == p, gram, 0.0), axis=1)
        pivot = _at(column, i, p)
        # Nothing can be raised here: a singular system becomes NaN.
        pivot = tl.where(pivot > P * 2.220446049250313e-16 * _at(diagonal, i, p), pivot, float("nan"))
        root = tl.sqrt(pivot)
        column = tl.where(i == p, root, tl.where(i > p, column / root, 0.0))
        lower = tl.where(i[None, :] == p, column[:, None], lower)
        gram = gram - column[:, None] * column[None, :]
    y = _basis(goal, num_steps, i, P)
    for p in range(P):
        column = tl.sum(tl.where(i[None, :] == p, lower, 0.0), axis=1)
        value = _at(y, i, p) / _at(column, i, p)
        y = tl.where(i == p, value, tl.where(i > p, y - column * value, y))
    for step in range(P):
        p = P - 1 - step
        row = tl.sum(tl.where(i[:, None] == p, lower, 0.0), axis=0)
        value = _at(y, i, p) / _at(row, i, p)
        y = tl.where(i == p, value, tl.where(i < p, y - row * value, y))
    tau = 2.0 * tl.load(positions + kk, mask=kk < count, other=0.0) / num_steps - 1.0
    before = tl.zeros_like(tau) + 1.0
    current = tau
    fit = tl.zeros_like(tau) + before * _at(y, i, 0)
    for p in range(1, P):
        fit = fit + current * _at(y, i, p)
        following = 2.0 * tau * current - before
        before = current
        current = following
    last = tl.load(positions + count - 1)
    previous = tl.load(positions + count - 2, mask=count > 1, other=0.0)
    q = (goal - last) / (last - previous)
    line = tl.where(kk == count - 1, tl.where(count > 1, 1.0 + q, 1.0), tl.where(kk == count - 2, -q, 0.0))
    return (blend * fit + (1.0 - blend) * line).to(tl.float32)


@triton.jit
def chebyshev_weights_kernel(positions, targets, out, count, num_steps: "fp64", ridge: "fp64", blend: "fp64",
                             P: tl.constexpr, PP: tl.constexpr, KK: tl.constexpr):  # fmt: skip
    g = tl.program_id(0)
    kk = tl.arange(0, KK)
    row = _weights(positions, tl.load(targets + g), count, num_steps, ridge, blend, kk, P, PP)
    tl.store(out + g * count + kk, _canonical(row, tl.float32), mask=kk < count)


@triton.jit
def chebyshev_forecast_kernel(features, positions, targets, out, start, stop, stride, count, num_steps: "fp64",
                              ridge: "fp64", blend: "fp64", K: tl.constexpr, G: tl.constexpr, P: tl.constexpr,
                              PP: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Each program makes the weights once, keeps them in registers, and walks over its share of the blocks."""
    kk = tl.arange(0, K)
    weights = ()
    for g in tl.static_range(G):
        row = _weights(positions, tl.load(targets + g), count, num_steps, ridge, blend, kk, P, PP)
        bits = row.to(tl.int32, bitcast=True)
        for k in tl.static_range(K):
            # Picked as integers, which keeps the sign of a zero and every NaN.
            weights = weights + (tl.sum(tl.where(kk == k, bits, 0), axis=0).to(tl.float32, bitcast=True),)
    first = start + tl.program_id(0).to(tl.int64) * BLOCK
    for begin in range(first, stop, tl.num_programs(0).to(tl.int64) * BLOCK):
        o = begin + tl.arange(0, BLOCK)
        m = o < stop
        sums = _sums(features, (), weights, o, m, count, K, G, False, True, "")
        for g in tl.static_range(G):
            tl.store(out + g * stride + o, _canonical(sums[g], out.dtype.element_ty), mask=m)


# ---------------------------------------------------------------- launches


def _spans(size: int) -> list[tuple[int, int]]:
    body = size // ALIGNED * ALIGNED
    return [span for span in ((0, body), (body, size)) if span[0] < span[1]]


def _padded(table: Sequence, length: int) -> tuple:
    return (*table, *[table[0]] * (length - len(table)))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.int8 else tensor.view(torch.uint8)


def forecast(
    features: Sequence[Tensor], exponents: Sequence[Tensor], weights: Tensor, out: Tensor, launch: Launch = LAUNCH
) -> None:
    """out[g] = sum_k weights[g, k] features[k]; features of F elements in one memory order, out [G, F]."""
    count, size = len(features), out.shape[1]
    K = power_of_two(count)
    if K > MOST_POINTERS:
        raise ValueError(f"forecast: one launch takes at most {MOST_POINTERS} features, got {count}; bound the history")
    wide = any(h.dtype == torch.float64 for h in features)
    encoding = "" if not exponents else "int8" if features[0].dtype == torch.int8 else "float8"
    scalars = weights.device.type == "cpu" and not wide
    # A Python float argument is float32, so float64 weights have to travel as a tensor.
    weights = weights if scalars else weights.to(out.device)
    step = max(1, MOST_SCALARS // K) if scalars else 8
    with torch.cuda.device_of(out):
        for g in range(0, weights.shape[0], step):
            rows = weights[g : g + step].contiguous()
            values = tuple(v for row in rows.tolist() for v in [*row, *[0.0] * (K - count)]) if scalars else rows
            for start, stop in _spans(size):
                forecast_kernel[(blocks(stop - start, launch.block),)](
                    _padded([_bytes(h) for h in features] if encoding else features, K),
                    _padded(exponents, K) if encoding else (),
                    values,
                    out[g : g + step],
                    start,
                    stop,
                    out.stride(0),
                    count,
                    K=K,
                    G=rows.shape[0],
                    WIDE=wide,
                    SCALARS=scalars,
                    encoding=encoding,
                    BLOCK=launch.block,
                    num_warps=launch.num_warps,
                    enable_fp_fusion=False,
                )


def update_moments(moments: Tensor, feature: Tensor, row: Tensor, launch: Launch = LAUNCH) -> None:
    """moments[p] += row[p] feature; moments float32 [P, F], feature flat [F]."""
    scalars = row.device.type == "cpu"
    with torch.cuda.device_of(moments):
        for start, stop in _spans(feature.numel()):
            update_moments_kernel[(blocks(stop - start, launch.block),)](
                moments,
                feature,
                tuple(row.tolist()) if scalars else row,
                start,
                stop,
                moments.stride(0),
                P=row.numel(),
                SCALARS=scalars,
                BLOCK=launch.block,
                num_warps=launch.num_warps,
                enable_fp_fusion=False,
            )


def chebyshev_weights(
    positions: Tensor, targets: Tensor, num_steps: float, degree: int, ridge: float, blend: float, out: Tensor
) -> None:
    """out[g, k], float32, from float64 positions [K] and targets [G]."""
    with torch.cuda.device_of(out):
        chebyshev_weights_kernel[(targets.numel(),)](
            positions,
            targets,
            out,
            positions.numel(),
            num_steps,
            ridge,
            blend,
            P=degree + 1,
            PP=power_of_two(degree + 1),
            KK=power_of_two(positions.numel()),
            num_warps=1,
            enable_fp_fusion=False,
        )


def chebyshev_forecast(
    features: Sequence[Tensor],
    positions: Tensor,
    targets: Tensor,
    num_steps: float,
    degree: int,
    ridge: float,
    blend: float,
    out: Tensor,
    launch: Launch = LAUNCH,
) -> None:
    """`forecast` with `chebyshev_weights` made inside, in the same launch."""
    count, size = len(features), out.shape[1]
    K = power_of_two(count)
    if K > MOST_POINTERS:
        raise ValueError(
            f"chebyshev_forecast: one launch takes at most {MOST_POINTERS} features, got {count}; bound the history"
        )
    cores = torch.cuda.get_device_properties(out.device).multi_processor_count if out.is_cuda else 2
    step = max(1, 64 // K)  # that many weights stay in registers
    with torch.cuda.device_of(out):
        for g in range(0, targets.numel(), step):
            goals = targets[g : g + step]
            for start, stop in _spans(size):
                chebyshev_forecast_kernel[(min(blocks(stop - start, launch.block), 8 * cores),)](
                    _padded(features, K),
                    positions,
                    goals,
                    out[g : g + step],
                    start,
                    stop,
                    out.stride(0),
                    count,
                    num_steps,
                    ridge,
                    blend,
                    K=K,
                    G=goals.numel(),
                    P=degree + 1,
                    PP=power_of_two(degree + 1),
                    BLOCK=launch.block,
                    num_warps=launch.num_warps,
                    enable_fp_fusion=False,
                )
