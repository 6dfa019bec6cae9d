# SPDX-License-Identifier: Apache-2.0
"""Decomposable flow matching against its peers at equal training compute, on small photograph crops.

    python -m bench.decomposable [--steps 1600] [--seeds 3]      train, sample, append rows to bench/results/
    python -m bench.decomposable --plot                          their picture and the tables of docs/decomposable.md

One small transformer (2.9 M parameters, a 4 x 4 grid of tokens at every resolution, so that a training step costs the
same for all; a row says how many FLOPs were spent) on grey 32 px crops: plain flow matching, a cascade (80 % of the
steps for 16 px, the rest for 32 px given 16 px), a two-stage flow in the manner of Pyramidal Flow (one model,
up-sampling and new noise at the jump), and decomposable flow matching with its ablations. 40 Euler steps each. The
learning rate is constant and samples come from an average of the weights, so that a run's earlier rows are those of a
shorter run; ablations stop at half of the steps. Quality: the Frechet distance of fixed random features to other crops
of the same photographs, and the error of the power spectrum (bench/quality.py). A run whose last row is there is not
repeated; `--share 0/2` and `--share 1/2` split the runs between two processes.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench import rows
from bench.decomposable_plot import DOCUMENT, document, draw, measured
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

SIDE, GRID, WIDTH, DEPTH, BATCH, RATE = 32, 4, 192, 4, 32, 1e-3
DRAW = 10**9  # seeds of the noise that samples begin with; training's are small


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


Levels = list[Tensor]


class LevelTransformer(nn.Module):
    """v(levels, times [B, L], mask) for levels like `levels`; one level is an ordinary velocity model."""

    def __init__(self, levels: Sequence[Tensor]):
        super().__init__()
        self.patches = [z.shape[-1] // GRID for z in levels]
        features = [z.shape[1] * p * p for z, p in zip(levels, self.patches, strict=True)]
        self.embed = LevelEmbedding(features, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(1, GRID * GRID, WIDTH))
        self.times = LevelTimes(TimeEmbedding(WIDTH), len(levels), WIDTH, zero=False)
        self.blocks = nn.ModuleList(Block(WIDTH) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.heads = LevelHeads(WIDTH, features)

    def forward(self, levels, times: Tensor, mask: Tensor | None = None) -> Levels:
        condition = F.silu(self.times(1000 * times.float()))
        x = self.embed(pack_levels(levels, self.patches)) + self.place
        for block in self.blocks:
            x = block(x, condition)
        return unpack_levels(self.heads(self.norm(x)), [z.shape for z in levels], self.patches)


class Training:
    """Steps of Adam on levels drawn from `data`, an average of the weights, and what it all cost."""

    def __init__(self, model: nn.Module, data: Levels):
        self.model, self.average, self.data = model, copy.deepcopy(model), data
        self.done, self.flops, self.seconds, self.step_flops = 0, 0, 0.0, 0
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, betas=(0.9, 0.99), fused=True)

    def until(self, done: int, loss: Callable[[nn.Module, Levels, int], Tensor]) -> None:
        """`loss(model, levels, step)` is what is learned."""
        begun = time.process_time()
        while self.done < done:
            if self.step_flops:
                self.step(loss)
            else:
                with FlopCounterMode(display=False) as counter:
                    self.step(loss)
                self.step_flops = counter.get_total_flops()
            self.flops += self.step_flops
        self.seconds += time.process_time() - begun

    def step(self, loss) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (self.done + 1) / 100)
        drawn = torch.randint(len(self.data[0]), (BATCH,))
        value = loss(self.model, [z[drawn] for z in self.data], self.done)
        self.optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.done += 1
        keep = min(0.995, self.done / (self.done + 10))
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.model.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)


class Trained(NamedTuple):
    """A method after some steps: what they cost, and how it makes samples."""

    steps: int
    flops: int
    seconds: float
    sample: Callable[..., Tensor]


def trained(training: Training, sample: Callable[..., Tensor]) -> Trained:
    return Trained(training.done, training.flops, training.seconds, sample)


def shapes(count: int, levels: Levels) -> list[tuple[int, ...]]:
    return [(count, *z.shape[1:]) for z in levels]


def flow(images: Tensor, marks: Sequence[int], seed: int) -> Iterator[Trained]:
    """Plain flow matching at full resolution: one level, logit-normal times."""
    training = Training(LevelTransformer([images]), [images])

    def loss(model, levels, step):
        times, mask = dfm.training_times(BATCH, 1)
        return dfm.training_loss(model, levels, seed * 10**6 + step * BATCH, times, mask)

    def sample(count: int) -> Tensor:
        begin = dfm.initial_levels(shapes(count, [images]), DRAW)
        return dfm.sample(training.average, begin, dfm.sampling_times(1, steps=(40,)))

    for mark in marks:
        training.until(mark, loss)
        yield trained(training, sample)


def decomposable(
    images: Tensor, marks: Sequence[int], seed: int, *, p0=0.9, location=1.5, masking=True, tied=False, **pyramid
) -> Iterator[Trained]:
    """Two levels, 30 + 10 steps, threshold 0.9. `tied`: all levels at one time. Without masking the model's input is
    noise, in place of 0, where a level has not begun. `pyramid`: the arguments of `laplacian_pyramid`."""
    data = laplacian_pyramid(images, 2, **pyramid)
    training = Training(LevelTransformer(data), data)

    def loss(model, levels, step):
        times, mask = dfm.training_times(BATCH, 2, stage_probs=(p0, 1 - p0), previous_location=location)
        if tied:
            times, mask = (a.expand(-1, 2) for a in dfm.training_times(BATCH, 1))
        noisy, velocities = noise_levels(levels, times, seed * 10**6 + step * BATCH, mask=mask if masking else None)
        return dfm.decomposable_loss(model(noisy, times, mask), velocities, mask)

    def sample(count: int, split=(30, 10), threshold=0.9) -> Tensor:
        times = dfm.sampling_times(2, steps=split, threshold=threshold)
        if tied:
            times = dfm.sampling_times(1, steps=(40,)).expand(-1, 2)
        begin = dfm.initial_levels(shapes(count, data), DRAW)

        def seeing_noise(levels, times, mask):
            fine = torch.where(mask[:, 1, None, None, None], levels[1], begin[1])
            return training.average([levels[0], fine], times, mask)

        return dfm.sample(training.average if masking else seeing_noise, begin, times, **pyramid)

    for mark in marks:
        training.until(mark, loss)
        yield trained(training, sample)


def cascaded(images: Tensor, marks: Sequence[int], seed: int) -> Iterator[Trained]:
    """A model of the coarse image for 80 % of the steps; from its weights one of the image given the coarse image.

    The given image carries a little noise, of location 1.5 in training and 0.025 in sampling; 20 Euler steps each.
    """
    data = [F.avg_pool2d(images, 2), images]
    first = Training(LevelTransformer(data[:1]), data[:1])

    def coarse_loss(model, levels, step):
        times, mask = dfm.training_times(BATCH, 1)
        return dfm.training_loss(model, levels, seed * 10**6 + step * BATCH, times, mask)

    def fine_loss(model, levels, step):
        times = dfm.training_times(BATCH, 2, stage_probs=(0.0, 1.0))[0]
        noisy, velocities = noise_levels(levels, times, seed * 10**6 + 500_000 + step * BATCH)
        return F.mse_loss(model(noisy, times)[1], velocities[1])

    for mark in marks:
        first.until(round(0.8 * mark), coarse_loss)
        second = Training(LevelTransformer(data), data)
        second.model.load_state_dict(first.model.state_dict(), strict=False)
        second.average.load_state_dict(second.model.state_dict())
        second.until(mark - first.done, fine_loss)

        def sample(count: int, fine=second.average) -> Tensor:
            even, begin = dfm.sampling_times(1, steps=(20,)), dfm.initial_levels(shapes(count, data), DRAW)
            coarse = dfm.sample(first.average, begin[:1], even)
            given = 0.975 * coarse + 0.025 * normal(coarse.shape, DRAW, stream=2)

            def upper(levels, times, mask):
                return fine([given, *levels], torch.cat([torch.full_like(times, 0.025), times], 1))[1:]

            return dfm.sample(upper, begin[1:], even)

        yield Trained(mark, first.flops + second.flops, first.seconds + second.seconds, sample)


def pyramidal(images: Tensor, marks: Sequence[int], seed: int, *, even=False) -> Iterator[Trained]:
    """Two stages of one model: 16 px from noise to data level 2/3, then 32 px from level 1/2 to data.

    A stage goes straight from s up(down(x)) + (1 - s) e to e' x + (1 - e') e. At the jump the state is enlarged
    (nearest), scaled by 3/4, and noise whose blocks of 2 x 2 sum to zero makes its covariance that of the next start.
    Half of a batch for each stage, 20 Euler steps each. Times within a stage are logit-normal as those of the other
    methods, or `even`. Source: Jin et al., "Pyramidal Flow Matching", section 3.
    """
    data, half = [F.avg_pool2d(images, 2), images], BATCH // 2
    training = Training(LevelTransformer(data), data)

    def loss(model, levels, step):
        low, x = levels
        e = normal(x.shape, seed * 10**6 + step * BATCH)
        small = 2 * F.avg_pool2d(e[:half], 2)
        u = (torch.rand(BATCH) if even else torch.sigmoid(torch.randn(BATCH)))[:, None, None, None]
        end = 2 / 3 * low[:half] + 1 / 3 * small
        start = 0.5 * F.interpolate(low[half:], scale_factor=2) + 0.5 * e[half:]
        z, y = torch.lerp(small, end, u[:half]), torch.lerp(start, x[half:], u[half:])
        level = 1 - u.flatten()
        times = torch.stack([level, torch.ones(BATCH)], 1)
        times[half:] = torch.stack([torch.zeros(half), level[half:]], 1)
        answer = model([F.pad(z, (0,) * 7 + (half,)), F.pad(y, (0,) * 6 + (half, 0))], times)
        return F.mse_loss(answer[0][:half], end - small) + F.mse_loss(answer[1][half:], x[half:] - start)

    @torch.no_grad()
    def sample(count: int) -> Tensor:
        z, e = dfm.initial_levels(shapes(count, data), DRAW)
        for k in range(20):
            times = torch.tensor([[1 - k / 20, 1.0]]).expand(count, 2)
            z = z + training.average([z, torch.zeros_like(e)], times)[0] / 20
        y = enlarged(z, e)
        for k in range(20):
            times = torch.tensor([[0.0, 1 - k / 20]]).expand(count, 2)
            y = y + training.average([torch.zeros_like(z), y], times)[1] / 20
        return y

    for mark in marks:
        training.until(mark, loss)
        yield trained(training, sample)


def enlarged(z: Tensor, e: Tensor) -> Tensor:
    """The end of the coarse stage, up(low) 2/3 + noise 1/3, as the fine stage's start, up(low) 1/2 + white noise 1/2.

    Enlarging makes the noise one number per block; new noise that sums to 0 in a block takes the rest of it apart.
    """
    e = (e - F.interpolate(F.avg_pool2d(e, 2), scale_factor=2)) * (4 / 3) ** 0.5
    return 0.75 * F.interpolate(z, scale_factor=2) + 3**0.5 / 4 * e


METHODS: dict[str, Callable[..., Iterator[Trained]]] = {
    "flow matching": flow,
    "decomposable": decomposable,
    "cascaded": cascaded,
    "pyramidal": pyramidal,
}
# Of the decomposable method, if not said otherwise.
ABLATIONS: dict[str, dict[str, Any]] = {
    "pyramidal, even times": {"even": True},
    "without masking": {"masking": False},
    "p0 = 0.7": {"p0": 0.7},
    "tied times": {"tied": True},
    "haar": {"basis": "haar"},
    "location 0": {"location": 0.0},
    "dct": {"resample": "dct"},
    "p0 = 0.95": {"p0": 0.95},
    "p0 = 0.5": {"p0": 0.5},
    "dct basis": {"basis": "dct"},
}
# Of the trained two-level model: how its 40 steps are spent.
SAMPLING = [((20, 20), 0.9), ((35, 5), 0.9), ((30, 10), 0.5), ((30, 10), 0.7), ((30, 10), 1.0)]


def planned(seeds: int) -> list[tuple[str, Callable[..., Iterator[Trained]], dict[str, Any], int]]:
    """All runs, the most telling first: both flows, the other methods, then the ablations, seed by seed."""
    methods = [(name, method, {}, seed) for seed in range(seeds) for name, method in METHODS.items()]
    ablations = [
        (name, METHODS.get(name.split(",")[0], decomposable), options, seed)
        for seed in range(seeds)
        for name, options in ABLATIONS.items()
    ]
    return sorted(methods, key=lambda run: run[1] not in (flow, decomposable)) + ablations


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.decomposable", description=__doc__)
    parser.add_argument("--steps", type=int, default=1600, help="training steps, half of them for ablations")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--share", default="0/1", help="which part of the runs, i/n")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, help="folder of the rows")
    parser.add_argument("--plot", action="store_true", help="draw the rows that are there")
    arguments = parser.parse_args(argv)
    if arguments.plot:
        print(draw(arguments.results, WIDTH))
        if arguments.results == rows.RESULTS:
            DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8"), rows.RESULTS), encoding="utf-8")
        return 0
    images, held = photograph_crops(16384, SIDE), photograph_crops(4096, SIDE, seed=1)
    where = {**rows.circumstances("cpu"), "side": SIDE, "width": WIDTH, "batch": BATCH, "samples": arguments.samples}
    floor = frechet(images[: arguments.samples], held)
    share, shares = map(int, arguments.share.split("/"))
    for name, method, options, seed in planned(arguments.seeds)[share::shares]:
        marks = [arguments.steps // 4, arguments.steps // 2, arguments.steps]
        marks = marks[1:2] if options else marks
        there = measured(arguments.results, WIDTH)
        if any((r["method"], r["seed"], r["steps"]) == (name, seed, marks[-1]) for r in there):
            continue
        torch.manual_seed(seed)
        found = []
        for done, flops, seconds, sample in method(images, marks, seed, **options):
            kinds: list[tuple[str, dict]] = [("30 + 10, 0.9" if method is decomposable else "", {})]
            if name == "decomposable" and done == arguments.steps:
                kinds += [(f"{a} + {b}, {t}", {"split": (a, b), "threshold": t}) for (a, b), t in SAMPLING]
            # Drawing samples leaves the state of training alone: rows on the way do not change the rows after them.
            for kind, how in kinds:
                x = sample(arguments.samples, **how)
                row = {
                    **where, "method": name, "ablation": bool(options), "seed": seed, "steps": done, "sampling": kind,
                    "training_gflops": round(flops / 1e9), "cpu_seconds": round(seconds, 1),
                    "frechet": round(frechet(x, held), 5), "frechet_of_data": round(floor, 5),
                    "spectrum": round(spectrum_error(x, held), 4), "std": round(float(x.std()), 4),
                }  # fmt: skip
                found.append(row)
                print(f"{name:16} {kind:14} seed {seed} {done:5d} steps {seconds:6.0f} s  frechet {row['frechet']:.4f}"
                      f"  spectrum {row['spectrum']:.3f}  (data {floor:.4f})", flush=True)  # fmt: skip
        for row in found:
            rows.append(row, "decomposable", arguments.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
