# SPDX-License-Identifier: Apache-2.0
"""The power of clean data against frequency: published laws, and measurements of one's own."""

import math
from dataclasses import dataclass, replace
from typing import overload

from torch import Tensor


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
