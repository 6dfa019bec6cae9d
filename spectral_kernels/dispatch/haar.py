# SPDX-License-Identifier: Apache-2.0
"""One level of Haar in both axes, on 2x2 blocks: one read, one write, one factor 1/2 in place of two 1/sqrt(2).

    y = alpha (M X + beta N E) + gamma E + 0        in float64, sums in the order of reference/wavelets.py, rows first

A NaN or an infinity stays in its block: no other block is looked at.
"""

import torch
from torch import Tensor

CHUNK = 1 << 17  # fine pixels per pass: 1 MiB per float64 temporary, which stays in a core's cache


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
