# SPDX-License-Identifier: Apache-2.0
"""What the public ops ask of their arguments, once for all of them: states, sizes, times, precision."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor  # pyright: ignore[reportMissingImports]

from spectral_kernels.cached import cached
from spectral_kernels.layouts import Layout, grid_of

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LARGEST_SIDE = 4096


def plain(value: Any) -> Any:
    """NumPy's numbers and arrays as those of Python; all else as it is."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def readable(values: Tensor) -> bool:
    """Whether numbers of a tensor can be seen here and now: not on a device, not traced, not fake, not mapped."""
    return (
        values.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and type(values) in (Tensor, torch.nn.Parameter)
        and not is_functorch_wrapped_tensor(values)
    )


def whole(op: str, name: str, values: Tensor) -> None:
    """One number per sample is the same tensor in every process, also where samples are sharded."""
    if hasattr(values, "device_mesh"):
        raise TypeError(f"{op}: {name} must be a plain tensor of all samples, got a DTensor; use {name}.full_tensor()")


def tensor(op: str, x: Tensor, name: str = "x") -> None:
    """A dense floating-point tensor of a supported type."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{op}: {name} must be a torch.Tensor, got {type(x).__name__}; torch.from_numpy turns arrays into one"
        )
    if x.dtype not in FLOATS:
        raise TypeError(
            f"{op}: {name} must be float32, float16, bfloat16 or float64, got {x.dtype}; convert with {name}.to(...)"
        )
    if x.layout != torch.strided or x.is_nested:
        kind = "nested" if x.is_nested else x.layout
        raise TypeError(f"{op}: {name} must be a dense tensor, got a {kind} one; use {name}.to_dense() or a padded one")


def state(op: str, x: Tensor, layout: Layout | None = None, name: str = "x") -> tuple[str, tuple[int, int]]:
    """Checks a state; gives its layout's name and plane size."""
    tensor(op, x, name)
    kind, size = grid_of(op, x, layout, name)
    if max(size) > LARGEST_SIDE:
        raise ValueError(f"{op}: sides up to {LARGEST_SIDE} are supported, got {size}; work on tiles of the image")
    return kind, size


def switch(op: str, name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{op}: {name} must be True or False, got {value!r}")


def samples_of(x: Tensor) -> int:
    """The first dimension of at least three is the batch; a lone plane is one sample."""
    return x.shape[0] if x.ndim > 2 else 1


def target_size(op: str, given: tuple[int, int], scale, size, grows: bool) -> tuple[int, int]:
    """The output's plane size from exactly one of `scale` (output over input, a number or a pair) and `size`."""
    if (scale is None) == (size is None):
        both = "neither" if scale is None else f"both (scale={scale}, size={size})"
        raise ValueError(f"{op}: give exactly one of scale and size, got {both}")
    if size is not None:
        target = _pair(op, "size", size)
        if not _integers(target):
            target = tuple(map(plain, target))
            if not _integers(target):
                raise TypeError(f"{op}: size must be a pair of integers (height, width), got {size!r}")
    else:
        factors: tuple[Any, Any] = (scale, scale) if _number(scale) else _factors(op, scale)
        for factor in factors:
            if not _number(factor):
                raise TypeError(f"{op}: scale must be a number or a pair of numbers, got {scale!r}")
            if not (1 < factor <= LARGEST_SIDE if grows else 0 < factor < 1):
                rule, other = ("above 1", "truncate") if grows else ("between 0 and 1", "expand")
                rule += f" and at most {LARGEST_SIDE}" if grows else ""
                raise ValueError(
                    f"{op}: scale is output over input and must be {rule}, got {scale}; "
                    f"for the other direction use {op.split('_')[0]}_{other}, to keep one side give size"
                )
        target = (_round(given[0] * factors[0]), _round(given[1] * factors[1]))
    if grows and (target[0] < given[0] or target[1] < given[1]):
        step = "" if op == "spectral_lift" else f"; to shrink use {op.split('_')[0]}_truncate"
        raise ValueError(f"{op}: size must be at least the input's {given}, got {target}{step}")
    if not grows and (target[0] > given[0] or target[1] > given[1]):
        raise ValueError(
            f"{op}: size must be at most the input's {given}, got {target}; to grow use {op.split('_')[0]}_expand"
        )
    if min(target) < 1 or max(target) > LARGEST_SIDE:
        raise ValueError(f"{op}: both output sides must be between 1 and {LARGEST_SIDE}, got {target}")
    return target


def whole_patches(op: str, name: str, target: tuple[int, int]) -> None:
    """A target size in 2x2 patches must be even."""
    if name == "patches" and any(side % 2 for side in target):
        raise ValueError(f"{op}: sizes in 2x2 patches must be even, got {target}; give an even size=")


def _factors(op: str, scale) -> tuple:
    """A scale that is no number of Python's: a pair, or a number of NumPy's."""
    scale = plain(scale)
    single = isinstance(scale, str) or not isinstance(scale, Sequence)
    return (scale, scale) if single else tuple(map(plain, _pair(op, "scale", scale)))


def _pair(op: str, name: str, value) -> tuple:
    value = value if isinstance(value, Sequence) else plain(value)
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise TypeError(f"{op}: {name} must be a pair (height, width), got {value!r}")
    return tuple(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _integers(pair: tuple) -> bool:
    return all(isinstance(side, int | torch.SymInt) and not isinstance(side, bool) for side in pair)


def _round(side: float) -> int:
    return max(1, math.floor(side + 0.5))


def times(op: str, t, samples: int, device: torch.device, zero: bool = True) -> tuple[float | None, Tensor | None]:
    """A time as (number, None), or (None, float64 tensor [samples]) when it is a tensor or one per sample.

    `zero` says whether 0 is a time the op can do with. Times that can be seen without waiting for a device are checked
    here; others turn into NaN when out of range. While torch.compile traces, a number comes with its tensor, which the
    op must be given: a number inside the graph would compile it anew for every value.
    """
    if isinstance(t, Tensor):
        whole(op, "t", t)
        if t.requires_grad:
            raise ValueError(f"{op}: t is a constant of the op and carries no gradient; pass t.detach()")
        if not t.dtype.is_floating_point:
            raise TypeError(
                f"{op}: a tensor of t must be floating point, noise levels in [0, 1], got {t.dtype}; divide diffusers' "
                "timesteps by 1000"
            )
        if t.ndim > 1 or (t.ndim == 1 and t.shape[0] != 1 and t.shape[0] != samples):
            raise ValueError(
                f"{op}: t must be one number or hold one per sample ({samples}), got the shape {tuple(t.shape)}"
            )
        seen = readable(t)
        if seen:
            for value in t.tolist() if t.ndim else [t.item()]:
                _in_range(op, value, zero)
        elif t.device != device and t.device.type != "cpu":
            raise ValueError(f"{op}: t is on {t.device} and x on {device}; move one of them")
        t = t.to(device=device, dtype=torch.float64).expand(samples)
        return None, t.clone() if seen else torch.where((t >= 0) & (t <= 1), t, torch.nan)
    if isinstance(t, np.ndarray):
        t = t.tolist()
    if isinstance(t, Sequence) and not isinstance(t, str):
        if len(t) != samples:
            raise ValueError(f"{op}: t must be one number or hold one per sample ({samples}), got {len(t)}")
        numbers = tuple(_in_range(op, value, zero) for value in t)
        if torch.compiler.is_compiling() and numbers:
            return None, torch.stack(
                [torch.zeros((), dtype=torch.float64, device=device) + number for number in numbers]
            )
        return None, _on_device(numbers, device)
    number = _in_range(op, t, zero)
    if torch.compiler.is_compiling():
        return number, torch.zeros(samples, dtype=torch.float64, device=device) + number
    return number, None


@cached(maxsize=64)
@torch.inference_mode(False)  # the next call with these numbers may want a gradient
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=device)


def _in_range(op: str, t: Any, zero: bool) -> float:
    if not isinstance(t, int | float | torch.SymFloat):
        t = plain(t)
        if isinstance(t, Tensor):
            raise TypeError(f"{op}: t must hold floats, got a tensor among them; use one tensor, torch.stack(t)")
    if isinstance(t, bool) or not isinstance(t, int | float | torch.SymFloat):
        raise TypeError(f"{op}: t must be a float, a tensor or a sequence of floats, got {type(t).__name__} {t!r}")
    if not 0 <= t <= 1:
        raise ValueError(
            f"{op}: t is the noise level and must lie in [0, 1], got {t}; divide diffusers' timesteps by 1000"
        )
    if not zero and t == 0:
        raise ValueError(f"{op}: t must be above 0, got {t}; at t = 0 the state is clean and has no velocity to lift")
    # float() of a symbolic float would compile anew for each value; it counts as a float.
    return float(t) if isinstance(t, int) else t  # pyright: ignore[reportReturnType]


def tapered(op: str, basis: str, taper: float) -> str:
    """The basis with its taper in its name."""
    if not _number(taper):
        taper = plain(taper)
    if not _number(taper):
        raise TypeError(f"{op}: taper must be a number, got {taper!r}")
    if not 0 <= taper <= 1:
        raise ValueError(f"{op}: taper is a share of the band and must lie in [0, 1], got {taper}")
    if taper and basis != "dct":
        raise ValueError(f"{op}: taper needs the cosine basis, got basis {basis!r}; leave taper at 0")
    return f"{basis}~{float(taper)!r}" if taper else basis


def precision(op: str, value: str) -> str:
    if value not in ("exact", "fast", "tf32", "bf16x3"):
        raise ValueError(f'{op}: precision must be "exact", "fast", "tf32" or "bf16x3", got {value!r}')
    return value
