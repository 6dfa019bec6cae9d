# SPDX-License-Identifier: Apache-2.0
"""What users say of a method: checked when it is written down, as far as no pipeline is needed for that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeVar

from torch import Tensor

from spectral_kernels import arguments, wavelets
from spectral_kernels.evaluation import evaluation_steps, with_beginnings
from spectral_kernels.flow.progressive import BASES
from spectral_kernels.forecast import chebyshev_weights, hermite_weights, linear_weights, reuse_weights, taylor_weights
from spectral_kernels.forecaster import Forecaster
from spectral_kernels.schedule import stage_sizes
from spectral_kernels.spectrum import PowerLaw

Config = TypeVar("Config")
METHODS = {
    "chebyshev": chebyshev_weights,
    "taylor": taylor_weights,
    "hermite": hermite_weights,
    "linear": linear_weights,
    "reuse": reuse_weights,
}


@dataclass(frozen=True)
class ProgressiveConfig:
    """How a run's resolution grows.

    Parameters
    ----------
    delta : tolerated error of a frequency that is treated as noise, relative to white noise of variance 1; larger is
        faster. Papers use 0.01 to 0.1. What a Gaussian of the spectrum would err; structured data err more, see
        docs/schedules.md.
    scales : side of each stage over the full side, ascending to 1: numbers, or pairs (height, width). Any number of
        stages; sides are rounded to the model's patches.
    basis : "dct", "fft", or a wavelet as in `dwt_expand`, for sides that change by powers of two.
    schedule : "respaced" spreads the levels after a transition anew; "published", the papers', replaces only that of
        the first step by the aligned one; "matched" keeps the levels and asks the coarse model at the level of equal
        signal-to-noise ratio. See `resolution_schedule`, and docs/schedules.md for why "respaced" is the default.
    align : False leaves levels and states unaligned (not for "matched").
    spectrum : PowerLaw of the latents; default is the model's preset.
    transition_sigmas : levels at which a stage ends, one per transition, in place of `delta` and `spectrum`.
    precision : of the ops, as in `dct_expand`.
    """

    delta: float = 0.05
    scales: Sequence[float | tuple[float, float]] = (0.5, 1.0)
    basis: str = "dct"
    schedule: Literal["published", "respaced", "matched"] = "respaced"
    align: bool = True
    spectrum: PowerLaw | None = None
    transition_sigmas: Sequence[float] | None = None
    precision: str = "exact"

    def __post_init__(self):
        if self.basis not in BASES:
            try:
                wavelets.canonical("ProgressiveConfig", self.basis)
            except ValueError as error:
                raise ValueError(f'ProgressiveConfig: basis must be "dct", "fft" or a wavelet; {error}') from error
        if self.schedule not in ("published", "respaced", "matched"):
            raise ValueError(
                f'ProgressiveConfig: schedule must be "published", "respaced" or "matched", got "{self.schedule}"'
            )
        if not self.align and self.schedule == "matched":
            raise ValueError('ProgressiveConfig: "matched" is alignment; align=False goes with the other schedules')
        arguments.switch("ProgressiveConfig", "align", self.align)
        arguments.precision("ProgressiveConfig", self.precision)
        if not isinstance(self.delta, int | float) or not 0 < self.delta < float("inf"):
            raise ValueError(
                f"ProgressiveConfig: delta must be a number above 0, usual are 0.01 to 0.1, got {self.delta!r}"
            )
        if not (self.spectrum is None or callable(self.spectrum) or hasattr(self.spectrum, "fit")):
            raise TypeError(f"ProgressiveConfig: spectrum must be a PowerLaw, got {self.spectrum!r}")
        _listed("ProgressiveConfig", "scales", self.scales)
        stage_sizes((4096, 4096), self.scales)  # what is wrong for any size
        if self.transition_sigmas is not None:
            self._check_levels(_listed("ProgressiveConfig", "transition_sigmas", self.transition_sigmas))

    def _check_levels(self, levels: list) -> None:
        stages = len(self.scales)
        if len(levels) != stages - 1:
            raise ValueError(
                f"ProgressiveConfig: {stages} stages have {stages - 1} transitions, got transition_sigmas = {levels}"
            )
        bounds = [1, *levels, 0]
        if not all(isinstance(level, int | float) for level in levels) or not all(a > b for a, b in pairwise(bounds)):
            raise ValueError(
                f"ProgressiveConfig: transition_sigmas must be numbers that descend between 1 and 0, got {levels}"
            )


@dataclass(frozen=True)
class ForecastConfig:
    """Which steps are evaluated, and how the others are forecast.

    Parameters
    ----------
    warmup, window, flex : the schedule, see `evaluation_steps`. The defaults evaluate 14 steps of 50.
    steps : an explicit list of steps to evaluate instead, counted from the first step of the run: ascending from 0.
    budget : a number of evaluations instead of `flex`; not beside `steps`.
    method : "chebyshev" (Spectrum), "taylor" (TaylorSeer), "hermite" (HiCache), "linear", "reuse" (FORA), or a weight
        maker of your own.
    degree, ridge, blend : of the Chebyshev fit. order : of Taylor and Hermite, default that of their weight makers.
    storage, max_features, encoding, offload : of the features kept, see `Forecaster`. "auto" takes moments where the
        evaluations to come would be more than they.
    transition : what a history does when the resolution changes: "reset" begins anew, "expand" brings its features to
        the new grid (models whose feature is one token per patch: not Z-Image, Ideogram 4 and SDXL; "features" without
        encoding).
    rewarm : evaluations at the beginning of a new history in the middle of a run: after a transition, or when a second
        expert takes over. 0 only with "expand". At equal evaluations, one did best in most runs of the study in
        bench/FORECAST.md.
    """

    warmup: int = 5
    window: float = 2
    flex: float = 0.75
    steps: Sequence[int] | None = None
    budget: int | None = None
    method: str | Callable[..., Tensor] = "chebyshev"
    degree: int = 4
    ridge: float = 0.1
    blend: float = 0.5
    order: int | None = None
    storage: Literal["features", "moments", "auto"] = "features"
    max_features: int | None = None
    encoding: str | None = None
    offload: bool = False
    transition: Literal["reset", "expand"] = "reset"
    rewarm: int = 1

    def __post_init__(self):
        if self.method not in METHODS if isinstance(self.method, str) else not callable(self.method):
            raise ValueError(f"ForecastConfig: method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if self.transition not in ("reset", "expand"):
            raise ValueError(f'ForecastConfig: transition must be "reset" or "expand", got {self.transition!r}')
        if self.transition == "expand" and (self.storage != "features" or self.encoding or self.offload):
            raise ValueError(
                'ForecastConfig: transition="expand" needs the features as they are: storage="features" without '
                "encoding and offload"
            )
        least = 0 if self.transition == "expand" else 1
        if not _whole(self.rewarm) or self.rewarm < least:
            raise ValueError(
                f"ForecastConfig: rewarm must be at least {least} with "
                f'transition="{self.transition}", and whole, got {self.rewarm}'
            )
        arguments.switch("ForecastConfig", "offload", self.offload)
        if self.steps is not None:
            if self.budget is not None:
                raise ValueError(
                    "ForecastConfig: steps and budget both say how many evaluations; leave one of them out"
                )
            steps = _listed("ForecastConfig", "steps", self.steps)
            evaluation_steps(1 + max(0, 0, *map(int, steps)), steps=steps)
        else:
            evaluation_steps(1, self.window, self.warmup, self.flex)
        if self.budget is not None and not (_whole(self.budget) and self.budget >= 1):
            raise ValueError(f"ForecastConfig: budget must be a whole number of evaluations, got {self.budget!r}")
        self.forecaster(50)  # options and storage are checked now, not in a run

    def forecaster(self, num_steps: int, evaluations: int | None = None) -> Forecaster:
        """An empty history for a run of so many steps, of which so many will be evaluated."""
        maker = METHODS[self.method] if isinstance(self.method, str) else self.method
        options: dict[str, Any] = {}
        if maker is chebyshev_weights:
            options = {"degree": self.degree, "ridge": self.ridge, "blend": self.blend}
        elif maker in (taylor_weights, hermite_weights) and self.order is not None:
            options = {"order": self.order}
        return Forecaster(
            num_steps,
            maker,
            self.storage,
            max_features=self.max_features,
            encoding=self.encoding,
            offload=self.offload,
            evaluations=evaluations,
            **options,
        )

    def evaluated(self, num_steps: int, first: int = 0, begins: Sequence[int] = ()) -> list[int]:
        """The steps that are evaluated in a run from `first` to `num_steps`, its history beginning anew at `begins`.

        The schedule runs on over a new beginning; `rewarm` evaluations are added there.
        """
        count = num_steps - first
        planned = evaluation_steps(count, self.window, self.warmup, self.flex, steps=self.steps, budget=self.budget)
        return with_beginnings([first + step for step in planned], begins, self.rewarm, num_steps)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _listed(name: str, field: str, values: Any) -> list:
    """What is said one by one, for stages or steps."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{name}: {field} must be a list or a tuple, got {values!r}")
    return list(values)


def checked(op: str, config: Config | None, kind: type[Config]) -> Config:
    """A configuration of a kind, its default where there is none."""
    if config is None:
        return kind()
    if not isinstance(config, kind):
        raise TypeError(f"{op}: config must be a {kind.__name__}, got {type(config).__name__}")
    return config
