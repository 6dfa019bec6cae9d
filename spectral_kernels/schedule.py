# SPDX-License-Identifier: Apache-2.0
"""When to expand: noise levels across resolutions, activation times, and the joint schedule of steps and sizes."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import overload

import torch
from torch import Tensor

Size = tuple[int, int]
SCHEDULES = ("published", "respaced", "matched")


@overload
def align_time(t: float, ratio: float) -> tuple[float, float]: ...
@overload
def align_time(t: Tensor, ratio: float) -> tuple[Tensor, Tensor]: ...
def align_time(t, ratio):
    """The noise level of a state after its resolution changed by `ratio`, and the factor that makes it one.

        kappa = ratio / (1 + (ratio - 1) t)          t_aligned = ratio t / (1 + (ratio - 1) t)

    A clean image has spectral coefficients `ratio` times larger on the finer grid while white noise keeps its variance,
    so the expanded state is noisier than its label: kappa * (state padded with t * noise) is a state of the flow at
    t_aligned. In odds: t_aligned / (1 - t_aligned) = ratio * t / (1 - t). So alignments compose, two by 2 are one by 4,
    and `align_time(t_aligned, 1 / ratio)` goes back.

    Parameters
    ----------
    t : float in [0, 1], 1 is pure noise, 0 is data; or a floating-point tensor of such values
        The values of a tensor are not checked: that would wait for the device.
    ratio : float, > 0
        Square root of the ratio of pixel counts, new over old: sqrt(H W / (h w)).

    Returns
    -------
    (t_aligned, kappa), floats, or float64 tensors of t's shape and device. Computed in float64.

    Raises
    ------
    ValueError, if t is outside [0, 1] or ratio is not positive and finite; TypeError, if a tensor t is not
    floating-point.

    Source: Spectral Progressive Diffusion, section 4.1, equations 5 and 6, appendix A.2.
    """
    if not 0 < ratio < math.inf:  # torch.compile cannot trace math.isfinite of a symbolic number
        raise ValueError(f"align_time: ratio must be positive and finite, got {ratio}; it is sqrt(H W / (h w))")
    if isinstance(t, Tensor):
        if not t.is_floating_point():
            raise TypeError(f"align_time: a tensor t must be floating-point, got {t.dtype}; use t.double()")
        t = t.to(torch.float64)
    elif not 0 <= t <= 1:
        raise ValueError(f"align_time: t must be in [0, 1], got {t}; diffusers' timesteps are 1000 * t")
    denominator = 1 + (ratio - 1) * t
    # A number over a tensor is a reciprocal and a product in PyTorch, rounded twice: divide tensors.
    numerator = torch.full_like(denominator, ratio) if isinstance(denominator, Tensor) else ratio
    aligned = ratio * t / denominator  # rounding may lift it one bit above 1
    aligned = aligned.clamp(max=1.0) if isinstance(aligned, Tensor) else min(aligned, 1.0)
    return aligned, numerator / denominator


def velocity_error(power, t):
    """Mean squared error of taking a coefficient for pure noise, under the Gaussian model.

        err = E|v - noise|^2 = (1 - t)^2 P (1 + P) / ((1 - t)^2 P + t^2)

    v is the optimal velocity E[noise - x | z] at z = (1 - t) x + t noise, with x ~ N(0, P). The error falls from 1 + P
    at t = 0 to 0 at t = 1. Power P > 0 and noise level t in [0, 1], floats or tensors.

    Source: Spectral Progressive Diffusion, appendix A.3, equation 19.
    """
    signal = (1 - t) ** 2 * power
    return signal * (1 + power) / (signal + t * t)


@overload
def activation_time(power: float, delta: float) -> float: ...
@overload
def activation_time(power: Tensor, delta: float) -> Tensor: ...
def activation_time(power, delta):
    """The noise level above which a coefficient of this power may be taken for noise: `velocity_error <= delta`.

        t_delta = 1 / (1 + sqrt(delta / (P (1 + P - delta))))

    Parameters
    ----------
    power : float > 0, or tensor of such values (then the result is a float64 tensor of its shape)
        P, power of the clean coefficient in an orthonormal basis.
    delta : float, 0 < delta < 1 + P
        Tolerated error of the velocity. 1 + P, the error at t = 0, is never reached.

    Raises
    ------
    ValueError, naming the largest legal delta.

    Source: Spectral Progressive Diffusion, proposition 1, equations 8 and 9.
    """
    if isinstance(power, Tensor) and power.numel() == 0:
        return power.to(torch.float64)
    least = float(power.min()) if isinstance(power, Tensor) else power
    if not least > 0:
        raise ValueError(f"activation_time: power must be positive, got {least}")
    if not 0 < delta < 1 + least:
        raise ValueError(
            f"activation_time: delta must be above 0 and below 1 + power = {1 + least:.6g}, the error at t = 0, "
            f"got {delta}; the largest legal delta is just below {1 + least:.6g}, usual ones are 0.01 to 0.1"
        )
    if isinstance(power, Tensor):
        power = power.to(torch.float64)
        return 1 / (1 + (delta / (power * (1 + power - delta))).sqrt())
    return 1 / (1 + math.sqrt(delta / (power * (1 + power - delta))))


def transition_time(spectrum: Callable, size: Size, delta: float) -> float:
    """The noise level down to which a run may stay at `size`: the activation time of that grid's Nyquist frequency.

        t_transition = t_delta(P(min(h, w) // 2))               frequency in cycles per image

    Parameters
    ----------
    spectrum : PowerLaw, or any callable from cycles per image to power
        A law with a reference size is used as it stands; `spectrum.at(full_size)` brings it to the run's grid.
    size : (h, w), each at least 2
    delta : float, see `activation_time`

    Source: Spectral Progressive Diffusion, proposition 2, equation 10.
    """
    if min(size) < 2:
        raise ValueError(
            f"transition_time: size must be at least (2, 2), got {tuple(size)}; smaller grids have no Nyquist"
        )
    return activation_time(float(spectrum(float(min(size) // 2))), delta)


def stage_sizes(
    size: Size, scales: Sequence[float | tuple[float, float]], *, multiple: int | tuple[int, int] = 1
) -> list[Size]:
    """Grid sizes for resolution scales: each side times its scale, rounded to the nearest multiple.

    Parameters
    ----------
    size : (H, W), the full size, itself a multiple
    scales : increasing, each a number or one per axis, ending at 1
    multiple : what the model needs the sides to be divisible by (its patch size), one number or one per axis

    Raises
    ------
    ValueError, if scales are not increasing or do not end at 1, or two stages round to one size.
    """
    pairs = [tuple(s) if isinstance(s, Sequence) else (s, s) for s in scales]
    if not pairs or pairs[-1] != (1, 1):
        raise ValueError(f"stage_sizes: scales must end at 1, the full resolution, got {list(scales)}")
    steps = multiple if isinstance(multiple, tuple) else (multiple, multiple)
    if any(n % m for n, m in zip(size, steps, strict=True)):
        raise ValueError(f"stage_sizes: size {tuple(size)} must be divisible by {steps}, what the model's patches need")
    if not all(0 < v and math.isfinite(v) for pair in pairs for v in pair):
        raise ValueError(f"stage_sizes: scales must be positive, got {list(scales)}")
    sizes = [
        (
            max(steps[0], steps[0] * round(size[0] * a / steps[0])),
            max(steps[1], steps[1] * round(size[1] * b / steps[1])),
        )
        for a, b in pairs
    ]
    return _growing(sizes, "stage_sizes", f"scales {list(scales)} give sizes")


def _growing(sizes: Sequence[Size], op: str, subject: str) -> list[Size]:
    sizes = [(int(h), int(w)) for h, w in sizes]
    for a, b in pairwise(sizes):
        if a == b or a[0] > b[0] or a[1] > b[1]:
            raise ValueError(
                f"{op}: {subject} {sizes}; each stage must be larger than the one before, in no axis smaller"
            )
    return sizes


@dataclass(frozen=True)
class Stage:
    """One resolution of a run.

    size : (h, w)
    first_step, num_steps : the steps of the run taken at this size
    sigmas : num_steps + 1 noise levels on this stage's own grid; the first is sigma_in, the last sigma_out
    ratio : to the full resolution, sqrt(H W / (h w)); 1 in an unaligned schedule, whose levels do not depend on size
    """

    size: Size
    first_step: int
    sigmas: tuple[float, ...]
    ratio: float

    @property
    def num_steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def sigma_in(self) -> float:
        return self.sigmas[0]

    @property
    def sigma_out(self) -> float:
        return self.sigmas[-1]


def token_step_ratio(full: int, tokens: Sequence[int]) -> float:
    """Tokens of every step at full resolution over those of the steps themselves: 1.72 means 1.72 times fewer."""
    return full * len(tokens) / sum(tokens)


@dataclass(frozen=True)
class ResolutionSchedule:
    """Which steps of a run are taken at which size, and at which noise levels. Made by `resolution_schedule`; print it.

    stages : tuple of Stage, from coarse to full
    schedule, align : as asked for
    notes : what could not be done as asked, in words
    """

    stages: tuple[Stage, ...]
    schedule: str
    align: bool
    notes: tuple[str, ...] = ()

    @property
    def num_steps(self) -> int:
        return sum(stage.num_steps for stage in self.stages)

    @property
    def size(self) -> Size:
        """The full size (H, W)."""
        return self.stages[-1].size

    @property
    def sigmas(self) -> tuple[float, ...]:
        """num_steps + 1 levels as run: entry k is what the model is told at step k, on the grid of that step."""
        return tuple(s for stage in self.stages for s in stage.sigmas[:-1]) + self.stages[-1].sigmas[-1:]

    @property
    def full_sigmas(self) -> tuple[float, ...]:
        """The same levels seen from the full resolution, align_time(sigma, ratio): what a solver holds whose state has
        full size all the time. Strictly decreasing; one array for all stages, because aligned levels meet."""
        return (
            tuple(align_time(s, stage.ratio)[0] for stage in self.stages for s in stage.sigmas[: stage.num_steps])
            + self.stages[-1].sigmas[-1:]
        )

    def stage_of(self, step: int) -> Stage:
        """The stage that step `step` belongs to."""
        for stage in self.stages:
            if stage.first_step <= step < stage.first_step + stage.num_steps:
                return stage
        raise ValueError(f"stage_of: step must be in 0..{self.num_steps - 1}, got {step}")

    @property
    def token_steps(self) -> int:
        """Grid cells times steps, summed over the run; the model's patch size divides it."""
        return sum(stage.size[0] * stage.size[1] * stage.num_steps for stage in self.stages)

    @property
    def token_step_ratio(self) -> float:
        """Token-steps of the full-resolution run over those of this one."""
        tokens = [stage.size[0] * stage.size[1] for stage in self.stages for _ in range(stage.num_steps)]
        return token_step_ratio(self.size[0] * self.size[1], tokens)

    def cost_ratio(self, attention: float) -> float:
        """FLOPs of the full-resolution run over those of this one.

            cost of a step at a share f of the tokens = (1 - attention) f + attention f^2

        attention : share of a full-resolution step's FLOPs that grows with the square of the tokens, in [0, 1].
        """
        if not 0 <= attention <= 1:
            raise ValueError(f"cost_ratio: attention must be a share in [0, 1], got {attention}")
        full = self.size[0] * self.size[1]
        cost = 0.0
        for stage in self.stages:
            share = stage.size[0] * stage.size[1] / full
            cost += stage.num_steps * ((1 - attention) * share + attention * share * share)
        return self.num_steps / cost

    def __str__(self) -> str:
        kind = self.schedule if self.align else f"{self.schedule}, not aligned"
        lines = [f"{kind}: {self.num_steps} steps, {self.token_step_ratio:.2f}x fewer token-steps"]
        lines.append(f"{'size':>11}  {'first step':>10}  {'steps':>5}  {'sigma in':>8}  {'sigma out':>9}")
        for s in self.stages:
            size = f"{s.size[0]} x {s.size[1]}"
            lines.append(f"{size:>11}  {s.first_step:>10}  {s.num_steps:>5}  {s.sigma_in:>8.4f}  {s.sigma_out:>9.4f}")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def resolution_schedule(
    sigmas: Sequence[float] | Tensor,
    sizes: Sequence[Size],
    spectrum: Callable | None = None,
    delta: float | None = None,
    *,
    schedule: str = "respaced",
    align: bool = True,
    transition_sigmas: Sequence[float] | None = None,
) -> ResolutionSchedule:
    """Plan a run that grows through `sizes` along a full-resolution noise schedule.

    A stage runs while its level is above `transition_time(spectrum, size, delta)`. The three ways to join the levels of
    the stages, for a transition by a ratio r before step i:

    - "published": coarse steps use the schedule as it is; step i starts at t' = align_time(sigma_i, r), the levels
      after it stay. The papers' and sglang's way. Step i jumps over the whole rewound interval.
    - "respaced": the same coarse steps; levels i..n are spread anew from t' to the end with the schedule's own spacing:
      sigma is read as a function of the fractional step index, sigma(i') = t', and step j of the fine phase starts at
      sigma(i' + (n - i') (j - i) / (n - i)).
    - "matched": the schedule is a full-resolution one throughout; a coarse step is evaluated at the level of equal
      signal-to-noise ratio on its grid, align_time(sigma_k, 1/r). Nothing is rewound.

    Parameters
    ----------
    sigmas : n + 1 decreasing levels in [0, 1], the end included: `scheduler.sigmas` of diffusers
    sizes : (h, w) of every stage, growing, the last is the full size (alone: a plain run, which needs no more);
        `stage_sizes` makes them from scales
    spectrum : PowerLaw or callable, a law with a reference size is scaled to the full size;
        or what `.fit()` gives one, as PowerSpectrum does
    delta : float, tolerated velocity error, see `activation_time`
    schedule : see above. "respaced" is the default: at the cost of "published" it came nearer to the full-resolution
        run and to the data in most measurements (docs/schedules.md). "published" reproduces the papers' tables.
    align : False: kappa = 1 and no level changes with size (sglang's mode "dct"). Not for "matched".
    transition_sigmas : one level per transition, decreasing, instead of spectrum and delta

    Returns
    -------
    ResolutionSchedule. A coarse stage that would get no step, or whose transition never fires, is left out, with a
    note; with no coarse stage left the run is plain. A transition that never fires also warns.

    Raises
    ------
    ValueError for sigmas, sizes, delta or transition_sigmas outside these rules.

    Source: Spectral Progressive Diffusion, section 4.2; "respaced" and "matched" are ours.
    """
    levels, sizes, thresholds = _plan_inputs(sigmas, sizes, spectrum, delta, schedule, align, transition_sigmas)
    n, original, notes = len(levels) - 1, list(levels), []
    ratios = [math.sqrt(sizes[-1][0] * sizes[-1][1] / (h * w)) if align else 1.0 for h, w in sizes]

    starts, kept = [], []  # of the coarse stages that get steps: the first step after each, and which they are
    for j, threshold in enumerate(thresholds):
        scale = 1 / ratios[j] if schedule == "matched" else 1.0
        fires = next((k for k in range(n) if align_time(original[k], scale)[0] <= threshold), None)
        if fires is None:
            notes.append(
                f"the transition from {sizes[j]} never fires: its level {threshold:.4f} is below the last step's, "
                f"{align_time(original[n - 1], scale)[0]:.4f}; these steps run at the next size. Take a smaller delta."
            )
            warnings.warn(f"resolution_schedule: {notes[-1]}", stacklevel=2)
        elif fires <= (starts[-1] if starts else 0):
            notes.append(f"the stage {sizes[j]} gets no step: its transition level {threshold:.4f} is passed at once.")
        else:
            starts.append(fires)
            kept.append(j)
    kept.append(len(sizes) - 1)

    stages, first = [], 0
    current = list(original)  # the levels as they are run; "matched" leaves them alone
    for position, j in enumerate(kept):
        last = starts[position] if position < len(starts) else n
        if schedule == "matched":
            own = [align_time(s, 1 / ratios[j])[0] for s in original[first : last + 1]]
        else:
            if position > 0:
                rewound = align_time(current[first], ratios[kept[position - 1]] / ratios[j])[0]
                if schedule == "respaced":
                    # Spread anew, the later transitions come later: look for them in the new levels.
                    current = current[:first] + _respace(original, rewound, n - first)
                    if position < len(starts):
                        later = (k for k in range(first + 1, n) if current[k] <= thresholds[j])
                        starts[position] = last = next(later, n - 1)
                else:
                    current = [*current[:first], rewound, *current[first + 1 :]]
            own = current[first : last + 1]
        stages.append(Stage(sizes[j], first, tuple(own), ratios[j]))
        first = last
    return ResolutionSchedule(tuple(stages), schedule, align, tuple(notes))


def _respace(levels: list[float], start: float, steps: int) -> list[float]:
    """`steps` + 1 levels from `start` to the end of `levels`, with the spacing of `levels`.

    `levels` is read as a decreasing function of the fractional index, linear between its entries.
    """
    n = len(levels) - 1
    k = next(k for k in range(n) if levels[k + 1] <= start)
    at = k + (levels[k] - start) / (levels[k] - levels[k + 1])
    spread = [start]
    for j in range(1, steps):
        x = at + (n - at) * j / steps
        k = min(int(x), n - 1)
        spread.append(levels[k] + (x - k) * (levels[k + 1] - levels[k]))
    return [*spread, levels[n]]


def _plan_inputs(sigmas, sizes, spectrum, delta, schedule, align, transition_sigmas):
    """Checked levels, sizes and one transition level per coarse stage."""
    op = "resolution_schedule"
    levels = [float(s) for s in (sigmas.tolist() if isinstance(sigmas, Tensor) else sigmas)]
    if len(levels) < 2 or not all(a > b for a, b in pairwise(levels)):
        raise ValueError(
            f"{op}: sigmas must be at least two levels, each below the one before, the end included, got {levels}"
        )
    if 1 < levels[0] <= 1 + 1e-6:
        levels[0] = 1.0  # the rounding of a shifted schedule
    if not (levels[0] <= 1 and levels[-1] >= 0):
        raise ValueError(
            f"{op}: sigmas must lie in [0, 1], got {levels[0]} to {levels[-1]}; they are noise levels of a flow, "
            "z = (1 - sigma) x + sigma noise, not those of a variance-exploding schedule"
        )
    if len(sizes) == 0:
        raise ValueError(f"{op}: sizes must name at least the full size, got none")
    sizes = _growing(sizes, op, "sizes must grow, got")
    if schedule not in SCHEDULES:
        raise ValueError(f"{op}: schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    if schedule == "matched" and not align:
        raise ValueError(
            f"{op}: schedule 'matched' is alignment and needs align=True; align=False goes with 'published'"
        )
    given = (spectrum is not None, delta is not None, transition_sigmas is not None)
    if len(sizes) == 1 and not any(given):
        return levels, sizes, []
    if given not in ((True, True, False), (False, False, True)):
        raise ValueError(f"{op}: give either spectrum and delta, or transition_sigmas")
    if transition_sigmas is not None:
        thresholds = [float(t) for t in transition_sigmas]
        if len(thresholds) != len(sizes) - 1:
            raise ValueError(
                f"{op}: transition_sigmas must have one level per transition, {len(sizes) - 1} for {len(sizes)} sizes, "
                f"got {len(thresholds)}"
            )
        if not all(a > b for a, b in pairwise(thresholds)) or not all(0 < t < 1 for t in thresholds):
            raise ValueError(f"{op}: transition_sigmas must decrease and lie in (0, 1), got {thresholds}")
        return levels, sizes, thresholds
    law = spectrum.fit() if hasattr(spectrum, "fit") else spectrum
    law = law.at(sizes[-1]) if hasattr(law, "at") else law
    return levels, sizes, [transition_time(law, size, delta) for size in sizes[:-1]]
