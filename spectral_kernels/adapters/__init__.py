# SPDX-License-Identifier: Apache-2.0
"""Adapters that put the ops into other projects' models. They move tensors about; the ops do all arithmetic."""
