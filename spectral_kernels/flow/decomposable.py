# SPDX-License-Identifier: Apache-2.0
"""Decomposable flow matching: every level of a pyramid flows at its own time, coarse levels first, in one model.

    z_s = (1 - t_s) X^s + t_s e_s,    v_s = e_s - X^s          t = 1 is noise; the paper's clock is 1 - t

A model is called with the list of levels, `times` [B, L] and a bool `mask` [B, L], False where a level has not begun
(its input is then 0), and returns a list of velocities like the levels.

Source: "Improving Progressive Generation with Decomposable Flow Matching", sections 3.3 and 3.4.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from spectral_kernels import noise_levels, normal
from spectral_kernels.noise import Seed
from spectral_kernels.pyramid import check_pyramid, laplacian_reconstruct, level_mask

Model = Callable[[list[Tensor], Tensor, Tensor], Sequence[Tensor]]


class Preview(NamedTuple):
    """What a sampling callback gets when a stage is over: its number, the steps done, and the image at its size."""

    stage: int
    steps: int
    image: Tensor


def training_times(
    batch: int,
    levels: int,
    *,
    stage_probs: Sequence[float] | None = None,
    previous_location: float = 1.5,
    location: float = 0.0,
    scale: float = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Noise levels of a training batch: which stage is being generated, and how far every level is.

        stage k ~ stage_probs;   1 - t_k ~ sigmoid(N(location, scale^2)),   1 - t_s ~ sigmoid(N(previous_location,
        scale^2)) for s < k,   t_s = 1 and masked for s > k

    Parameters
    ----------
    batch, levels : B samples of L levels.
    stage_probs : L probabilities of the stages, coarse first. Default: 0.9 for the first and the rest shared evenly
        (the paper's 0.9 and 0.1 for two); 1 for one level.
    previous_location : location of the levels before the newest one; larger means cleaner.
    location, scale : of the newest level, and of all.
    generator : source of the draws, on `device`.

    Returns
    -------
    (times, mask) : float64 [B, L] and bool [B, L]; the mask is False for levels that have not begun.
    `training_times_table` and `plot_training_times` show them.

    Raises
    ------
    ValueError : counts below 1, probabilities that are not L numbers of sum 1, a location that is not finite, a scale
        not above 0.
    """
    op = "training_times"
    for name, value in (("batch", batch), ("levels", levels)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{op}: {name} must be an int of at least 1, got {value!r}")
    if stage_probs is None:
        stage_probs = [1.0] if levels == 1 else [0.9] + [0.1 / (levels - 1)] * (levels - 1)
    if not isinstance(stage_probs, Sequence) or len(stage_probs) != levels:
        raise ValueError(f"{op}: stage_probs must hold one number per level ({levels}), got {stage_probs!r}")
    if not all(_is_number(p) and p >= 0 for p in stage_probs) or abs(sum(stage_probs) - 1) > 1e-6:
        raise ValueError(f"{op}: stage_probs must be probabilities of sum 1, got {list(stage_probs)}")
    for name, value in (("location", location), ("previous_location", previous_location), ("scale", scale)):
        if not _is_number(value):
            raise TypeError(f"{op}: {name} must be a number, got {value!r}")
    if not (math.isfinite(location) and math.isfinite(previous_location)):
        raise ValueError(f"{op}: location and previous_location must be finite, got {location} and {previous_location}")
    if not 0 < scale < math.inf:
        raise ValueError(f"{op}: scale must be above 0 and finite, got {scale}")
    weights = torch.tensor(list(stage_probs), dtype=torch.float64, device=device)
    stage = torch.multinomial(weights, batch, replacement=True, generator=generator)[:, None]
    level = torch.arange(levels, device=device)
    drawn = torch.randn(batch, levels, dtype=torch.float64, device=device, generator=generator)
    where = torch.where(level < stage, previous_location, location)
    mask = level <= stage
    return torch.where(mask, torch.sigmoid(-(where + scale * drawn)), 1.0), mask


def decomposable_loss(
    outputs: Sequence[Tensor], velocities: Sequence[Tensor], mask: Tensor, *, weights: Sequence[float] | None = None
) -> Tensor:
    """The masked squared error of all levels.

        mean over samples of  sum over levels of  w_s M_s mean |output_s - v_s|^2

    Parameters
    ----------
    outputs, velocities : lists of L tensors of equal shapes [B, ...].
    mask : bool [B, L]; a False level does not count.
    weights : w_s, one per level, default 1.

    Returns
    -------
    0-dim tensor. Source: equation 4, with the mean over a level's elements, so that no level counts for its size.
    """
    op = "decomposable_loss"
    if len(outputs) != len(velocities) or len(outputs) == 0:
        raise ValueError(f"{op}: outputs and velocities must hold the same levels, got {len(outputs)} and "
                         f"{len(velocities)}")  # fmt: skip
    mask = level_mask(op, mask, velocities[0].shape[0], len(velocities), velocities[0].device)
    if weights is not None and len(weights) != len(velocities):
        raise ValueError(f"{op}: weights must hold one number per level ({len(velocities)}), got {len(weights)}")
    total = None
    for s, (output, velocity) in enumerate(zip(outputs, velocities, strict=True)):
        if output.shape != velocity.shape:
            raise ValueError(
                f"{op}: output and velocity of level {s} must have one shape, got {tuple(output.shape)} and "
                f"{tuple(velocity.shape)}"
            )
        # where, not a product, and before the square: a level that does not count may hold anything, a NaN too, and
        # has no gradient.
        counts = mask[:, s].view(-1, *[1] * (output.ndim - 1))
        part = torch.where(counts, output - velocity, 0.0).square().flatten(1).mean(1).mean()
        part = part if weights is None else part * weights[s]
        total = part if total is None else total + part
    assert total is not None
    return total


def training_loss(
    model: Model, levels: Sequence[Tensor], seed: Seed, times: Tensor, mask: Tensor, *, stream: int = 0
) -> Tensor:
    """One training loss from the levels of clean images: noise, model, masked error.

    `levels` of `laplacian_pyramid`, `times` and `mask` of `training_times`; `seed` draws the noise, as in `normal`.
    """
    noisy, velocities = noise_levels(levels, times, seed, mask=mask, stream=stream)
    times = torch.as_tensor(times, dtype=torch.float64, device=noisy[0].device)
    mask = mask.to(noisy[0].device)
    return decomposable_loss(model(noisy, times, mask), velocities, mask)


def sampling_times(
    levels: int = 2, *, steps: Sequence[int] = (30, 10), threshold: float | Sequence[float] = 0.9
) -> Tensor:
    """Noise levels of all levels along a run: a level starts when the one before it has come `threshold` of its way.

    In its own stage a level goes from 1 to 1 - threshold, in the stages after it on to 0, evenly, so that all arrive
    together at the end; no level is ever ahead of a coarser one.

    Parameters
    ----------
    levels : L, coarse first.
    steps : Euler steps of each stage, L numbers of at least 1 (the paper: 30 and 10).
    threshold : in (0, 1], one for all or L - 1; 1 finishes each level before the next, as a cascade does. The paper
        takes 0.7 at 512 px and 0.95 at 1024 px.

    Returns
    -------
    float64 [sum(steps) + 1, L], all 1 in the first row and all 0 in the last, never rising, coarse first.
    `times_table` and `plot_times` show it.

    Raises
    ------
    ValueError : steps of another length or below 1, a threshold outside (0, 1].
    """
    op = "sampling_times"
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
        raise ValueError(f"{op}: levels must be an int of at least 1, got {levels!r}")
    if not isinstance(steps, Sequence) or len(steps) != levels:
        raise ValueError(f"{op}: steps must hold one number per level ({levels}), got {steps!r}")
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in steps):
        raise ValueError(f"{op}: every stage has at least 1 step, an int, got {tuple(steps)}")
    # A single level has no threshold to use, but a wrong one is still a mistake.
    given = list(threshold) if isinstance(threshold, Sequence) else [threshold]
    if isinstance(threshold, str) or not all(map(_is_number, given)):
        raise TypeError(f"{op}: threshold must be a number or {levels - 1} of them, got {threshold!r}")
    if not all(0 < value <= 1 for value in given):
        raise ValueError(f"{op}: threshold must lie in (0, 1], got {threshold}")
    thresholds = given if isinstance(threshold, Sequence) else given * (levels - 1)
    if len(thresholds) != levels - 1:
        raise ValueError(f"{op}: threshold must be a number or {levels - 1} of them, got {len(thresholds)}")
    total, first = sum(steps), 0
    times = torch.ones(total + 1, levels, dtype=torch.float64, device="cpu")
    for s, (count, reach) in enumerate(zip(steps, [*thresholds, 1.0], strict=True)):
        own, after = torch.arange(count + 1, dtype=torch.float64, device="cpu") / count, total - first - count
        times[first : first + count + 1, s] = 1 - reach * own
        if after:
            rest = (after - torch.arange(after + 1, dtype=torch.float64, device="cpu")) / after
            times[first + count :, s] = (1 - reach) * rest
        first += count
    times[-1] = 0
    for s in reversed(range(levels - 1)):  # only thresholds that differ could let a level overtake a coarser one
        times[:, s] = torch.minimum(times[:, s], times[:, s + 1])
    return times


def stage_ends(times: Tensor) -> list[int]:
    """After how many steps each stage of a run is over: the next level's first step begins there."""
    times = _run_times("stage_ends", times)
    starts = [int((times[:, s] < 1).to(torch.int8).argmax()) - 1 for s in range(times.shape[1])]
    return [*starts[1:], len(times) - 1]


def times_table(times: Tensor) -> str:
    """A run's times as text: a line per step, levels that have not begun as dashes, stage ends marked."""
    times = _run_times("times_table", times)
    ends = stage_ends(times)
    lines = ["step  " + "  ".join(f"level {s}" for s in range(times.shape[1]))]
    for i, row in enumerate(times.tolist()):
        cells = ["   -   " if t == 1 and i > 0 else f"{t:7.4f}" for t in row]
        mark = "".join(f"  stage {k} over" for k, end in enumerate(ends) if end == i)
        lines.append(f"{i:4d}  " + "  ".join(cells) + mark)
    return "\n".join(lines)


def plot_times(times: Tensor, axes=None):
    """A run's times over its steps, one line per level, on matplotlib axes (new ones by default); returns the axes."""
    times = _run_times("plot_times", times)
    if axes is None:
        from matplotlib import pyplot

        axes = pyplot.subplots(figsize=(5, 3))[1]
    for s, column in enumerate(times.T.tolist()):
        axes.plot(range(len(column)), column, marker=".", label=f"level {s}")
    for end in stage_ends(times)[:-1]:
        axes.axvline(end, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("step")
    axes.set_ylabel("noise level t")
    axes.legend()
    return axes


def training_times_table(times: Tensor, mask: Tensor) -> str:
    """Drawn training times as text: how often each level lives, and the quartiles of its noise level where it does."""
    mask = level_mask("training_times_table", mask, len(times), times.shape[-1], times.device)
    lines = ["level  lives    t: 25 %  50 %  75 %"]
    for s, (column, live) in enumerate(zip(times.T, mask.T, strict=True)):
        share = f"{s:5d}  {live.double().mean():6.1%}"
        if live.any():
            quartiles = column[live].quantile(torch.tensor([0.25, 0.5, 0.75], dtype=times.dtype, device=times.device))
            share += "   " + "  ".join(f"{q:.3f}" for q in quartiles.tolist())
        lines.append(share)
    return "\n".join(lines)


def plot_training_times(times: Tensor, mask: Tensor, axes=None):
    """Histograms of drawn training times, one per level where it lives, on matplotlib axes; returns the axes."""
    mask = level_mask("plot_training_times", mask, len(times), times.shape[-1], times.device)
    if axes is None:
        from matplotlib import pyplot

        axes = pyplot.subplots(figsize=(5, 3))[1]
    for s, (column, live) in enumerate(zip(times.T, mask.T, strict=True)):
        axes.hist(column[live].tolist(), bins=50, range=(0, 1), histtype="step", label=f"level {s}")
    axes.set_xlabel("noise level t")
    axes.set_ylabel(f"of {len(times)} samples")
    axes.legend()
    return axes


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _run_times(op: str, times, levels: int | None = None) -> Tensor:
    """Times of a run as float64 [steps + 1, L] on the CPU, from 1 to 0 and never rising."""
    times = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    if times.ndim != 2 or times.shape[1] != (levels or times.shape[1]) or len(times) < 2:
        shape = f"(steps + 1, {levels or 'levels'})"
        raise ValueError(f"{op}: times must have the shape {shape}, got {tuple(times.shape)}")
    falls = bool((times[1:] <= times[:-1]).all())
    if not falls or bool((times[0] != 1).any()) or bool((times[-1] != 0).any()):
        raise ValueError(f"{op}: times must begin at 1, never rise and end at 0, for every level; see sampling_times")
    return times


def initial_levels(
    shapes: Sequence[Sequence[int]], seed: Seed, *, dtype: torch.dtype = torch.float32, device="cpu", stream: int = 0
) -> list[Tensor]:
    """The noise a run begins with, level s from stream + s: what `noise_levels` gives at t = 1."""
    return [normal(shape, seed, stream=stream + s, dtype=dtype, device=device) for s, shape in enumerate(shapes)]


@torch.no_grad()
def sample(
    model: Model,
    levels: Sequence[Tensor],
    times: Tensor,
    *,
    resample: str = "area",
    basis: str | None = None,
    callback: Callable[[Preview], None] | None = None,
) -> Tensor:
    """Euler's method on all levels at once, each along its own column of times; the sum of the levels at the end.

        z_s <- z_s + (t'_s - t_s) v_s

    Parameters
    ----------
    model : see the module; a level that has not begun is given as 0 with a False mask, as in training.
    levels : the noise to begin with, [B, ...] each, of `initial_levels`. The run stays in their type, whatever the
        model answers in.
    times : [steps + 1, L] of `sampling_times`.
    resample, basis : how the levels add up, as in `laplacian_pyramid`.
    callback : called with a `Preview` at the end of each stage: the partial sum of the levels so far.

    Returns
    -------
    the image, `laplacian_reconstruct` of the final levels.

    Raises
    ------
    ValueError, TypeError : levels that do not belong together, times of another shape, not from 1 to 0 or rising, an
        unknown resample or basis, or a model's answer of other shapes.
    """
    op = "sample"
    check_pyramid(op, levels, resample, basis)
    times = _run_times(op, times, len(levels))
    state, ends, batch = list(levels), stage_ends(times), levels[0].shape[0]
    given = times.to(state[0].device)[:, None].expand(-1, batch, -1)
    for i, (now, after) in enumerate(pairwise(times)):
        shown = [z if t < 1 else torch.zeros_like(z) for z, t in zip(state, after.tolist(), strict=True)]
        velocities = list(model(shown, given[i], given[i + 1] < 1))
        if [v.shape for v in velocities] != [z.shape for z in state]:
            raise ValueError(
                f"{op}: the model must answer with a velocity like each level, {[tuple(z.shape) for z in state]}, got "
                f"{[tuple(v.shape) for v in velocities]}"
            )
        for s, (velocity, step) in enumerate(zip(velocities, (after - now).tolist(), strict=True)):
            if step:  # a level that waits, or is finished, is left alone whatever the model says
                state[s] = (state[s] + step * velocity).to(state[s].dtype)
        if callback is not None:
            for stage in (k for k, end in enumerate(ends) if end == i + 1):
                image = laplacian_reconstruct(state[: stage + 1], resample, basis=basis)
                callback(Preview(stage, i + 1, image))
    return laplacian_reconstruct(state, resample, basis=basis)
