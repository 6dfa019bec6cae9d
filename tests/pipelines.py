# SPDX-License-Identifier: Apache-2.0
"""Tiny pipelines with random weights: the real pipeline, model and scheduler classes, built from configuration.

No tokenizer and no text encoder: prompt embeddings are arguments. Widths are the smallest that the classes accept;
grids are a few tokens wide and never square, so that rows and columns cannot be mistaken for each other.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image
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
    """What a pipeline asks of a video autoencoder when it returns latents."""

    dtype, device = torch.float32, torch.device("cpu")
    config = diffusers.configuration_utils.FrozenDict(latent_channels=4, scaling_factor=1.0)

    def __init__(self, spatial: int, temporal: int):
        super().__init__()
        self.spatial_compression_ratio, self.temporal_compression_ratio = spatial, temporal


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


def flux_transformer(in_channels: int = 16, out_channels: int | None = None, seed: int = 0):
    return initialised(
        diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=in_channels,
            out_channels=out_channels,
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ),
        seed,
    )


def flux(cls=diffusers.FluxPipeline, **model) -> Family:
    pipe = cls(
        scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=autoencoder(shift_factor=0.1, scaling_factor=0.3),
        transformer=flux_transformer(**model),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
    )
    call = {"prompt_embeds": randn(1, 8, 32), "pooled_prompt_embeds": randn(1, 32), "height": 64, "width": 48}
    guided = {
        "negative_prompt_embeds": randn(1, 8, 32, seed=2),
        "negative_pooled_prompt_embeds": randn(1, 32, seed=2),
        "true_cfg_scale": 3.0,
    }
    return Family(pipe, call, guided, 2, **PATCHES)


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


def flux2(klein: bool = False) -> Family:
    cls = diffusers.Flux2KleinPipeline if klein else diffusers.Flux2Pipeline
    pipe = cls(
        scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=autoencoder(AutoencoderKLFlux2),
        transformer=flux2_transformer(not klein),
        text_encoder=None,
        tokenizer=None,
    )
    call = {"prompt_embeds": randn(1, 8, 32), "height": 64, "width": 48}
    if klein:
        call |= {"negative_prompt_embeds": randn(1, 8, 32, seed=2), "guidance_scale": 1.0}
    # `latents=` of these two pipelines are the 4 C channels of the packed grid, as planes.
    return Family(pipe, call, {"guidance_scale": 4.0} if klein else None, 4, unpack=planes_of, sample=tokens_of)


def flux2_klein() -> Family:
    return flux2(klein=True)


def flux2_klein_reference() -> Family:
    family = flux2(klein=True)
    pixels = np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    family.call["image"] = [Image.fromarray(pixels)]
    return family


def zimage() -> Family:
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
    )
    pipe = diffusers.ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=autoencoder(shift_factor=0.1, scaling_factor=0.3),
        transformer=initialised(transformer),
        text_encoder=None,
        tokenizer=None,
    )
    call = {
        "prompt_embeds": [randn(7, 16)],
        "negative_prompt_embeds": [randn(5, 16, seed=2)],
        "height": 64,
        "width": 48,
        "guidance_scale": 0.0,
    }
    return Family(pipe, call, {"guidance_scale": 3.0, "cfg_normalization": True}, 2)


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


def qwen() -> Family:
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
    )
    pipe = diffusers.QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC, shift_terminal=0.02),
        vae=qwen_autoencoder(),
        transformer=initialised(transformer),
        text_encoder=None,
        tokenizer=None,
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


TEXT_TO_IMAGE = (flux, flux_schnell, flux2, flux2_klein, flux2_klein_reference, zimage, qwen, sd3, krea2, ideogram4)
VIDEO = (wan, wan22, wan_ti2v, hunyuan, hunyuan15, ltx)
FAMILIES: dict[str, Callable[[], Family]] = {
    make.__name__: make for make in (*TEXT_TO_IMAGE, flux_img2img, flux_inpaint, flux_fill, *VIDEO, sdxl)
}


@functools.cache
def built(name: str) -> Family:
    return FAMILIES[name]()


def family(name: str) -> Family:
    """A family by name. Models are shared between tests, the scheduler is fresh and no attribute is left over."""
    made = built(name)
    made.pipe.set_progress_bar_config(disable=True)
    made.pipe.scheduler = type(made.scheduler).from_config(made.scheduler.config)
    return replace(made, call=dict(made.call))


def run(family: Family, steps: int = 6, seed: int = 0, **call) -> Tensor:
    """Latents of one call of the pipeline."""
    arguments = {"num_inference_steps": steps, "output_type": "latent", "return_dict": False} | family.call | call
    if "latents" not in arguments:
        arguments.setdefault("generator", torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return family.pipe(**arguments)[0]
