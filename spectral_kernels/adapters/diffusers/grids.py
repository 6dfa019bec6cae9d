# SPDX-License-Identifier: Apache-2.0
"""Where a denoiser's arguments hold the grid of a call, and the same arguments for a coarse grid.

Functions of the arguments by name; none copies pixels.
"""

from typing import Any

import torch
from torch import Tensor

Arguments = dict[str, Any]
Size = tuple[int, int]


def unchanged(arguments: Arguments, fine: Size, coarse: Size, frames: int) -> None:
    """Position ids are made inside the model, from the shape of the state."""


def grid_of_hidden_states(arguments: Arguments) -> Size:
    return arguments["hidden_states"].shape[-2:]


def grid_of_x(arguments: Arguments) -> Size:
    first = arguments["x"][0]
    return (first[-1] if isinstance(first, list) else first).shape[-2:]


def _rows_and_columns(ids: Tensor) -> Size:
    """Rows and columns of a table of positions (..., row, column), in one transfer."""
    last_row, last_column = ids.amax(0).tolist()
    return int(last_row) + 1, int(last_column) + 1


def _positions(rows: int, columns: int, like: Tensor) -> Tensor:
    """[rows * columns, 2]: the row and the column of each token."""
    sides = torch.arange(rows, device=like.device), torch.arange(columns, device=like.device)
    table = torch.cartesian_prod(*sides)
    return table.to(like.dtype)


def none_before(arguments: Arguments, given: int, own: int) -> int:
    return 0


def _ids_grid(arguments: Arguments, picture: int) -> Size:
    """From position ids whose first coordinate says which picture a token belongs to."""
    ids = arguments["img_ids"]
    ids = ids[0] if ids.ndim == 3 else ids
    own = ids[ids[:, 0] == picture][:, 1:3]
    if not len(own):
        raise ValueError(
            "apply_progressive: no tokens of img_ids have the first coordinate "
            f"{picture}, which marks the noisy picture; this pipeline lays out its pictures in another way"
        )
    return _rows_and_columns(own - own[0])


def _coarse_ids(arguments: Arguments, start: int, fine_tokens: int, rows: int, columns: int) -> None:
    """Position ids of a coarse picture of rows x columns tokens; those of reference pictures stay."""
    ids = arguments["img_ids"]
    before, own, after = ids.tensor_split((start, start + fine_tokens), dim=-2)
    coarse = own[..., : rows * columns, :].clone()
    coarse[..., 1:3] = own[..., :1, 1:3] + _positions(rows, columns, ids)
    arguments["img_ids"] = torch.cat([before, coarse, after], dim=-2)


def flux_patches(arguments: Arguments) -> Size:
    rows, columns = _ids_grid(arguments, 0)
    return 2 * rows, 2 * columns


def flux_regrid(arguments: Arguments, fine: Size, coarse: Size, frames: int) -> None:
    _coarse_ids(arguments, 0, (fine[0] // 2) * (fine[1] // 2), coarse[0] // 2, coarse[1] // 2)


def longcat_patches(arguments: Arguments) -> Size:
    rows, columns = _ids_grid(arguments, 1)
    return 2 * rows, 2 * columns


def chroma_regrid(arguments: Arguments, fine: Size, coarse: Size, frames: int) -> None:
    flux_regrid(arguments, fine, coarse, frames)
    if arguments.get("attention_mask") is not None:  # of text and picture; all of the picture is seen
        seen = arguments["encoder_hidden_states"].shape[1] + (coarse[0] // 2) * (coarse[1] // 2)
        arguments["attention_mask"] = arguments["attention_mask"][:, :seen]


def flux2_before(arguments: Arguments, given: int, own: int) -> int:
    """References come after the picture, but before it where their keys and values are to be remembered."""
    return arguments.get("num_ref_tokens") or 0


def flux2_grid(arguments: Arguments) -> Size:
    return _ids_grid(arguments, 0)


def flux2_regrid(arguments: Arguments, fine: Size, coarse: Size, frames: int) -> None:
    _coarse_ids(arguments, flux2_before(arguments, 0, 0), fine[0] * fine[1], *coarse)


def _pictures(shapes: Any) -> list:
    """(frames, rows, columns) of each picture of a sample: the noisy one or its layers, then references."""
    return shapes if isinstance(shapes, list) else [shapes]


def qwen_grid(arguments: Arguments) -> Size:
    _, rows, columns = _pictures(arguments["img_shapes"][0])[0]
    return 2 * rows, 2 * columns


def qwen_layers(module: Any, arguments: Arguments) -> int:
    """Where positions count layers, these are frames of one grid, and the picture that they make up is the last one."""
    pictures = _pictures(arguments["img_shapes"][0])
    if not module.config.use_layer3d_rope:
        return 1
    if len(set(pictures)) != 1:
        raise ValueError(f"apply_progressive: layers and their picture must have one size, got {pictures}")
    return len(pictures)


def qwen_clean(module: Any, arguments: Arguments, frames: int) -> slice:
    return slice(frames - 1, frames) if module.config.use_layer3d_rope else NONE


def qwen_regrid(arguments: Arguments, fine: Size, coarse: Size, frames: int) -> None:
    def coarser(pictures):
        own = [(count, coarse[0] // 2, coarse[1] // 2) for count, _, _ in pictures[:frames]]
        return [*own, *pictures[frames:]]

    arguments["img_shapes"] = [coarser(_pictures(shapes)) for shapes in arguments["img_shapes"]]


def one_frame(module: Any, arguments: Arguments) -> int:
    return 1


def frames_of_planes(module: Any, arguments: Arguments) -> int:
    return arguments["hidden_states"].shape[2]


NONE = slice(0, 0)


def none_clean(module: Any, arguments: Arguments, frames: int) -> slice:
    return NONE


def clean_at_time_zero(module: Any, arguments: Arguments, frames: int) -> slice:
    """Where every token has a time of its own, those of frames that are kept clean have 0. One transfer."""
    times = arguments["timestep"]
    if times.ndim < 2:
        return NONE
    of_frames = times.unflatten(1, (frames, -1))
    bounds = torch.stack([of_frames.amin((0, 2)), of_frames.amax((0, 2))])
    least, most = bounds.tolist()
    clean = next((frame for frame, time in enumerate(most) if time), frames)
    if least != most or len(set(most[clean:])) != 1:
        raise ValueError(
            f"apply_progressive: the frames of {type(module).__name__}'s state are at noise levels of their own, "
            f"{[round(time, 2) for time in most]}; coarse steps know one level, and clean frames before the noisy ones"
        )
    return slice(0, clean)


def _coarser_times(arguments: Arguments, frames: int, coarse_tokens: int) -> None:
    """A time per token, the same for all tokens of a frame."""
    times = arguments["timestep"]
    if times.ndim == 2:
        arguments["timestep"] = times.unflatten(1, (frames, -1))[:, :, :coarse_tokens].flatten(1)


def wan_regrid(arguments: Arguments, fine: Size, coarse: Size, frames: int) -> None:
    _coarser_times(arguments, frames, (coarse[0] // 2) * (coarse[1] // 2))


def hunyuan_clean(module: Any, arguments: Arguments, frames: int) -> slice:
    # The model itself takes the first frame to be at time 0.
    return slice(0, 1) if module.config.image_condition_type == "token_replace" else NONE


def cogview_regrid(arguments: Arguments, fine: Size, coarse: Size, frames: int) -> None:
    """The canvas in pixels. The size of the picture that it was cut from stays what the user said."""
    canvas = arguments["target_size"]
    sides = [canvas[:, side].float() * coarse[side] // fine[side] for side in (0, 1)]
    smaller = torch.stack(sides, dim=1)
    arguments["target_size"] = smaller.to(canvas.dtype)


def ltx_grid(arguments: Arguments) -> Size:
    height, width = arguments.get("height"), arguments.get("width")
    if height is None or width is None:
        raise ValueError(
            "apply_progressive: the denoiser is told coordinates in place of height and width, which coarse steps need"
        )
    return height, width


def ltx_frames(module: Any, arguments: Arguments) -> int:
    return arguments["num_frames"]


def ltx_regrid(arguments: Arguments, fine: Size, coarse: Size, frames: int) -> None:
    _coarser_times(arguments, frames, coarse[0] * coarse[1])
    arguments["height"], arguments["width"] = coarse


def krea_grid(arguments: Arguments) -> Size:
    text = arguments["encoder_hidden_states"].shape[1]
    rows, columns = _rows_and_columns(arguments["position_ids"][text:, 1:])
    return 2 * rows, 2 * columns


def krea_regrid(arguments: Arguments, fine: Size, coarse: Size, frames: int) -> None:
    ids, text = arguments["position_ids"], arguments["encoder_hidden_states"].shape[1]
    positions = _positions(coarse[0] // 2, coarse[1] // 2, ids)
    arguments["position_ids"] = torch.cat([ids[:text], torch.nn.functional.pad(positions, (1, 0))])


def ideogram_grid(arguments: Arguments) -> Size:
    # The picture follows the text; its first token marks the origin, its last one the far corner.
    pictures = arguments["indicator"][0] == arguments["indicator"][0, -1]
    positions = arguments["position_ids"][0, pictures, 1:]
    return _rows_and_columns(positions - positions[0])


def text_before(arguments: Arguments, given: int, own: int) -> int:
    """The state's tokens follow the text's in one sequence."""
    return given - own


def ideogram_regrid(arguments: Arguments, fine: Size, coarse: Size, frames: int) -> None:
    ids = arguments["position_ids"]
    text = ids.shape[1] - fine[0] * fine[1]
    origin = ids[:, text : text + 1]
    positions = torch.nn.functional.pad(_positions(*coarse, ids), (1, 0))
    arguments["position_ids"] = torch.cat([ids[:, :text], origin + positions], dim=1)
    for name in ("encoder_hidden_states", "segment_ids", "indicator"):
        arguments[name] = arguments[name][:, : text + coarse[0] * coarse[1]]
