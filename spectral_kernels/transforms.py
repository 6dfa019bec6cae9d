# SPDX-License-Identifier: Apache-2.0
"""Orthonormal transforms of planes."""

from torch import Tensor

from spectral_kernels import arguments
from spectral_kernels.dispatch.planes import plane_product


def dctn(x: Tensor, dims: tuple[int, int] = (-2, -1), *, precision: str = "exact") -> Tensor:
    """Orthonormal two-dimensional DCT-II, T_h x T_w^T over two dimensions.

        y[k, l] = s_k s_l sum over i, j of x[i, j] cos(pi (2 i + 1) k / (2 h)) cos(pi (2 j + 1) l / (2 w))
        s_0 = sqrt(1 / n), s_k = sqrt(2 / n)

    Parameters
    ----------
    x : tensor of at least two dimensions, float32, float16, bfloat16 or float64, any strides, sides to 4096.
    dims : the two dimensions, default the last two.
    precision : "exact" or "fast", as in `dct_expand`.

    Returns
    -------
    Tensor like x. White noise stays white. `idctn` is its inverse; same result as `scipy.fft.dctn(norm="ortho")`.
    """
    return _transform("dctn", "dct", "analysis", x, dims, precision)


def idctn(x: Tensor, dims: tuple[int, int] = (-2, -1), *, precision: str = "exact") -> Tensor:
    """Inverse of `dctn`, the orthonormal DCT-III: T_h^T x T_w over two dimensions. Arguments as in `dctn`."""
    return _transform("idctn", "dct", "synthesis", x, dims, precision)


def _transform(op: str, basis: str, kind: str, x: Tensor, dims: tuple[int, int], precision: str) -> Tensor:
    arguments.tensor(op, x)
    if not isinstance(dims, tuple | list) or len(dims) != 2 or not all(isinstance(dim, int) for dim in dims):
        raise TypeError(f"{op}: dims must be a pair of integers, got {dims!r}")
    rows, columns = dims
    if not (-x.ndim <= rows < x.ndim and -x.ndim <= columns < x.ndim) or rows % x.ndim == columns % x.ndim:
        raise ValueError(f"{op}: dims must be two different dimensions of x, which has {x.ndim}, got {dims}")
    moved = x if (rows % x.ndim, columns % x.ndim) == (x.ndim - 2, x.ndim - 1) else x.movedim(dims, (-2, -1))
    name, size = arguments.state(op, moved)
    y = plane_product(
        moved, None, None, None, None, 0.0, kind, "", basis, list(size), list(size), name, "one", "",
        arguments.precision(op, precision), 0,
    )  # fmt: skip
    return y if moved is x else y.movedim((-2, -1), dims)
