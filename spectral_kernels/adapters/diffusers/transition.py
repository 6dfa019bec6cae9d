# SPDX-License-Identifier: Apache-2.0
"""Features of one resolution brought to the next, for forecasts that cross a transition."""

import torch

from spectral_kernels.expand import dct_expand
from spectral_kernels.forecaster import Forecaster
from spectral_kernels.layouts import Tokens

Grid = tuple[int, int, int, int]  # how tokens lie: frames, rows, columns, and how many of reference pictures follow


def expand_history(old: Forecaster, new: Forecaster, coarse: Grid, fine: Grid) -> None:
    """The features of one grid on another: each token is a pixel of as many channels as it has values.

    Smooth interpolation, `dct_expand` at noise level 0, frame by frame. Tokens of reference pictures stay as they are.
    """
    own = coarse[0] * coarse[1] * coarse[2]
    for step, feature in zip(old.steps, old.state_dict()["features"], strict=True):
        if feature.ndim != 3 or feature.shape[1] != own + coarse[3]:
            raise ValueError(
                f'apply_forecast: transition="expand" needs features of one token per patch, {own} here, got '
                f'{tuple(feature.shape)}; use transition="reset"'
            )
        frames = feature[:, :own].reshape(-1, coarse[1] * coarse[2], feature.shape[2])
        expanded = dct_expand(frames, size=fine[1:3], t=0.0, layout=Tokens(*coarse[1:3])).x
        expanded = expanded.reshape(len(feature), -1, feature.shape[2])
        new.update(step, torch.cat([expanded, feature[:, own:]], 1) if coarse[3] else expanded)
