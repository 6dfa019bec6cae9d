# SPDX-License-Identifier: Apache-2.0
"""Editing by frequency and pass-through, as pictures, on the local patch model; and what a tapered band edge does.

    python -m bench.pictures [editing | waiting | taper]

bench/results/editing.png: a crop; its edits by `edit` with a model of textures instead of photographs, for two
transition levels; the same starts by noising the whole image (SDEdit). bench/results/passthrough.png: full-resolution
runs in which frequencies wait as noise until their activation time, for growing tolerance. bench/results/taper.png:
a crop halved and expanded for several tapers, what is lost, and the weights; rows of runs with them in taper.jsonl.
"""

import argparse
import itertools
from pathlib import Path

import torch
from torch import Tensor

from bench import rows
from bench.oracles import GaussianField, LocalPosteriorMean, PosteriorMean, photograph_crops
from bench.quality import distance, frechet, shifted, spectrum_error
from spectral_kernels import (
    FLUX_LATENT,
    PowerSpectrum,
    align_time,
    bases,
    dct_expand,
    dct_truncate,
    dctn,
    idctn,
    normal,
    resolution_schedule,
    spectral_lift,
)
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


TAPERS = (0.0, 0.125, 0.25, 0.5, 1.0)


def taper(law, sigmas):
    draw_tapers()
    held_out = photograph_crops(2048, 32, seed=1)
    crops = PowerSpectrum((32, 32)).update(held_out).fit()
    field = GaussianField(FLUX_LATENT, (SIDE, SIDE))
    of_field = idctn(field.power((SIDE, SIDE)).sqrt().float() * normal((256, 1, SIDE, SIDE), 10_000))
    studies = (
        ("gaussian", field, of_field, FLUX_LATENT, shifted(50, 1.15)),
        ("crops", PosteriorMean(photograph_crops(2048, 32)), held_out, crops, shifted(50, 0.7)),
    )
    del law, sigmas
    for name, model, data, spectrum, levels in studies:
        side = data.shape[-1]
        plan = resolution_schedule(levels, [(side // 2, side // 2), (side, side)], spectrum, 0.05)
        starts = [initial_noise((64, 1, side, side), seed) for seed in (1, 1001, 2001)]
        full = [euler(model, start, levels) for start in starts]
        for form in (grown, lifted):
            for share in TAPERS:
                found = [form(model, plan, start, share) for start in starts]
                row = {
                    "study": "taper",
                    "oracle": name,
                    "form": form.__name__,
                    "taper": share,
                    "coarse_steps": plan.stages[0].num_steps,
                    "distance": [round(distance(x, y), 5) for x, y in zip(found, full, strict=True)],
                    "spectrum_error": [round(spectrum_error(x, data), 5) for x in found],
                    "frechet": [round(frechet(x, data), 5) for x in found],
                }
                rows.append({**rows.circumstances("cpu"), **row}, "taper")
                print(row, flush=True)


def grown(model, plan, noise: Tensor, share: float) -> Tensor:
    """An explicit expansion; what fades in at the edge is fresh, since it must be independent of the state's noise."""
    coarse, fine = plan.stages
    x = euler(model, dct_truncate(noise, size=coarse.size, normalize=False), coarse.sigmas)
    e, (h, w) = dctn(noise), coarse.size
    e[..., :h, :w] = normal((len(e), 1, h, w), 77_000)
    x, _ = dct_expand(x, size=fine.size, t=coarse.sigma_out, noise=e, taper=share)
    return euler(model, x, fine.sigmas)


def lifted(model, plan, noise: Tensor, share: float) -> Tensor:
    """In full-resolution coordinates: each coarse step's velocity is lifted."""
    coarse, fine = plan.stages
    z = noise
    for t, after in itertools.pairwise(coarse.sigmas):
        v = model(dct_truncate(z, size=coarse.size, t=t), t)
        step = align_time(after, coarse.ratio)[0] - align_time(t, coarse.ratio)[0]
        z = z + step * spectral_lift(z, v, t=t, taper=share)
    return euler(model, z, fine.sigmas)


def draw_tapers():
    from matplotlib.figure import Figure

    image = photograph_crops(1, SIDE, seed=7, names=("camera",))
    small = dct_truncate(image, 0.5)
    figure = Figure(figsize=(1.7 * len(TAPERS), 5.4), layout="constrained")
    for j, share in enumerate(TAPERS):
        y = dct_expand(small, 2, t=0, taper=share).x
        error = y - image
        for i, (picture, limit) in enumerate(((y, 1.6), (error, 0.8))):
            axes = figure.add_subplot(3, len(TAPERS), i * len(TAPERS) + j + 1)
            axes.imshow(picture[0, 0], cmap="gray", vmin=-limit, vmax=limit)
            axes.axis("off")
            label = f"taper {share}" if i == 0 else f"error, rms {float(error.square().mean().sqrt()):.3f}"
            axes.set_title(label, fontsize=8)
        axes = figure.add_subplot(3, len(TAPERS), 2 * len(TAPERS) + j + 1)
        w = torch.cat([bases.band(f"dct~{share}", SIDE, SIDE // 2), torch.zeros(SIDE // 2, dtype=torch.float64)])
        axes.plot(w, label="state")
        axes.plot((1 - w * w).sqrt(), label="noise")
        axes.tick_params(labelsize=6)
        axes.set_xlabel("index k", fontsize=7)
        if j == 0:
            axes.legend(fontsize=6)
    figure.savefig(RESULTS / "taper.png", dpi=110)


def main() -> None:
    draws = {draw.__name__: draw for draw in (editing, waiting, taper)}
    parser = argparse.ArgumentParser(prog="python -m bench.pictures", description="Draw pictures, append their rows.")
    parser.add_argument("name", nargs="?", choices=draws, help="default: all")
    only = parser.parse_args().name
    law = PowerSpectrum((SIDE, SIDE)).update(photograph_crops(512, SIDE)).fit()
    RESULTS.mkdir(exist_ok=True)
    for draw in draws.values() if only is None else (draws[only],):
        draw(law, shifted(24, 0.7))


if __name__ == "__main__":
    with torch.no_grad():
        main()
