# SPDX-License-Identifier: Apache-2.0
"""docs/bases.md runs as it stands: a basis added in the few lines it shows has everything the others have."""

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch
from bits import assert_same_bits

from reference import bases as reference_bases
from reference import expand as reference
from spectral_kernels import Tokens, bases, dispatch

PAGE = (Path(__file__).parents[1] / "docs" / "bases.md").read_text()
STEPS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def dst_expand(monkeypatch):
    monkeypatch.setattr(bases, "ANALYSIS", dict(bases.ANALYSIS))
    monkeypatch.setattr(reference_bases, "ANALYSIS", dict(reference_bases.ANALYSIS))
    names = {}
    for step in STEPS:
        exec(compile(step, "docs/bases.md", "exec"), names)
    return names["dst_expand"]


@pytest.mark.parametrize(("fine", "coarse"), [(1, 1), (8, 5), (9, 4), (64, 64)])
def test_tables(dst_expand, fine, coarse):
    for kind in bases.KINDS:
        expected = np.ascontiguousarray(reference_bases.table("dst", kind, fine, coarse))
        assert_same_bits(bases.table("dst", kind, fine, coarse), expected)
    expected = scipy.fft.dst(np.eye(fine), type=2, norm="ortho", axis=0)
    np.testing.assert_allclose(bases.table("dst", "analysis", fine, coarse), expected, atol=1e-14)


@pytest.mark.parametrize("backend", dispatch.BACKENDS)
def test_expansion_bits(dst_expand, backend):
    if why := dispatch.missing(backend):
        pytest.skip(why)
    x = torch.randn(2, 2, 5, 6)
    expected, times = reference.expand(x.numpy(), (9, 8), [0.3, 0.0], basis="dst", seed=3)
    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
    with dispatch.backend(backend):
        y = dst_expand(x.to(device), size=(9, 8), t=[0.3, 0.0], seed=3)
        tokens = x.permute(0, 2, 3, 1).reshape(2, 30, 2).to(device)
        packed = dst_expand(tokens, size=(9, 8), t=[0.3, 0.0], seed=3, layout=Tokens(5, 6)).x
    assert_same_bits(y.x, expected)
    np.testing.assert_array_equal(y.t.cpu(), times)
    assert_same_bits(packed.view(2, 9, 8, 2).permute(0, 3, 1, 2), expected)


def test_gradient(dst_expand):
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: dst_expand(x, size=(6, 5), t=0.3, seed=1).x, (x,))


def test_errors_name_the_new_op(dst_expand):
    with pytest.raises(ValueError, match="dst_expand: size must be at least"):
        dst_expand(torch.zeros(4, 4), size=(3, 4), t=0.0)
