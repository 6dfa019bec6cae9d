# SPDX-License-Identifier: Apache-2.0
"""dwt_expand by one level of a wavelet longer than Haar, which is a table here, against PyWavelets' filters."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

import spectral_kernels as sk
from bench.case import Case, Provider
from spectral_kernels import peers

TESTS = ["tests/test_bits.py", "tests/test_exact.py", "tests/test_dwt.py"]

T = 0.35
SEED = 7

# name, wavelet, coarse shape: FLUX.1's latent, a video of Wan 2.1 made even, a pixel model
SIZES = [
    ("flux", "db4", (1, 16, 64, 64)),
    ("wan-720p", "db4", (1, 336, 46, 80)),
    ("pixel", "db4", (1, 3, 512, 512)),
    ("pixel-sym8", "sym8", (1, 3, 512, 512)),
]
TINY = [("tiny", "db2", (2, 3, 6, 8))]


def cases(device: str, tiny: bool = False) -> Iterator[Case]:
    for name, wavelet, shape in TINY if tiny else SIZES:
        generator = torch.Generator().manual_seed(SEED)
        x = torch.randn(shape, generator=generator).to(device)
        noise = torch.randn((*shape[:-2], 2 * shape[-2], 2 * shape[-1]), generator=generator).to(device)
        planes, h, w = x.numel() // (shape[-2] * shape[-1]), shape[-2], shape[-1]
        taps = 2 * int(wavelet.strip("dbsym"))
        yield Case(
            name=name,
            op="dwt_expand",
            shape=shape,
            dtype="float32",
            bytes=(x.numel() + 2 * noise.numel()) * 4,
            # by filters: every output of either axis is a sum of `taps` terms, two bands of taps / 2 each
            flops=2 * planes * taps * (2 * h * 2 * w + 2 * h * 2 * w),
            expected=lambda x=x, noise=noise, wavelet=wavelet: by_filters(x.cpu().double(), noise.cpu(), wavelet),
            providers=providers(x, noise, wavelet),
            facts={"size": [2 * h, 2 * w], "t": T, "wavelet": wavelet},
        )


def by_filters(x: Tensor, noise: Tensor, wavelet: str) -> np.ndarray:
    """kappa times the inverse transform of x and t noise, by PyWavelets in the type of x."""
    import pywt

    h, w = x.shape[-2:]
    kappa = peers.kappa(tuple(x.shape), (2 * h, 2 * w), T)
    details = (T * noise.to(x.dtype)).numpy()
    bands = (details[..., h:, :w], details[..., :h, w:], details[..., h:, w:])
    y = pywt.idwt2((x.numpy(), bands), wavelet, mode="periodization")  # pyright: ignore[reportAttributeAccessIssue]
    return np.multiply(y, kappa, dtype=y.dtype)


def providers(x: Tensor, noise: Tensor, wavelet: str) -> list[Provider]:
    def ours(precision: str, **source):
        return lambda: sk.dwt_expand(x, 2, t=T, wavelet=wavelet, precision=precision, **source).x

    def drawn():
        own = sk.normal(noise.shape, SEED, dtype=torch.float32, device=x.device)
        return by_filters(x.cpu().double(), own.cpu(), wavelet)

    found = [
        Provider("exact", ours("exact", noise=noise), 1e-6),
        Provider("fast", ours("fast", noise=noise), 1e-6 if x.device.type == "cpu" else 2e-6),
        Provider("exact, drawn noise", ours("exact", seed=SEED), 1e-6, expected=drawn),
        Provider("fast, drawn noise", ours("fast", seed=SEED), 2e-6, expected=drawn),
    ]
    if x.device.type == "cpu":
        found.append(Provider("PyWavelets", lambda: by_filters(x, noise, wavelet), 1e-6))
    return found
