# SPDX-License-Identifier: Apache-2.0
"""Bit comparison: shape, dtype, then the bit patterns as integers. Nothing that only looks equal passes."""

import numpy as np
import torch


def bit_pattern(value: torch.Tensor | np.ndarray) -> np.ndarray:
    """The bits of a floating-point array as integers of the same width."""
    if isinstance(value, torch.Tensor):
        integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
        return value.detach().cpu().contiguous().view(integer).numpy()
    return np.ascontiguousarray(value).view(f"i{value.dtype.itemsize}")


def assert_same_bits(actual: torch.Tensor | np.ndarray, expected: torch.Tensor | np.ndarray) -> None:
    """Fail unless shape, dtype and every bit agree; say where the first difference is, in hexadecimal."""
    name = [str(v.dtype).removeprefix("torch.") for v in (actual, expected)]
    if tuple(actual.shape) != tuple(expected.shape):
        raise AssertionError(f"shapes differ: {tuple(actual.shape)} and {tuple(expected.shape)}")
    if name[0] != name[1]:
        raise AssertionError(f"dtypes differ: {name[0]} and {name[1]}")
    a, b = bit_pattern(actual), bit_pattern(expected)
    wrong = np.argwhere(a != b)
    if len(wrong):
        at = tuple(int(i) for i in wrong[0])
        width = a.dtype.itemsize * 8
        mask = (1 << width) - 1
        raise AssertionError(
            f"{len(wrong)} of {a.size} elements differ ({name[0]} {tuple(actual.shape)}); first at {at}: "
            f"{int(a[at]) & mask:#0{width // 4 + 2}x} and {int(b[at]) & mask:#0{width // 4 + 2}x}"
        )
