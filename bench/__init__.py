# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: rows of measured time, appended to `results/` and never edited. See run.py, suites/ and plot.py."""
