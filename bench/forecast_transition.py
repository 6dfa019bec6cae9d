# SPDX-License-Identifier: Apache-2.0
"""What should a history of features do when the resolution grows? Rows of results/forecast_transition.jsonl.

    python -m bench.forecast_transition gaussian | posterior | network WEIGHTS | transformer WEIGHTS
    python -m bench.forecast_transition table

Growing runs of 50 steps under `apply_forecast`, each compared with the same run without forecasts from the same noise:
`distance` is the mean relative L2 over samples, `deviation` its standard error. `rewarm` evaluations follow a
transition; runs with more of them have a sparser schedule elsewhere, so that all spend the same number of evaluations.
`transition` is "reset" or "expand". The features of the oracles are their velocities, those of the networks the output
of the last block, as tokens of 2 x 2 px. What is on disk is not measured again.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench import rows
from bench.oracles import GaussianField, PosteriorMean
from bench.quality import images, shifted
from spectral_kernels import FLUX_LATENT, ResolutionSchedule, align_time, resolution_schedule
from spectral_kernels.adapters.diffusers import ForecastConfig, apply_forecast
from spectral_kernels.evaluation import evaluation_steps, with_beginnings
from spectral_kernels.flow import full_resolution, initial_noise

NUM_STEPS, FILE = 50, "forecast_transition"
EVALUATIONS = (14, 20)
REWARM = (0, 1, 2, 3, 4)
SHARES = (0.3, 0.56)
SCHEDULES = ("published", "respaced", "matched")
STAGES = (2, 3)

Velocity = Callable[[Tensor, float], Tensor]


def to_tokens(planes: Tensor) -> Tensor:
    n, channels, height, width = planes.shape
    cells = planes.reshape(n, channels, height // 2, 2, width // 2, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(n, height * width // 4, 4 * channels)


def to_planes(tokens: Tensor, height: int, width: int) -> Tensor:
    cells = tokens.reshape(len(tokens), height // 2, width // 2, -1, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, height, width)


class Split(nn.Module):
    """A velocity in two parts, the way denoisers are built: one block that makes the feature, and what follows it."""

    def __init__(self, feature: Velocity, head: Callable[[Tensor], Tensor] = lambda feature: feature):
        super().__init__()
        block = nn.Module()
        block.forward = lambda z, t: to_tokens(feature(z, t))
        self.blocks, self.head = nn.ModuleList([block]), head

    def forward(self, hidden_states: Tensor, t: float) -> Tensor:
        out = hidden_states
        for block in self.blocks:
            out = block(out, t)
        return self.head(to_planes(out, *hidden_states.shape[-2:]))


class Subject:
    """A velocity, the module whose blocks are forecast, and the noise of its runs."""

    def __init__(self, name: str, velocity: Velocity, module: nn.Module, blocks: list[str] | None, noise: Tensor, mu):
        self.name, self.velocity, self.noise, self.sigmas = name, velocity, noise, shifted(NUM_STEPS, mu)
        self.module, self.blocks, self.step = module, blocks, -1

    def count(self, z: Tensor, t: float) -> Tensor:
        """Euler asks once per step."""
        self.step += 1
        return self.velocity(z, t)

    def plan(self, schedule: str, share: float, stages: int) -> ResolutionSchedule:
        """Stages of sides that double; the last transition after `share` of the steps, the others evenly before."""
        height, width = self.noise.shape[-2:]
        sizes = [(height >> k, width >> k) for k in range(stages - 1, -1, -1)]
        steps = [round(share * NUM_STEPS * k / (stages - 1)) for k in range(1, stages)]
        levels = [self.sigmas[step] for step in steps]
        if schedule == "matched":
            levels = [align_time(level, size[0] / height)[0] for level, size in zip(levels, sizes, strict=False)]
        return resolution_schedule(self.sigmas, sizes, schedule=schedule, transition_sigmas=levels)

    def run(self, plan: ResolutionSchedule, config: ForecastConfig | None) -> tuple[Tensor, list[int]]:
        self.step = -1
        if config is None:
            return full_resolution(self.count, plan, self.noise), list(range(NUM_STEPS))
        clock: dict[str, Any] = {"step_index": lambda: self.step, "num_steps": NUM_STEPS}
        with apply_forecast(self.module, config, blocks=self.blocks, **clock) as handle:
            result = full_resolution(self.count, plan, self.noise)
            return result, handle.summary()["branches"][0]["steps evaluated"]


def gaussian() -> Subject:
    field = GaussianField(FLUX_LATENT, (32, 32))
    module = Split(field)
    return Subject("gaussian", module, module, ["blocks"], initial_noise((16, 1, 32, 32), 1), 1.15)


def posterior() -> Subject:
    seen, _, _ = images()
    module = Split(PosteriorMean(seen))
    return Subject("posterior", module, module, ["blocks"], initial_noise((32, 1, 32, 32), 1), 0.7)


def network(weights: str) -> Subject:
    from bench.small_network import SIDE, SmallNetwork

    net = SmallNetwork()
    net.load_state_dict(torch.load(weights))
    module = Split(net.eval().features, net.leave)
    return Subject("network", module, module, ["blocks"], initial_noise((32, 1, SIDE, SIDE), 1), 0.7)


def transformer(weights: str) -> Subject:
    from bench.small_network import SIDE
    from bench.small_transformer import SmallTransformer

    net = SmallTransformer()
    net.load_state_dict(torch.load(weights))
    noise = initial_noise((32, 1, SIDE, SIDE), 1)
    return Subject("transformer", net.eval(), net.flux, None, noise, 0.7)


def configurations(begins: list[int], evaluations: int, method: str = "chebyshev") -> Iterator[ForecastConfig]:
    """One for every rewarm and transition: the least window and flex with which the count of evaluations fits."""
    for rewarm, transition in product(REWARM, ("reset", "expand")):
        if rewarm == 0 and transition == "reset":
            continue  # an empty history is evaluated once at least: the same as 1
        for window, twentieths in product((2, 3, 4), range(0, 200)):
            options: dict[str, Any] = {"window": window, "flex": twentieths / 20}
            steps = with_beginnings(evaluation_steps(NUM_STEPS, warmup=5, **options), begins, rewarm, NUM_STEPS)
            if len(steps) == evaluations:
                yield ForecastConfig(method=method, transition=transition, rewarm=rewarm, **options)
                break


def study(subject: Subject, known: Container[tuple] = ()) -> Iterator[dict[str, Any]]:
    """All rows that are not `known` by their keys, the plainest cases first."""
    expected: dict[ResolutionSchedule, Tensor] = {}
    for stages, evaluations, share, schedule in product(STAGES, EVALUATIONS, SHARES, SCHEDULES):
        plan = subject.plan(schedule, share, stages)
        begins = [stage.first_step for stage in plan.stages[1:]]
        for config in configurations(begins, evaluations):
            row = {
                "subject": subject.name, "schedule": schedule, "begins": begins, "method": config.method,
                "evaluations": evaluations, "transition": config.transition, "rewarm": config.rewarm,
            }  # fmt: skip
            if key(row) in known:
                continue
            if plan not in expected:
                expected[plan] = subject.run(plan, None)[0]
            result, steps = subject.run(plan, config)
            if len(steps) != evaluations:
                raise ArithmeticError(f"{config} spent {len(steps)} evaluations, planned were {evaluations}")
            apart = (result - expected[plan]).flatten(1).norm(dim=1) / expected[plan].flatten(1).norm(dim=1)
            row |= {"samples": len(apart), "distance": apart.mean().item()}
            yield row | {"deviation": (apart.std() / len(apart) ** 0.5).item(), "steps": steps}


def key(row: dict[str, Any]) -> tuple:
    """What a row measured."""
    names = ("subject", "schedule", "begins", "method", "evaluations", "transition", "rewarm")
    return tuple(str(row[name]) for name in names)


def table() -> None:
    """Geometric mean of the distances over plans and evaluations, where `reset` with one evaluation is 1; the last
    transition before step 20 of 50 ("early") or after it."""
    groups = defaultdict(dict)
    for row in rows.read(file=FILE):
        case = (row["subject"], "early" if row["begins"][-1] < 20 else "late", *key(row)[1:5])
        groups[case][row["transition"], row["rewarm"]] = row["distance"]
    kinds = [("reset", rewarm) for rewarm in REWARM[1:]] + [("expand", rewarm) for rewarm in REWARM]
    found = defaultdict(list)
    for case, by_kind in groups.items():
        if all(kind in by_kind for kind in kinds):
            found[case[:2]].append([by_kind[kind] / by_kind["reset", 1] for kind in kinds])
    print("| reset 1 = 1.00 | cases |", " | ".join(f"{name} {rewarm}" for name, rewarm in kinds), "|")
    print(f"|---|{'---:|' * (len(kinds) + 1)}")
    for case, ratios in sorted(found.items()):
        means = np.exp(np.log(ratios).mean(0))
        print(f"| {', '.join(case)} | {len(ratios)} |", " | ".join(f"{mean:.2f}" for mean in means), "|")


def main() -> None:
    subjects = {make.__name__: make for make in (gaussian, posterior, network, transformer)}
    parser = argparse.ArgumentParser(prog="python -m bench.forecast_transition", description="Measure; append rows.")
    parser.add_argument("subject", choices=(*subjects, "table"), help="whose run grows; table prints what is on disk")
    parser.add_argument("weights", nargs="?", help="of the network or the transformer")
    arguments = parser.parse_args()
    name = arguments.subject
    if (name in ("network", "transformer")) != (arguments.weights is not None):
        parser.error("network and transformer need their weights, the others have none")
    if name == "table":
        return table()
    subject = subjects[name](*([arguments.weights] if arguments.weights else []))
    where, begun = {**rows.circumstances("cpu"), "suite": FILE}, time.perf_counter()
    known = {key(row) for row in rows.read(file=FILE)}
    for count, row in enumerate(study(subject, known), 1):
        rows.append({**where, **row}, FILE)
        print(f"{name}: {count} rows, {time.perf_counter() - begun:.0f} s", end="\r", flush=True)
    print()


if __name__ == "__main__":
    with torch.no_grad():
        main()
