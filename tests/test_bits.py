# SPDX-License-Identifier: Apache-2.0
"""The comparison that every promise here rests on: what it must reject, and what it must not."""

import numpy as np
import pytest
import torch
from bits import assert_same_bits

TORCH = {name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64")}
INTEGER = {"float16": torch.int16, "bfloat16": torch.int16, "float32": torch.int32, "float64": torch.int64}
VALUES = [[1.0, -2.5, 0.0], [-0.0, float("inf"), 1e-7]]


def from_bits(bits: int, dtype: str) -> torch.Tensor:
    return torch.tensor([bits], dtype=INTEGER[dtype]).view(TORCH[dtype])


@pytest.mark.parametrize("dtype", TORCH)
def test_accepts_the_same_bits(dtype):
    x = torch.tensor(VALUES, dtype=TORCH[dtype])
    assert_same_bits(x, x.clone())
    assert_same_bits(x.T, x.T.contiguous())  # strides are not part of the value
    assert_same_bits(x[:1].expand(3, 3), x[:1].repeat(3, 1))
    assert_same_bits(x.clone().requires_grad_(), x)
    if dtype != "bfloat16":
        assert_same_bits(x, x.numpy())
        assert_same_bits(x.numpy()[:, ::-1], x.flip(1))


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1)])
def test_accepts_no_dimensions_and_no_elements(dtype, shape):
    assert_same_bits(torch.ones(shape, dtype=TORCH[dtype]), torch.ones(shape, dtype=TORCH[dtype]))


@pytest.mark.parametrize("dtype", TORCH)
def test_rejects_minus_zero(dtype):
    zero = torch.zeros(2, dtype=TORCH[dtype])
    with pytest.raises(AssertionError, match="2 of 2 elements differ"):
        assert_same_bits(zero, -zero)


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("value", [1.0, -1.0, 0.0])
def test_rejects_one_ulp(dtype, value):
    x = torch.tensor([3.0, value], dtype=TORCH[dtype])
    near = x.clone()
    near.view(INTEGER[dtype])[1] += 1
    with pytest.raises(AssertionError, match=r"1 of 2 elements differ .* first at \(1,\).* 1 ulp apart"):
        assert_same_bits(x, near)


@pytest.mark.parametrize(
    ("dtype", "quiet", "other"),
    [
        ("float16", 0x7E00, 0x7E01),
        ("bfloat16", 0x7FC0, 0x7FC1),
        ("float32", 0x7FC00000, 0x7F800001),
        ("float64", 0x7FF8000000000000, 0x7FF8000000000001),
    ],
)
def test_a_nan_equals_itself_but_no_other_payload(dtype, quiet, other):
    assert_same_bits(from_bits(quiet, dtype), from_bits(quiet, dtype))
    with pytest.raises(AssertionError, match="1 of 1 elements differ"):
        assert_same_bits(from_bits(quiet, dtype), from_bits(other, dtype))


@pytest.mark.parametrize(
    ("left", "right"), [((3,), (1,)), ((2, 3), (3,)), ((1, 3), (3,)), ((), (1,)), ((0,), (0, 3)), ((0,), (1,))]
)
def test_rejects_shapes_that_only_broadcast(left, right):
    for one in (torch.ones, np.ones):
        for other in (torch.ones, np.ones):
            with pytest.raises(AssertionError, match="shapes differ"):
                assert_same_bits(one(left), other(right))


@pytest.mark.parametrize("left", TORCH)
@pytest.mark.parametrize("right", TORCH)
def test_rejects_another_dtype_even_of_the_same_bits(left, right):
    if left != right:
        with pytest.raises(AssertionError, match="dtypes differ"):
            assert_same_bits(torch.zeros(2, dtype=TORCH[left]), torch.zeros(2, dtype=TORCH[right]))


def test_rejects_another_dtype_or_byte_order_of_numpy():
    ones = torch.ones(2)
    for wrong in (np.ones(2), np.ones(2, np.int32), np.ones(2, ">f4")):
        with pytest.raises(AssertionError, match="dtypes differ"):
            assert_same_bits(ones, wrong)


def test_uint16_stands_for_bfloat16_on_the_expected_side_only():
    x = torch.tensor([1.0, -0.0], dtype=torch.bfloat16)
    bits = np.array([0x3F80, 0x8000], np.uint16)
    assert_same_bits(x, bits)
    with pytest.raises(AssertionError, match=r"first at \(1,\): -0.0 = 0x8000 and 0 = 0x0000"):
        assert_same_bits(x, bits & 0x7FFF)
    with pytest.raises(AssertionError, match="dtypes differ"):
        assert_same_bits(bits, x)
    with pytest.raises(AssertionError, match="dtypes differ"):
        assert_same_bits(x.to(torch.float16), bits)


def test_the_message_names_place_values_and_distance():
    x = torch.ones(2, 3)
    y = x.clone()
    y[1, 2] = 1.0000002384185791  # two steps above 1
    with pytest.raises(
        AssertionError, match=r"1 of 6 .*float32 \(2, 3\), cpu.*\(1, 2\).*0x3f800000 and .*0x3f800002; at most 2 ulp"
    ):
        assert_same_bits(x, y)
    # Across zero: the smallest subnormals on either side are three steps apart, by way of -0 and +0
    tiny = torch.tensor([1, -0x7FFFFFFF], dtype=torch.int32).view(torch.float32)
    with pytest.raises(AssertionError, match="at most 3 ulp"):
        assert_same_bits(tiny[:1], tiny[1:])
