# SPDX-License-Identifier: Apache-2.0
"""fft_expand, a product with real Fourier tables, against fast Fourier transforms and products of float32."""

from collections.abc import Iterator

import torch
from torch import Tensor

import spectral_kernels as sk
from bench.case import Case, Provider
from bench.suites.expand import SEED, SIZES, TINY, T
from spectral_kernels import peers

TESTS = ["tests/test_bits.py", "tests/test_exact.py", "tests/test_fft_expand.py"]


def cases(device: str, tiny: bool = False) -> Iterator[Case]:
    for name, shape, size, dtype in TINY[:1] if tiny else SIZES:
        if dtype != torch.float32:
            continue
        generator = torch.Generator().manual_seed(SEED)
        x = torch.randn(shape, generator=generator).to(device)
        noise = torch.randn((*shape[:-2], *size), generator=generator).to(device)
        planes, (h, w), (high, wide) = x.numel() // (shape[-2] * shape[-1]), shape[-2:], size
        yield Case(
            name=name,
            op="fft_expand",
            shape=shape,
            dtype="float32",
            bytes=(x.numel() + 2 * noise.numel()) * 4,
            # two products of the state with A = T_H^T[:, :h] T_h, two of the noise
            flops=2 * planes * high * (h * w + w * wide + high * wide + wide * wide),
            expected=lambda x=x, noise=noise: peers.fourier_matmul(x.double(), noise.double(), T).cpu().numpy(),
            providers=providers(x, noise),
            facts={"size": list(size), "t": T},
        )


def providers(x: Tensor, noise: Tensor) -> list[Provider]:
    size = (noise.shape[-2], noise.shape[-1])

    def ours(precision: str, **source):
        return lambda: sk.fft_expand(x, t=T, size=size, precision=precision, **source).x

    def drawn():
        own = sk.normal(noise.shape, SEED, dtype=torch.float32, device=x.device)
        return peers.fourier_matmul(x.double(), own.double(), T).cpu().numpy()

    return [
        Provider("exact", ours("exact", noise=noise), 1e-6),
        Provider("fast", ours("fast", noise=noise), 2e-6),
        Provider("exact, drawn noise", ours("exact", seed=SEED), 1e-6, expected=drawn),
        Provider("fast, drawn noise", ours("fast", seed=SEED), 2e-6, expected=drawn),
        Provider("torch.fft", lambda: peers.fourier_fft(x, noise, T), 2e-6),
        Provider("matmul", lambda: peers.fourier_matmul(x, noise, T), 2e-6),
    ]
