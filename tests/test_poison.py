# SPDX-License-Identifier: Apache-2.0
"""The poison itself: inside the library fresh memory is NaN, outside it is what PyTorch gives."""

import pytest
import torch

ALLOCATIONS = [
    "torch.empty(2, 3, dtype=dtype)",
    "torch.empty_like(torch.zeros(2, 3, dtype=dtype))",
    "torch.empty_strided((2, 3), (3, 1), dtype=dtype)",
    "torch.empty_permuted((2, 3), (1, 0), dtype=dtype)",
    "torch.zeros(1, dtype=dtype).new_empty(2, 3)",
    "torch.zeros(1, dtype=dtype).new_empty_strided((2, 3), (3, 1))",
]


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64])
def test_the_library_gets_nan(allocation, dtype):
    fresh = eval(allocation, {"__name__": "spectral_kernels.somewhere", "torch": torch, "dtype": dtype})
    assert fresh.shape == (2, 3) and fresh.dtype == dtype
    assert fresh.isnan().all()


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_integers_get_a_telling_value(allocation):
    fresh = eval(allocation, {"__name__": "spectral_kernels", "torch": torch, "dtype": torch.int32})
    assert (fresh == -(2**31) + 77).all()


def test_others_are_left_alone():
    torch.full((1000,), 3.0)  # freed at once, so that the next allocation tends to find its memory
    fresh = eval("torch.empty(1000)", {"__name__": "spectral_kernels_of_another_kind", "torch": torch})
    assert not fresh.isnan().all()


def test_compiles_in_one_graph():
    compiled = torch.compile(lambda x: torch.empty_like(x).copy_(x), fullgraph=True, backend="eager")
    assert compiled(torch.ones(3)).tolist() == [1.0] * 3
