# SPDX-License-Identifier: Apache-2.0
"""Editing by frequency and pass-through, as pictures, on the local patch model.

    python -m bench.pictures [editing | waiting]

bench/results/editing.png: a crop; its edits by `edit` with a model of textures instead of photographs, for two
transition levels; the same starts by noising the whole image (SDEdit). bench/results/passthrough.png: full-resolution
runs in which frequencies wait as noise until their activation time, for growing tolerance.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from bench.oracles import LocalPosteriorMean, photograph_crops
from bench.quality import shifted
from spectral_kernels import PowerSpectrum, resolution_schedule
from spectral_kernels.flow import edit, euler, initial_noise, passthrough

SIDE = 64
RESULTS = Path(__file__).parent / "results"


def grid(columns: list[tuple[str, Tensor]], path: Path):
    """One column of samples per entry."""
    from matplotlib.figure import Figure

    rows = len(columns[0][1])
    figure = Figure(figsize=(1.6 * len(columns), 1.6 * rows + 0.4), layout="constrained")
    for j, (title, images) in enumerate(columns):
        for i, image in enumerate(images):
            axes = figure.add_subplot(rows, len(columns), i * len(columns) + j + 1)
            axes.imshow(image[0], cmap="gray", vmin=-1.6, vmax=1.6)
            axes.axis("off")
            if i == 0:
                axes.set_title(title, fontsize=8)
    figure.savefig(path, dpi=110)


def editing(law, sigmas):
    textures = photograph_crops(512, SIDE, names=("brick", "gravel", "grass"))
    model = LocalPosteriorMean(textures, law, count=1536)
    images = photograph_crops(4, SIDE, seed=7, names=("astronaut", "coffee", "chelsea", "rocket"))
    noise = initial_noise((4, 1, SIDE, SIDE), 3)
    columns = [("input", images)]
    for level in (0.55, 0.35):
        plan = resolution_schedule(
            sigmas, [(SIDE // 4, SIDE // 4), (SIDE, SIDE)], schedule="respaced", transition_sigmas=[level]
        )
        t = plan.stages[0].sigma_out
        columns.append((f"edit, band of {SIDE // 4}, t = {t:.2f}", edit(model, plan, images, noise)))
        rest = [t, *(s for s in sigmas if s < t)]
        columns.append((f"SDEdit, t = {t:.2f}", euler(model, (1 - t) * images + t * noise, rest)))
    grid(columns, RESULTS / "editing.png")


def waiting(law, sigmas):
    model = LocalPosteriorMean(photograph_crops(512, SIDE), law, count=1536)
    noise = initial_noise((4, 1, SIDE, SIDE), 5)
    columns = [("full resolution", euler(model, noise, sigmas))]
    for delta in (0.01, 0.05, 0.2, 0.5, 0.9):
        columns.append((f"delta = {delta}", passthrough(model, noise, sigmas, law, delta)))
    grid(columns, RESULTS / "passthrough.png")


if __name__ == "__main__":
    with torch.no_grad():
        law = PowerSpectrum((SIDE, SIDE)).update(photograph_crops(512, SIDE)).fit()
        RESULTS.mkdir(exist_ok=True)
        for draw in (editing, waiting):
            if draw.__name__ in (sys.argv[1:] or ("editing", "waiting")):
                draw(law, shifted(24, 0.7))
