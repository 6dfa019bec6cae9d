# SPDX-License-Identifier: Apache-2.0
"""A small convolutional velocity network, trained on photograph crops at 16, 8 and 4 px.

    python -m bench.small_network SECONDS [OUTPUT]

It is large enough (0.5 M parameters) to err as networks do: more at some levels than at others, and not alike at
different sizes. The measurements in bench/results/ come from one training of 45 minutes, some 4500 steps,
on a shared core.
"""

import argparse
import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.oracles import photograph_crops
from spectral_kernels import dct_truncate

SIDE = 16


class Block(nn.Module):
    """Two convolutions with a residual path; the condition scales and shifts the middle."""

    def __init__(self, inputs: int, outputs: int, condition: int):
        super().__init__()
        self.before, self.after = nn.GroupNorm(8, inputs), nn.GroupNorm(8, outputs)
        self.first, self.second = (nn.Conv2d(n, outputs, 3, padding=1) for n in (inputs, outputs))
        self.modulate = nn.Linear(condition, 2 * outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulate(condition)[:, :, None, None].chunk(2, 1)
        y = self.after(self.first(F.silu(self.before(x)))) * (1 + scale) + shift
        return self.skip(x) + self.second(F.silu(y))


class SmallNetwork(nn.Module):
    """v(z [n, 1, s, s], t): three scales, attention at the coarsest, conditioned on the level and on log2(s)."""

    def __init__(self, width: int = 24, condition: int = 64):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(33, condition), nn.SiLU(), nn.Linear(condition, condition), nn.SiLU())
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.ModuleList(
            Block(a, b, condition) for a, b in ((width, width), (width, 2 * width), (2 * width, 3 * width))
        )
        self.middle = nn.ModuleList(Block(3 * width, 3 * width, condition) for _ in range(2))
        self.attention = nn.MultiheadAttention(3 * width, 4, batch_first=True)
        self.up = nn.ModuleList((Block(5 * width, 2 * width, condition), Block(3 * width, width, condition)))
        self.leave = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, z: Tensor, t: float | Tensor) -> Tensor:
        return self.leave(self.features(z, t))

    def features(self, z: Tensor, t: float | Tensor) -> Tensor:
        """What the last block returns, [n, width, s, s]."""
        t = torch.as_tensor(t, dtype=z.dtype).expand(len(z))
        phase = 3 * t[:, None] * 2 ** torch.linspace(0, 6, 16)
        size = torch.full_like(t, math.log2(z.shape[-1] / 8))
        c = self.embed(torch.cat([phase.cos(), phase.sin(), size[:, None]], 1))
        a = self.down[0](self.enter(z), c)
        b = self.down[1](F.avg_pool2d(a, 2), c)
        m = self.middle[0](self.down[2](F.avg_pool2d(b, 2), c), c)
        tokens = m.flatten(2).transpose(1, 2)
        m = m + self.attention(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).view_as(m)
        y = F.interpolate(self.middle[1](m, c), scale_factor=2)
        y = F.interpolate(self.up[0](torch.cat([y, b], 1), c), scale_factor=2)
        return self.up[1](torch.cat([y, a], 1), c)


def train(
    seconds: float, path: str, count: int = 40_000, batch: int = 64, make: Callable[[], nn.Module] = SmallNetwork
):
    torch.manual_seed(0)
    images = photograph_crops(count, SIDE)
    network, average = make(), make()
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.0)
    begun, losses = time.monotonic(), []
    while (passed := (time.monotonic() - begun) / seconds) < 1:
        rate = 2e-3 * min(1, len(losses) / 200) * (1 - 0.98 * passed)
        for group in optimizer.param_groups:
            group["lr"] = rate
        x = images[torch.randint(count, (batch,))]
        # Of five batches three at full size, one at a half, one at a quarter.
        side = (SIDE, SIDE, SIDE // 2, SIDE, SIDE // 4)[len(losses) % 5]
        x = x if side == SIDE else dct_truncate(x, size=(side, side))
        t = torch.sigmoid(0.3 + 1.2 * torch.randn(batch))
        noise, level = torch.randn_like(x), t[:, None, None, None]
        loss = F.mse_loss(network((1 - level) * x + level * noise, t), noise - x)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        with torch.no_grad():
            keep = min(0.999, (len(losses) + 1) / (len(losses) + 20))
            for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)
        if len(losses) % 200 == 0:
            print(
                f"{len(losses)} steps, {time.monotonic() - begun:.0f} s, loss {sum(losses[-200:]) / 200:.4f}",
                flush=True,
            )
            torch.save(average.state_dict(), path)
    torch.save(average.state_dict(), path)


def main(name: str, **options) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description="Train on photograph crops.")
    parser.add_argument("seconds", type=float)
    parser.add_argument("output", nargs="?", default=f"{name}.pt")
    arguments = parser.parse_args()
    train(arguments.seconds, arguments.output, **options)


if __name__ == "__main__":
    main("small_network")
