# SPDX-License-Identifier: Apache-2.0
"""The specification: NumPy and SciPy only, never imported by the package. See README.md."""
