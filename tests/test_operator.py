# SPDX-License-Identifier: Apache-2.0
"""What torch.library.custom_op would do for an operator, done at the price of one call of the dispatcher."""

import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import spectral_kernels as sk
from spectral_kernels.dispatch import forecast, planes, pyramid

NAMES = ("up", "synthesis", "dct", [5, 7], [3, 4], "planes", "expand", "", "exact", 0)


class Seen(TorchDispatchMode):
    """The overloads that were called."""

    def __init__(self):
        super().__init__()
        self.overloads = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "spectral_kernels":
            self.overloads.append(function._overloadname)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("gradient", "mode", "overload"),
    [
        (False, torch.enable_grad, "inference"),
        (True, torch.no_grad, "inference"),
        (True, torch.enable_grad, "default"),
    ],
)
def test_only_where_a_gradient_is_wanted_does_autograd_look(gradient, mode, overload):
    x = torch.randn(1, 2, 3, 4, requires_grad=gradient)
    with mode(), Seen() as seen:
        y = planes.plane_product(x, None, None, None, 7, 0.5, *NAMES)
    assert seen.overloads == [overload]
    assert y.requires_grad == (overload == "default")


def test_a_gradient_is_wanted_where_one_feature_of_many_has_one():
    features = [torch.randn(4), torch.randn(4, requires_grad=True)]
    with Seen() as seen:
        assert sk.forecast(features, [0.5, 0.5]).requires_grad
        assert sk.forecast(tuple(features), [0.5, 0.5]).requires_grad
    assert seen.overloads == ["default", "default"]


def test_what_is_traced_can_be_differentiated_later():
    class Expand(torch.nn.Module):
        def forward(self, x):
            return sk.dct_expand(x, size=(5, 7), t=0.5, seed=7).x

    with torch.no_grad():
        program = torch.export.export(Expand(), (torch.randn(1, 2, 3, 4),))
    x = torch.randn(1, 2, 3, 4, requires_grad=True)
    y = program.module()(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    (expected,) = torch.autograd.grad(Expand()(x).sum(), x)
    assert torch.equal(gradient, expected)


def test_both_overloads_are_sound():
    x = torch.randn(1, 2, 3, 4)
    for overload in (planes.plane_product.default, planes.plane_product.inference):
        torch.library.opcheck(overload, (x, None, None, None, 7, 0.5, *NAMES))
    weights = torch.tensor([[0.5, -1.5]])
    out = torch.empty(1, 6)
    for overload in (forecast.forecast_out.default, forecast.forecast_out.inference):
        torch.library.opcheck(overload, ([torch.randn(6), torch.randn(6)], [], weights, out))


def test_what_is_written_to_has_a_new_version():
    """Autograd knows by it that a tensor saved for a backward pass has changed since."""
    moments, out = torch.zeros(2, 4, requires_grad=True), torch.empty(4)
    with torch.no_grad():
        kept = moments.detach()
    product = (moments * moments).sum()
    forecast.update_moments(kept, torch.ones(4), torch.ones(2))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
    before = out._version
    sk.forecast([torch.ones(4)], [1.0], out=out)
    assert out._version == before + 1
    with torch.inference_mode():
        forecast.update_moments(torch.zeros(2, 4), torch.ones(4), torch.ones(2))  # such tensors have no version


def test_without_a_formula_a_gradient_is_an_error():
    x = torch.randn(1, 1, 4, 4, requires_grad=True)
    coarse, _ = pyramid.split(x, [2, 2], "area")
    (gradient,) = torch.autograd.grad(coarse.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"spectral_kernels::pyramid_adjoint: there is no formula .*; detach"):
        gradient.sum().backward()


def test_a_call_does_not_import_the_compiler():
    """torch._dynamo takes a second to import."""
    code = "import sys, torch, spectral_kernels as sk; sk.dct_expand(torch.zeros(1, 1, 4, 4), 2, t=0.5, seed=1); "
    code += "sk.forecast([torch.zeros(4)], [1.0]); print('torch._dynamo' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "False\n"


def test_a_tangent_is_refused_and_not_dropped():
    x = torch.randn(1, 1, 4, 4)
    with pytest.raises(NotImplementedError, match=r"plane_product: there is no formula for forward-mode"):
        torch.func.jvp(lambda x: sk.dct_expand(x, size=(8, 8), t=0.5, seed=1).x, (x,), (x,))
    dual = torch.autograd.forward_ad
    with dual.dual_level():
        with pytest.raises(NotImplementedError, match="forecast: there is no formula for forward-mode"):
            sk.forecast([dual.make_dual(x, x), x], [0.5, 0.5])
        sk.dct_expand(x, size=(8, 8), t=0.5, seed=1)
