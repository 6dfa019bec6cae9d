# SPDX-License-Identifier: Apache-2.0
"""Spectral resolution changes and feature forecasting for diffusion models, with the same bits on every backend."""

__version__ = "0.1.0"
