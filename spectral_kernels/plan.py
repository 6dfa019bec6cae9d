# SPDX-License-Identifier: Apache-2.0
"""`python -m spectral_kernels plan` and `spectrum`: how a model's run would grow, and the spectrum that decides it."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spectral_kernels.evaluation import evaluation_steps, with_beginnings
from spectral_kernels.schedule import SCHEDULES, ResolutionSchedule, align_time, resolution_schedule, stage_sizes
from spectral_kernels.spectrum import FLUX_LATENT, WAN_LATENT, PowerLaw, PowerSpectrum

# ------------------------------------------------------------ noise schedules of known models


def even_levels(steps: int) -> np.ndarray:
    """1, (n - 1) / n, ..., 1 / n."""
    return 1 - np.arange(steps) / steps


def exponential_shift(levels: np.ndarray, mu: float) -> np.ndarray:
    """e^mu / (e^mu + 1 / s - 1): `align_time` with ratio e^mu."""
    return np.array([align_time(float(s), float(np.exp(mu)))[0] for s in levels])


def between(tokens: int, low: tuple[int, float], high: tuple[int, float]) -> float:
    """The straight line in the number of tokens through two (tokens, mu)."""
    return low[1] + (high[1] - low[1]) * (tokens - low[0]) / (high[0] - low[0])


def flux1_sigmas(steps: int, tokens: int) -> np.ndarray:
    return exponential_shift(even_levels(steps), between(tokens, (256, 0.5), (4096, 1.15)))


def flux2_sigmas(steps: int, tokens: int) -> np.ndarray:
    """mu by two lines in the tokens, fitted by the model's authors at 10 and at 200 steps, and linear in the steps."""
    at_200 = 0.00016927 * tokens + 0.45666666
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    mu = at_200 if tokens > 4300 else at_200 + (at_10 - at_200) * (200 - steps) / 190
    return exponential_shift(even_levels(steps), mu)


def qwen_sigmas(steps: int, tokens: int) -> np.ndarray:
    """Shifted, then stretched so that the last level before 0 is 0.02."""
    shifted = exponential_shift(even_levels(steps), between(tokens, (256, 0.5), (8192, 0.9)))
    return 1 - (1 - shifted) * (1 - 0.02) / (1 - shifted[-1])


def z_image_sigmas(steps: int, tokens: int) -> np.ndarray:
    """The scheduler's own levels: even from 1 to the shifted 1/1000, shifted by 6 once more."""
    del tokens
    last = align_time(1 / 1000, 6.0)[0]
    return np.array([align_time(float(s), 6.0)[0] for s in np.linspace(1, last, steps)])


def wan_sigmas(steps: int, tokens: int) -> np.ndarray:
    del tokens
    return np.array([align_time(float(s), 5.0)[0] for s in np.linspace(1, 1 / 1000, steps + 1)[:-1]])


@dataclass(frozen=True)
class Model:
    """What a plan needs to know of a model.

    cell : pixels per side of a latent cell; multiple : cells per side of a token, which sizes must be divisible by
    sigmas : (steps, tokens) -> the levels before 0; size, steps : the usual ones
    """

    spectrum: PowerLaw
    cell: int
    multiple: int
    sigmas: Callable[[int, int], np.ndarray]
    size: tuple[int, int] = (1024, 1024)
    steps: int = 50

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Latent grid of an image of `size` pixels."""
        unit = self.cell * self.multiple
        if any(side < unit or side % unit for side in size):
            raise ValueError(f"plan: image sides must be multiples of {unit} pixels for this model, got {size}")
        return size[0] // self.cell, size[1] // self.cell

    def levels(self, grid: tuple[int, int], steps: int) -> list[float]:
        tokens = grid[0] * grid[1] // self.multiple**2
        return [*self.sigmas(steps, tokens).tolist(), 0.0]


MODELS = {
    "flux.1": Model(FLUX_LATENT, 8, 2, flux1_sigmas),
    "flux.2": Model(FLUX_LATENT, 16, 1, flux2_sigmas, steps=30),
    "qwen-image": Model(FLUX_LATENT, 8, 2, qwen_sigmas, steps=30),
    "z-image": Model(FLUX_LATENT, 8, 2, z_image_sigmas),
    "wan2.1": Model(WAN_LATENT, 8, 2, wan_sigmas, size=(480, 832)),
}

# ------------------------------------------------------------ commands

Run = Callable[[argparse.Namespace], int]


def sides(text: str) -> tuple[int, int]:
    """1024 or 480x832 (height x width)."""
    numbers = [int(number) for number in text.split("x")]
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a side nor HEIGHTxWIDTH")
    return numbers[0], numbers[-1]


def count(text: str) -> int:
    """1, 2, 3, ..."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 1")
    return number


def plan(parser: argparse.ArgumentParser) -> Run:
    """which steps of a model's run may go at which size: stages, levels, and what they save"""
    parser.add_argument("--model", choices=MODELS, default="flux.1")
    parser.add_argument("--size", type=sides, help="pixels, 1024 or HEIGHTxWIDTH; default: the model's usual")
    parser.add_argument("--steps", type=count, help="default: the model's usual")
    parser.add_argument("--delta", type=float, default=0.05, help="tolerated velocity error (default 0.05)")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.5, 1.0], help="growing, the last is 1")
    parser.add_argument("--schedule", choices=SCHEDULES, help="default: compare all three")
    parser.add_argument("--spectrum", type=Path, help="JSON from `spectrum`, in place of the model's preset")
    parser.add_argument("--attention", type=float, default=0.0, help="share of FLOPs quadratic in tokens (default 0)")
    parser.add_argument(
        "--forecast", type=int, nargs="?", const=0, metavar="N",
        help="forecast features too: N steps are evaluated (default: windows of 2, 2.75, ..., 14 of 50), and some more "
        "after each transition",
    )  # fmt: skip
    parser.add_argument("--rewarm", type=count, default=1, help="evaluations after a transition (default 1)")
    parser.add_argument("--plot", type=Path, help="write levels against steps to this image (needs matplotlib)")

    def run(arguments: argparse.Namespace) -> int:
        model = MODELS[arguments.model]
        try:
            law = PowerSpectrum.load(arguments.spectrum).fit() if arguments.spectrum else model.spectrum
            grid = model.grid(arguments.size or model.size)
            sizes = stage_sizes(grid, arguments.scales, multiple=model.multiple)
            levels = model.levels(grid, arguments.steps or model.steps)
            names = [arguments.schedule] if arguments.schedule else SCHEDULES
            plans = [resolution_schedule(levels, sizes, law, arguments.delta, schedule=name) for name in names]
            costs = [made.cost_ratio(arguments.attention) for made in plans]
            evaluated = [_evaluated(made, arguments.forecast, arguments.rewarm) for made in plans]
        except ValueError as error:
            parser.error(str(error))
        for made, cost, steps in zip(plans, costs, evaluated, strict=True):
            print(made)
            print(
                f"FLOPs: {cost:.2f}x fewer where attention is {arguments.attention:.0%} of a full step; as much "
                "faster, if time goes with FLOPs"
            )
            print(f"{_forecast_text(made, steps)}\n" if arguments.forecast is not None else "")
        if arguments.plot:
            plot(plans, arguments.plot, arguments.model)
        return 0

    return run


def _evaluated(made: ResolutionSchedule, budget: int | None, rewarm: int) -> list[int]:
    """The steps at which the model runs."""
    if budget is None:
        return list(range(made.num_steps))
    begins = [stage.first_step for stage in made.stages[1:]]
    planned = evaluation_steps(made.num_steps, budget=budget or None)
    return with_beginnings(planned, begins, rewarm, made.num_steps)


def _forecast_text(made: ResolutionSchedule, steps: list[int]) -> str:
    """Which steps run at which size, the others being forecast."""
    lines = [f"forecast: {len(steps)} of {made.num_steps} steps evaluated"]
    run = 0
    for stage in made.stages:
        own = [step for step in steps if stage.first_step <= step < stage.first_step + stage.num_steps]
        run += len(own) * stage.size[0] * stage.size[1]
        lines.append(f"{f'{stage.size[0]} x {stage.size[1]}':>11}  {' '.join(map(str, own))}")
    full = made.num_steps * made.size[0] * made.size[1]
    return "\n".join([*lines, f"{full / run:.2f}x fewer token-steps with both"])


def plot(plans: list[ResolutionSchedule], path: Path, title: str):
    """Level against step, one panel per schedule: as the model is told, and as seen from the full resolution."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(plans), 3.5), layout="constrained")
    for index, made in enumerate(plans):
        axes = figure.add_subplot(1, len(plans), index + 1)
        axes.plot(made.full_sigmas, color="0.7", label="seen from full resolution")
        for stage in made.stages:
            steps = range(stage.first_step, stage.first_step + stage.num_steps + 1)
            axes.plot(steps, stage.sigmas, ".-", markersize=3, label=f"{stage.size[0]} x {stage.size[1]}")
        axes.set(xlabel="step", ylabel="noise level", title=f"{title}, {made.schedule}: {made.token_step_ratio:.2f}x")
        axes.legend()
    figure.savefig(path, dpi=150)


def spectrum(parser: argparse.ArgumentParser) -> Run:
    """measure the power spectrum of images (or latents in .npy files), fit a power law, write JSON"""
    parser.add_argument("images", type=Path, nargs="+", help="image files, .npy arrays [..., H, W], or folders of them")
    parser.add_argument("--size", type=sides, default=(256, 256), help="images: centre crop, resized (default 256)")
    parser.add_argument("--output", type=Path, default=Path("spectrum.json"))
    parser.add_argument("--plot", type=Path, help="write the spectrum and its fit to this image (needs matplotlib)")

    def run(arguments: argparse.Namespace) -> int:
        try:
            measured = PowerSpectrum.measure(load(arguments.images, arguments.size), progress=True)
            law = measured.fit()
        except ValueError as error:
            parser.error(str(error))
        measured.save(arguments.output)
        print(f"{measured.samples} samples: {law.amplitude:.6g} w^-{law.exponent:.6g}, R^2 = {law.r_squared:.4f}")
        print(f"written to {arguments.output}")
        if arguments.plot:
            measured.plot(arguments.plot)
        return 0

    return run


def load(paths: list[Path], size: tuple[int, int]) -> Iterator[Tensor]:
    """One sample at a time: images in [-1, 1] as [1, 3, H, W], cropped to the shape and resized; arrays as they are."""
    from PIL import Image

    for path in paths:
        if path.is_dir():
            yield from load(sorted(p for p in path.iterdir() if not p.name.startswith(".")), size)
        elif path.suffix == ".npy":
            array = torch.from_numpy(np.load(path))
            yield array if array.ndim > 2 else array[None]
        else:
            image = Image.open(path).convert("RGB")
            scale = min(image.height / size[0], image.width / size[1])
            h, w = round(scale * size[0]), round(scale * size[1])
            top, left = (image.height - h) // 2, (image.width - w) // 2
            image = image.crop((left, top, left + w, top + h)).resize((size[1], size[0]), Image.Resampling.LANCZOS)
            pixels = np.asarray(image, np.float32)
            yield torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None]
