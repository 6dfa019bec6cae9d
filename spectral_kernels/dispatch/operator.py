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
from torch.utils import _pytree as pytree

# A copy of the package under another name, vendored or from the hub, has operators of its own.
NAMESPACE = __name__.removesuffix(".dispatch.operator").replace(".", "_")
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


class Operator:
    """A function as an operator for all devices, called as before.

    register_fake, register_autograd and register_vmap are those of `torch.library`; without a formula for gradients a
    backward pass is an error, without a rule for vmap slices are taken one by one. Tensors named in `mutates` are
    written to; no result shares memory with an argument.
    """

    def __init__(self, function: Callable, name: str, mutates: Iterable[str]):
        schema = torch.library.infer_schema(function, mutates_args=tuple(mutates))
        self.function, self._formula, self.vmap = function, (self._missing, None), None
        self._names = f"{NAMESPACE}::{name}", f"{NAMESPACE}::{name}.inference"
        for overload in (name, f"{name}.inference"):
            _LIBRARY.define(overload + schema, tags=torch.Tag.pt2_compliant_tag)
            _LIBRARY.impl(overload, _counting(function, mutates) if mutates else function, "CompositeExplicitAutograd")
        packet = getattr(getattr(torch.ops, NAMESPACE), name)
        self.default, self.inference = packet.default, packet.inference
        arguments = enumerate(self.default._schema.arguments)
        self._places = [place for place, argument in arguments if "Tensor" in str(argument.type)]
        self._pure = not mutates
        self.returns_list = any("List" in str(result.type) for result in self.default._schema.returns)
        if self._pure:
            formula = {"setup_context": self._setup_context, "lib": _LIBRARY}
            torch.library.register_autograd(self._names[0], self._backward, **formula)

    def __call__(self, *arguments: Any) -> Any:
        if torch.compiler.is_compiling():  # what is traced may be differentiated later
            return self.default(*arguments)
        if forward_ad._current_level >= 0 and any(map(_tangent, self._tensors(arguments))):
            raise self.no_tangents()
        if torch._C._are_functorch_transforms_active() and self._pure:
            lists = tuple(list(given) if isinstance(given, tuple) else given for given in arguments)
            leaves, structure = pytree.tree_flatten(lists)
            return _Transformed.apply(*leaves, structure, self)
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
        self.vmap = function
        for whole in self._names:
            torch.library.register_vmap(whole, function, lib=_LIBRARY)
        return function

    def register_autograd(self, backward: Callable, *, setup_context: Callable) -> None:
        self._formula = backward, setup_context

    def no_tangents(self) -> NotImplementedError:
        return NotImplementedError(
            f"{self._names[0]}: there is no formula for forward-mode derivatives; take them in reverse mode, or "
            "apply the operation, which is linear without its noise, to the tangent"
        )

    def _backward(self, ctx: Any, *gradients: Any) -> Any:
        with torch._C._DisableAutocast():  # a formula's types are its own, also where it is no custom op
            return self._formula[0](ctx, *gradients)

    def _setup_context(self, ctx: Any, inputs: tuple, output: Any) -> None:
        if self._formula[1] is not None:
            self._formula[1](ctx, inputs, output)

    def _missing(self, ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError(
            f"{self._names[0]}: there is no formula for gradients through this operator; detach what goes in"
        )


class _Transformed(torch.autograd.Function):
    """An operator under the transforms of torch.func, which cannot see the autograd of `torch.library`.

    Its inputs are the leaves of the operator's arguments, then how these are nested, then the operator.
    """

    @staticmethod
    def forward(*inputs: Any) -> Any:
        *leaves, structure, operator = inputs
        result = operator.inference(*pytree.tree_unflatten(leaves, structure))
        return tuple(result) if isinstance(result, list) else result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        *leaves, ctx.structure, ctx.operator = inputs
        ctx.operator._setup_context(ctx, pytree.tree_unflatten(leaves, ctx.structure), output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.needs_input_grad = pytree.tree_unflatten(ctx.needs_input_grad[:-2], ctx.structure)
        found = ctx.operator._backward(ctx, *([gradients] if ctx.operator.returns_list else gradients))
        found = pytree._broadcast_to_and_flatten(found, ctx.structure) or ()  # one None stands for a list of them
        return *found, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise ctx.operator.no_tangents()

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Any) -> Any:
        *leaves, structure, operator = inputs
        if operator.vmap is not None:
            dims = pytree.tree_unflatten(in_dims[:-2], structure)
            return operator.vmap(info, dims, *pytree.tree_unflatten(leaves, structure))
        results = []
        for i in range(info.batch_size):
            part = [x if dim is None else x.select(dim, i) for x, dim in zip(leaves, in_dims, strict=False)]
            results.append(operator(*pytree.tree_unflatten(part, structure)))
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])


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
