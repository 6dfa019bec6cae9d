# SPDX-License-Identifier: Apache-2.0
"""Exact velocity models, without training: v(z, t) at full resolution and at every smaller grid.

- GaussianField: the optimal velocity of a Gaussian field, diagonal in the cosine basis. Linear: every error is exact.
- PosteriorMean: the optimal velocity of a finite set of images. Non-linear; it memorises.
- LocalPosteriorMean: the same for the patch around each pixel, as wide as the noise level leaves detail to see. It
  composes new images from patches, as convolutional networks do (Kamb and Ganguli, "An analytic theory of creativity in
  convolutional diffusion models", 2024).
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spectral_kernels import dctn, idctn
from spectral_kernels.flow import radial_frequency
from spectral_kernels.flow.progressive import resizing

# Photographs in the scikit-image wheel; nothing is downloaded.
PHOTOGRAPHS = (
    "astronaut", "coffee", "chelsea", "camera", "rocket", "moon", "coins", "retina",
    "hubble_deep_field", "immunohistochemistry", "brick", "grass", "gravel",
)  # fmt: skip


class GaussianField:
    """Field with power `law` per DCT coefficient on the full grid; on a smaller grid the power is divided by r^2.

    v = (t - (1 - t) P) / ((1 - t)^2 P + t^2) z        per coefficient

    The coefficient (0, 0) has the power at half a cycle.
    """

    def __init__(self, law: Callable, size: tuple[int, int]):
        self.law, self.size = law, size

    @cache  # noqa: B019  # one or two grids per field
    def power(self, size: tuple[int, int]) -> Tensor:
        """P of every coefficient on a grid: the full grid's over the ratio of pixels."""
        frequency = radial_frequency(size)
        frequency[0, 0] = 0.5
        return self.law(frequency) * (size[0] * size[1] / (self.size[0] * self.size[1]))

    def __call__(self, z: Tensor, t: float) -> Tensor:
        power = self.power(tuple(z.shape[-2:]))
        gain = (t - (1 - t) * power) / ((1 - t) ** 2 * power + t * t)
        return idctn(gain.to(z.dtype) * dctn(z))


class PosteriorMean:
    """Optimal velocity where the data are exactly these images [k, c, H, W]; smaller grids see truncated ones.

    x0 = sum_i softmax_i(-|z - (1 - t) x_i|^2 / (2 t^2)) x_i,    v = (z - x0) / t
    """

    def __init__(self, images: Tensor, basis: str = "dct"):
        self.images, self.truncate = images, resizing(basis)[1]

    @cache  # noqa: B019
    def at(self, size: tuple[int, int]) -> Tensor:
        images = self.images if size == tuple(self.images.shape[-2:]) else self.truncate(self.images, size=size)
        return images.flatten(1)

    def clean(self, z: Tensor, t: float) -> Tensor:
        x, flat = self.at(tuple(z.shape[-2:])), z.flatten(1)
        distance = (1 - t) ** 2 * (x * x).sum(1) - 2 * (1 - t) * flat @ x.T
        return (torch.softmax(-distance / (2 * t * t), 1) @ x).view_as(z)

    def __call__(self, z: Tensor, t: float) -> Tensor:
        return (z - self.clean(z, t)) / t


class LocalPosteriorMean:
    """Each pixel's clean value as the posterior mean over patches around it: one channel, `count` patches per width.

    The patch is two periods wide of the finest frequency whose power exceeds the noise, P(w) (1 - t)^2 = t^2 under the
    images' own power law; as wide as the image it is PosteriorMean. Outside the image a patch has no say.
    """

    def __init__(self, images: Tensor, law: Callable, count: int = 4096, seed: int = 0):
        self.whole, self.law, self.count, self.seed = PosteriorMean(images), law, count, seed
        self.size = tuple(images.shape[-2:])

    def width(self, side: int, t: float) -> int:
        """Odd patch side at noise level t on a grid of this side."""
        grown = (self.size[0] / side) ** 2
        noise = grown * (t / max(1 - t, 1e-9)) ** 2
        active = (self.law.amplitude / noise) ** (1 / self.law.exponent) if noise > 0 else math.inf
        return max(3, 2 * round(min(2 * side / active, 4 * side) / 2) + 1)

    @cache  # noqa: B019
    def patches(self, size: tuple[int, int], width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Drawn patches [count, width^2], their centres, and which pixels of the patch lie inside [width^2, h w]."""
        images = self.whole.at(size).view(-1, 1, *size)
        rng = np.random.default_rng(self.seed)
        span = [n - width + 1 for n in size]
        which, y, x = rng.integers(len(images), size=self.count), *(rng.integers(n, size=self.count) for n in span)
        drawn = torch.stack([images[i, 0, a : a + width, b : b + width] for i, a, b in zip(which, y, x, strict=True)])
        inside = F.unfold(torch.ones(1, 1, *size, dtype=images.dtype), width, padding=width // 2)[0]
        return drawn.flatten(1), drawn[:, width // 2, width // 2].contiguous(), inside

    def clean(self, z: Tensor, t: float) -> Tensor:
        size = tuple(z.shape[-2:])
        width = self.width(size[0], t)
        if width > size[0]:
            return self.whole.clean(z, t)
        patches, centres, inside = self.patches(size, width)
        energy = (1 - t) ** 2 * (patches * patches) @ inside
        rows = []
        for around in F.unfold(z, width, padding=width // 2):
            distance = energy - 2 * (1 - t) * patches @ around
            rows.append(centres @ torch.softmax(distance / (-2 * t * t), 0))
        return torch.stack(rows).view_as(z)

    def __call__(self, z: Tensor, t: float) -> Tensor:
        return (z - self.clean(z, t)) / t


def photograph_crops(count: int, side: int, seed: int = 0, names: tuple[str, ...] = PHOTOGRAPHS) -> Tensor:
    """Grey crops [count, 1, side, side] of photographs at several scales, standard deviation about 0.7 as FLUX latents.

    Areas of 2 to 8 pixels are averaged; flat crops are passed over.
    """
    import skimage.data

    pictures = [getattr(skimage.data, name)() for name in names]
    grey = [(p[..., :3].mean(-1) if p.ndim == 3 else p).astype(np.float32) / 127.5 - 1 for p in pictures]
    rng, crops = np.random.default_rng(seed), []
    while len(crops) < count:
        picture, step = grey[rng.integers(len(grey))], int(rng.choice([2, 3, 4, 6, 8]))
        if min(picture.shape) < side * step:
            continue
        y, x = (int(rng.integers(n - side * step + 1)) for n in picture.shape)
        crop = picture[y : y + side * step, x : x + side * step].reshape(side, step, side, step).mean((1, 3))
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        if crop.std() > 0.08:
            crops.append(crop - crop.mean() / 2)
    crops = torch.tensor(np.stack(crops))[:, None]
    return crops * (0.7 / crops.std())
