# SPDX-License-Identifier: Apache-2.0
"""The power of clean data against frequency: published laws, and measurements of one's own."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from spectral_kernels.transforms import dctn


@dataclass(frozen=True)
class PowerLaw:
    """Power per orthonormal spectral coefficient of clean, centred data.

        P(w) = amplitude * w^-exponent            w: radial frequency in cycles per image

    The power at a fixed frequency in cycles per image grows with the number of pixels, so an amplitude belongs to the
    grid it was measured on. `reference_size` names that grid and lets `at` scale the law to another; without it the law
    is taken as it stands for every grid, which is what the published schedules do.

    Parameters
    ----------
    amplitude : float, > 0
        P at one cycle per image.
    exponent : float, > 0
    reference_size : (H0, W0), optional
        Grid of the measurement. For a preset: `dataclasses.replace(FLUX_LATENT, reference_size=(128, 128))`.
    r_squared : float, optional
        Of the straight-line fit in log-log, where the law comes from one.

    Source: Spectral Progressive Diffusion, equation 4 and appendix C.
    """

    amplitude: float
    exponent: float
    reference_size: tuple[int, int] | None = None
    r_squared: float | None = None

    def __post_init__(self):
        for name in ("amplitude", "exponent"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"PowerLaw: {name} must be positive and finite, got {value}")
        if self.reference_size is not None and not (len(self.reference_size) == 2 and min(self.reference_size) >= 1):
            raise ValueError(f"PowerLaw: reference_size must be two positive sides, got {self.reference_size}")

    @overload
    def __call__(self, frequency: float) -> float: ...
    @overload
    def __call__(self, frequency: Tensor) -> Tensor: ...
    def __call__(self, frequency):
        """P at a radial frequency in cycles per image (float or tensor); infinite at 0, where no law holds."""
        if isinstance(frequency, Tensor):
            return self.amplitude * frequency.double() ** -self.exponent
        return self.amplitude * frequency**-self.exponent if frequency else math.inf

    def at(self, size: tuple[int, int]) -> "PowerLaw":
        """The law on an H x W grid: amplitude * H W / (H0 W0). Itself where no reference size is given."""
        if self.reference_size is None:
            return self
        pixels = size[0] * size[1] / (self.reference_size[0] * self.reference_size[1])
        return replace(self, amplitude=self.amplitude * pixels, reference_size=tuple(size))


# Fitted constants of Spectral Progressive Diffusion, table 4, with the digits of its code and of sglang.
FLUX_LATENT = PowerLaw(203.615097, 1.915461, r_squared=0.978)
"""FLUX.1 and Z-Image latents, measured on 100k images of 1024 px (a 128 x 128 grid). FLUX.2 and Qwen-Image have no
constants of their own in public; peers use these."""
WAN_LATENT = PowerLaw(219.484718, 2.422687, r_squared=0.999)
"""Wan 2.1 latents, spatial frequencies, measured on 10k videos."""
PIXEL = PowerLaw(3745.46, 2.4493, r_squared=1.0)
"""Image pixels (PixelGen), measured on 100k images."""

# Totals are integers in units of the smallest float64, so that every float64 is one and adding rounds nothing.
UNIT = 1074


class PowerSpectrum:
    """Measures the mean power of data per ring of frequencies, a shard at a time.

        ring k holds the coefficients (i, j) of the orthonormal DCT with round(n sqrt((i / H)^2 + (j / W)^2)) = k
        n = min(H, W), k = 1 .. n - 1, that is k / 2 cycles per (shorter) image side

    Centring a plane changes only its coefficient (0, 0), which no ring holds, so nothing needs to be centred.

    The totals are exact integers: the same samples give the same bits in any order, in any split into batches, shards
    and processes (the sum over one sample's ring is taken in float64, in one order; the transform has the same bits on
    every backend for float32 and half types).

    Parameters
    ----------
    size : (H, W), the grid of the samples, each side at least 4

    Source: Spectral Progressive Diffusion, appendix C.
    """

    def __init__(self, size: tuple[int, int]):
        if len(size) != 2 or min(size) < 4:
            raise ValueError(f"PowerSpectrum: size must be two sides of at least 4, got {size}")
        self.size = (int(size[0]), int(size[1]))
        self.samples = 0
        self.planes = 0
        self._totals = [0] * (min(self.size) - 1)

    def update(self, x: Tensor) -> "PowerSpectrum":
        """Add samples.

        x : floating-point tensor [..., H, W]; with three or more dimensions the first counts samples, the others
            (channels, frames) are averaged over. Not finite anywhere raises ValueError, and nothing is added.
        """
        if not x.is_floating_point():
            raise TypeError(f"PowerSpectrum.update: x must be floating-point, got {x.dtype}; use x.float() / 127.5 - 1")
        if x.ndim < 2 or tuple(x.shape[-2:]) != self.size:
            raise ValueError(
                f"PowerSpectrum.update: x must end in {self.size}, got {tuple(x.shape)}; crop or resize it, or measure "
                "it apart: frequencies of other grids are other frequencies"
            )
        samples = x.reshape(-1 if x.ndim == 2 else x.shape[0], math.prod(x.shape[1:-2]), *self.size)
        finite = samples.isfinite().flatten(1).all(1)
        if not finite.all():
            raise ValueError(f"PowerSpectrum.update: sample {int(finite.long().argmin())} of x is not finite")
        power = dctn(samples).double().square().cpu().numpy()
        ring, _, _ = _rings(self.size)
        index = np.broadcast_to(ring, power.shape[1:]).ravel()
        for sample in power:
            sums = np.bincount(index, sample.ravel(), minlength=len(self._totals) + 1)
            self._totals = [total + _exact(v) for total, v in zip(self._totals, sums[1:], strict=True)]
        self.samples += power.shape[0]
        self.planes += power.shape[0] * power.shape[1]
        return self

    @classmethod
    def measure(cls, batches: Iterable[Any], *, progress: bool = False) -> "PowerSpectrum":
        """One pass over batches: an iterable or DataLoader of tensors, or of tuples whose first item is the tensor.

        progress : show a bar with the samples so far (needs tqdm).
        """
        if progress:
            try:
                from tqdm import tqdm
            except ImportError as error:
                raise ImportError("PowerSpectrum.measure: progress=True needs tqdm; pip install tqdm") from error
            batches = tqdm(batches, desc="spectrum", unit="batch")
        spectrum = None
        for batch in batches:
            x = batch[0] if isinstance(batch, tuple | list) else batch
            spectrum = spectrum or cls(tuple(x.shape[-2:]))
            spectrum.update(x)
        if spectrum is None:
            raise ValueError("PowerSpectrum.measure: batches must hold at least one tensor, got none")
        return spectrum

    def merge(self, other: "PowerSpectrum") -> "PowerSpectrum":
        """Add another measurement on the same grid. Exact."""
        if other.size != self.size:
            raise ValueError(f"PowerSpectrum.merge: sizes must agree, got {self.size} and {other.size}")
        self._totals = [a + b for a, b in zip(self._totals, other._totals, strict=True)]
        self.samples += other.samples
        self.planes += other.planes
        return self

    def all_reduce(self, group=None) -> "PowerSpectrum":
        """Merge over the processes of a torch.distributed group: each then holds the whole, with the same bits."""
        shards: list[Any] = [None] * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(shards, self.state(), group=group)
        whole = PowerSpectrum(self.size)
        for shard in shards:
            whole.merge(PowerSpectrum.from_state(shard))
        self._totals, self.samples, self.planes = whole._totals, whole.samples, whole.planes
        return self

    @property
    def frequencies(self) -> np.ndarray:
        """Geometric mean of the frequencies in each ring, cycles per shorter image side, float64 [min(H, W) - 1]."""
        return _rings(self.size)[2]

    @property
    def power(self) -> np.ndarray:
        """Mean power per coefficient in each ring, float64 [min(H, W) - 1]; the correctly rounded mean of the sums."""
        if self.planes == 0:
            raise ValueError("PowerSpectrum: no samples yet; call update first")
        counts = _rings(self.size)[1]
        return np.array([t / (self.planes * int(c) << UNIT) for t, c in zip(self._totals, counts, strict=True)])

    def fit(self, *, frequencies: tuple[float, float] | None = None) -> PowerLaw:
        """Straight line through log power against log frequency, least squares, every ring the same weight.

        frequencies : (lowest, highest) in cycles per image, the rings to use. Default: all.

        Returns a PowerLaw with this grid as reference_size and R^2. Raises ValueError with fewer than 8 samples, fewer
        than 4 rings, a ring without power, or power that does not fall with frequency.
        """
        if self.samples < 8:
            raise ValueError(
                f"PowerSpectrum.fit: needs at least 8 samples, got {self.samples}; the lowest ring has 3 coefficients "
                "per plane, so its mean would be off by tens of per cent"
            )
        low, high = frequencies or (0.0, math.inf)
        use = (self.frequencies >= low) & (self.frequencies <= high)
        if use.sum() < 4:
            raise ValueError(
                f"PowerSpectrum.fit: needs at least 4 rings, got {int(use.sum())} between {low} and {high} cycles per "
                f"image of {len(use)} on the grid {self.size}"
            )
        power = self.power[use]
        if not power.min() > 0:
            where = self.frequencies[use][power.argmin()]
            raise ValueError(f"PowerSpectrum.fit: no power at {where:.3g} cycles per image; are the samples constant?")
        x, y = np.log(self.frequencies[use]), np.log(power)
        slope, intercept = np.polyfit(x, y, 1)
        if slope >= 0:
            raise ValueError(f"PowerSpectrum.fit: power must fall with frequency, found w^{slope:+.3f}; is this noise?")
        rest = y - (slope * x + intercept)
        r_squared = float(1 - (rest @ rest) / ((y - y.mean()) @ (y - y.mean())))
        return PowerLaw(float(np.exp(intercept)), float(-slope), self.size, r_squared)

    def plot(self, path: str | Path, *, title: str = "Power spectrum"):
        """Write a log-log plot of the measured power and its fit (needs matplotlib)."""
        from matplotlib.figure import Figure

        law = self.fit()
        axes = (figure := Figure(figsize=(6, 4), layout="constrained")).add_subplot()
        axes.loglog(self.frequencies, self.power, ".", label=f"{self.samples} samples, {self.size[0]} x {self.size[1]}")
        line = [law(float(w)) for w in self.frequencies]
        label = f"{law.amplitude:.4g} w^-{law.exponent:.3f}, R² = {law.r_squared:.3f}"
        axes.loglog(self.frequencies, line, label=label)
        axes.set(xlabel="frequency w, cycles per image", ylabel="power per orthonormal coefficient", title=title)
        axes.legend()
        figure.savefig(path, dpi=150)

    def state(self) -> dict[str, Any]:
        """All of it as plain data: exact totals in hexadecimal, in units of 2^-1074."""
        totals = [format(total, "x") for total in self._totals]
        return {"size": list(self.size), "samples": self.samples, "planes": self.planes, "totals": totals}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "PowerSpectrum":
        spectrum = cls(tuple(state["size"]))
        totals = [int(total, 16) for total in state["totals"]]
        if len(totals) != len(spectrum._totals) or min(totals) < 0:
            raise ValueError(
                f"PowerSpectrum.from_state: totals must be {len(spectrum._totals)} sums of squares, got {len(totals)}"
            )
        spectrum.samples, spectrum.planes, spectrum._totals = state["samples"], state["planes"], totals
        return spectrum

    def save(self, path: str | Path):
        """Write JSON: the fit and the rings to read, the exact state to go on from."""
        law = self.fit()
        fit = {"amplitude": law.amplitude, "exponent": law.exponent, "r_squared": law.r_squared}
        rings = {"frequencies": self.frequencies.tolist(), "power": self.power.tolist()}
        text = json.dumps({"power_law": fit, "rings": rings, "state": self.state()}, indent=1)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "PowerSpectrum":
        """Read what `save` wrote. The fit is made anew from the exact totals."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError:  # not text, or not JSON
            data = None
        if not isinstance(data, dict) or "state" not in data:
            raise ValueError(f"PowerSpectrum.load: {path} is not a spectrum that PowerSpectrum.save wrote")
        return cls.from_state(data["state"])


@cache
def _rings(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ring of every coefficient (0 for none), coefficients per ring, geometric mean frequency per ring."""
    h, w = size
    shorter = min(h, w)
    radius = shorter * np.hypot(np.arange(h)[:, None] / h, np.arange(w) / w)
    ring = np.rint(radius).astype(np.int64)
    ring[ring >= shorter] = 0
    ring[0, 0] = 0
    counts = np.bincount(ring.ravel())[1:]
    with np.errstate(divide="ignore"):
        logs = np.where(ring > 0, np.log(radius / 2), 0.0)
    return ring, counts, np.exp(np.bincount(ring.ravel(), logs.ravel())[1:] / counts)


def _exact(value: float) -> int:
    """A finite float64 as an integer in units of 2^-1074."""
    numerator, denominator = float(value).as_integer_ratio()
    return numerator << (UNIT + 1 - denominator.bit_length())
