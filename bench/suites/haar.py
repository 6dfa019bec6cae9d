# SPDX-License-Identifier: Apache-2.0
"""Haar at the size of a video latent, against PyWavelets and ptwt: one level each way, expansions by 2 and 4."""

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

import spectral_kernels as sk
from bench.case import Case, Provider
from bench.suites import copy, ours
from spectral_kernels import peers

TESTS = ["tests/test_dwt.py"]

T = 0.35
TOLERANCE = 1e-6  # a few roundings of float32

# name, coarse shape: 336 planes of Wan at 720p; 16 channels of FLUX at 1024 px
SIZES = [("wan-720p", (1, 336, 45, 80)), ("flux", (1, 16, 64, 64))]
TINY = [("tiny", (2, 3, 4, 6))]


def cases(device: str, tiny: bool = False) -> Iterator[Case]:
    for name, shape in TINY if tiny else SIZES:
        generator = torch.Generator().manual_seed(7)
        low = torch.randn(shape, generator=generator).to(device)
        fine = torch.randn((*shape[:-2], 2 * shape[-2], 2 * shape[-1]), generator=generator).to(device)
        yield from _levels(name, fine)
        yield _expansion(name, low, fine)
        twice = torch.randn((*shape[:-2], 4 * shape[-2], 4 * shape[-1]), generator=generator).to(device)
        yield _expansion(f"{name} by 4", low, twice)


def _levels(name: str, x: Tensor) -> Iterator[Case]:
    for op, given in ((sk.dwt2, x), (sk.idwt2, sk.dwt2(x))):
        inverse = op is sk.idwt2
        yield Case(
            name=f"{name}, {op.__name__}",
            op=op.__name__,
            shape=tuple(x.shape),
            dtype="float32",
            bytes=2 * x.numel() * x.element_size(),
            flops=3 * x.numel(),
            expected=lambda inverse=inverse, given=given: _matrix(given.double(), inverse).cpu().numpy(),
            providers=[
                *ours(x, lambda op=op, given=given: op(given), TOLERANCE),
                *_peers(given, inverse),
                copy(x),
            ],
        )


def _expansion(name: str, low: Tensor, noise: Tensor) -> Case:
    size = (noise.shape[-2], noise.shape[-1])
    kappa = peers.kappa(tuple(low.shape), size, T)
    levels = (size[0] // low.shape[-2]).bit_length() - 1
    # Of each level, coarse first: LL, of which only the corner's counts, and the bands of noise.
    corners = [noise[..., : size[0] >> up, : size[1] >> up] for up in reversed(range(levels))]

    def expected() -> np.ndarray:
        y = low.double()
        for corner in corners:
            spectrum = T * corner.double()
            spectrum[..., : y.shape[-2], : y.shape[-1]] = y
            y = _matrix(spectrum, True)
        return kappa * y.cpu().numpy()

    return Case(
        name=f"{name}, dwt_expand",
        op="dwt_expand",
        shape=tuple(low.shape),
        dtype="float32",
        bytes=(low.numel() + 2 * noise.numel()) * low.element_size(),
        flops=6 * noise.numel(),
        expected=expected,
        providers=[
            *ours(low, lambda: sk.dwt_expand(low, size=size, t=T, noise=noise).x, TOLERANCE),
            *_expanding_peers(low, [_quarters(corner)[1:] for corner in corners], kappa),
            copy(noise),
        ],
        facts={"size": list(size), "t": T},
    )


def _matrix(x: Tensor, inverse: bool) -> Tensor:
    """One level by the definition: sums and differences of pairs over sqrt 2, along both axes."""
    for axis in (-2, -1):
        if inverse:
            low, high = x.chunk(2, axis)
            # Between the pairs' own axis and the next one for rows, last for columns.
            x = torch.stack([low + high, low - high], axis).flatten(axis - 1, axis)
        else:
            low, high = x.unflatten(axis, (-1, 2)).unbind(axis)
            x = torch.cat([low + high, low - high], axis)
        x = x * 0.5**0.5
    return x


def _quarters(x: Any) -> tuple[Any, Any, Any, Any]:
    """LL, HL, LH, HH, in the order of PyWavelets: cA, cH, cV, cD."""
    h, w = x.shape[-2] // 2, x.shape[-1] // 2
    return x[..., :h, :w], x[..., h:, :w], x[..., :h, w:], x[..., h:, w:]


def _peers(given: Tensor, inverse: bool) -> list[Provider]:
    found = []
    if given.is_cuda or peers.missing("pywt"):
        found.append(Provider("PyWavelets", missing=peers.missing("pywt") or "it has no GPU code"))
    else:
        import pywt

        array, quarters = given.numpy(), [np.ascontiguousarray(part) for part in _quarters(given.numpy())]

        def analysis() -> np.ndarray:
            return _packed(np, pywt.dwt2(array, "haar", mode="periodization"))

        def synthesis() -> np.ndarray:
            return pywt.idwt2((quarters[0], tuple(quarters[1:])), "haar", mode="periodization")

        found.append(Provider("PyWavelets", synthesis if inverse else analysis, TOLERANCE))
    if peers.missing("ptwt"):
        found.append(Provider("ptwt", missing=peers.missing("ptwt")))
    else:
        ptwt: Any = importlib.import_module("ptwt")  # it exports its names at run time only

        parts = [part.contiguous() for part in _quarters(given)]

        def down() -> Tensor:
            low, details = ptwt.wavedec2(given, "haar", mode="zero", level=1)
            return _packed(torch, (low, details))

        def up() -> Tensor:
            return ptwt.waverec2((parts[0], ptwt.WaveletDetailTuple2d(*parts[1:])), "haar")

        found.append(Provider("ptwt", up if inverse else down, TOLERANCE))
    return found


def _packed(library: Any, bands: Any) -> Any:
    """[[LL, LH], [HL, HH]] in one array, which is what `dwt2` gives."""
    a, (h, v, d) = bands
    join = library.concatenate
    return join([join([a, v], -1), join([h, d], -1)], -2)


def _expanding_peers(low: Tensor, levels: list[Any], kappa: float) -> list[Provider]:
    """The bands of the noise times t, the inverse, times kappa: what each library's user writes."""
    found = []
    if low.is_cuda or peers.missing("pywt"):
        found.append(Provider("PyWavelets", missing=peers.missing("pywt") or "it has no GPU code"))
    else:
        import pywt

        state, noise = low.numpy(), [[np.ascontiguousarray(band.numpy()) for band in bands] for bands in levels]

        def by_pywt() -> np.ndarray:
            details = [tuple(np.float32(T) * band for band in bands) for bands in noise]
            return np.float32(kappa) * pywt.waverec2((state, *details), "haar", mode="periodization")

        found.append(Provider("PyWavelets", by_pywt, TOLERANCE))
    if peers.missing("ptwt"):
        found.append(Provider("ptwt", missing=peers.missing("ptwt")))
    else:
        ptwt: Any = importlib.import_module("ptwt")  # it exports its names at run time only

        parts = [[band.contiguous() for band in bands] for bands in levels]

        def by_ptwt() -> Tensor:
            details = [ptwt.WaveletDetailTuple2d(*(T * part for part in bands)) for bands in parts]
            return kappa * ptwt.waverec2((low, *details), "haar")

        found.append(Provider("ptwt", by_ptwt, TOLERANCE))
    return found
