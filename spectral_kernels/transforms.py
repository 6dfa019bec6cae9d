# SPDX-License-Identifier: Apache-2.0
"""Orthonormal transforms of planes."""

from torch import Tensor

from spectral_kernels import arguments, wavelets
from spectral_kernels.arguments import plain
from spectral_kernels.dispatch.product import Product
from spectral_kernels.dispatch.sharded import plane_product


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


def dwt2(x: Tensor, wavelet: str = "haar", dims: tuple[int, int] = (-2, -1), *, precision: str = "exact") -> Tensor:
    """One level of an orthonormal two-dimensional wavelet transform with periodic borders, T_h x T_w^T.

        [[LL, LH],        LL low in both axes       LH low along rows' axis, high along columns' (PyWavelets: cV)
         [HL, HH]]        HL the reverse (cH)       HH high in both (cD)

    Parameters
    ----------
    x : tensor of at least two dimensions, float32, float16, bfloat16 or float64, any strides; both sides even.
    wavelet : "haar", or with PyWavelets an orthogonal one, see `dwt_expand`.
    dims : the two dimensions, default the last two.
    precision : "exact" or "fast", as in `dct_expand`; for Haar both are the same.

    Returns
    -------
    Tensor like x, the four bands in its corners: `pywt.coeffs_to_array(pywt.wavedec2(x, wavelet, "periodization",
    level=1))[0]`. `idwt2` is its inverse. Further levels: apply it to the LL corner.

    Notes
    -----
    Haar takes sums of 2x2 blocks times exactly 1/2 and reads and writes every element once; a NaN stays in its block.
    """
    return _dwt("dwt2", "analysis", x, wavelet, dims, precision)


def idwt2(x: Tensor, wavelet: str = "haar", dims: tuple[int, int] = (-2, -1), *, precision: str = "exact") -> Tensor:
    """Inverse of `dwt2`, T_h^T x T_w: planes from the bands [[LL, LH], [HL, HH]]. Arguments as in `dwt2`."""
    return _dwt("idwt2", "synthesis", x, wavelet, dims, precision)


def _dwt(op: str, kind: str, x: Tensor, wavelet: str, dims: tuple[int, int], precision: str) -> Tensor:
    return _transform(op, wavelets.canonical(op, wavelet), kind, x, dims, precision, halves=True)


def _transform(
    op: str, basis: str, kind: str, x: Tensor, dims: tuple[int, int], precision: str, halves: bool = False,
    coarse: tuple[int, int] | None = None,
) -> Tensor:  # fmt: skip
    """`coarse` is where the levels of a wavelet lead to; other bases do not depend on it."""
    arguments.tensor(op, x)
    if not isinstance(dims, tuple | list) or len(dims) != 2 or not all(type(plain(dim)) is int for dim in dims):
        raise TypeError(f"{op}: dims must be a pair of integers, got {dims!r}")
    rows, columns = dims = plain(dims[0]), plain(dims[1])
    if not (-x.ndim <= rows < x.ndim and -x.ndim <= columns < x.ndim) or rows % x.ndim == columns % x.ndim:
        raise ValueError(f"{op}: dims must be two different dimensions of x, which has {x.ndim}, got {dims}")
    moved = x if (rows % x.ndim, columns % x.ndim) == (x.ndim - 2, x.ndim - 1) else x.movedim(dims, (-2, -1))
    name, size = arguments.state(op, moved)
    if halves and (size[0] % 2 or size[1] % 2):
        raise ValueError(f"{op}: both sides must be even, got {size}; pad x, or use dctn, which takes any size")
    coarse = (size[0] // 2, size[1] // 2) if halves else coarse or size
    product = Product(kind, "", basis, size, coarse, name, precision=arguments.precision(op, precision))
    y = plane_product(op, product, moved, t=0.0)
    return y if moved is x else y.movedim((-2, -1), dims)
