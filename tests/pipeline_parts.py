# SPDX-License-Identifier: Apache-2.0
"""What tiny pipelines are made of: how a test calls one, random weights, autoencoders, the ways of packing latents.

No tokenizer and no text encoder: prompt embeddings are arguments. Widths are the smallest that the classes accept;
grids are a few tokens wide and never square, so that rows and columns cannot be mistaken for each other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL
from torch import Tensor

diffusers.utils.logging.set_verbosity_error()

DYNAMIC = {"use_dynamic_shifting": True, "shift": 3.0, "base_shift": 0.5, "max_shift": 1.15}


@dataclass
class Family:
    """One pipeline with the arguments of a call.

    call      arguments of the plain call: embeddings, height, width
    guided    further arguments that switch classifier-free guidance on; None where the pipeline has none
    cell      image pixels per latent pixel, so that (height, width) = cell * grid
    pack      planes [B, C, (F,) H, W] of the model's grid to the pipeline's `latents=`
    twin      a pipeline of text alone around the same denoisers, where the pipeline itself takes pictures
    clean     the "first" or "last" frame of the denoiser's tokens is a picture that stays clean
    sample    planes to what the scheduler steps; `pack` where it is not given
    unpack    (sample, H, W) to planes
    """

    pipe: Any
    call: dict
    guided: dict | None
    cell: int
    pack: Callable[[Tensor], Tensor] = lambda planes: planes
    unpack: Callable[[Tensor, int, int], Tensor] = lambda x, height, width: x
    sample: Callable[[Tensor], Tensor] | None = None
    twin: Any = None
    clean: str | None = None

    def __post_init__(self):
        self.sample = self.sample or self.pack
        self.scheduler = self.pipe.scheduler

    @property
    def grid(self) -> tuple[int, int]:
        return self.call["height"] // self.cell, self.call["width"] // self.cell


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def initialised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights of unit gain: the initialisation of some classes is zero in places, which would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        gain = max(1, parameter[0].numel()) ** -0.5 if parameter.ndim > 1 else 0.1
        parameter.data = torch.randn(parameter.shape, generator=generator) * gain
    return model.eval()


def autoencoder(cls=AutoencoderKL, channels: int = 4, **config) -> torch.nn.Module:
    return initialised(
        cls(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=channels,
            norm_num_groups=4,
            layers_per_block=1,
            sample_size=32,
            **config,
        )
    )


class NoAutoencoder(torch.nn.Module):
    """What a pipeline asks of a video autoencoder when it returns latents: its measures, and latents of a picture."""

    dtype, device = torch.float32, torch.device("cpu")
    config = diffusers.configuration_utils.FrozenDict(latent_channels=4, scaling_factor=1.0)

    def __init__(self, spatial: int, temporal: int):
        super().__init__()
        self.spatial_compression_ratio, self.temporal_compression_ratio = spatial, temporal
        self.latents_mean, self.latents_std = torch.zeros(4), torch.ones(4)

    def encode(self, video: Tensor) -> Any:
        cell = (1, self.spatial_compression_ratio, self.spatial_compression_ratio)
        means = torch.nn.functional.avg_pool3d(video, cell)
        return SimpleNamespace(latents=torch.cat([means, means[:, :1] - means[:, 1:2]], dim=1))


def pack_patches(planes: Tensor) -> Tensor:
    batch, channels, height, width = planes.shape
    cells = planes.unflatten(3, (width // 2, 2)).unflatten(2, (height // 2, 2))
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, channels * 4)


def unpack_patches(tokens: Tensor, height: int, width: int) -> Tensor:
    batch, _, channels = tokens.shape
    cells = tokens.view(batch, height // 2, width // 2, channels // 4, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)


def tokens_of(planes: Tensor) -> Tensor:
    return planes.flatten(2).transpose(1, 2)


def planes_of(tokens: Tensor, height: int, width: int) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, (-1, height, width)).squeeze(2)


PATCHES = {"pack": pack_patches, "unpack": unpack_patches}
TOKENS = {"pack": tokens_of, "unpack": planes_of}


def after_a_picture(planes: Tensor) -> Tensor:
    """Frames with one before them, which a clean picture will replace."""
    return torch.nn.functional.pad(planes, (0, 0, 0, 0, 1, 0))
