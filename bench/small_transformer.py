# SPDX-License-Identifier: Apache-2.0
"""A small FLUX.1, trained on photograph crops at 16, 8 and 4 px: diffusers' own class, so its blocks can be forecast.

    python -m bench.small_transformer SECONDS [OUTPUT]

Its hidden features move along a run as those of a trained network do, which neither random weights nor exact oracles
show. The measurements in bench/results/ come from one training of 40 minutes on a shared core.
"""

import math

import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor, nn

from bench.small_network import main


class SmallTransformer(nn.Module):
    """v(z [n, 1, s, s], t): tokens of 2 x 2 px, one double and three single blocks of width 64; log2(s) is its text."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.flux = FluxTransformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=3,
            attention_head_dim=16,
            num_attention_heads=width // 16,
            joint_attention_dim=1,
            pooled_projection_dim=1,
            axes_dims_rope=(4, 6, 6),
        )

    def forward(self, z: Tensor, t: float | Tensor) -> Tensor:
        rows, columns = z.shape[-2] // 2, z.shape[-1] // 2
        t = torch.as_tensor(t, dtype=z.dtype).expand(len(z))
        tokens = z.reshape(-1, rows, 2, columns, 2).transpose(2, 3).reshape(len(z), rows * columns, 4)
        size = torch.full((len(z), 1), math.log2(z.shape[-1] / 8))
        ids = torch.cartesian_prod(torch.zeros(1), torch.arange(float(rows)), torch.arange(float(columns)))
        v = self.flux(
            hidden_states=tokens,
            timestep=t,
            encoder_hidden_states=size[:, None],
            pooled_projections=size,
            img_ids=ids,
            txt_ids=torch.zeros(1, 3),
            return_dict=False,
        )[0]
        return v.reshape(-1, rows, columns, 2, 2).transpose(2, 3).reshape(z.shape)


if __name__ == "__main__":
    main("small_transformer", make=SmallTransformer)
