# SPDX-License-Identifier: Apache-2.0
"""The units in which models are told the noise level."""


def timestep_of(level: float, size: float = 1000.0, reversed: bool = False) -> float:
    """A noise level t in [0, 1] as a timestep: `size * t`, or `size * (1 - t)` where a model counts data, not noise.

    FLUX and Qwen-Image take t itself, Wan, SD3 and HunyuanVideo 1000 t, Z-Image and Ideogram 4 take 1 - t.
    """
    return size * (1.0 - level if reversed else level)
