# SPDX-License-Identifier: Apache-2.0
"""What torch.library.custom_op would do for an operator, done at the price of one call of the dispatcher."""

import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import spectral_kernels as sk
from spectral_kernels.dispatch import forecast, planes

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
    assert out._version > before
    with torch.inference_mode():
        forecast.update_moments(torch.zeros(2, 4), torch.ones(4), torch.ones(2))  # such tensors have no version


def test_without_a_formula_a_gradient_is_an_error():
    positions = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    weights = forecast.chebyshev_weights(positions, torch.tensor([3.0], dtype=torch.float64), 10.0, 1, 0.1, 0.5)
    with pytest.raises(RuntimeError, match=r"spectral_kernels::chebyshev_weights: there is no formula .*; detach"):
        weights.sum().backward()


LOSSES = {
    "planes": lambda x: sk.dct_expand(x, 1.5, t=[0.3, 0.6], seed=1).x.square().sum(),
    "noise": lambda x: sk.dct_expand(x[:, :, :2, :2], 2, t=0.3, noise=x).x.square().sum(),
    "features": lambda x: sk.forecast([x, 2 * x.square(), x + 1], [0.5, 0.25, -0.5]).square().sum(),
    "levels": lambda x: sum((level**3).sum() for level in sk.laplacian_pyramid(x, 2)),
    "image": lambda x: sk.laplacian_reconstruct([x[:, :, :2, :2], x]).square().sum(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_transforms_of_functions_give_the_gradients_of_autograd(name):
    """torch.func.grad alone and under vmap; vjp, which jacrev is made of; two of them, one in the other."""
    loss, x = LOSSES[name], torch.randn(3, 2, 1, 4, 4)
    leaves = [sample.clone().requires_grad_() for sample in x]
    gradients = torch.stack([torch.autograd.grad(loss(leaf), leaf)[0] for leaf in leaves])
    assert torch.equal(torch.func.grad(loss)(x[0]), gradients[0])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(x), gradients)
    value, pull = torch.func.vjp(loss, x[0])
    assert torch.equal(value, loss(x[0])) and torch.equal(pull(torch.ones(()))[0], gradients[0])

    def norm(x, gradient):
        return gradient(loss)(x).square().sum()

    twice = torch.func.grad(lambda x: norm(x, torch.func.grad))(x[0])
    found = norm(leaves[0], lambda loss: lambda x: torch.autograd.grad(loss(x), x, create_graph=True)[0])
    torch.testing.assert_close(twice, torch.autograd.grad(found, leaves[0])[0])


def test_transforms_of_functions_without_a_formula():
    with pytest.raises(RuntimeError, match="chebyshev_weights: there is no formula for gradients"):
        positions = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
        given = torch.tensor([3.0], dtype=torch.float64), 10.0, 1, 0.1, 0.5
        torch.func.grad(lambda x: forecast.chebyshev_weights(x, *given).sum())(positions)


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
