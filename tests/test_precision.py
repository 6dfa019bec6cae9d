# SPDX-License-Identifier: Apache-2.0
"""The tiers without a promise of bits: the error that `dct_expand` states for each, and what `info` says of cost."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from spectral_kernels import dct_expand, dwt_expand, info, spectral_lift
from spectral_kernels.__main__ import main
from tests.bits import assert_same_bits
from tests.cases import LARGE, SIZES, array, available, random
from tests.test_expand import by_scipy

# As the docstring of dct_expand states them. Each of the four factors is off by at most 2^-10 in tf32, which tensor
# cores cut to 10 bits. Two bfloat16 numbers leave 2^-18 of a factor, and the product of the second ones that is left
# out is another 2^-18: three for each of two contractions, and what float32 adds.
BOUNDS = {"fast": 2e-6, "bf16x3": 2.5e-5, "tf32": 4e-3}


def kept(x, bits, cut=False):
    """float32 with `bits` bits after the leading one, rounded to nearest even or cut."""
    pattern, drop = x.view(np.int32), 23 - bits
    if not cut:
        pattern = pattern + (1 << (drop - 1)) - 1 + ((pattern >> drop) & 1)
    return (pattern >> drop << drop).view(np.float32)


def tensor_core(a, b, precision):
    """What a GPU makes of a float32 product, but for the order of its additions."""
    if precision == "tf32":
        return kept(a, 10, cut=True) @ kept(b, 10, cut=True)
    bits = {"tf32x3": 10, "bf16x3": 7}[precision]
    a_high, b_high = kept(a, bits), kept(b, bits)
    a_low, b_low = kept(a - a_high, bits), kept(b - b_high, bits)
    return a_low @ b_high + a_high @ b_low + a_high @ b_high


@pytest.fixture
def tensor_cores(monkeypatch):
    """Triton's interpreter multiplies as tensor cores do, a GPU needs no help. Gives the products asked for."""
    pytest.importorskip("triton")
    from triton.runtime import interpreter

    from spectral_kernels.kernels import launch, planes

    asked = set()

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        asked.add(input_precision.name)
        product = tensor_core(a.data, b.data, input_precision.name.lower())
        return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    if not torch.cuda.is_available():
        options = dataclasses.replace(
            interpreter.interpreter_builder.options,
            allowed_dot_input_precisions=("tf32", "tf32x3", "ieee", "bf16x3"),
        )
        monkeypatch.setattr(interpreter.interpreter_builder, "options", options)
        monkeypatch.setattr(planes, "dot_precision", lambda precision, hip, _: launch.dot_precision(precision, hip))
        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
    return asked


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("sizes", [SIZES[4], SIZES[7], LARGE], ids=str)
def test_every_tier_keeps_its_bound_on_a_gpu(precision, sizes, tensor_cores):
    coarse, fine = sizes
    x, noise = random((2, *coarse)), random((2, *fine), 1)
    with available("triton") as device:
        given = x.to(device), noise.to(device)
        found = dct_expand(given[0], size=fine, t=0.35, noise=given[1], precision=precision).x.cpu().numpy()
    true = by_scipy(array(x), array(noise), fine, 0.35)
    error = np.linalg.norm(found - true) / np.linalg.norm(true)
    assert error <= BOUNDS[precision]
    # Far better would mean that another product was used.
    assert error >= {"fast": 0, "bf16x3": 1e-6, "tf32": 1e-4}[precision]
    assert torch.cuda.is_available() or {name.lower() for name in tensor_cores} == {
        {"fast": "tf32x3"}.get(precision, precision)
    }


@pytest.mark.parametrize("precision", ["bf16x3", "tf32"])
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_variants_of_fast_are_one_on_a_cpu(precision, backend):
    x, z = random((2, 7, 9)), random((2, 14, 18), 1)
    calls = (
        lambda p: dct_expand(x, 2, t=0.35, seed=3, precision=p).x,
        lambda p: spectral_lift(z, x, t=0.35, precision=p),
        lambda p: dct_expand(x.double(), 2, t=0.35, seed=3, precision=p).x,
        lambda p: dwt_expand(x, 2, t=0.35, seed=3, precision=p).x,
    )
    with available(backend):
        for call in calls:
            assert_same_bits(call(precision), call("fast"))


@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_autocast_changes_no_product(backend, precision):
    """It would multiply in bfloat16, forwards and backwards."""
    x = random((2, 7, 9)).requires_grad_()

    def found():
        y = dct_expand(x, 2, t=0.35, seed=3, precision=precision).x
        return y, *torch.autograd.grad(y.square().sum(), x)

    with available(backend):
        expected = found()
        with torch.autocast("cpu", torch.bfloat16):
            for y, wanted in zip(found(), expected, strict=True):
                assert_same_bits(y, wanted)


def test_info_measures_what_exact_costs_here(capsys):
    ratio, calls = info.cost_of_exact(seconds=0.02)
    assert 0.1 < ratio < 1000 and calls >= 3
    assert main(["info"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("precision "))
    found = re.search(r"exact takes ([\d.]+) x the time of fast \(16 planes 64x64 -> 128x128, (\d+) calls each\)", line)
    assert found is not None and int(found[2]) >= 3


@pytest.mark.parametrize(("ratio", "advised"), [(1.0, False), (1.5, False), (1.51, True), (8.0, True)])
def test_info_advises_above_one_and_a_half(ratio, advised):
    assert ("pays here" in info.precision_advice(ratio, 9)) == advised
