# SPDX-License-Identifier: Apache-2.0
"""What the adapters know about each denoiser of diffusers: one row of facts per class.

A new model is a new row. Where a fact depends on the grid of a call it is a function of the call's arguments (a dict
by name), which never copies pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spectral_kernels.layouts import Patches, Tokens
from spectral_kernels.spectrum import FLUX_LATENT, WAN_LATENT, PowerLaw

Arguments = dict[str, Any]
Size = tuple[int, int]


def _unchanged(arguments: Arguments, fine: Size, coarse: Size) -> None:
    """Position ids are made inside the model, from the shape of the state."""


def grid_of_hidden_states(arguments: Arguments) -> Size:
    return arguments["hidden_states"].shape[-2:]


def grid_of_x(arguments: Arguments) -> Size:
    return arguments["x"][0].shape[-2:]


def _rows_and_columns(ids: Tensor) -> Size:
    """Rows and columns of a table of positions (..., row, column), in one transfer."""
    last_row, last_column = ids.amax(0).tolist()
    return int(last_row) + 1, int(last_column) + 1


def _positions(rows: int, columns: int, like: Tensor) -> Tensor:
    """[rows * columns, 2]: the row and the column of each token."""
    sides = torch.arange(rows, device=like.device), torch.arange(columns, device=like.device)
    table = torch.cartesian_prod(*sides)
    return table.to(like.dtype)


def flux_grid(arguments: Arguments) -> Size:
    ids = arguments["img_ids"]
    ids = ids[0] if ids.ndim == 3 else ids
    # A first coordinate other than 0 marks the tokens of reference pictures.
    rows, columns = _rows_and_columns(ids[ids[:, 0] == 0][:, 1:3])
    return rows, columns


def flux_patches(arguments: Arguments) -> Size:
    rows, columns = flux_grid(arguments)
    return 2 * rows, 2 * columns


def _flux_ids(ids: Tensor, fine_tokens: int, rows: int, columns: int) -> Tensor:
    """Positions of a coarse picture of rows x columns tokens, before those of the reference pictures."""
    coarse = ids[..., : rows * columns, :].clone()
    coarse[..., 0] = 0
    coarse[..., 1:3] = _positions(rows, columns, ids)
    return torch.cat([coarse, ids[..., fine_tokens:, :]], dim=-2)


def flux_regrid(arguments: Arguments, fine: Size, coarse: Size) -> None:
    rows, columns = coarse[0] // 2, coarse[1] // 2
    arguments["img_ids"] = _flux_ids(arguments["img_ids"], (fine[0] // 2) * (fine[1] // 2), rows, columns)


def flux2_regrid(arguments: Arguments, fine: Size, coarse: Size) -> None:
    arguments["img_ids"] = _flux_ids(arguments["img_ids"], fine[0] * fine[1], *coarse)


def qwen_grid(arguments: Arguments) -> Size:
    pictures = arguments["img_shapes"][0]
    first = pictures[0] if isinstance(pictures, list) else pictures
    return 2 * first[1], 2 * first[2]


def qwen_regrid(arguments: Arguments, fine: Size, coarse: Size) -> None:
    def coarser(pictures):
        first, *references = pictures if isinstance(pictures, list) else [pictures]
        return [(first[0], coarse[0] // 2, coarse[1] // 2), *references]

    arguments["img_shapes"] = [coarser(pictures) for pictures in arguments["img_shapes"]]


def wan_regrid(arguments: Arguments, fine: Size, coarse: Size) -> None:
    timestep = arguments["timestep"]
    if timestep.ndim == 2:  # one per token, all the same for text to video (Wan 2.2 TI2V)
        frames = timestep.shape[1] // ((fine[0] // 2) * (fine[1] // 2))
        arguments["timestep"] = timestep[:, : frames * (coarse[0] // 2) * (coarse[1] // 2)]


def ltx_grid(arguments: Arguments) -> Size:
    return arguments["height"], arguments["width"]


def ltx_regrid(arguments: Arguments, fine: Size, coarse: Size) -> None:
    arguments["height"], arguments["width"] = coarse


def krea_grid(arguments: Arguments) -> Size:
    text = arguments["encoder_hidden_states"].shape[1]
    rows, columns = _rows_and_columns(arguments["position_ids"][text:, 1:])
    return 2 * rows, 2 * columns


def krea_regrid(arguments: Arguments, fine: Size, coarse: Size) -> None:
    ids, text = arguments["position_ids"], arguments["encoder_hidden_states"].shape[1]
    positions = _positions(coarse[0] // 2, coarse[1] // 2, ids)
    arguments["position_ids"] = torch.cat([ids[:text], torch.nn.functional.pad(positions, (1, 0))])


def ideogram_grid(arguments: Arguments) -> Size:
    # The picture follows the text; its first token marks the origin, its last one the far corner.
    pictures = arguments["indicator"][0] == arguments["indicator"][0, -1]
    positions = arguments["position_ids"][0, pictures, 1:]
    return _rows_and_columns(positions - positions[0])


def ideogram_regrid(arguments: Arguments, fine: Size, coarse: Size) -> None:
    ids = arguments["position_ids"]
    text = ids.shape[1] - fine[0] * fine[1]
    origin = ids[:, text : text + 1]
    positions = torch.nn.functional.pad(_positions(*coarse, ids), (1, 0))
    arguments["position_ids"] = torch.cat([ids[:, :text], origin + positions], dim=1)
    for name in ("encoder_hidden_states", "segment_ids", "indicator"):
        arguments[name] = arguments[name][:, : text + coarse[0] * coarse[1]]


@dataclass(frozen=True)
class Model:
    """Facts about one denoiser.

    For progressive resolution:

    layout       how a state lies in the pipeline's latents: Patches, Tokens, or None for planes [B, C, (F,) H, W]
    multiple     sides of every grid are multiples of it (the patch size that the layout leaves to the model)
    spectrum     power law of the latents
    grid         arguments -> (H, W), the grid of the state in the layout's pixels
    regrid       (arguments, fine, coarse): position ids and the like for the coarse grid, in place
    state, time  names of the arguments that hold the noisy state and its time
    timestep     (size, reversed) of the time's unit: "time" = t * size, or (1 - t) * size when reversed
    text_first   the state's tokens follow the text's in one sequence
    frames       the state's tokens are those of several frames
    conditions   input channels beyond the model's output channels are clean conditions on the same grid

    For feature forecasting:

    blocks       attributes that hold the blocks, in the order of execution
    feature      what the last block returns: None for the feature alone, "image" for a sequence of which the state's
                 tokens are the end, or the place of the feature in a pair whose other half is the text
    gridded      the feature is one token per patch of the state, frame by frame and row by row
    bypass       arguments that change what the blocks do from outside; calls with one of them are never forecast
    """

    layout: type[Patches | Tokens] | None = None
    multiple: int = 2
    spectrum: PowerLaw | None = FLUX_LATENT
    grid: Callable[[Arguments], Size] = grid_of_hidden_states
    regrid: Callable[[Arguments, Size, Size], None] = _unchanged
    state: str = "hidden_states"
    time: str = "timestep"
    timestep: tuple[float, bool] = (1000.0, False)
    text_first: bool = False
    frames: bool = False
    conditions: bool = False
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
        grid=flux_patches,
        regrid=flux_regrid,
        timestep=LEVEL,
        conditions=True,
        blocks=FLUX_BLOCKS,
        feature=1,
        bypass=CONTROL,
    ),
    "Flux2Transformer2DModel": Model(
        layout=Tokens,
        multiple=1,
        grid=flux_grid,
        regrid=flux2_regrid,
        timestep=LEVEL,
        blocks=FLUX_BLOCKS,
        feature="image",
        bypass=("kv_cache",),
    ),
    "ZImageTransformer2DModel": Model(
        grid=grid_of_x,
        state="x",
        time="t",
        timestep=DATA_FRACTION,
        blocks=("noise_refiner", "context_refiner", "layers"),
        gridded=False,
        bypass=("controlnet_block_samples", "siglip_feats"),
    ),
    "QwenImageTransformer2DModel": Model(
        layout=Patches,
        grid=qwen_grid,
        regrid=qwen_regrid,
        timestep=LEVEL,
        feature=1,
        bypass=("controlnet_block_samples",),
    ),
    "SD3Transformer2DModel": Model(feature=1, bypass=("skip_layers", "block_controlnet_hidden_states")),
    "WanTransformer3DModel": Model(spectrum=WAN_LATENT, regrid=wan_regrid, conditions=True, blocks=("blocks",)),
    "HunyuanVideoTransformer3DModel": Model(spectrum=WAN_LATENT, conditions=True, blocks=FLUX_BLOCKS, feature=0),
    "HunyuanVideo15Transformer3DModel": Model(spectrum=WAN_LATENT, multiple=1, conditions=True, feature=0),
    "LTXVideoTransformer3DModel": Model(
        layout=Tokens, multiple=1, spectrum=WAN_LATENT, grid=ltx_grid, regrid=ltx_regrid, frames=True
    ),
    "Krea2Transformer2DModel": Model(
        layout=Patches, grid=krea_grid, regrid=krea_regrid, timestep=LEVEL, feature="image"
    ),
    "Ideogram4Transformer2DModel": Model(
        layout=Tokens,
        multiple=1,
        grid=ideogram_grid,
        regrid=ideogram_regrid,
        timestep=DATA_FRACTION,
        text_first=True,
        blocks=("layers",),
        gridded=False,
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

# Pipelines that hold clean frames or tokens inside the noisy state: neither band of such a state is what the method
# assumes.
MIXED_STATES = {
    "LTXConditionPipeline": "its conditions are clean tokens inside the state",
    "LTXImageToVideoPipeline": "its first frame is clean inside the state",
}

DENOISERS = ("transformer", "transformer_2", "unconditional_transformer", "unet")


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The module inside torch.compile's wrapper."""
    return getattr(module, "_orig_mod", module)


def facts_of(op: str, module: torch.nn.Module) -> Model:
    """The row of a denoiser, or an error that says how to add one."""
    name = type(unwrapped(module)).__name__
    if name not in MODELS:
        raise ValueError(
            f"{op}: no facts are known about {name}; known are {', '.join(sorted(MODELS))}. Add a row: "
            f'spectral_kernels.adapters.diffusers.models.MODELS["{name}"] = Model(...)'
        )
    return MODELS[name]


def denoisers_of(op: str, pipe: Any) -> dict[str, torch.nn.Module]:
    """The denoisers of a pipeline by attribute; two experts and a separate unconditional model count each."""
    found = {name: getattr(pipe, name, None) for name in DENOISERS}
    found = {name: module for name, module in found.items() if module is not None}
    if not found:
        raise ValueError(f"{op}: {type(pipe).__name__} has none of {', '.join(DENOISERS)}; give a diffusers pipeline")
    return found
