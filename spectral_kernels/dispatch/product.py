# SPDX-License-Identifier: Apache-2.0
"""What a plane product is, besides its tensors: tables, weights, rounding. Shared by the backends' ways in."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from spectral_kernels import bases, exact, wavelets


class Product(NamedTuple):
    """What a plane product is, besides its tensors and numbers: the last arguments of the custom op, in its order.

    kind, second     tables of the first and the second term; second is "" without one
    formula, part    the weights, see `weights`
    precision        "exact", or "fast" and its variants "tf32" and "bf16x3"; float64 inputs stay plainly float64
    """

    kind: str
    second: str
    basis: str
    fine: tuple[int, int]
    coarse: tuple[int, int]
    layout: str = "planes"
    formula: str = "one"
    part: str = ""
    precision: str = "exact"
    stream: int = 0

    @property
    def result(self) -> tuple[int, int]:
        """Plane size of the result."""
        return self.coarse if self.kind == "down" else self.fine

    @property
    def ratio(self) -> float:
        """r = sqrt(H W / (h w))."""
        return math.sqrt(self.fine[0] * self.fine[1] / (self.coarse[0] * self.coarse[1]))

    @property
    def adds(self) -> bool:
        """Whether gamma can be anything but 0: where it cannot, gamma E is left out, for E may hold a NaN."""
        return self.formula in ("lift", "hold") and self.part != "first"

    @property
    def levels(self) -> int:
        """Levels of Haar that work on blocks, without tables, see `dispatch.haar`; 0 for a product of tables."""
        return wavelets.local_levels(self.basis, self.fine, self.coarse)

    @property
    def masked(self) -> bool:
        """Whether E counts as 0 in the coarse corner; at a tapered edge (`bases.band`) it comes with its weights."""
        return self.second == "synthesis" and not self.tapered

    @property
    def tapered(self) -> bool:
        return "~" in self.basis

    def mode(self, x: Tensor) -> str:
        """The arithmetic: "double", "exact" or "fast". Variants of "fast" differ in a GPU's products alone."""
        if x.dtype == torch.float64:
            return "double"
        return "exact" if self.precision == "exact" else "fast"

    def bits(self, length: int) -> int:
        """Bits per slice of a product that sums over so many terms."""
        return exact.bits_for(length)

    def names(self, kind: str) -> tuple[tuple[str, str, int, int], ...]:
        """What `bases` calls the row and the column table of one term."""
        return tuple((self.basis, kind, self.fine[axis], self.coarse[axis]) for axis in (0, 1))

    def tables(self, kind: str, mode: str, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row and column tables of one term: slices [2, m, K] in mode "exact", else [m, K] as float32 or float64."""
        rows, columns = self.names(kind)
        if mode == "exact":
            return bases.sliced(*rows, device), bases.sliced(*columns, device)
        dtype = torch.float64 if mode == "double" else torch.float32
        return bases.rounded(*rows, dtype, device), bases.rounded(*columns, dtype, device)


class Operands(NamedTuple):
    """What a backend works on: views [B, C1, C2, h/p, p, w/p, p] of x, E and the result, seeds, and times.

    Seeds are int64 [B] or count up from `base_seed`; times are float64 [B] or all `t`.
    """

    out: Tensor
    x: Tensor
    other: Tensor | None
    seeds: Tensor | None
    times: Tensor | None
    base_seed: int | None
    t: float

    def draws(self, product: Product) -> bool:
        """Whether noise is drawn: E is not given, and counts."""
        return product.second != "" and self.other is None and not (self.times is None and self.t == 0)


def weights(formula: str, part: str, t: float | Tensor, ratio: float) -> tuple[float | Tensor, ...]:
    """(alpha, beta, gamma) in float64. With u = 1 + (r - 1) t:

    expand     r / u, t, 0            fill      1, t, 0
    truncate   u / r, 0, 0            one       1, 0, 0
    lift       u, -u / (r t), u / (r t)         written as 1 / t' with t' = (r t) / u
    hold       1, -1 / t, 1 / t                 the lift without alignment

    Parts are the adjoints: "first" is (alpha, 0, 0), "second" is (alpha beta, 0, gamma).
    """
    u = 1.0 + (ratio - 1.0) * t
    zero = 0.0 * t
    one = zero + 1.0
    if formula == "lift":
        gamma = 1.0 / ((ratio * t) / u)
        values = (u, -gamma, gamma)
    elif formula == "hold":
        gamma = 1.0 / t
        values = (one, -gamma, gamma)
    elif formula == "expand":
        # A number over a tensor is a reciprocal and a product in PyTorch, rounded twice: divide tensors.
        values = ((zero + ratio) / u, t, zero)
    elif formula == "fill":
        values = (one, t, zero)
    elif formula == "truncate":
        values = (u / ratio, zero, zero)
    else:
        values = (one, zero, zero)
    if part == "first":
        return values[0], zero, zero
    if part == "second":
        return values[0] * values[1], zero, values[2]
    return values


def canonical(y: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 -> float32 -> dtype, every NaN the same quiet NaN."""
    if dtype == torch.float64:
        return y
    y = y.to(torch.float32)
    return y.to(dtype).masked_fill_(y.isnan(), torch.nan)


def plane_of(view: Tensor) -> tuple[int, int]:
    return view.shape[3] * view.shape[4], view.shape[5] * view.shape[6]


def flat(view: Tensor) -> Tensor:
    """Planes [P, h, w] of a view."""
    return view.reshape(-1, *plane_of(view))
