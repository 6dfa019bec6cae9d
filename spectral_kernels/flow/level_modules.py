# SPDX-License-Identifier: Apache-2.0
"""The model side of decomposable flow matching: one patch embedding, time embedder and head per level around a
transformer that stays as it is.

Patch sizes are chosen so that every level has the same grid of tokens: with patch 2 at 64 x 64 and patch 4 at 128 x 128
both are 32 x 32. A token is then the levels' patches one after the other, so a grown transformer takes and gives one
token sequence as before, only wider, and times [B, L] where it took [B].

Source: "Improving Progressive Generation with Decomposable Flow Matching", section 3.4; fine-tuning as in 4.5.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def pack_levels(levels: Sequence[Tensor], patches: Sequence[int], *, channels_first: bool = True) -> Tensor:
    """Levels [B, C, h_s, w_s] as tokens [B, N, sum(C p_s^2)], N = (h_s / p_s) (w_s / p_s) for every s.

    `channels_first`: a patch lies in a token as (C, p, p), as FLUX.1 packs it; else as (p, p, C), as Z-Image does.
    Raises ValueError where a side is no multiple of its patch, grids differ or levels are not of one batch.
    """
    _check_patches("pack_levels", len(levels), patches)
    if any(z.ndim != 4 or len(z) != len(levels[0]) for z in levels):
        raise ValueError(
            f"pack_levels: levels must be [B, C, h, w] of one batch, got {[tuple(z.shape) for z in levels]}"
        )
    grids = [(*(side / p for side in z.shape[-2:]),) for z, p in zip(levels, patches, strict=True)]
    if any(grid != grids[0] for grid in grids) or any(side % 1 for side in grids[0]):
        raise ValueError(
            f"pack_levels: patches {tuple(patches)} must cut every level into the same grid of tokens, got sizes "
            f"{[tuple(z.shape[-2:]) for z in levels]}"
        )
    tokens = []
    for z, p in zip(levels, patches, strict=True):
        cut = z.unflatten(-1, (-1, p)).unflatten(-3, (-1, p))  # [B, C, rows, p, columns, p]
        order = (0, 2, 4, 1, 3, 5) if channels_first else (0, 2, 4, 3, 5, 1)
        tokens.append(cut.permute(order).flatten(3).flatten(1, 2))
    return torch.cat(tokens, -1)


def unpack_levels(
    tokens: Tensor, shapes: Sequence[Sequence[int]], patches: Sequence[int], *, channels_first: bool = True
) -> list[Tensor]:
    """Levels of `shapes` from tokens; the inverse of `pack_levels`."""
    _check_patches("unpack_levels", len(shapes), patches)
    widths = [shape[1] * p * p for shape, p in zip(shapes, patches, strict=True)]
    rows = [(shape[2] // p) * (shape[3] // p) for shape, p in zip(shapes, patches, strict=True)]
    if any(count != tokens.shape[1] for count in rows) or tokens.shape[-1] != sum(widths):
        raise ValueError(
            f"unpack_levels: levels {[tuple(shape) for shape in shapes]} with patches {tuple(patches)} are {rows} "
            f"tokens of {sum(widths)} numbers, got {tuple(tokens.shape[1:])}"
        )
    levels = []
    for part, (_, c, h, w), p in zip(tokens.split(widths, -1), shapes, patches, strict=True):
        inner, order = ((c, p, p), (0, 3, 1, 4, 2, 5)) if channels_first else ((p, p, c), (0, 5, 1, 3, 2, 4))
        cut = part.reshape(len(tokens), h // p, w // p, *inner).permute(order)  # [B, C, rows, p, columns, p]
        levels.append(cut.reshape(len(tokens), c, h, w))
    return levels


def _check_patches(op: str, levels: int, patches: Sequence[int]) -> None:
    if not levels or len(patches) != levels or any(not isinstance(p, int) or p < 1 for p in patches):
        raise ValueError(
            f"{op}: patches must hold one number per level ({levels}), whole and at least 1, got {tuple(patches)}"
        )


class LevelEmbedding(nn.Module):
    """The sum of one linear embedding per level; `features` are the levels' numbers in a token, coarse first.

    With `first`, a pretrained embedding, the other levels begin with zeros and the model's output does not change.
    """

    def __init__(self, features: Sequence[int], width: int, first: nn.Linear | None = None):
        super().__init__()
        if first is not None and (first.in_features, first.out_features) != (features[0], width):
            raise ValueError(
                f"LevelEmbedding: the pretrained embedding takes {first.in_features} numbers, but the coarse level has "
                f"{features[0]} in a token; choose its patch so that they agree"
            )
        self.features = list(features)
        self.levels = nn.ModuleList(_linears(features, [width] * len(features), first, zero=first is not None))

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.shape[-1] != sum(self.features):
            raise ValueError(
                f"LevelEmbedding: tokens must hold the numbers of all levels, {self.features}, got {tokens.shape[-1]}"
            )
        total = None
        for level, part in zip(self.levels, tokens.split(self.features, -1), strict=True):
            total = level(part) if total is None else total + level(part)
        assert total is not None
        return total


class LevelHeads(nn.Module):
    """One linear head per level on the same features; with `first`, the other levels answer 0 in the beginning."""

    def __init__(self, width: int, features: Sequence[int], first: nn.Linear | None = None):
        super().__init__()
        if first is not None and (first.in_features, first.out_features) != (width, features[0]):
            raise ValueError(
                f"LevelHeads: the pretrained head gives {first.out_features} numbers, but the coarse level has "
                f"{features[0]} in a token"
            )
        self.levels = nn.ModuleList(_linears([width] * len(features), features, first, zero=first is not None))

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([level(hidden) for level in self.levels], -1)


class TimeEmbedding(nn.Module):
    """1000 t [B] -> [B, width]: cosines and sines of 128 frequencies from 1 to 1 / 10000, two layers."""

    def __init__(self, width: int, hidden: int | None = None, zero: bool = False):
        super().__init__()
        self.first, self.second = nn.Linear(256, hidden or width), nn.Linear(hidden or width, width)
        if zero:
            _zero(self.second)

    def forward(self, time: Tensor) -> Tensor:
        frequency = torch.exp(torch.arange(128, device=time.device, dtype=torch.float32) * (-math.log(1e4) / 128))
        angle = time.float()[:, None] * frequency
        waves = torch.cat([angle.cos(), angle.sin()], -1).to(self.first.weight.dtype)
        return self.second(nn.functional.silu(self.first(waves)))


class LevelTimes(nn.Module):
    """1000 t [B, L] -> the sum of one time embedding per level. The first one may be a pretrained module, whose further
    arguments (guidance, pooled text) are passed on to it; the others then begin with zeros."""

    def __init__(self, first: nn.Module, levels: int, width: int, zero: bool = True):
        super().__init__()
        self.first = first
        self.others = nn.ModuleList(TimeEmbedding(width, zero=zero) for _ in range(levels - 1))

    def forward(self, times: Tensor, *conditions) -> Tensor:
        if times.ndim != 2 or times.shape[1] != len(self.others) + 1:
            raise ValueError(
                f"LevelTimes: times must have the shape [B, {len(self.others) + 1}], got {tuple(times.shape)}"
            )
        total = self.first(times[:, 0], *conditions)
        for s, level in enumerate(self.others, 1):
            total = total + level(times[:, s])
        return total


def grow(model: Any, features: Sequence[int]) -> Any:
    """Give a pretrained transformer further levels, in place; what it answers for the coarse level does not change.

    The pretrained patch embedding, time embedder and head become those of the coarse level, the others begin with
    zeros. Known by their parts: diffusers' `FluxTransformer2DModel` and `ZImageTransformer2DModel`.

    Parameters
    ----------
    model : the transformer, on its device and in its dtype.
    features : numbers a token holds of each level, coarse first, C p_s^2; the first must be the model's own.

    Returns
    -------
    the same model: tokens of sum(features) numbers in and out, times [B, L]. See `FluxLevels`, `ZImageLevels`.

    Raises
    ------
    TypeError : another model. ValueError : features that do not begin with the model's own, a model that has levels
    already, or one that takes and gives other numbers (conditions beside the state). The model is left as it was.
    """
    if not features or any(not isinstance(count, int) or count < 1 for count in features):
        raise ValueError(f"grow: features must be one whole number per level, at least 1, got {list(features)}")
    if any(isinstance(part, LevelEmbedding) for part in model.modules()):
        raise ValueError(f"grow: {type(model).__name__} has levels already; grow a pretrained model once, to all")
    if hasattr(model, "x_embedder") and hasattr(model, "time_text_embed") and hasattr(model, "proj_out"):
        embedding: nn.Linear = model.x_embedder
        own = LevelEmbedding(features, embedding.out_features, embedding)
        heads = LevelHeads(model.proj_out.in_features, features, model.proj_out)
        times = LevelTimes(model.time_text_embed, len(features), embedding.out_features)
        model.x_embedder, model.time_text_embed, model.proj_out = own, times, heads
    elif hasattr(model, "all_x_embedder") and hasattr(model, "all_final_layer") and hasattr(model, "t_embedder"):
        names = list(model.all_x_embedder)
        if len(names) != 1:
            raise ValueError(f"grow: a Z-Image model of one patch size can grow, this one has {names}")
        embedding, final, frames = model.all_x_embedder[names[0]], model.all_final_layer[names[0]], names[0].split("-")
        patch = int(frames[0]) ** 2 * int(frames[1])
        if sum(features) % patch:
            raise ValueError(f"grow: tokens of Z-Image are cut into {patch} pixels, got {sum(features)} numbers")
        own = LevelEmbedding(features, embedding.out_features, embedding)
        heads = LevelHeads(final.linear.in_features, features, final.linear)
        times = LevelTimes(model.t_embedder, len(features), model.t_embedder.mlp[-1].out_features)
        model.all_x_embedder[names[0]], model.t_embedder, final.linear = own, times, heads
        model.out_channels = sum(features) // patch
    else:
        raise TypeError(
            f"grow: {type(model).__name__} has neither FLUX's nor Z-Image's parts; put LevelEmbedding, LevelTimes and "
            "LevelHeads in place of your model's own"
        )
    # The pretrained parts stay in the dtype they have: a time embedding is often kept in float32.
    for new in (*own.levels[1:], *heads.levels[1:], *times.others):
        new.to(device=embedding.weight.device, dtype=embedding.weight.dtype)
    return model


class FluxLevels(nn.Module):
    """A grown FLUX transformer as a model of levels: `model(levels, times, mask, **conditions)` -> velocities.

    `patches` is one number per level; `conditions` go to the transformer (encoder_hidden_states, pooled_projections,
    txt_ids, guidance); image positions are those of the token grid.
    """

    def __init__(self, transformer: Any, patches: Sequence[int]):
        super().__init__()
        self.transformer, self.patches = transformer, list(patches)

    def forward(
        self, levels: Sequence[Tensor], times: Tensor, mask: Tensor | None = None, **conditions
    ) -> list[Tensor]:
        rows, columns = (side // self.patches[0] for side in levels[0].shape[-2:])
        tokens = pack_levels(levels, self.patches)
        ids = torch.zeros(rows, columns, 3, device=tokens.device)
        ids[..., 1] += torch.arange(rows, device=tokens.device)[:, None]
        ids[..., 2] += torch.arange(columns, device=tokens.device)
        answer = self.transformer(
            hidden_states=tokens, timestep=times, img_ids=ids.view(-1, 3), return_dict=False, **conditions
        )
        return unpack_levels(answer[0], [z.shape for z in levels], self.patches)


class ZImageLevels(nn.Module):
    """A grown Z-Image transformer as a model of levels: `model(levels, times, mask, cap_feats=[...])` -> velocities.

    Z-Image's clock is 1 at data and its answer is the negative velocity; both are turned here.
    """

    def __init__(self, transformer: Any, patches: Sequence[int]):
        super().__init__()
        self.transformer, self.patches = transformer, list(patches)
        self.patch = int(next(iter(transformer.all_x_embedder)).split("-")[0])

    def forward(
        self, levels: Sequence[Tensor], times: Tensor, mask: Tensor | None = None, **conditions
    ) -> list[Tensor]:
        rows, columns = (side // self.patches[0] for side in levels[0].shape[-2:])
        tokens = pack_levels(levels, self.patches, channels_first=False)
        # An image whose patches are exactly our tokens: the transformer cuts it the way it always does.
        image = (tokens.shape[-1] // self.patch**2, rows * self.patch, columns * self.patch)
        (pixels,) = unpack_levels(tokens, [(len(tokens), *image)], [self.patch], channels_first=False)
        answer = self.transformer(list(pixels.unsqueeze(2)), 1 - times, return_dict=False, **conditions)[0]
        back = pack_levels([torch.stack(list(answer)).squeeze(2)], [self.patch], channels_first=False)
        return unpack_levels(-back, [z.shape for z in levels], self.patches, channels_first=False)


def _linears(inputs: Sequence[int], outputs: Sequence[int], first: nn.Linear | None, zero: bool) -> list[nn.Linear]:
    layers = [nn.Linear(a, b) for a, b in zip(inputs, outputs, strict=True)]
    if zero:
        for layer in layers[1:]:
            _zero(layer)
    return layers if first is None else [first, *layers[1:]]


def _zero(layer) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
