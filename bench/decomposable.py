# SPDX-License-Identifier: Apache-2.0
"""Decomposable flow matching against its peers at equal training compute, on small photograph crops.

    python -m bench.decomposable [--steps 1000] [--seeds 2]      train, sample, append rows to bench/results/
    python -m bench.decomposable --plot                          the picture of those rows

One small transformer (0.3 M parameters, a 4 x 4 grid of tokens at every resolution, so that a training step costs the
same for all) on grey 16 px crops: plain flow matching, a cascade (80 % of the steps for 8 px, the rest for 16 px given
8 px), a two-stage flow in the manner of Pyramidal Flow (one model, up-sampling and new noise at the jump), and
decomposable flow matching with its ablations. 40 Euler steps each. Quality: the Frechet distance of fixed random
features to other crops of the same photographs, and the error of the power spectrum (bench/quality.py).
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import rows
from bench.oracles import photograph_crops
from bench.quality import frechet, spectrum_error
from spectral_kernels import laplacian_pyramid, noise_levels, normal
from spectral_kernels.flow import decomposable as dfm
from spectral_kernels.flow.level_modules import (
    LevelEmbedding,
    LevelHeads,
    LevelTimes,
    TimeEmbedding,
    pack_levels,
    unpack_levels,
)

SIDE, PATCHES, WIDTH, DEPTH, BATCH = 16, (2, 4), 64, 4, 32
FEATURES = [p * p for p in PATCHES]


class Block(nn.Module):
    """A transformer block whose condition scales, shifts and gates (DiT, adaLN-zero)."""

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulate, self.heads = nn.Linear(width, 6 * width), heads
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        a, b, c, d, e, f = self.modulate(condition)[:, None].chunk(6, -1)
        q, k, v = self.qkv(self.norm(x) * (1 + a) + b).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + c * self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + f * self.mlp(self.norm(x) * (1 + d) + e)


class LevelTransformer(nn.Module):
    """v(levels, times [B, L], mask) for levels at `patches`; one level is an ordinary velocity model."""

    def __init__(self, patches: tuple[int, ...]):
        super().__init__()
        self.patches = patches
        self.embed = LevelEmbedding([p * p for p in patches], WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(1, (SIDE // PATCHES[-1]) ** 2, WIDTH))
        self.times = LevelTimes(TimeEmbedding(WIDTH), len(patches), WIDTH, zero=False)
        self.blocks = nn.ModuleList(Block(WIDTH) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.heads = LevelHeads(WIDTH, [p * p for p in patches])

    def forward(self, levels, times: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        condition = F.silu(self.times(1000 * times.float()))
        x = self.embed(pack_levels(levels, self.patches)) + self.place
        for block in self.blocks:
            x = block(x, condition)
        return unpack_levels(self.heads(self.norm(x)), [z.shape for z in levels], self.patches)


class Training:
    """Steps of Adam with an average of the weights; `loss(model, images, step)` says what is learned."""

    def __init__(self, model: nn.Module, total: int):
        self.model, self.average, self.total, self.done = model, copy.deepcopy(model), total, 0
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0, betas=(0.9, 0.99))

    def run(self, count: int, images: Tensor, loss: Callable[[nn.Module, Tensor, int], Tensor]) -> None:
        for _ in range(count):
            rate = 2e-3 * min(1.0, (self.done + 1) / 100) * (1 - 0.9 * self.done / self.total)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            value = loss(self.model, images[torch.randint(len(images), (BATCH,))], self.done)
            self.optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.done += 1
            keep = min(0.995, self.done / (self.done + 10))
            with torch.no_grad():
                for slow, fast in zip(self.average.parameters(), self.model.parameters(), strict=True):
                    slow.lerp_(fast, 1 - keep)


Sampler = Callable[[int], Tensor]


def shapes(count: int) -> list[tuple[int, int, int, int]]:
    return [(count, 1, SIDE // 2, SIDE // 2), (count, 1, SIDE, SIDE)]


def flow(images: Tensor, steps: int, seed: int) -> Iterator[tuple[int, Sampler]]:
    """Plain flow matching at full resolution: one level, logit-normal times."""
    training = Training(LevelTransformer(PATCHES[1:]), steps)

    def loss(model, x, step):
        times, mask = dfm.training_times(len(x), 1)
        return dfm.training_loss(model, [x], seed * 10**6 + step * BATCH, times, mask)

    def sampler(count: int) -> Tensor:
        return dfm.sample(
            training.average, dfm.initial_levels(shapes(count)[1:], 99), dfm.sampling_times(1, steps=(40,))
        )

    for _ in range(2):
        training.run(steps // 2, images, loss)
        yield training.done, sampler


def decomposable(
    images: Tensor, steps: int, seed: int, *, p0=0.9, location=1.5, masking=True, tied=False, resample="area"
) -> Iterator[tuple[int, Sampler]]:
    """Two levels, 30 + 10 steps, threshold 0.9. `tied`: all levels at one time. Without masking the model sees noise
    where a level has not begun, and learns to answer it."""
    training = Training(LevelTransformer(PATCHES), steps)

    def loss(model, x, step):
        times, mask = dfm.training_times(len(x), 2, stage_probs=(p0, 1 - p0), previous_location=location)
        if tied:
            times, mask = dfm.training_times(len(x), 1)
            times, mask = times.expand(-1, 2), mask.expand(-1, 2)
        if not masking:
            mask = torch.ones_like(mask)
        return dfm.training_loss(model, laplacian_pyramid(x, 2, resample), seed * 10**6 + step * BATCH, times, mask)

    def sampler(count: int, split=(30, 10), threshold=0.9) -> Tensor:
        grid = dfm.sampling_times(2, steps=split, threshold=threshold)
        if tied:
            grid = dfm.sampling_times(1, steps=(40,)).expand(-1, 2)
        begin = dfm.initial_levels(shapes(count), 99)
        if masking:
            return dfm.sample(training.average, begin, grid, resample=resample)
        pure = begin[1]

        def seeing_noise(levels, times, mask):
            fine = torch.where(mask[:, 1, None, None, None], levels[1], pure)
            return training.average([levels[0], fine], times, mask)

        return dfm.sample(seeing_noise, begin, grid, resample=resample)

    for _ in range(2):
        training.run(steps // 2, images, loss)
        yield training.done, sampler


def cascaded(images: Tensor, steps: int, seed: int) -> Iterator[tuple[int, Sampler]]:
    """A model of the coarse image for 80 % of the steps; from its weights one of the image given the coarse image."""
    first = Training(LevelTransformer(PATCHES[:1]), steps)

    def coarse_loss(model, x, step):
        times, mask = dfm.training_times(len(x), 1)
        return dfm.training_loss(model, [F.avg_pool2d(x, 2)], seed * 10**6 + step * BATCH, times, mask)

    def fine_loss(model, x, step):
        times = dfm.training_times(len(x), 2, stage_probs=(0.0, 1.0))[0]
        begin = seed * 10**6 + (steps + step) * BATCH
        noisy, velocities = noise_levels([F.avg_pool2d(x, 2), x], times, begin)
        return F.mse_loss(model(noisy, times)[1], velocities[1])

    first.run(int(0.8 * steps), images, coarse_loss)
    model = LevelTransformer(PATCHES)
    model.load_state_dict(first.model.state_dict(), strict=False)
    second = Training(model, steps)
    second.done = first.done
    second.run(steps - first.done, images, fine_loss)

    def sampler(count: int) -> Tensor:
        even = dfm.sampling_times(1, steps=(20,))
        coarse = dfm.sample(first.average, dfm.initial_levels(shapes(count)[:1], 99), even)
        given = 0.975 * coarse + 0.025 * normal(coarse.shape, 98)

        def upper(levels, times, mask):
            both = torch.cat([torch.full_like(times, 0.025), times], 1)
            return second.average([given, levels[0]], both)[1:]

        return dfm.sample(upper, dfm.initial_levels(shapes(count)[1:], 97), even)

    yield steps, sampler


def pyramidal(images: Tensor, steps: int, seed: int) -> Iterator[tuple[int, Sampler]]:
    """Two stages of one model: 8 px from noise to data level 2/3, then 16 px from level 1/2 to data.

    A stage goes straight from s up(down(x)) + (1 - s) e to e' x + (1 - e') e. At the jump the state is enlarged
    (nearest), scaled by 3/4, and noise whose blocks of 2 x 2 sum to zero makes its covariance that of the next start.
    Levels are of data here. Source: Jin et al., "Pyramidal Flow Matching", section 3.
    """
    training = Training(LevelTransformer(PATCHES), steps)

    def loss(model, x, step):
        half = len(x) // 2
        e = normal(x.shape, seed * 10**6 + step * BATCH)
        low, small = F.avg_pool2d(x[:half], 2), 2 * F.avg_pool2d(e[:half], 2)
        u = torch.sigmoid(torch.randn(len(x)))[:, None, None, None]
        begin, end = small, 2 / 3 * low + 1 / 3 * small
        z, v = torch.lerp(begin, end, u[:half]), end - begin
        stage = torch.cat([1 - u[:half, :, 0, 0], torch.ones(half, 1)], 1)
        wide = F.interpolate(F.avg_pool2d(x[half:], 2), scale_factor=2)
        start = 0.5 * wide + 0.5 * e[half:]
        y, w = torch.lerp(start, x[half:], u[half:]), x[half:] - start
        other = torch.cat([torch.zeros(half, 1), 1 - u[half:, :, 0, 0]], 1)
        levels = [torch.cat([z, torch.zeros_like(low)]), torch.cat([torch.zeros_like(y), y])]
        answer = model(levels, torch.cat([stage, other]))
        return F.mse_loss(answer[0][:half], v) + F.mse_loss(answer[1][half:], w)

    @torch.no_grad()
    def sampler(count: int) -> Tensor:
        z = normal(shapes(count)[0], 99)
        for k in range(20):
            times = torch.tensor([[1 - k / 20, 1.0]]).expand(count, 2)
            z = z + training.average([z, torch.zeros(shapes(count)[1])], times)[0] / 20
        e = normal(shapes(count)[1], 98)
        e = (e - F.interpolate(F.avg_pool2d(e, 2), scale_factor=2)) * (4 / 3) ** 0.5
        y = 0.75 * F.interpolate(z, scale_factor=2) + 3**0.5 / 4 * e
        for k in range(20):
            times = torch.tensor([[0.0, 1 - k / 20]]).expand(count, 2)
            y = y + training.average([torch.zeros(shapes(count)[0]), y], times)[1] / 20
        return y

    for _ in range(2):
        training.run(steps // 2, images, loss)
        yield training.done, sampler


METHODS: dict[str, Callable[..., Iterator[tuple[int, Sampler]]]] = {
    "flow matching": flow,
    "cascaded": cascaded,
    "pyramidal": pyramidal,
    "decomposable": decomposable,
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "p0 = 0.7": {"p0": 0.7},
    "p0 = 0.5": {"p0": 0.5},
    "tied times": {"tied": True},
    "without masking": {"masking": False},
    "location 0": {"location": 0.0},
    "dct": {"resample": "dct"},
}
# Of the trained two-level model: how its 40 steps are spent.
SAMPLING = [((20, 20), 0.9), ((35, 5), 0.9), ((30, 10), 0.5), ((30, 10), 0.7), ((30, 10), 1.0)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.decomposable", description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="training steps of each method")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--results", type=Path, default=rows.RESULTS, help="folder of the rows")
    parser.add_argument("--plot", action="store_true", help="draw the rows that are there")
    arguments = parser.parse_args(argv)
    if arguments.plot:
        from bench.decomposable_plot import draw

        print(draw(arguments.results))
        return 0
    images, held = photograph_crops(16384, SIDE), photograph_crops(4096, SIDE, seed=1)
    where = {**rows.circumstances("cpu"), "side": SIDE, "batch": BATCH, "samples": arguments.samples}
    floor = frechet(held[: arguments.samples], held[arguments.samples :])
    runs = [(name, method, {}, seed) for seed in range(arguments.seeds) for name, method in METHODS.items()]
    runs += [(name, decomposable, options, 0) for name, options in ABLATIONS.items()]
    for name, method, options, seed in runs:
        torch.manual_seed(seed)
        begun = time.process_time()
        for done, sampler in method(images, arguments.steps, seed, **options):
            seconds = round(time.process_time() - begun, 1)
            kinds: list[tuple[str, dict]] = [("30 + 10, 0.9" if method is decomposable else "", {})]
            if name == "decomposable" and done == arguments.steps:
                kinds += [(f"{a} + {b}, {t}", {"split": (a, b), "threshold": t}) for (a, b), t in SAMPLING]
            for kind, how in kinds:
                x = sampler(arguments.samples, **how)
                row = {
                    **where, "method": name, "ablation": bool(options), "seed": seed, "steps": done, "sampling": kind,
                    "cpu_seconds": seconds, "frechet": round(frechet(x, held), 5), "frechet_of_data": round(floor, 5),
                    "spectrum": round(spectrum_error(x, held), 4), "std": round(float(x.std()), 4),
                }  # fmt: skip
                rows.append(row, "decomposable", arguments.results)
                print(f"{name:16} {kind:14} seed {seed} {done:5d} steps {seconds:6.0f} s  frechet {row['frechet']:.4f}"
                      f"  spectrum {row['spectrum']:.3f}  (data {floor:.4f})", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
