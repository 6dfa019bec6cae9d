# SPDX-License-Identifier: Apache-2.0
"""Haar on blocks of 2^k x 2^k, k levels in one pass: one read, one write, factors of 1/2 in place of 1/sqrt(2).

    y = alpha (M X + beta N E) + gamma E + 0        in float64, sums in the order of reference/wavelets.py, rows first

A NaN or an infinity stays in its block: no other block is looked at.
"""

import torch
from torch import Tensor


def local(x: Tensor, kind: str, levels: int) -> Tensor:
    """M X of float64 planes [P, h, w] for k levels; see reference/wavelets.py."""
    if kind == "analysis":
        y = _analysis(x)
        if levels > 1:
            low = _corner(y)
            low.copy_(local(low, kind, levels - 1))
        return y
    if kind == "synthesis":
        if levels > 1:
            x = x.clone()
            low = _corner(x)
            low.copy_(local(low, kind, levels - 1))
        return _synthesis(x)
    if kind == "down":
        for _ in range(levels):
            x = _down(x)
        return x
    if kind == "up":
        side = 2**levels
        blocks = (x * 0.5**levels)[:, :, None, :, None].expand(-1, -1, side, -1, side)
        return blocks.contiguous().view(len(x), side * x.shape[1], side * x.shape[2])
    return local(local(x, "down", levels), "up", levels)


def _corner(x: Tensor) -> Tensor:
    """LL of a level, which the next level works on."""
    return x[:, : x.shape[1] // 2, : x.shape[2] // 2]


def _analysis(x: Tensor) -> Tensor:
    pairs = x.unflatten(1, (-1, 2))
    rows = torch.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 1).flatten(1, 2)
    left, right = rows[:, :, ::2], rows[:, :, 1::2]
    return torch.cat([left + right, left - right], 2).mul_(0.5)


def _synthesis(x: Tensor) -> Tensor:
    low, high = x.unflatten(1, (2, -1)).unbind(1)
    low, high = torch.stack([low + high, low - high], 2).flatten(1, 2).unflatten(2, (2, -1)).unbind(2)
    return torch.stack([low + high, low - high], 3).flatten(2, 3).mul_(0.5)


def _down(x: Tensor) -> Tensor:
    pairs = x.unflatten(1, (-1, 2))
    rows = pairs[:, :, 0] + pairs[:, :, 1]
    return (rows[:, :, ::2] + rows[:, :, 1::2]).mul_(0.5)
