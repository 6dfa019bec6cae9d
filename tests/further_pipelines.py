# SPDX-License-Identifier: Apache-2.0
"""Tiny pipelines of further families of pictures and videos."""

from dataclasses import replace

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.configuration_utils import FrozenDict
from diffusers.pipelines.longcat_image.pipeline_longcat_image import prepare_pos_ids
from pipeline_parts import DYNAMIC, PATCHES, Family, NoAutoencoder, autoencoder, initialised, randn
from video_pipelines import flow_unipc, wan_autoencoder, wan_transformer

NEGATIVE = {"negative_prompt_embeds": randn(1, 6, 32, seed=2)}


def pipeline_of(cls, transformer, *others: str, scheduler=None, vae=None, **components):
    """A pipeline without text encoder; `others` are further components that it is not given."""
    return cls(
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=vae or autoencoder(shift_factor=0.1, scaling_factor=0.3),
        transformer=initialised(transformer),
        **dict.fromkeys(("text_encoder", "tokenizer", *others)),
        **components,
    )


FLUX_LIKE = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": (4, 4, 8),
}


def chroma() -> Family:
    transformer = diffusers.ChromaTransformer2DModel(
        **FLUX_LIKE, approximator_num_channels=16, approximator_hidden_dim=16, approximator_layers=1
    )
    # The last token of text is padding.
    masks = {name: torch.tensor([[1, 1, 1, 1, 1, 0]], dtype=torch.bool)
             for name in ("prompt_attention_mask", "negative_prompt_attention_mask")}  # fmt: skip
    call = {"prompt_embeds": randn(1, 6, 32), "height": 64, "width": 48, "guidance_scale": 1.0, **NEGATIVE, **masks}
    return Family(pipeline_of(diffusers.ChromaPipeline, transformer), call, {"guidance_scale": 3.0}, 2, **PATCHES)


def ovis() -> Family:
    transformer = diffusers.OvisImageTransformer2DModel(**FLUX_LIKE, out_channels=16)
    call = {"prompt_embeds": randn(1, 6, 32), "height": 64, "width": 48, "guidance_scale": 1.0, **NEGATIVE}
    call["negative_prompt"] = None
    return Family(pipeline_of(diffusers.OvisImagePipeline, transformer), call, {"guidance_scale": 3.0}, 2, **PATCHES)


def longcat() -> Family:
    transformer = diffusers.LongCatImageTransformer2DModel(**FLUX_LIKE | {"in_channels": 64}, pooled_projection_dim=32)
    pipe = pipeline_of(diffusers.LongCatImagePipeline, transformer, "text_processor")
    # The real one asks its text encoder, whatever it is given.
    pipe.encode_prompt = lambda prompt_embeds, **_: (prompt_embeds, prepare_pos_ids(num_token=6))
    call = {"prompt_embeds": randn(1, 6, 32), "height": 64, "width": 48, "guidance_scale": 1.0}
    call |= {**NEGATIVE, "enable_prompt_rewrite": False}
    return Family(pipe, call, {"guidance_scale": 3.0}, 2, **PATCHES)


def lumina2() -> Family:
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=32,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=4,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(64, 64, 64),
        cap_feat_dim=32,
    )
    mask = torch.ones(1, 6, dtype=torch.bool)
    call = {"prompt_embeds": randn(1, 6, 32), "prompt_attention_mask": mask, "height": 256, "width": 192}
    call |= {**NEGATIVE, "negative_prompt_attention_mask": mask, "guidance_scale": 1.0}
    return Family(pipeline_of(diffusers.Lumina2Pipeline, transformer), call, {"guidance_scale": 3.0}, 8)


def auraflow() -> Family:
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=32,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pos_embed_max_size=1024,
    )
    pipe = pipeline_of(diffusers.AuraFlowPipeline, transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73))
    mask = torch.ones(1, 6)
    call = {"prompt_embeds": randn(1, 6, 32), "prompt_attention_mask": mask, "height": 64, "width": 48}
    call |= {**NEGATIVE, "negative_prompt_attention_mask": mask, "guidance_scale": 1.0}
    return Family(pipe, call, {"guidance_scale": 3.0}, 2)


def cogview4() -> Family:
    transformer = diffusers.CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        text_embed_dim=32,
        time_embed_dim=16,
        condition_dim=8,
        pos_embed_max_size=32,
        rope_axes_dim=(16, 16),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(**DYNAMIC | {"time_shift_type": "linear", "base_shift": 0.25})
    pipe = pipeline_of(diffusers.CogView4Pipeline, transformer, scheduler=scheduler)
    # The size of the picture that a model is to imitate stays; that of its canvas is the stage's.
    call = {"prompt_embeds": randn(1, 6, 32), "height": 64, "width": 96, "original_size": (64, 96), **NEGATIVE}
    return Family(pipe, call | {"guidance_scale": 1.0}, {"guidance_scale": 3.0}, 2)


def sana() -> Family:
    transformer = diffusers.SanaTransformer2DModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=32,
    )
    vae = NoAutoencoder(8, 1)
    vae.config = FrozenDict(encoder_block_out_channels=(8, 8, 8, 8))
    pipe = pipeline_of(diffusers.SanaPipeline, transformer, scheduler=flow_unipc(), vae=vae)
    mask = torch.ones(1, 6)
    call = {"prompt_embeds": randn(1, 6, 32), "prompt_attention_mask": mask, "height": 128, "width": 192}
    call |= {**NEGATIVE, "negative_prompt_attention_mask": mask, "guidance_scale": 1.0, "negative_prompt": None}
    return Family(pipe, call | {"use_resolution_binning": False}, {"guidance_scale": 3.0}, 8)


def wan_like(cls, pipeline, **model) -> Family:
    pipe = pipeline_of(pipeline, wan_transformer(0, cls=cls, **model), scheduler=flow_unipc(), vae=wan_autoencoder())
    call = {"prompt_embeds": randn(1, 6, 32), "height": 64, "width": 96, "num_frames": 9, **NEGATIVE}
    return Family(pipe, call | {"guidance_scale": 1.0}, {"guidance_scale": 4.0}, 8)


def skyreels() -> Family:
    return wan_like(diffusers.SkyReelsV2Transformer3DModel, diffusers.SkyReelsV2Pipeline)


def wan_vace() -> Family:
    # Of 96 channels of control, 32 are a video's inside and outside a mask, 64 the mask's own of 8 x 8 pixels each.
    model = {"vace_layers": [0, 2], "vace_in_channels": 96}
    family = wan_like(diffusers.WanVACETransformer3DModel, diffusers.WanVACEPipeline, **model)
    without = diffusers.WanVACEPipeline(**family.pipe.components)
    mask = torch.zeros(1, 9, 3, 64, 96)
    mask[..., 20:44, 30:70] = 1
    family.call |= {"video": randn(1, 9, 3, 64, 96, seed=3).sigmoid(), "mask": mask}
    return replace(family, twin=without)
