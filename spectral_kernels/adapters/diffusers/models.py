# SPDX-License-Identifier: Apache-2.0
"""What the adapters know about each denoiser of diffusers: one row of facts per class.

A new model is a new row. Where a fact depends on the grid of a call it is a function of grids.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.nn import Module

from spectral_kernels.adapters.diffusers import grids
from spectral_kernels.adapters.diffusers.grids import Arguments, Size
from spectral_kernels.layouts import Patches, Tokens
from spectral_kernels.spectrum import FLUX_LATENT, WAN_LATENT, PowerLaw


@dataclass(frozen=True)
class Model:
    """Facts about one denoiser.

    For progressive resolution:

    layout       how a state lies in the pipeline's latents: Patches, Tokens, or None for planes [B, C, (F,) H, W]
    multiple     sides of every grid are multiples of it (the patch size that the layout leaves to the model)
    spectrum     power law of the latents: measured for FLUX.1's and Wan's, which models with other latents borrow
    grid         arguments -> (H, W), the grid of the state in the layout's pixels
    regrid       (arguments, fine, coarse, frames): position ids and the like for the coarse grid, in place
    state, time  names of the arguments that hold the noisy state and its time
    timestep     (size, reversed) of the time's unit: "time" = t * size, or (1 - t) * size when reversed
    before       (arguments, given, own) -> how many of the given tokens come before the state's own: text, references
    frames       (module, arguments) -> how many frames, or layers, lie on the grid
    clean        (module, arguments, frames) -> which of them stay clean, at time 0: pictures that are given
    unpacked     a pipeline with clean frames makes planes of the denoiser's answer before the solver's step
    conditions   input channels beyond the model's output channels are clean conditions on the same grid
    planes       names of further arguments that are clean conditions on the same grid

    For feature forecasting:

    blocks       attributes that hold the blocks, in the order of execution; none where they cannot be left out
    feature      what the last block returns: None for the feature alone, "image" for a sequence of which the state's
                 tokens are the end, or the place of the feature in a pair whose other half is the text
    gridded      the feature is one token per patch of the state, frame by frame and row by row
    bypass       arguments that change what the blocks do from outside; calls with one of them are never forecast
    """

    layout: type[Patches | Tokens] | None = None
    multiple: int = 2
    spectrum: PowerLaw | None = FLUX_LATENT
    grid: Callable[[Arguments], Size] = grids.grid_of_hidden_states
    regrid: Callable[[Arguments, Size, Size, int], None] = grids.unchanged
    state: str = "hidden_states"
    time: str = "timestep"
    timestep: tuple[float, bool] = (1000.0, False)
    before: Callable[[Arguments, int, int], int] = grids.none_before
    frames: Callable[[Any, Arguments], int] = grids.one_frame
    clean: Callable[[Any, Arguments, int], slice] = grids.none_clean
    unpacked: bool = False
    conditions: bool = False
    planes: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ("transformer_blocks",)
    feature: int | str | None = None
    gridded: bool = True
    bypass: tuple[str, ...] = ()


LEVEL, DATA_FRACTION = (1.0, False), (1.0, True)
FLUX_BLOCKS = ("transformer_blocks", "single_transformer_blocks")
CONTROL = ("controlnet_block_samples", "controlnet_single_block_samples")

MODELS: dict[str, Model] = {
    "FluxTransformer2DModel": Model(
        layout=Patches,
        grid=grids.flux_patches,
        regrid=grids.flux_regrid,
        timestep=LEVEL,
        conditions=True,
        blocks=FLUX_BLOCKS,
        feature=1,
        bypass=CONTROL,
    ),
    "Flux2Transformer2DModel": Model(
        layout=Tokens,
        multiple=1,
        grid=grids.flux2_grid,
        regrid=grids.flux2_regrid,
        before=grids.flux2_before,
        timestep=LEVEL,
        blocks=FLUX_BLOCKS,
        feature="image",
    ),
    "ZImageTransformer2DModel": Model(
        grid=grids.grid_of_x,
        state="x",
        time="t",
        timestep=DATA_FRACTION,
        blocks=("noise_refiner", "context_refiner", "layers"),
        gridded=False,
        bypass=("controlnet_block_samples",),
    ),
    "QwenImageTransformer2DModel": Model(
        layout=Patches,
        grid=grids.qwen_grid,
        regrid=grids.qwen_regrid,
        frames=grids.qwen_layers,
        clean=grids.qwen_clean,
        timestep=LEVEL,
        feature=1,
        bypass=("controlnet_block_samples",),
    ),
    "SD3Transformer2DModel": Model(feature=1, bypass=("skip_layers", "block_controlnet_hidden_states")),
    "WanTransformer3DModel": Model(
        spectrum=WAN_LATENT,
        regrid=grids.wan_regrid,
        frames=grids.frames_of_planes,
        clean=grids.clean_at_time_zero,
        conditions=True,
        blocks=("blocks",),
    ),
    "HunyuanVideoTransformer3DModel": Model(
        spectrum=WAN_LATENT,
        frames=grids.frames_of_planes,
        clean=grids.hunyuan_clean,
        conditions=True,
        blocks=FLUX_BLOCKS,
        feature=0,
    ),
    "HunyuanVideo15Transformer3DModel": Model(
        spectrum=WAN_LATENT, multiple=1, frames=grids.frames_of_planes, conditions=True, feature=0
    ),
    "LTXVideoTransformer3DModel": Model(
        layout=Tokens,
        multiple=1,
        spectrum=WAN_LATENT,
        grid=grids.ltx_grid,
        regrid=grids.ltx_regrid,
        frames=grids.ltx_frames,
        clean=grids.clean_at_time_zero,
        unpacked=True,
    ),
    "Krea2Transformer2DModel": Model(
        layout=Patches, grid=grids.krea_grid, regrid=grids.krea_regrid, timestep=LEVEL, feature="image"
    ),
    "Ideogram4Transformer2DModel": Model(
        layout=Tokens,
        multiple=1,
        grid=grids.ideogram_grid,
        regrid=grids.ideogram_regrid,
        timestep=DATA_FRACTION,
        before=grids.text_before,
        blocks=("layers",),
        gridded=False,
    ),
    "ChromaTransformer2DModel": Model(
        layout=Patches,
        grid=grids.flux_patches,
        regrid=grids.chroma_regrid,
        timestep=LEVEL,
        blocks=FLUX_BLOCKS,
        feature="image",
        bypass=CONTROL,
    ),
    "OvisImageTransformer2DModel": Model(
        layout=Patches,
        grid=grids.flux_patches,
        regrid=grids.flux_regrid,
        timestep=LEVEL,
        blocks=FLUX_BLOCKS,
        feature=1,
    ),
    "LongCatImageTransformer2DModel": Model(
        layout=Patches,
        grid=grids.longcat_patches,
        regrid=grids.flux_regrid,
        timestep=LEVEL,
        blocks=FLUX_BLOCKS,
        feature=1,
    ),
    "Lumina2Transformer2DModel": Model(
        timestep=DATA_FRACTION, blocks=("noise_refiner", "context_refiner", "layers"), gridded=False
    ),
    "AuraFlowTransformer2DModel": Model(
        timestep=LEVEL, blocks=("joint_transformer_blocks", "single_transformer_blocks"), feature="image"
    ),
    "CogView4Transformer2DModel": Model(regrid=grids.cogview_regrid, feature=0),
    "SanaTransformer2DModel": Model(multiple=1, bypass=CONTROL),
    "SkyReelsV2Transformer3DModel": Model(
        spectrum=WAN_LATENT,
        frames=grids.frames_of_planes,
        clean=grids.clean_at_time_zero,
        conditions=True,
        blocks=("blocks",),
    ),
    # Each block gets a hint of its own from the control: progressive resolution only.
    "WanVACETransformer3DModel": Model(
        spectrum=WAN_LATENT, frames=grids.frames_of_planes, planes=("control_hidden_states",), blocks=()
    ),
    # Predicts the noise, not the velocity of a flow: forecasting only.
    "UNet2DConditionModel": Model(
        spectrum=None,
        state="sample",
        blocks=("down_blocks", "mid_block", "up_blocks"),
        gridded=False,
        bypass=(
            "down_block_additional_residuals",
            "mid_block_additional_residual",
            "down_intrablock_additional_residuals",
        ),
    ),
}

# Pipelines whose loop is not what the methods assume.
MIXED_STATES = {
    "LTXConditionPipeline": "its conditions are tokens inside the state at noise levels and coordinates of their own",
    "LTXI2VLongMultiPromptPipeline": "its state is a window of a longer video, tokens at noise levels of their own",
}
OWN_SCHEDULERS = {
    f"SkyReelsV2DiffusionForcing{kind}Pipeline": "it steps a copy of the scheduler for every frame"
    for kind in ("", "ImageToVideo", "VideoToVideo")
}

DENOISERS = ("transformer", "transformer_2", "unconditional_transformer", "unet")


def tokens_of(facts: Model, size: Size) -> int:
    """Tokens of one frame."""
    return (size[0] // facts.multiple) * (size[1] // facts.multiple)


def given_tokens(facts: Model, state: Any) -> int:
    """Tokens that a denoiser makes of what it is given for a state, reference pictures included."""
    return tokens_of(facts, (state.shape[-2], state.shape[-1])) if facts.layout is None else state.shape[1]


def unwrapped(module: Module) -> Module:
    """The module inside torch.compile's wrapper."""
    return getattr(module, "_orig_mod", module)


def facts_of(op: str, module: Module) -> Model:
    """The row of a denoiser, or an error that says how to add one."""
    own = type(unwrapped(module))
    name = own.__name__
    if name not in MODELS:
        like = next((f'MODELS["{base.__name__}"]' for base in own.__mro__ if base.__name__ in MODELS), "Model(...)")
        raise ValueError(
            f"{op}: no facts are known about {name}; known are {', '.join(sorted(MODELS))}. Add a row: "
            f'spectral_kernels.adapters.diffusers.models.MODELS["{name}"] = {like}'
        )
    return MODELS[name]


def check_progressive(op: str, name: str, facts: Model) -> None:
    if facts.spectrum is None:
        raise ValueError(f"{op}: {name} predicts noise (eps), not the velocity of a flow; use apply_forecast")


def check_forecast(op: str, name: str, facts: Model) -> None:
    if not facts.blocks:
        raise ValueError(
            f"{op}: the blocks of {name} cannot be left out, each of them is given something of its own; use "
            "apply_progressive"
        )


def refuse_cache(op: str, module: Module) -> None:
    """Raise where diffusers itself leaves blocks out: its features would be of another size, or be taken for real."""
    own = unwrapped(module)
    if getattr(own, "is_cache_enabled", False):
        raise ValueError(
            f"{op}: {type(own).__name__} has a cache of diffusers enabled, which keeps features between steps as well; "
            "call disable_cache() first"
        )


def denoisers_of(op: str, pipe: Any) -> dict[str, Module]:
    """The denoisers of a pipeline by attribute; two experts and a separate unconditional model count each."""
    name = type(pipe).__name__
    if name in OWN_SCHEDULERS:
        raise ValueError(f"{op}: {name} cannot be accelerated: {OWN_SCHEDULERS[name]}, so no step can be seen")
    found = {name: getattr(pipe, name, None) for name in DENOISERS}
    found = {name: module for name, module in found.items() if module is not None}
    if not found:
        raise ValueError(f"{op}: {name} has none of {', '.join(DENOISERS)}; give a diffusers pipeline")
    return found
