# SPDX-License-Identifier: Apache-2.0
"""Triton kernels: they see tables and tensors and know no transform."""
