# SPDX-License-Identifier: Apache-2.0
"""Memory of a forecast for real models: `python -m bench.forecast_memory` prints the table and appends its rows.

Ours is measured: a Forecaster is run through the paper's 14 evaluations on a small feature and its `nbytes` scaled to
the model's size. The others follow from what their code allocates (forecast_peers.BYTES).
"""

import argparse

import torch

from bench import rows
from bench.forecast_peers import BYTES
from spectral_kernels import Forecaster, evaluation_steps

# Elements of the last block's output for one branch of guidance: tokens x width.
MODELS = {
    "FLUX.1 1024 px": 4096 * 3072,
    "Wan 2.1 14B 480p, 81 frames": 21 * 30 * 52 * 5120,
    "Wan 2.1 14B 720p, 81 frames": 21 * 45 * 80 * 5120,
    "HunyuanVideo 720p, 129 frames": 33 * 45 * 80 * 3072,
}
# Modules whose output TaylorSeer caches by default (attention outputs), for its per-module form with order 1.
MODULES = {
    "FLUX.1 1024 px": 19 + 38,
    "Wan 2.1 14B 480p, 81 frames": 2 * 40,
    "Wan 2.1 14B 720p, 81 frames": 2 * 40,
    "HunyuanVideo 720p, 129 frames": 20 + 40,
}
FORMS = {
    "features": {},
    "features, newest 8": {"max_features": 8},
    "moments": {"storage": "moments"},
    "auto": {"storage": "auto", "evaluations": 14},
    "int8, newest 8": {"max_features": 8, "encoding": "int8"},
    "float8, newest 8": {"max_features": 8, "encoding": "float8"},
}


def per_element(options: dict, steps: list[int]) -> float:
    """Bytes per element of a bfloat16 feature that a Forecaster holds after these evaluations."""
    forecaster = Forecaster(50, **options)
    for step in steps:
        forecaster.update(step, torch.zeros(1 << 12, dtype=torch.bfloat16))
    return forecaster.nbytes / (1 << 12)


def table() -> list[dict]:
    """One row per model and form, after the paper's 14 evaluations of 50 steps."""
    steps = evaluation_steps(50)
    ours = {f"ours: {name}": per_element(options, steps) for name, options in FORMS.items()}
    found = []
    for model, elements in MODELS.items():
        forms = {**{name: held(len(steps)) for name, held in BYTES.items()}, **ours}
        forms["TaylorSeer, every attention"] = 4.0 * MODULES[model]
        for form, size in forms.items():
            row = {"model": model, "elements": elements, "evaluations": len(steps), "form": form}
            row |= {"bytes": int(size * elements), "of_official": size / BYTES["official"](len(steps))}
            found.append({**row, "of_sglang": size / BYTES["sglang, ring of 100"](len(steps))})
    return found


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m bench.forecast_memory", description="Print the table; append its rows."
    ).parse_args()
    found = table()
    print(f"| GB after 14 evaluations, one branch | {' | '.join(MODELS)} | of official | of sglang |")
    print(f"|---|{'---:|' * (len(MODELS) + 2)}")
    for form in dict.fromkeys(row["form"] for row in found):
        mine = [row for row in found if row["form"] == form]
        sizes = " | ".join(f"{row['bytes'] / 1e9:.3f}" for row in mine)
        shares = f"{mine[0]['of_official']:.2f} | 1/{1 / mine[0]['of_sglang']:.1f}"
        last = " | " if form == "TaylorSeer, every attention" else shares  # its share differs by model
        print(f"| {form} | {sizes} | {last} |")
    where = rows.circumstances("cpu")
    for row in found:
        rows.append({**where, "suite": "forecast memory", **row}, "forecast_memory")


if __name__ == "__main__":
    main()
