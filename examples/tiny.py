# SPDX-License-Identifier: Apache-2.0
"""Tiny pipelines with random weights, for trying the examples without a checkpoint. Their pictures are noise."""

import importlib
from typing import Any

import torch

# Its names are made at run time, which type checkers cannot follow.
diffusers: Any = importlib.import_module("diffusers")


def tiny_pipeline(family: str) -> tuple[Any, dict]:
    """A pipeline of the family's real classes, and the arguments of its call: embeddings in place of a prompt."""
    torch.manual_seed(0)
    pipe, call = {"flux": _flux, "zimage": _zimage, "wan": _wan}[family]()
    pipe.set_progress_bar_config(disable=True)
    return pipe, {"num_inference_steps": 20, **call}


def _autoencoder() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        shift_factor=0.1,
        scaling_factor=0.3,
    )


def _flux() -> tuple[Any, dict]:
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    pipe = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_autoencoder(),
        transformer=transformer,
        **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
    )
    embeds = {"prompt_embeds": torch.randn(1, 8, 32), "pooled_prompt_embeds": torch.randn(1, 32)}
    return pipe, {**embeds, "height": 128, "width": 128}


def _zimage() -> tuple[Any, dict]:
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=3,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 4, 8],
        axes_lens=[256, 64, 64],
    )
    torch.nn.init.normal_(transformer.x_pad_token)
    torch.nn.init.normal_(transformer.cap_pad_token)
    pipe = diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=_autoencoder(),
        transformer=transformer,
        text_encoder=None,
        tokenizer=None,
    )
    return pipe, {"prompt_embeds": [torch.randn(7, 16)], "guidance_scale": 0.0, "height": 128, "width": 128}


def _wan() -> tuple[Any, dict]:
    transformer = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=32, freq_dim=32, ffn_dim=32, num_layers=3
    )
    vae = diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    pipe = diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=vae, scheduler=scheduler, transformer=transformer
    )
    embeds = {"prompt_embeds": torch.randn(1, 6, 32), "negative_prompt_embeds": torch.randn(1, 6, 32)}
    return pipe, {**embeds, "height": 64, "width": 96, "num_frames": 9}
