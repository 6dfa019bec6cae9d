# SPDX-License-Identifier: Apache-2.0
"""Bit comparison: shape, dtype, then the bit patterns as integers. Nothing that only looks equal passes."""

import numpy as np
import torch

Array = torch.Tensor | np.ndarray | np.generic


def bit_pattern(value: Array) -> np.ndarray:
    """The bits of a floating-point array as integers of the same width, in the same shape."""
    if isinstance(value, torch.Tensor):
        integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
        return value.detach().cpu().contiguous().view(integer).numpy()
    # Not ascontiguousarray: it gives a 0-d array a dimension.
    return np.asarray(value, order="C").view(f"i{value.dtype.itemsize}")


def dtype_name(value: Array) -> str:
    return str(value.dtype).removeprefix("torch.")


def assert_same_bits(actual: Array, expected: Array) -> None:
    """Fail unless shape, dtype and every bit agree; say where the first difference is and how far.

    Tensors and NumPy arrays compare with each other. NumPy has no bfloat16: the reference gives its bits as uint16, and
    `expected` may be such an array when `actual` is a bfloat16 tensor.
    """
    shapes = tuple(actual.shape), tuple(expected.shape)
    if shapes[0] != shapes[1]:
        raise AssertionError(f"shapes differ: {shapes[0]} and {shapes[1]}")
    names = dtype_name(actual), dtype_name(expected)
    reference_bits = names == ("bfloat16", "uint16") and isinstance(expected, np.ndarray)
    if names[0] != names[1] and not reference_bits:
        raise AssertionError(f"dtypes differ: {names[0]} and {names[1]}")
    a, b = bit_pattern(actual), bit_pattern(expected)
    different = a != b
    if not different.any():
        return
    at = tuple(int(i) for i in np.argwhere(different)[0])
    i, j = _ordinal(a[different]), _ordinal(b[different])
    ulps = int(np.where(i > j, i - j, j - i).max())
    where = f", {actual.device}" if isinstance(actual, torch.Tensor) else ""
    raise AssertionError(
        f"{int(different.sum())} of {a.size} elements differ ({names[0]} {shapes[0]}{where}); first at {at}: "
        f"{_written(actual, at)} and {_written(expected, at)}; at most {ulps} ulp apart"
    )


def _ordinal(bits: np.ndarray) -> np.ndarray:
    """Position of a floating-point number among all of its type, so that neighbours differ by 1."""
    unsigned = bits.view(f"u{bits.dtype.itemsize}")
    sign = np.array(1, unsigned.dtype) << np.array(8 * bits.dtype.itemsize - 1, unsigned.dtype)
    return np.where(unsigned & sign, ~unsigned, unsigned | sign)


def _written(value: Array, at: tuple[int, ...]) -> str:
    bits = bit_pattern(value)
    width = bits.dtype.itemsize * 8
    return f"{value[at].item()!r} = {int(bits[at]) & ((1 << width) - 1):#0{width // 4 + 2}x}"
