# SPDX-License-Identifier: Apache-2.0
"""Where a denoiser's arguments hold the grid of a call, and the same arguments for a coarse grid.

Functions of the arguments by name; none copies pixels.
"""

from typing import Any

import torch
from torch import Tensor

Arguments = dict[str, Any]
Size = tuple[int, int]


def unchanged(arguments: Arguments, fine: Size, coarse: Size) -> None:
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


def one_frame(module: Any, arguments: Arguments) -> int:
    return 1


def frames_of_planes(module: Any, arguments: Arguments) -> int:
    return arguments["hidden_states"].shape[2]


def none_clean(module: Any, arguments: Arguments, frames: int) -> int:
    return 0


def clean_at_time_zero(module: Any, arguments: Arguments, frames: int) -> int:
    """Where every token has a time of its own, those of frames that are kept clean have 0. One transfer."""
    times = arguments["timestep"]
    if times.ndim < 2:
        return 0
    of_frames = times.unflatten(1, (frames, -1))
    bounds = torch.stack([of_frames.amin((0, 2)), of_frames.amax((0, 2))])
    least, most = bounds.tolist()
    clean = next((frame for frame, time in enumerate(most) if time), frames)
    if least != most or len(set(most[clean:])) != 1:
        raise ValueError(
            f"apply_progressive: the frames of {type(module).__name__}'s state are at noise levels of their own, "
            f"{[round(time, 2) for time in most]}; coarse steps know one level, and clean frames before the noisy ones"
        )
    return clean


def _coarser_times(arguments: Arguments, frames: int, coarse_tokens: int) -> None:
    """A time per token, the same for all tokens of a frame."""
    times = arguments["timestep"]
    if times.ndim == 2:
        arguments["timestep"] = times.unflatten(1, (frames, -1))[:, :, :coarse_tokens].flatten(1)


def wan_regrid(arguments: Arguments, fine: Size, coarse: Size) -> None:
    _coarser_times(arguments, arguments["hidden_states"].shape[2], (coarse[0] // 2) * (coarse[1] // 2))


def hunyuan_clean(module: Any, arguments: Arguments, frames: int) -> int:
    # The model itself takes the first frame to be at time 0.
    return int(module.config.image_condition_type == "token_replace")


def ltx_grid(arguments: Arguments) -> Size:
    return arguments["height"], arguments["width"]


def ltx_frames(module: Any, arguments: Arguments) -> int:
    return arguments["num_frames"]


def ltx_regrid(arguments: Arguments, fine: Size, coarse: Size) -> None:
    _coarser_times(arguments, arguments["num_frames"], coarse[0] * coarse[1])
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
