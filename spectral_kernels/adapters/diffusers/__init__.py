# SPDX-License-Identifier: Apache-2.0
"""Progressive resolution and feature forecasting on unmodified diffusers pipelines."""

from spectral_kernels.adapters.diffusers.progressive import Progressive, ProgressiveConfig, apply_progressive

__all__ = ["Progressive", "ProgressiveConfig", "apply_progressive"]
