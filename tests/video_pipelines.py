# SPDX-License-Identifier: Apache-2.0
"""Tiny pipelines of videos: the real pipeline, model and scheduler classes, built from configuration."""

from dataclasses import replace

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from PIL import Image
from pipeline_parts import (
    DYNAMIC,
    TOKENS,
    Family,
    NoAutoencoder,
    after_a_picture,
    initialised,
    planes_of,
    randn,
    tokens_of,
)


def flow_unipc() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )


def wan_transformer(seed: int, in_channels: int = 16, cls=diffusers.WanTransformer3DModel, **model):
    transformer = cls(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=in_channels,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=3,
        cross_attn_norm=True,
        rope_max_seq_len=32,
        **model,
    )
    return initialised(transformer, seed)


def wan_autoencoder():
    return initialised(
        AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        )
    )


def wan(experts: bool = False, expand_timesteps: bool = False, picture: bool = False) -> Family:
    # Beside the 16 state channels, 16 of the picture's latents and 4 that say which frames are given.
    channels = 36 if picture and not expand_timesteps else 16
    components = {
        "tokenizer": None,
        "text_encoder": None,
        "vae": wan_autoencoder(),
        "scheduler": flow_unipc(),
        "transformer": wan_transformer(0, channels),
        "transformer_2": wan_transformer(1, channels) if experts else None,
        "boundary_ratio": 0.875 if experts else None,
        "expand_timesteps": expand_timesteps,
    }
    text = diffusers.WanPipeline(**components)
    pipe = diffusers.WanImageToVideoPipeline(**components) if picture else text
    call = {
        "prompt_embeds": randn(1, 6, 32),
        "negative_prompt_embeds": randn(1, 6, 32, seed=2),
        "height": 64,
        "width": 96,
        "num_frames": 9,
        "guidance_scale": 1.0,
    }
    if picture:
        call["image"] = randn(1, 3, 64, 96, seed=3).sigmoid()
    clean = "first" if picture and expand_timesteps else None
    return Family(pipe, call, {"guidance_scale": 4.0}, 8, twin=text if picture else None, clean=clean)


def wan_i2v() -> Family:
    return wan(picture=True)


def wan22() -> Family:
    return wan(experts=True)


def wan_ti2v() -> Family:
    return wan(expand_timesteps=True)


def wan_ti2v_picture() -> Family:
    return wan(expand_timesteps=True, picture=True)


def hunyuan(picture: str | None = None) -> Family:
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=9 if picture == "latent_concat" else 4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        patch_size=2,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(4, 4, 8),
        image_condition_type=picture,
    )
    components = {
        "transformer": initialised(transformer),
        "vae": NoAutoencoder(8, 4),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
    }
    text = diffusers.HunyuanVideoPipeline(**components)
    pipe = diffusers.HunyuanVideoImageToVideoPipeline(**components, image_processor=None) if picture else text
    mask = torch.ones(1, 6)
    call = {
        "prompt_embeds": randn(1, 6, 16),
        "pooled_prompt_embeds": randn(1, 8),
        "prompt_attention_mask": mask,
        "height": 64,
        "width": 96,
        "num_frames": 9,
        "guidance_scale": 6.0,  # the defaults of the two pipelines differ
    }
    guided = {
        "negative_prompt_embeds": randn(1, 6, 16, seed=2),
        "negative_pooled_prompt_embeds": randn(1, 8, seed=2),
        "negative_prompt_attention_mask": mask,
        "true_cfg_scale": 4.0,
    }
    if picture:
        call["image"] = randn(1, 3, 64, 96, seed=3).sigmoid()
    family = Family(pipe, call, guided, 8, twin=text if picture else None)
    if picture == "token_replace":
        # The solver steps two of three frames.
        frames = {"pack": after_a_picture, "unpack": lambda x, height, width: x[:, :, -2:], "sample": lambda x: x}
        return replace(family, clean="first", **frames)
    return family


def hunyuan_i2v() -> Family:
    return hunyuan(picture="latent_concat")


def hunyuan_i2v_replace() -> Family:
    return hunyuan(picture="token_replace")


class HunyuanVideo15ImageToVideo(diffusers.HunyuanVideo15ImageToVideoPipeline):
    """Its size follows from the picture's; without the picture's encoder."""

    def __call__(self, height, width, **arguments):
        return super().__call__(**arguments)

    def encode_image(self, **_):
        return randn(1, 3, 12, seed=6)


def hunyuan15(picture: bool = False) -> Family:
    from diffusers.guiders import ClassifierFreeGuidance

    transformer = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=3,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=16,
        text_embed_2_dim=8,
        image_embed_dim=12,
        rope_axes_dim=(4, 4, 8),
        target_size=64,
        task_type="i2v" if picture else "t2v",
    )
    components = {
        "transformer": initialised(transformer),
        "vae": NoAutoencoder(16, 4),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "guider": ClassifierFreeGuidance(guidance_scale=4.0),
        **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
    }
    text = diffusers.HunyuanVideo15Pipeline(**components)
    pipe = HunyuanVideo15ImageToVideo(**components, image_encoder=None, feature_extractor=None) if picture else text
    for one in (text, pipe):
        one.num_channels_latents, one.vision_num_semantic_tokens, one.vision_states_dim = 4, 3, 12
    call: dict = {"height": 128, "width": 192, "num_frames": 9}
    if picture:
        pipe.target_size = 160  # the sizes of about 160 x 160 pixels, of which 128 x 192 is the picture's
        call["image"] = Image.fromarray(np.random.default_rng(5).integers(0, 256, (128, 192, 3), dtype=np.uint8))
    for prefix, seed in (("", 1), ("negative_", 2)):
        call |= {
            prefix + "prompt_embeds": randn(1, 6, 16, seed=seed),
            prefix + "prompt_embeds_mask": torch.ones(1, 6),
            prefix + "prompt_embeds_2": randn(1, 5, 8, seed=seed),
            prefix + "prompt_embeds_mask_2": torch.ones(1, 5),
        }
    return Family(pipe, call, None, 16, twin=text if picture else None)


def hunyuan15_i2v() -> Family:
    return hunyuan15(picture=True)


def ltx(picture: bool = False) -> Family:
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=3,
        caption_channels=16,
    )
    components = {
        "scheduler": FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        "vae": NoAutoencoder(32, 8),
        "text_encoder": None,
        "tokenizer": None,
        "transformer": initialised(transformer),
    }
    text = diffusers.LTXPipeline(**components)
    pipe = diffusers.LTXImageToVideoPipeline(**components) if picture else text
    mask = torch.ones(1, 6)
    call = {
        "prompt_embeds": randn(1, 6, 16),
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": randn(1, 6, 16, seed=2),
        "negative_prompt_attention_mask": mask,
        "height": 256,
        "width": 192,
        "num_frames": 17,
        "guidance_scale": 1.0,
    }
    family = Family(pipe, call, {"guidance_scale": 3.0, "guidance_rescale": 0.7}, 32, **TOKENS)
    if not picture:
        return family
    call["image"] = randn(1, 3, 256, 192, seed=3).sigmoid()

    def unpack(x, height, width):
        return (x if x.ndim == 5 else planes_of(x, height, width))[:, :, -2:]

    # Between the denoiser's tokens and the solver's planes the pipeline takes the picture away.
    def pack(planes):
        return tokens_of(after_a_picture(planes))

    return replace(family, twin=text, clean="first", pack=pack, unpack=unpack, sample=lambda x: x)


def ltx_i2v() -> Family:
    return ltx(picture=True)
