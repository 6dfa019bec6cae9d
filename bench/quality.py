# SPDX-License-Identifier: Apache-2.0
"""What growing runs lose and gain, on exact oracles and a small trained network.

    python -m bench.quality gaussian | posterior | shifts | bases | patches | network WEIGHTS
    python -m bench.quality plot

The first appends rows to bench/results/quality.jsonl, the second makes tables and plots of them.

Two questions, two measures. How far is a run from the full-resolution run of the same noise: `distance`, mean relative
L2. How good are its samples: `frechet`, the Frechet distance of fixed random features to those of held-out data, and
`spectrum`, the mean |log| ratio of ring powers. Costs are token-steps; a plan's FLOPs for an attention share follow.
"""

import functools
import json
import math
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.oracles import GaussianField, LocalPosteriorMean, PosteriorMean, photograph_crops
from bench.samplers import bilinear, dpm_2m
from spectral_kernels import FLUX_LATENT, PowerSpectrum, align_time, idctn, normal, resolution_schedule
from spectral_kernels.flow import euler, full_resolution, heun, initial_noise, progressive
from spectral_kernels.flow.progressive import BASES

RESULTS = Path(__file__).parent / "results"
SOLVERS = {"euler": euler, "heun": heun, "dpm++2m": dpm_2m}


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
    """Runs on one oracle: a velocity, its noise, its data, and the rows it writes."""

    def __init__(self, name, velocity, noise: Tensor, data: Tensor, law, mu: float):
        self.name, self.velocity, self.noise, self.data, self.law, self.mu = name, velocity, noise, data, law, mu
        self.exact: Tensor | None = None
        self.size: tuple[int, int] = (noise.shape[-2], noise.shape[-1])
        self.commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip()

    def case(self, solver: str, steps: int, converged: int = 0):
        """The full-resolution run that others are compared with, and one with many steps if asked for."""
        self.solver, self.steps, self.sigmas = solver, steps, shifted(steps, self.mu)
        self.full = SOLVERS[solver](self.velocity, self.noise, self.sigmas)
        if converged and self.exact is None:
            self.exact = heun(self.velocity, self.noise, shifted(converged, self.mu))
        self.row("full", self.full, 1.0)
        return self

    def row(self, kind: str, x: Tensor, ratio: float, **facts):
        row = {
            "commit": self.commit, "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "oracle": self.name,
            "samples": len(x), "mu": self.mu, "solver": self.solver, "steps": self.steps, "kind": kind,
            "token_step_ratio": round(ratio, 4), "distance": distance(x, self.full),
            "to_converged": None if self.exact is None else distance(x, self.exact),
            # 80 features need more samples than that.
            "frechet": frechet(x, self.data) if len(x) >= 48 else None,
            "spectrum": spectrum_error(x, self.data), **facts,
        }  # fmt: skip
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / "quality.jsonl").open("a") as file:
            file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}) + "\n")
        shown = " ".join(f"{k} {row[k]:.4f}" for k in ("distance", "frechet", "spectrum") if row[k] is not None)
        print(f"{self.name} {self.solver} {self.steps} {kind:>20} {ratio:.2f}x {shown} {facts}", flush=True)

    def plan(self, schedule: str, sizes=None, delta=None, coarse=None, align=True):
        """By tolerance, or with a number of coarse steps of the first of two stages."""
        sizes = sizes or [(self.size[0] // 2, self.size[1] // 2), self.size]
        if coarse is None:
            return resolution_schedule(self.sigmas, sizes, self.law, delta, schedule=schedule, align=align)
        level = align_time(self.sigmas[coarse], 0.5)[0] if schedule == "matched" else self.sigmas[coarse]
        return resolution_schedule(self.sigmas, sizes, schedule=schedule, align=align, transition_sigmas=[level])

    def run(self, kind: str, plan, **facts):
        solver = SOLVERS[self.solver]
        if kind == "bilinear":
            x = bilinear(self.velocity, plan, self.noise, solver=solver)
        elif kind.endswith("levels"):  # the same levels, every step at full resolution: what the spacing alone does
            x = solver(self.velocity, self.noise, plan.full_sigmas)
        elif plan.align:
            x = full_resolution(self.velocity, plan, self.noise, solver=solver)
        else:
            x = progressive(self.velocity, plan, self.noise, solver=solver)
        ratio = 1.0 if kind.endswith("levels") else plan.token_step_ratio
        facts["flops_ratio_attention_half"] = round(plan.cost_ratio(0.5), 4)
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
            if naive:
                self.run("bilinear", self.plan("respaced", coarse=coarse))
                self.run("unaligned", self.plan("published", coarse=coarse, align=False))
            for attention in attentions:
                self.fewer(self.plan("published", coarse=coarse).cost_ratio(attention))

    def fewer(self, ratio: float):
        steps = max(2, round(self.steps / ratio))
        x = SOLVERS[self.solver](self.velocity, self.noise, shifted(steps, self.mu))
        self.row("fewer steps", x, self.steps / steps, fewer=steps)

    def by_tolerance(self, deltas=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1), stages=(2, 3, 4)):
        """The sweep of the paper's table 8: tolerance and number of stages."""
        for count in stages:
            sizes = [tuple(side >> k for side in self.size) for k in range(count - 1, -1, -1)]
            for delta in deltas:
                for schedule in ("published", "respaced", "matched"):
                    self.run(schedule, self.plan(schedule, sizes, delta), delta=delta, stages=count, sweep="tolerance")
                if count == 2:
                    unaligned = self.plan("published", sizes, delta, align=False)
                    self.run("unaligned", unaligned, delta=delta, stages=count, sweep="tolerance")


def gaussian():
    size = (128, 128)
    field = GaussianField(FLUX_LATENT, size)
    data = idctn(field.power(size).sqrt().float() * normal((256, 1, *size), 10_000))
    noise = initial_noise((16, 1, *size), 1, dtype=torch.float64)
    study = Study("gaussian", field, noise, data, FLUX_LATENT, 1.15)
    study.case("euler", 50, converged=200).at_equal_tokens(spacing=True)
    study.by_tolerance()
    for solver, steps in (("heun", 25), ("dpm++2m", 25), ("euler", 25)):
        study.case(solver, steps, converged=200).at_equal_tokens((0.36, 0.56), spacing=True)


def images(side: int = 32):
    seen, held_out = photograph_crops(2048, side, seed=0), photograph_crops(2048, side, seed=1)
    return seen, held_out, PowerSpectrum((side, side)).update(held_out).fit()


def posterior():
    seen, held_out, law = images()
    study = Study("posterior", PosteriorMean(seen), initial_noise((256, 1, 32, 32), 1), held_out, law, 0.7)
    study.case("euler", 50, converged=200).at_equal_tokens(spacing=True)
    study.by_tolerance()
    for solver, steps in (("heun", 25), ("dpm++2m", 25), ("euler", 25)):
        study.case(solver, steps, converged=200).at_equal_tokens((0.36, 0.56), spacing=True)


def shifts():
    """Is it the spacing? The same comparison on schedules that are shifted more and less."""
    seen, held_out, law = images()
    for mu in (0.35, 1.05, 1.4):
        study = Study("posterior", PosteriorMean(seen), initial_noise((256, 1, 32, 32), 1), held_out, law, mu)
        study.case("euler", 50).at_equal_tokens((0.36, 0.56), naive=False)


def bases():
    """The transform, as in the paper's table 8; the low-resolution twins of the images stay the cosine ones."""
    seen, held_out, law = images()
    study = Study("posterior", PosteriorMean(seen), initial_noise((256, 1, 32, 32), 1), held_out, law, 0.7)
    study.case("euler", 50)
    for basis in BASES:
        for delta in (0.01, 0.05, 0.1):
            for stages in (2, 3):
                sizes = [(32 >> k, 32 >> k) for k in range(stages - 1, -1, -1)]
                plan = study.plan("respaced", sizes, delta)
                x = progressive(study.velocity, plan, study.noise, basis=basis)
                coarse = [stage.num_steps for stage in plan.stages[:-1]]
                facts = dict(coarse=coarse, delta=delta, stages=stages, basis=basis, sweep="basis")
                study.row("respaced", x, plan.token_step_ratio, **facts)


def patches():
    seen, held_out, law = images()
    velocity = LocalPosteriorMean(seen, law, count=1024)
    study = Study("patches", velocity, initial_noise((48, 1, 32, 32), 1), held_out, law, 0.7)
    study.case("euler", 30).at_equal_tokens((0.56, 0.36), attentions=(0.0,), naive=False)
    study.case("dpm++2m", 20).at_equal_tokens((0.56,), attentions=(0.0,), naive=False)


def network(weights: str):
    from bench.small_network import SIDE, SmallNetwork

    net = SmallNetwork()
    net.load_state_dict(torch.load(weights))
    net.eval()
    _, held_out, law = images(SIDE)
    study = Study("network", net, initial_noise((128, 1, SIDE, SIDE), 1), held_out, law, 0.7)
    study.case("euler", 30).at_equal_tokens((0.56, 0.36), spacing=True, naive=False, attentions=(0.0,))


if __name__ == "__main__":
    with torch.no_grad():
        command, *rest = sys.argv[1:]
        if command == "plot":
            from bench.quality_plots import plot

            plot(RESULTS)
        else:
            studies = (gaussian, posterior, shifts, bases, patches, network)
            {study.__name__: study for study in studies}[command](*rest)
