# SPDX-License-Identifier: Apache-2.0
"""Tiny pipelines of pictures: the real pipeline, model and scheduler classes, built from configuration."""

from dataclasses import replace

import diffusers
import torch
from diffusers import AutoencoderKLFlux2, AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler
from pipeline_parts import DYNAMIC, PATCHES, TOKENS, Family, autoencoder, initialised, planes_of, randn, tokens_of


def flux_transformer(in_channels: int = 16, out_channels: int | None = None, layers: tuple[int, int] = (2, 3)):
    return initialised(
        diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=in_channels,
            out_channels=out_channels,
            num_layers=layers[0],
            num_single_layers=layers[1],
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        )
    )


def flux(cls=diffusers.FluxPipeline, **model) -> Family:
    components = {
        "scheduler": FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        "vae": autoencoder(shift_factor=0.1, scaling_factor=0.3),
        "transformer": flux_transformer(**model),
        **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
    }
    pipe = cls(**components)
    twin = None if cls is diffusers.FluxPipeline else diffusers.FluxPipeline(**components)
    call = {"prompt_embeds": randn(1, 8, 32), "pooled_prompt_embeds": randn(1, 32), "height": 64, "width": 48}
    call["guidance_scale"] = 3.5  # the defaults of these pipelines differ
    guided = {
        "negative_prompt_embeds": randn(1, 8, 32, seed=2),
        "negative_pooled_prompt_embeds": randn(1, 32, seed=2),
        "true_cfg_scale": 3.0,
    }
    return Family(pipe, call, guided, 2, **PATCHES, twin=twin)


def flux_schnell() -> Family:
    family = flux()
    family.pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    return family


def flux_img2img() -> Family:
    family = flux(diffusers.FluxImg2ImgPipeline)
    family.call |= {"image": randn(1, 3, 64, 48, seed=3).sigmoid(), "strength": 1.0}
    return family


def flux_inpaint() -> Family:
    family = flux(diffusers.FluxInpaintPipeline)
    mask = (randn(1, 1, 64, 48, seed=4) > 0).float()
    family.call |= {"image": randn(1, 3, 64, 48, seed=3).sigmoid(), "mask_image": mask, "strength": 1.0}
    return family


def flux_fill() -> Family:
    # 16 state channels, and 16 of the masked picture and 2 x 2 patches of 2 x 2 mask pixels beside them.
    family = flux(diffusers.FluxFillPipeline, in_channels=48, out_channels=16)
    mask = (randn(1, 1, 64, 48, seed=4) > 0).float()
    family.call |= {"image": randn(1, 3, 64, 48, seed=3).sigmoid(), "mask_image": mask, "strength": 1.0}
    family.guided = None
    return family


class FluxKontext(diffusers.FluxKontextPipeline):
    """Keeps to the sizes it is given."""

    def __call__(self, height, width, **arguments):
        area = height * width
        return super().__call__(height=height, width=width, max_area=area, _auto_resize=False, **arguments)


def flux_kontext() -> Family:
    family = flux(FluxKontext)
    family.call["image"] = randn(1, 3, 32, 64, seed=3).sigmoid()
    return replace(family, twin=None)


def flux2_transformer(guidance: bool):
    return initialised(
        diffusers.Flux2Transformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=guidance,
        )
    )


def flux2(cls=diffusers.Flux2Pipeline) -> Family:
    pipe = cls(
        scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=autoencoder(AutoencoderKLFlux2),
        transformer=flux2_transformer(cls is diffusers.Flux2Pipeline),
        text_encoder=None,
        tokenizer=None,
    )
    call = {"prompt_embeds": randn(1, 8, 32), "height": 64, "width": 48}
    # `latents=` of these pipelines are the 4 C channels of the packed grid, as planes.
    return Family(pipe, call, None, 4, unpack=planes_of, sample=tokens_of)


def flux2_klein() -> Family:
    family = flux2(diffusers.Flux2KleinPipeline)
    call = family.call | {"negative_prompt_embeds": randn(1, 8, 32, seed=2), "guidance_scale": 1.0}
    return replace(family, call=call, guided={"guidance_scale": 4.0})


def zimage(cls=diffusers.ZImagePipeline, siglip_feat_dim: int | None = None, **others) -> Family:
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=3,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 4, 8],
        axes_lens=[256, 64, 64],
        t_scale=1000.0,
        siglip_feat_dim=siglip_feat_dim,
    )
    pipe = cls(
        scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=autoencoder(shift_factor=0.1, scaling_factor=0.3),
        transformer=initialised(transformer),
        text_encoder=None,
        tokenizer=None,
        **others,
    )
    call = {
        "prompt_embeds": [randn(7, 16)],
        "negative_prompt_embeds": [randn(5, 16, seed=2)],
        "height": 64,
        "width": 48,
        "guidance_scale": 0.0,
    }
    return Family(pipe, call, {"guidance_scale": 3.0, "cfg_normalization": True}, 2)


def qwen(cls=diffusers.QwenImagePipeline, **model) -> Family:
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=64,
        out_channels=16,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(4, 4, 8),
        **model,
    )
    pipe = cls(
        scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC, shift_terminal=0.02),
        vae=qwen_autoencoder(),
        transformer=initialised(transformer),
        text_encoder=None,
        tokenizer=None,
        **({} if cls is diffusers.QwenImagePipeline else {"processor": None}),
    )
    mask = torch.ones(1, 6, dtype=torch.long)
    call = {"prompt_embeds": randn(1, 6, 16), "prompt_embeds_mask": mask, "height": 64, "width": 48}
    guided = {
        "negative_prompt_embeds": randn(1, 6, 16, seed=2),
        "negative_prompt_embeds_mask": mask,
        "true_cfg_scale": 4.0,
    }
    return Family(pipe, call | {"true_cfg_scale": 1.0}, guided, 4, **PATCHES)


def qwen_autoencoder():
    return initialised(
        AutoencoderKLQwenImage(
            base_dim=6,
            z_dim=16,
            dim_mult=[1, 2, 4],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.0] * 16,
            latents_std=[1.0] * 16,
        )
    )


def sd3() -> Family:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
        pos_embed_max_size=32,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=initialised(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(shift_factor=0.06, scaling_factor=1.5),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    call = {
        "prompt_embeds": randn(1, 6, 32),
        "negative_prompt_embeds": randn(1, 6, 32, seed=2),
        "pooled_prompt_embeds": randn(1, 64),
        "negative_pooled_prompt_embeds": randn(1, 64, seed=2),
        "height": 32,
        "width": 24,
        "guidance_scale": 1.0,
    }
    return Family(pipe, call, {"guidance_scale": 5.0}, 2)


def krea2() -> Family:
    transformer = diffusers.Krea2Transformer2DModel(
        in_channels=64,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=16,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )
    pipe = diffusers.Krea2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=qwen_autoencoder(),
        text_encoder=None,
        tokenizer=None,
        transformer=initialised(transformer),
    )
    mask = torch.ones(1, 6, dtype=torch.bool)
    call = {
        "prompt_embeds": randn(1, 6, 2, 16),
        "prompt_embeds_mask": mask,
        "height": 64,
        "width": 48,
        "guidance_scale": 0.0,
    }
    guided = {
        "negative_prompt_embeds": randn(1, 6, 2, 16, seed=2),
        "negative_prompt_embeds_mask": mask,
        "guidance_scale": 3.0,
    }
    return Family(pipe, call, guided, 4, **PATCHES)


def ideogram4_transformer(seed: int):
    transformer = diffusers.Ideogram4Transformer2DModel(
        in_channels=16,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        intermediate_size=32,
        adaln_dim=16,
        llm_features_dim=8,
        mrope_section=(4, 2, 2),
    )
    return initialised(transformer, seed)


def ideogram4() -> Family:
    pipe = diffusers.Ideogram4Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder(AutoencoderKLFlux2),
        text_encoder=None,
        tokenizer=None,
        transformer=ideogram4_transformer(0),
        unconditional_transformer=ideogram4_transformer(1),
    )

    def encoded(prompt, grid_h, grid_w, max_sequence_length, device):
        # The real one asks a tokenizer and a language model for the features and prepares the rest the same way.
        ids = pipe._prepare_ids([5], grid_h, grid_w, max_sequence_length, device)
        features = torch.cat([randn(1, max_sequence_length, 8), torch.zeros(1, grid_h * grid_w, 8)], 1)
        return features, *ids

    pipe.encode_prompt = encoded
    call = {"prompt": "a", "height": 64, "width": 48, "max_sequence_length": 6, "guidance_schedule": None}
    return Family(pipe, call | {"guidance_scale": 1.0}, {"guidance_scale": 3.0}, 4, **TOKENS)


def sdxl() -> Family:
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=2,
        sample_size=32,
        in_channels=4,
        out_channels=4,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=32,
    )
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading"
    )
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=initialised(unet),
        scheduler=scheduler,
    )
    call = {
        "prompt_embeds": randn(1, 6, 32),
        "negative_prompt_embeds": randn(1, 6, 32, seed=2),
        "pooled_prompt_embeds": randn(1, 32),
        "negative_pooled_prompt_embeds": randn(1, 32, seed=2),
        "height": 64,
        "width": 48,
        "guidance_scale": 1.0,
    }
    return Family(pipe, call, {"guidance_scale": 5.0}, 2)
