# SPDX-License-Identifier: Apache-2.0
"""Spectral resolution changes of diffusion states: expansion, truncation, and the lift between them.

Source: Spectral Progressive Diffusion, section 4.1 and appendix A.2. Noise levels t run from 0 (data) to 1 (noise),
z_t = (1 - t) x + t eps; r = sqrt(H W / (h w)) is the resolution ratio.
"""

import math
from typing import Any, NamedTuple

from torch import Tensor

from spectral_kernels import arguments, bases, wavelets
from spectral_kernels.dispatch.product import Product
from spectral_kernels.dispatch.sharded import plane_product
from spectral_kernels.layouts import Layout, resized
from spectral_kernels.noise import seeds_for
from spectral_kernels.schedule import align_time


class Expanded(NamedTuple):
    """An expanded state and its time."""

    x: Tensor
    t: float | Tensor


def dct_expand(
    x: Tensor,
    scale=None,
    *,
    t,
    size=None,
    seed=None,
    noise: Tensor | None = None,
    align: bool = True,
    layout: Layout | None = None,
    precision: str = "exact",
    taper: float = 0,  # not 0.0: torch.compile takes a float, even a default, for a number that changes
) -> Expanded:
    """Raise the resolution of a diffusion state in the cosine basis: keep its spectrum, fill the rest with noise.

        y  = kappa T_H^T [ T_h x T_w^T in the low corner, t E elsewhere ] T_W
        kappa = r / (1 + (r - 1) t),    t' = r t / (1 + (r - 1) t),    r = sqrt(H W / (h w))

    T_n is the orthonormal DCT-II, E standard normal. The result is a state of the flow at the noisier time t'.

    Parameters
    ----------
    x : state [..., h, w] at time t, or tokens with `layout`; float32, float16, bfloat16 or float64, any strides. With
        three or more dimensions the first is the batch.
    scale : output over input size, a number above 1 or a pair (height, width); sides are rounded half up.
    t : noise level in [0, 1], a float or one per sample (sequence or tensor).
    size : output size (H, W) in place of `scale`, at least the input's; sides to 4096.
    seed : int in [0, 2^63): sample b draws from seed + b, so it gets the same noise alone or in any batch. Or one int
        per sample, an int64 tensor, a torch.Generator, or a list of them. See `normal`.
    noise : spectral noise [..., H, W] like the output in place of `seed`; its low corner [:h, :w] is ignored.
        Exactly one of seed and noise must be given unless t is 0.
    align : False keeps kappa = 1 and t' = t (the state is then no state of the flow).
    layout : how planes lie in memory, default `Planes()`; the output has the same layout at the new size.
    precision : "exact", the same bits on every backend, correctly rounded but for about one element in three thousand.
        Without a promise of bits, by products of float32 and by their largest relative error, ||error|| / ||y||:
        "fast" 2e-6 (float32 on a CPU, on a GPU tf32x3 or where there is none float32), "bf16x3" 2.5e-5 (three bfloat16
        products on a GPU), "tf32" 4e-3 (one tf32 product on a GPU, 10 bits; float32 elsewhere). On a CPU the three
        are the same. Half types round the output in addition.
    taper : share in [0, 1] of the band over which, at its edge, the state fades out and noise fades in: weights w with
        a quarter cosine there along each axis that grows, w_k w_l on the state, sqrt(1 - (w_k w_l)^2) on noise of all
        frequencies. The noise keeps unit variance, the signal there weakens. 0, the default, is the paper's hard edge.
        The drawn noise is then written to memory and read again. No gain was measured: `docs/taper.md`.

    Returns
    -------
    Expanded(x, t) : the state at the new size, in the dtype of `x`, and its time t' (float64 tensor for many times).

    Raises
    ------
    ValueError, TypeError : for arguments that do not fit, before anything is computed.

    Notes
    -----
    In the exact tier a plane that holds a NaN or an infinity becomes NaN everywhere. Gradients flow to `x` and `noise`;
    `torch.func.vmap` adds the mapped dimension to the batch, with the bits of a loop.
    One `torch.compile` graph with dynamic=True serves all sizes, ratios, times and seeds. Compilers other than "eager"
    compile anew for each value of a float that leaves the graph (t' of a float t: give t as a tensor) or that sizes
    depend on (a fractional `scale`: give `size`; integers are no floats).
    Source: Spectral Progressive Diffusion, equations of section 4.1; `reference/expand.py` is the definition.
    """
    basis = arguments.tapered("dct_expand", "dct", taper)
    return _expand("dct_expand", basis, x, scale, t, size, seed, noise, align, layout, precision)


def dct_truncate(
    x: Tensor,
    scale=None,
    *,
    size=None,
    normalize: bool = True,
    t=0,
    layout: Layout | None = None,
    precision: str = "exact",
) -> Tensor:
    """Lower the resolution of a state in the cosine basis: keep the low corner of its spectrum.

        y = alpha T_h^T (T_H x T_W^T)[:h, :w] T_w,    alpha = (1 + (r - 1) t) / r

    Parameters
    ----------
    x : state [..., H, W], or tokens with `layout`; dtypes and strides as in `dct_expand`.
    scale : output over input size, a number in (0, 1) or a pair; sides are rounded half up.
    size : output size (h, w) in place of `scale`, at most the input's.
    normalize : divide by kappa(t), so that a clean image keeps its mean (t = 0, division by r). False: alpha = 1.
    t : coarse time, a float or one per sample; `x` is then a state in full-resolution coordinates, of which the state
        at time t is returned. The way back is `spectral_lift` for velocities and `dct_expand` for states.
    layout, precision : as in `dct_expand`.

    Returns
    -------
    Tensor at the new size, in the dtype and layout of `x`. `dct_expand(dct_truncate(x, size=s), size=S, t=0)` is the
    low-pass of x.
    """
    return _truncate("dct_truncate", "dct", x, scale, size, normalize, t, layout, precision)


def dwt_expand(
    x: Tensor,
    scale=None,
    *,
    t,
    size=None,
    seed=None,
    noise: Tensor | None = None,
    wavelet: str = "haar",
    align: bool = True,
    layout: Layout | None = None,
    precision: str = "exact",
) -> Expanded:
    """Raise the resolution of a diffusion state by wavelet levels; see `dct_expand` for all other arguments.

        y = kappa T_H^T [ x in the low corner, t E elsewhere ] T_W,    H / h and W / w powers of two

    The coarse state is the lowest band of an orthonormal wavelet transform with periodic borders; T of k levels holds
    the lowpass of k levels, then the details of level k, ..., 1.

    Parameters
    ----------
    scale, size : each side grows by 1, 2, 4, ... times.
    wavelet : "haar", or with PyWavelets any orthogonal one of finite filter: db2 to db38, sym2 to sym20, coif1 to
        coif17. Haar with the same factor of 2, 4, 8 or 16 on both sides works on blocks of that size, in one read and
        one write with factors of exactly 1/2; all precisions are then the same, a NaN stays in its block, and every
        level splits the lowest band of the one before, [[LL, LH], [HL, HH]] in its corner, like `pywt.wavedec2`.

    Returns
    -------
    Expanded(x, t), as for `dct_expand`. Source: Spectral Progressive Diffusion, section 5.4 (wavelet variant);
    `reference/wavelets.py` is the definition. Symlets of PyWavelets are orthonormal to 1.4e-11, the others to 3e-16.
    """
    basis = wavelets.canonical("dwt_expand", wavelet)
    return _expand("dwt_expand", basis, x, scale, t, size, seed, noise, align, layout, precision)


def dwt_truncate(
    x: Tensor,
    scale=None,
    *,
    size=None,
    wavelet: str = "haar",
    normalize: bool = True,
    t=0,
    layout: Layout | None = None,
    precision: str = "exact",
) -> Tensor:
    """Lower the resolution of a state to the lowest band of a wavelet; see `dct_truncate` and `dwt_expand`.

    y = alpha (T_H x T_W^T)[:h, :w],    alpha = (1 + (r - 1) t) / r,    H / h and W / w powers of two
    """
    basis = wavelets.canonical("dwt_truncate", wavelet)
    return _truncate("dwt_truncate", basis, x, scale, size, normalize, t, layout, precision)


def fft_expand(
    x: Tensor,
    scale=None,
    *,
    t,
    size=None,
    seed=None,
    noise: Tensor | None = None,
    align: bool = True,
    layout: Layout | None = None,
    precision: str = "exact",
) -> Expanded:
    """Raise the resolution of a diffusion state in the real Fourier basis; see `dct_expand` for all arguments.

        y  = kappa T_H^T [ T_h x T_w^T in the low corner, t E elsewhere ] T_W
        T_n rows: 1, cos 1, sin 1, cos 2, sin 2, ... of the angles 2 pi j / n, orthonormal

    Any pairing of even and odd sizes. An even n has one row for its highest frequency n / 2, (-1)^j / sqrt(n): growing,
    its coefficient becomes that of the new grid's cosine of the same frequency, unchanged, so that white noise stays
    white; the sine is new and filled with noise. (Interpolation that keeps values at the old points would divide the
    coefficient by sqrt(2) there.) The image is continued periodically: its borders see the other side.

    Returns
    -------
    Expanded(x, t), as for `dct_expand`. Source: Spectral Progressive Diffusion, section 4.1 and its Fourier variant,
    corrected (`reference/errata.py`).
    """
    return _expand("fft_expand", "fft", x, scale, t, size, seed, noise, align, layout, precision)


def fft_truncate(
    x: Tensor,
    scale=None,
    *,
    size=None,
    normalize: bool = True,
    t=0,
    layout: Layout | None = None,
    precision: str = "exact",
) -> Tensor:
    """Lower the resolution of a state in the real Fourier basis; see `dct_truncate` for all arguments.

        y = alpha T_h^T (T_H x T_W^T)[:h, :w] T_w,    alpha = (1 + (r - 1) t) / r

    An even output keeps the cosine of its highest frequency and drops the sine, the reverse of `fft_expand`.
    """
    return _truncate("fft_truncate", "fft", x, scale, size, normalize, t, layout, precision)


def spectral_lift(
    z: Tensor,
    v: Tensor,
    *,
    t,
    size=None,
    align: bool = True,
    basis: str = "dct",
    layout: Layout | None = None,
    precision: str = "exact",
    taper: float = 0,
) -> Tensor:
    """Lift a coarse model's velocity to full-resolution coordinates.

        v' = (z - r up(x0)) / t',    x0 = down(z) t / t' - t v,    t' = r t / (1 + (r - 1) t)

    In these coordinates the state stays at full resolution and the progressive method is a cheaper velocity: the low
    band from the coarse model, and z / t' for the high band, which is noise. `down` and `up` are truncation and
    expansion without factors.

    Parameters
    ----------
    z : state [..., H, W] in full-resolution coordinates at the aligned time t'.
    v : velocity [..., h, w] of the coarse model at `dct_truncate(z, size=(h, w), t=t)` and time t; dtype of z.
    t : coarse time in (0, 1], a float or one per sample.
    size : (H, W), needed with a layout of tokens; else that of z.
    align : False for states without alignment, `dct_truncate(z, normalize=False)` and t' = t:
        v' = up(v) + (z - low-pass of z) / t.
    basis : "dct", "fft", or the name of a wavelet, see `dwt_expand`.
    layout : layout of v with its grid (h, w); z and the result have the same layout at `size`.
    precision : as in `dct_expand`.
    taper : as in `dct_expand`: `up` then fades x0 out at the edge of the band, where v' counts on it less. DCT only.

    Returns
    -------
    Tensor like z. Source: derived from Spectral Progressive Diffusion, section 4.1; see docs of `dct_expand`.
    """
    op = "spectral_lift"
    name, coarse = arguments.state(op, v, layout, "v")
    arguments.switch(op, "align", align)
    if not isinstance(basis, str) or basis not in bases.ANALYSIS:
        basis = wavelets.canonical(op, basis, f"a basis other than {', '.join(bases.ANALYSIS)}")
    if size is None:
        if name != "planes":
            raise ValueError(f"{op}: with a layout of tokens give size=(H, W), the grid of z")
        size = arguments.state(op, z, name="z")[1]
        if size[0] < coarse[0] or size[1] < coarse[1]:
            raise ValueError(
                f"{op}: z must be at least as large as v, got {size} and {coarse}; z is the state at full resolution, "
                "v the coarse model's velocity"
            )
    fine = arguments.target_size(op, coarse, None, size, grows=True)
    _levels(op, basis, fine, coarse)
    basis = arguments.tapered(op, basis, taper)
    arguments.whole_patches(op, name, fine)
    expected = resized(v.shape, name, fine)
    _like(op, "z", z, v, expected)
    samples = arguments.samples_of(v)
    time, times = arguments.times(op, t, samples, v.device, zero=False)
    product = Product(
        "up", "lowpass", basis, fine, coarse, name, "lift" if align else "hold",
        precision=arguments.precision(op, precision),
    )  # fmt: skip
    return plane_product(op, product, v, z, times=times, t=_scalar(time, times))


def _expand(op, basis, x, scale, t, size, seed, noise, align, layout, precision) -> Expanded:
    name, coarse = arguments.state(op, x, layout)
    arguments.switch(op, "align", align)
    fine = arguments.target_size(op, coarse, scale, size, grows=True)
    _levels(op, basis, fine, coarse)
    arguments.whole_patches(op, name, fine)
    samples = arguments.samples_of(x)
    time, times = arguments.times(op, t, samples, x.device)
    if seed is not None and noise is not None:
        raise ValueError(f"{op}: give exactly one of seed and noise, got both")
    if seed is None and noise is None and time != 0:
        raise ValueError(f"{op}: t = {t} needs noise for the new frequencies; give seed=... or noise=...")
    base_seed, seeds = (None, None) if seed is None else seeds_for(op, seed, samples, x.device)
    if noise is not None:
        _like(op, "noise", noise, x, resized(x.shape, name, fine))
    product = Product(
        "up", "" if seed is None and noise is None else "synthesis", basis, fine, coarse, name,
        "expand" if align else "fill", precision=arguments.precision(op, precision),
    )  # fmt: skip
    y = plane_product(op, product, x, noise, seeds, times, base_seed, t=_scalar(time, times))
    original: Any = times if time is None else time
    if not align:
        # A copy of a tensor: the next call may share it.
        return Expanded(y, original.clone() if isinstance(original, Tensor) else original)
    ratio = math.sqrt(fine[0] * fine[1] / (coarse[0] * coarse[1]))
    return Expanded(y, align_time(original, ratio)[0])


def _truncate(op, basis, x, scale, size, normalize, t, layout, precision) -> Tensor:
    name, fine = arguments.state(op, x, layout)
    arguments.switch(op, "normalize", normalize)
    coarse = arguments.target_size(op, fine, scale, size, grows=False)
    _levels(op, basis, fine, coarse)
    arguments.whole_patches(op, name, coarse)
    time, times = arguments.times(op, t, arguments.samples_of(x), x.device)
    if not normalize and time != 0:
        raise ValueError(f"{op}: t = {t} sets the factor of normalize=True, got normalize=False; leave one of them out")
    product = Product(
        "down", "", basis, fine, coarse, name, "truncate" if normalize else "one",
        precision=arguments.precision(op, precision),
    )  # fmt: skip
    return plane_product(op, product, x, times=times, t=_scalar(time, times))


def _levels(op: str, basis: str, fine: tuple[int, int], coarse: tuple[int, int]) -> None:
    """A wavelet goes from one size to another by halves."""
    if basis.partition("~")[0] in bases.ANALYSIS:
        return
    for large, small in zip(fine, coarse, strict=True):
        ratio = large // small
        if large % small or ratio & (ratio - 1):
            raise ValueError(
                f"{op}: sides must change by a power of two for a wavelet, got {coarse} and {fine}; "
                f"dct_{'truncate' if op.endswith('truncate') else 'expand'} takes any sizes"
            )


def _scalar(time: float | None, times: Tensor | None) -> float:
    """What the plane product gets as its one time: any number where it gets a tensor of times."""
    return time if times is None and time is not None else 0.0


def _like(op: str, name: str, tensor: Tensor, x: Tensor, shape: list[int]) -> None:
    """A second tensor must match the first in shape, dtype and device."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(tensor).__name__}")
    if list(tensor.shape) != list(shape):
        raise ValueError(f"{op}: {name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")
    if tensor.dtype != x.dtype:
        raise TypeError(f"{op}: {name} must have the dtype {x.dtype}, got {tensor.dtype}; use {name}.to({x.dtype})")
    if tensor.device != x.device:
        raise ValueError(f"{op}: {name} is on {tensor.device} and the state on {x.device}; move one of them")
