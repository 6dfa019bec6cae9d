# SPDX-License-Identifier: Apache-2.0
"""How a function of this room becomes an operator of PyTorch: `torch.ops.spectral_kernels.NAME`.

`torch.library.custom_op` does the same at the price of all else in a small call: it puts four frames of Python around
every call, imports torch._dynamo in the first one, and finds out in a Python kernel of autograd, behind one more
conversion of all arguments, that no gradient is wanted. Here the dispatcher calls the function itself, and a call
without gradients takes a second overload, `NAME.inference`, which autograd passes by in C++.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# A copy of the package under another name, vendored or from the hub, has operators of its own.
NAMESPACE = __name__.removesuffix(".dispatch.operator").replace(".", "_")
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


class Operator:
    """A function as an operator for all devices, called as before.

    register_fake, register_autograd and register_vmap are those of `torch.library`; without a formula for gradients a
    backward pass is an error. Tensors named in `mutates` are written to; no result shares memory with an argument.
    """

    def __init__(self, function: Callable, name: str, mutates: Iterable[str]):
        schema = torch.library.infer_schema(function, mutates_args=tuple(mutates))
        self.function, self._formula = function, (self._missing, None)
        self._names = f"{NAMESPACE}::{name}", f"{NAMESPACE}::{name}.inference"
        for overload in (name, f"{name}.inference"):
            _LIBRARY.define(overload + schema, tags=torch.Tag.pt2_compliant_tag)
            _LIBRARY.impl(overload, _counting(function, mutates) if mutates else function, "CompositeExplicitAutograd")
        packet = getattr(getattr(torch.ops, NAMESPACE), name)
        self.default, self.inference = packet.default, packet.inference
        arguments = enumerate(self.default._schema.arguments)
        self._places = [place for place, argument in arguments if "Tensor" in str(argument.type)]
        if not mutates:
            formula = {"setup_context": self._setup_context, "lib": _LIBRARY}
            torch.library.register_autograd(self._names[0], self._backward, **formula)

    def __call__(self, *arguments: Any) -> Any:
        if torch.compiler.is_compiling():  # what is traced may be differentiated later
            return self.default(*arguments)
        if forward_ad._current_level >= 0 and any(map(_tangent, self._tensors(arguments))):
            raise NotImplementedError(
                f"{self._names[0]}: there is no formula for forward-mode derivatives; take them in reverse mode, or "
                "apply the operation, which is linear without its noise, to the tangent"
            )
        wanted = torch.is_grad_enabled() and any([tensor.requires_grad for tensor in self._tensors(arguments)])
        return (self.default if wanted else self.inference)(*arguments)

    def _tensors(self, arguments: tuple) -> list[Tensor]:
        found = []
        for place in self._places:
            given = arguments[place]
            if isinstance(given, Tensor):
                found.append(given)
            elif given is not None:
                found.extend(given)
        return found

    def register_fake(self, function: Callable) -> Callable:
        for whole in self._names:
            torch.library.register_fake(whole, function, lib=_LIBRARY)
        return function

    def register_vmap(self, function: Callable) -> Callable:
        for whole in self._names:
            torch.library.register_vmap(whole, function, lib=_LIBRARY)
        return function

    def register_autograd(self, backward: Callable, *, setup_context: Callable) -> None:
        self._formula = backward, setup_context

    def _backward(self, ctx: Any, *gradients: Any) -> Any:
        return self._formula[0](ctx, *gradients)

    def _setup_context(self, ctx: Any, inputs: tuple, output: Any) -> None:
        if self._formula[1] is not None:
            self._formula[1](ctx, inputs, output)

    def _missing(self, ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError(
            f"{self._names[0]}: there is no formula for gradients through this operator; detach what goes in"
        )


def operator(name: str, mutates: Iterable[str] = ()) -> Callable[[Callable], Operator]:
    """Make the decorated function an `Operator` of this name."""
    return lambda function: Operator(function, name, mutates)


def _counting(function: Callable, mutates: Iterable[str]) -> Callable:
    """The function, and a new version of what it wrote to: by these autograd knows a saved tensor that has changed."""
    places = [list(inspect.signature(function).parameters).index(name) for name in mutates]

    def counted(*arguments: Any) -> Any:
        result = function(*arguments)
        for place in places:
            if not arguments[place].is_inference():
                torch.autograd.graph.increment_version(arguments[place])
        return result

    return counted


def _tangent(tensor: Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None
