# SPDX-License-Identifier: Apache-2.0
"""What growing runs lose and gain, on exact oracles and a small trained network.

    python -m bench.quality gaussian | posterior | shifts | tolerances | transforms | patches
    python -m bench.quality network WEIGHTS | bound [WEIGHTS]
    python -m bench.quality plot

The first two append rows to bench/results/quality.jsonl, the last makes tables and plots of them, those of
docs/schedules.md too.

Two questions, two measures. How far is a run from the full-resolution run of the same noise: `distance`, mean relative
L2. How good are its samples: `frechet`, the Frechet distance of fixed random features to those of held-out data, and
`spectrum`, the mean |log| ratio of ring powers. Costs are token-steps; a plan's FLOPs for an attention share follow.
Each row is one seed of the noise; tables give the mean over seeds and its standard error.
"""

import argparse
import functools
import json
import math
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.oracles import GaussianField, LocalPosteriorMean, PosteriorMean, photograph_crops
from bench.samplers import bilinear, dpm_2m, unshared
from spectral_kernels import (
    FLUX_LATENT,
    PowerSpectrum,
    align_time,
    dctn,
    idctn,
    normal,
    resolution_schedule,
    transition_time,
    velocity_error,
)
from spectral_kernels.flow import euler, full_resolution, heun, initial_noise, progressive, radial_frequency

RESULTS = Path(__file__).parent / "results"
SOLVERS = {"euler": euler, "heun": heun, "dpm++2m": dpm_2m}
SEEDS = (1, 1001, 2001)  # sample b draws from seed + b
DELTAS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


def shifted(steps: int, mu: float) -> list[float]:
    """FLUX's schedule: even levels moved by the exponential shift mu, and the end."""
    even = 1 - np.arange(1, steps) / steps
    return [1.0, *(math.exp(mu) / (math.exp(mu) + 1 / even - 1)).tolist(), 0.0]


@functools.cache
def feature_weights(channels: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    draw = functools.partial(torch.randn, generator=generator)
    return draw(16, channels, 5, 5) / 5, draw(24, 16, 3, 3) / 12


def features(x: Tensor) -> Tensor:
    """Mean and deviation of two layers of fixed random convolutions: 80 numbers per sample, float64."""
    first, second = feature_weights(x.shape[1])
    a = F.relu(F.conv2d(x.float(), first, stride=2))
    b = F.relu(F.conv2d(a, second, stride=2))
    return torch.cat([f(y, dim=(2, 3)) for y in (a, b) for f in (torch.mean, torch.std)], 1).double()


def frechet(a: Tensor, b: Tensor) -> float:
    """|mean difference|^2 + tr(A + B - 2 (A B)^1/2) of the features' Gaussians."""
    fa, fb = features(a), features(b)
    ca, cb = torch.cov(fa.T), torch.cov(fb.T)
    root = torch.linalg.eigvals(ca @ cb).real.clamp(min=0).sqrt().sum()
    return float(((fa.mean(0) - fb.mean(0)) ** 2).sum() + ca.trace() + cb.trace() - 2 * root)


def spectrum_error(x: Tensor, data: Tensor) -> float:
    """Mean |log power ratio| over octave-like bands of rings."""
    size = (x.shape[-2], x.shape[-1])
    a, b = (PowerSpectrum(size).update(y.float()).power for y in (x, data))
    edges = np.unique(np.geomspace(1, len(a) + 1, 9).astype(int)) - 1
    return float(np.mean([abs(np.log(a[i:j].mean() / b[i:j].mean())) for i, j in pairwise(edges)]))


def distance(x: Tensor, y: Tensor) -> float:
    return float(((x - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)).mean())


class Study:
    """Runs on one oracle: a velocity, the shape of its noise, its data, and the rows it writes."""

    def __init__(self, name: str, velocity, shape: tuple[int, ...], data: Tensor, law, mu: float, dtype=torch.float32):
        self.name, self.velocity, self.shape, self.data = name, velocity, shape, data
        self.law, self.mu, self.dtype = law, mu, dtype
        self.size: tuple[int, int] = (shape[-2], shape[-1])
        git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        self.commit = git.stdout.strip()

    def write(self, row: dict):
        row = {"commit": self.commit, "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, **row}
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / "quality.jsonl").open("a") as file:
            file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}) + "\n")

    def case(self, solver: str, steps: int, seed: int = 1):
        """The full-resolution run that others are compared with."""
        self.solver, self.steps, self.seed, self.sigmas = solver, steps, seed, shifted(steps, self.mu)
        self.noise = initial_noise(self.shape, seed, dtype=self.dtype)
        self.full = SOLVERS[solver](self.velocity, self.noise, self.sigmas)
        self.row("full", self.full, 1.0)
        return self

    def row(self, kind: str, x: Tensor, ratio: float, **facts):
        row = {
            "oracle": self.name, "samples": len(x), "seed": self.seed, "mu": self.mu, "solver": self.solver,
            "steps": self.steps, "kind": kind, "token_step_ratio": round(ratio, 4),
            "distance": distance(x, self.full),
            # 80 features need more samples than that.
            "frechet": frechet(x, self.data) if len(x) >= 48 else None,
            "spectrum": spectrum_error(x, self.data), **facts,
        }  # fmt: skip
        self.write(row)
        shown = " ".join(f"{k} {row[k]:.4f}" for k in ("distance", "frechet", "spectrum") if row[k] is not None)
        print(f"{self.name} {self.solver} {self.steps} {kind:>20} {ratio:.2f}x {shown} {facts}", flush=True)

    def plan(self, schedule: str, sizes=None, delta=None, coarse=None, align=True):
        """By tolerance, or with a number of coarse steps of the first of two stages."""
        sizes = sizes or [(self.size[0] // 2, self.size[1] // 2), self.size]
        if coarse is None:
            return resolution_schedule(self.sigmas, sizes, self.law, delta, schedule=schedule, align=align)
        level = align_time(self.sigmas[coarse], 0.5)[0] if schedule == "matched" else self.sigmas[coarse]
        return resolution_schedule(self.sigmas, sizes, schedule=schedule, align=align, transition_sigmas=[level])

    def run(self, kind: str, plan, basis: str = "dct", **facts):
        solver = SOLVERS[self.solver]
        if kind == "bilinear":
            x = bilinear(self.velocity, plan, self.noise, solver=solver)
        elif kind.endswith("levels"):  # the same levels, every step at full resolution: what the spacing alone does
            x = solver(self.velocity, self.noise, plan.full_sigmas)
        elif kind == "fresh noise":
            other = initial_noise(self.shape, self.seed + 500_000, dtype=self.dtype)
            noise = unshared(self.noise, other, plan.stages[0].size)
            x = full_resolution(self.velocity, plan, noise, solver=solver)
        elif plan.align:
            x = full_resolution(self.velocity, plan, self.noise, solver=solver, basis=basis)
        else:
            x = progressive(self.velocity, plan, self.noise, solver=solver, basis=basis)
        ratio = 1.0 if kind.endswith("levels") else plan.token_step_ratio
        facts |= {"basis": basis, "flops_ratio_attention_half": round(plan.cost_ratio(0.5), 4)}
        self.row(kind, x, ratio, coarse=[stage.num_steps for stage in plan.stages[:-1]], **facts)

    def at_equal_tokens(
        self, shares=(0.24, 0.36, 0.48, 0.56, 0.66, 0.76), *, spacing=False, naive=True, attentions=(0.0, 0.5)
    ):
        """The three schedules with the same coarse steps, and the full resolution with fewer."""
        for share in shares:
            coarse = round(share * self.steps)
            for schedule in ("published", "respaced", "matched"):
                self.run(schedule, self.plan(schedule, coarse=coarse))
                if spacing and schedule != "matched":
                    self.run(f"{schedule} levels", self.plan(schedule, coarse=coarse))
            self.run("fresh noise", self.plan("respaced", coarse=coarse))
            if naive:
                self.run("bilinear", self.plan("respaced", coarse=coarse))
                self.run("unaligned", self.plan("published", coarse=coarse, align=False))
            for steps in {max(2, round(self.steps / self.plan("published", coarse=coarse).cost_ratio(a)))
                          for a in attentions}:  # fmt: skip
                x = SOLVERS[self.solver](self.velocity, self.noise, shifted(steps, self.mu))
                self.row("fewer steps", x, self.steps / steps, fewer=steps)

    def by_tolerance(self, kinds: tuple[str, ...], *, basis="dct", deltas=DELTAS, stages=(2, 3, 4), **facts):
        """The sweep of the paper's figure 4(a) and table 8: tolerance, number of stages, transform."""
        for count in stages:
            sizes = [tuple(side >> k for side in self.size) for k in range(count - 1, -1, -1)]
            for delta in deltas:
                for kind in kinds:
                    align, schedule = kind != "unaligned", "published" if kind == "unaligned" else kind
                    plan = self.plan(schedule, sizes, delta, align=align)
                    self.run(kind, plan, basis, delta=delta, stages=count, sweep="tolerance", **facts)

    def bound(self, clean: Tensor, deltas=DELTAS):
        """What proposition 1 bounds: the error of taking the finest coarse frequency for noise, at its transition.

        E|v - noise|^2 of the model's velocity at z = (1 - t) x + t noise, in the ring of the coarse grid's Nyquist
        frequency; `expected` is `velocity_error` for the power that the clean data have in that ring.
        """
        coarse = (self.size[0] // 2, self.size[1] // 2)
        ring = (2 * radial_frequency(self.size)).round() == coarse[0]
        noise = initial_noise((len(clean), *self.shape[1:]), 7, dtype=self.dtype)
        power = float(dctn(clean).double().square()[..., ring].mean())
        for delta in deltas:
            t = transition_time(self.law, coarse, delta)
            v = torch.cat([self.velocity(z, t) for z in ((1 - t) * clean + t * noise).split(128)])
            error = float(dctn(v - noise).double().square()[..., ring].mean())
            row = {"oracle": self.name, "kind": "bound", "samples": len(clean), "delta": delta, "level": t,
                   "power": power, "expected": velocity_error(power, t), "error": error}  # fmt: skip
            self.write(row)
            print(self.name, {k: row[k] for k in ("delta", "level", "power", "expected", "error")}, flush=True)


def gaussian_study() -> Study:
    size = (128, 128)
    field = GaussianField(FLUX_LATENT, size)
    data = idctn(field.power(size).sqrt().float() * normal((256, 1, *size), 10_000))
    return Study("gaussian", field, (16, 1, *size), data, FLUX_LATENT, 1.15, torch.float64)


def images(side: int = 32):
    seen, held_out = photograph_crops(2048, side, seed=0), photograph_crops(2048, side, seed=1)
    return seen, held_out, PowerSpectrum((side, side)).update(held_out).fit()


def posterior_study(mu: float = 0.7, basis: str = "dct") -> Study:
    seen, held_out, law = images()
    return Study("posterior", PosteriorMean(seen, basis), (256, 1, 32, 32), held_out, law, mu)


def patches_study() -> Study:
    seen, held_out, law = images()
    return Study("patches", LocalPosteriorMean(seen, law, count=1024), (48, 1, 32, 32), held_out, law, 0.7)


def network_study(weights: str) -> Study:
    from bench.small_network import SIDE, SmallNetwork

    net = SmallNetwork()
    net.load_state_dict(torch.load(weights))
    net.eval()
    _, held_out, law = images(SIDE)
    return Study("network", net, (128, 1, SIDE, SIDE), held_out, law, 0.7)


OTHERS = (("heun", 25), ("dpm++2m", 25), ("euler", 25))


def gaussian():
    study = gaussian_study()
    for seed in SEEDS:
        study.case("euler", 50, seed).at_equal_tokens(spacing=True)
        for solver, steps in OTHERS:
            study.case(solver, steps, seed).at_equal_tokens((0.36, 0.56), spacing=True)
    study.case("euler", 50).by_tolerance(("published", "respaced", "matched", "unaligned"))


def posterior():
    study = posterior_study()
    for seed in SEEDS:
        study.case("euler", 50, seed).at_equal_tokens(spacing=True)
        for solver, steps in OTHERS:
            study.case(solver, steps, seed).at_equal_tokens((0.36, 0.56), spacing=True)


def shifts():
    """Is it the spacing? The same comparison on schedules that are shifted more and less."""
    for mu in (0.35, 1.05, 1.4):
        study = posterior_study(mu)
        for seed in SEEDS:
            study.case("euler", 50, seed).at_equal_tokens((0.36, 0.56), naive=False)


def tolerances():
    """The ablation of tolerance, number of stages, and alignment."""
    study = posterior_study()
    for seed in SEEDS:
        study.case("euler", 50, seed).by_tolerance(("published", "respaced", "matched", "unaligned"))


def transforms():
    """The ablation of the transform. A model's low-resolution twin is the one that saw images made small by the same
    transform; with `twin` "dct" it is the cosine one, and the expansion another."""
    for seed in SEEDS:
        for basis, twin in (("haar", "own"), ("fft", "own"), ("dct", "own"), ("haar", "dct"), ("fft", "dct")):
            study = posterior_study(basis=basis if twin == "own" else "dct").case("euler", 50, seed)
            kinds = ("respaced", "unaligned") if twin == "own" else ("respaced",)
            study.by_tolerance(kinds, basis=basis, deltas=(0.01, 0.05, 0.1), stages=(2, 3), twin=twin)


def patches():
    study = patches_study()
    for seed in SEEDS:
        study.case("euler", 20, seed).at_equal_tokens((0.56,), attentions=(0.0,))
        study.case("dpm++2m", 12, seed).at_equal_tokens((0.56,), attentions=(0.0,), naive=False)
        study.case("heun", 10, seed).at_equal_tokens((0.56,), attentions=(0.0,), naive=False)
    for seed in SEEDS:
        study.case("euler", 20, seed).at_equal_tokens((0.36,), attentions=(0.0,), naive=False)


def network(weights: str):
    study = network_study(weights)
    for seed in SEEDS:
        study.case("euler", 30, seed).at_equal_tokens((0.56, 0.36), spacing=True, attentions=(0.0,))
        for solver, steps in (("heun", 12), ("dpm++2m", 20)):
            study.case(solver, steps, seed).at_equal_tokens((0.56,), naive=False, attentions=(0.0,))
    for seed in SEEDS:
        study.case("euler", 30, seed).at_equal_tokens((0.66, 0.24), naive=False, attentions=(0.0,))


def bound(weights: str | None = None):
    """Proposition 1 where the model is optimal (the Gaussian field; the images that the posterior knows), and where it
    is not (images that neither the patches nor the network saw)."""
    study = gaussian_study()
    study.bound(study.data[:64].double())
    study = posterior_study()
    study.bound(study.velocity.images[:512])
    study = patches_study()
    study.bound(study.data[:48])
    if weights:
        study = network_study(weights)
        study.bound(study.data[:512])


def main() -> None:
    studies = (gaussian, posterior, shifts, tolerances, transforms, patches, network, bound)
    named = {study.__name__: study for study in studies}
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description="Measure, append rows; or plot them.")
    parser.add_argument("command", choices=(*named, "plot"))
    parser.add_argument("weights", nargs="?", help="of the network, for network and bound")
    arguments = parser.parse_args()
    if arguments.weights is None and arguments.command == "network":
        parser.error("network needs its weights; python -m bench.small_network trains one")
    if arguments.weights is not None and arguments.command not in ("network", "bound"):
        parser.error(f"{arguments.command} takes no weights")
    if arguments.command == "plot":
        from bench.quality_plots import plot

        plot(RESULTS)
    else:
        named[arguments.command](*([arguments.weights] if arguments.weights else []))


if __name__ == "__main__":
    with torch.no_grad():
        main()
