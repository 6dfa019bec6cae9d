# SPDX-License-Identifier: Apache-2.0
"""Tiny pipelines that are given pictures as further tokens beside the state's."""

import contextlib
from dataclasses import replace
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus, pipeline_qwenimage_layered
from picture_pipelines import flux2, flux2_klein, qwen, zimage
from PIL import Image
from pipeline_parts import Family, pack_patches, randn, unpack_patches
from torch import Tensor


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8))


class QwenImageEditPlus(diffusers.QwenImageEditPlusPipeline):
    """Leaves its pictures, which it would scale to a million pixels, at their sizes."""

    def __call__(self, **arguments):
        sizes = {image.width / image.height: image.size for image in arguments["image"]}
        kept = mock.patch.object(pipeline_qwenimage_edit_plus, "calculate_dimensions", lambda _, ratio: sizes[ratio])
        with kept:
            return super().__call__(**arguments)


def qwen_edit() -> Family:
    # Two pictures of other sizes than the result's; their tokens are at time 0 (the release of 2025-11).
    family = qwen(QwenImageEditPlus, zero_cond_t=True)
    family.call["image"] = [picture(48, 32), picture(64, 64)]
    return family


class QwenImageLayered(diffusers.QwenImageLayeredPipeline):
    """Takes the picture's size to be what it is given, and returns latents, at which that of diffusers 0.42 fails."""

    def __call__(self, height, width, return_dict, **arguments):
        last = []

        def keep(pipe, step, timestep, tensors):
            last[:] = [tensors["latents"]]
            return {}

        arguments.setdefault("callback_on_step_end", keep)
        sized = mock.patch.object(pipeline_qwenimage_layered, "calculate_dimensions", lambda *_: (width, height))
        with sized, contextlib.suppress(UnboundLocalError):
            super().__call__(**arguments)
        return last


def qwen_layered() -> Family:
    family = qwen(QwenImageLayered, use_layer3d_rope=True, use_additional_t_cond=True)
    family.pipe.text_encoder = family.pipe.vae  # asked for its dtype alone
    family.call |= {"image": picture(48, 64), "layers": 2, "prompt": " a", "cfg_normalize": True}

    def pack(planes: Tensor) -> Tensor:
        frames = planes.transpose(1, 2)
        return pack_patches(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).flatten(1, 2)

    def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
        frames = tokens.unflatten(1, (-1, height * width // 4)).flatten(0, 1)
        return unpack_patches(frames, height, width).unflatten(0, (len(tokens), -1)).transpose(1, 2)

    return replace(family, twin=family.pipe, pack=pack, unpack=unpack, sample=pack, clean="last")


def flux2_klein_reference() -> Family:
    family = flux2_klein()
    family.call["image"] = [picture(64, 64)]
    return family


def flux2_klein_kv() -> Family:
    """Its references' tokens come first, at the first step alone: their keys and values are kept."""
    family = flux2(diffusers.Flux2KleinKVPipeline)
    family.call["image"] = [picture(64, 64)]
    return family


def zimage_omni() -> Family:
    family = zimage(diffusers.ZImageOmniPipeline, siglip_feat_dim=8, siglip=None, siglip_processor=None)
    family.pipe.vae.to(torch.bfloat16)  # pictures are encoded in nothing else
    # The real one asks a vision model.
    family.pipe.prepare_siglip_embeds = lambda batch_size, **_: [[randn(2, 3, 8, seed=6)] for _ in range(batch_size)]
    family.call["image"] = [picture(64, 64)]
    for name in ("prompt_embeds", "negative_prompt_embeds"):  # before the picture, and after it
        family.call[name] = [[*family.call[name], randn(4, 16, seed=7)]]
    return family
