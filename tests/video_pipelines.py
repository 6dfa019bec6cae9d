# SPDX-License-Identifier: Apache-2.0
"""Tiny pipelines of videos: the real pipeline, model and scheduler classes, built from configuration."""

import diffusers
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from pipeline_parts import DYNAMIC, TOKENS, Family, NoAutoencoder, initialised, randn


def wan_transformer(seed: int):
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=3,
        cross_attn_norm=True,
        rope_max_seq_len=32,
    )
    return initialised(transformer, seed)


def wan(experts: bool = False, expand_timesteps: bool = False) -> Family:
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )
    pipe = diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=initialised(vae),
        scheduler=scheduler,
        transformer=wan_transformer(0),
        transformer_2=wan_transformer(1) if experts else None,
        boundary_ratio=0.875 if experts else None,
        expand_timesteps=expand_timesteps,
    )
    call = {
        "prompt_embeds": randn(1, 6, 32),
        "negative_prompt_embeds": randn(1, 6, 32, seed=2),
        "height": 64,
        "width": 96,
        "num_frames": 9,
        "guidance_scale": 1.0,
    }
    return Family(pipe, call, {"guidance_scale": 4.0}, 8)


def wan22() -> Family:
    return wan(experts=True)


def wan_ti2v() -> Family:
    return wan(expand_timesteps=True)


def hunyuan() -> Family:
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4,
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
    )
    pipe = diffusers.HunyuanVideoPipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=initialised(transformer),
        vae=NoAutoencoder(8, 4),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=None,
        tokenizer_2=None,
    )
    mask = torch.ones(1, 6)
    call = {
        "prompt_embeds": randn(1, 6, 16),
        "pooled_prompt_embeds": randn(1, 8),
        "prompt_attention_mask": mask,
        "height": 64,
        "width": 96,
        "num_frames": 9,
    }
    guided = {
        "negative_prompt_embeds": randn(1, 6, 16, seed=2),
        "negative_pooled_prompt_embeds": randn(1, 8, seed=2),
        "negative_prompt_attention_mask": mask,
        "true_cfg_scale": 4.0,
    }
    return Family(pipe, call, guided, 8)


def hunyuan15() -> Family:
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
        task_type="t2v",
    )
    pipe = diffusers.HunyuanVideo15Pipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=initialised(transformer),
        vae=NoAutoencoder(16, 4),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=None,
        tokenizer_2=None,
        guider=ClassifierFreeGuidance(guidance_scale=4.0),
    )
    pipe.num_channels_latents, pipe.vision_num_semantic_tokens, pipe.vision_states_dim = 4, 3, 12
    call: dict = {"height": 128, "width": 192, "num_frames": 9}
    for prefix, seed in (("", 1), ("negative_", 2)):
        call |= {
            prefix + "prompt_embeds": randn(1, 6, 16, seed=seed),
            prefix + "prompt_embeds_mask": torch.ones(1, 6),
            prefix + "prompt_embeds_2": randn(1, 5, 8, seed=seed),
            prefix + "prompt_embeds_mask_2": torch.ones(1, 5),
        }
    return Family(pipe, call, None, 16)


def ltx() -> Family:
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=3,
        caption_channels=16,
    )
    pipe = diffusers.LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=NoAutoencoder(32, 8),
        text_encoder=None,
        tokenizer=None,
        transformer=initialised(transformer),
    )
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
    return Family(pipe, call, {"guidance_scale": 3.0, "guidance_rescale": 0.7}, 32, **TOKENS)
