# SPDX-License-Identifier: Apache-2.0
"""dct_expand at the sizes of real transitions, against everyone who can compute it."""

from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import spectral_kernels as sk
from bench.case import Case, Provider, Tunable
from spectral_kernels import dispatch, peers

TESTS = ["tests/test_bits.py", "tests/test_exact.py", "tests/test_expand.py", "tests/test_golden.py"]

T = 0.35
SEED = 7

# name, shape, (H, W), dtype
SIZES = [
    # FLUX.1 and Z-Image at 1024 px: 16 latent channels
    ("flux", (1, 16, 64, 64), (128, 128), torch.float32),
    ("flux-bf16", (1, 16, 64, 64), (128, 128), torch.bfloat16),
    ("flux-batch8", (8, 16, 64, 64), (128, 128), torch.float32),
    # Wan 2.1 at 720p, 81 frames: 16 channels x 21 latent frames, an odd side
    ("wan-720p", (1, 336, 45, 80), (90, 160), torch.float32),
    # a pixel model
    ("pixel", (1, 3, 512, 512), (1024, 1024), torch.float32),
    # nothing to compute: the way to the kernel and back
    ("call", (1, 1, 4, 4), (8, 8), torch.float32),
]
TINY = [("tiny", (2, 3, 5, 6), (9, 12), torch.float32), ("tiny-bf16", (1, 2, 4, 4), (8, 8), torch.bfloat16)]


def cases(device: str, tiny: bool = False) -> Iterator[Case]:
    for name, shape, size, dtype in TINY if tiny else SIZES:
        yield _case(name, shape, size, dtype, device)


def tunables(device: str, tiny: bool = False) -> Iterator[Tunable]:
    """One launch or two, and the tiles of either; noise drawn inside. On a CPU they need Triton's interpreter."""
    if dispatch.missing("triton") is not None:
        return
    from spectral_kernels.kernels import launch

    # A step of depth 32 spilled wherever it was compiled.
    one, two = ([tile for tile in tiles if tile.depth == 16] for tiles in (launch.TILES, launch.PAIR_TILES))
    # A batch or a half type has the tiles of its size.
    for name, shape, size, dtype in (
        TINY[:1] if tiny else (row for row in SIZES if row[0] in ("flux", "wan-720p", "pixel"))
    ):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(device, dtype)
        fits = max(size) <= launch.FUSED_SIDE
        for precision in ("exact", "fast"):
            fused = max(size) <= launch.fused_side(precision, x.device)
            tile = launch.fused_tile(precision, size, (shape[-2], shape[-1])) if fused else launch.pair_tile(precision)
            candidates = [*((1, tile) for tile in one if fits), *((2, tile) for tile in two)]
            yield Tunable(
                name=f"{name}, {precision}",
                op="dct_expand",
                shape=shape,
                dtype=str(dtype).removeprefix("torch."),
                current=(1 if fused else 2, tile),
                candidates=candidates[::20] if tiny else candidates,
                answer=partial(_with_setting, x, size, precision),
                tolerance=None if precision == "exact" else 2e-3,
            )


def _with_setting(x: Tensor, size: tuple[int, int], precision: str, setting: tuple[int, Any]) -> Tensor:
    from spectral_kernels.kernels import launch, planes

    count, tile = setting
    side = launch.FUSED_SIDE if count == 1 else 0
    chosen = mock.patch.multiple(
        planes, fused_side=lambda *_: side, fused_tile=lambda *_: tile, pair_tile=lambda *_: tile
    )
    with chosen, dispatch.backend("triton"):
        return sk.dct_expand(x, t=T, size=size, seed=SEED, precision=precision).x


def _case(name: str, shape: tuple[int, ...], size: tuple[int, int], dtype: torch.dtype, device: str) -> Case:
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(shape, generator=generator).to(device, dtype)
    noise = torch.randn((*shape[:-2], *size), generator=generator).to(device, dtype)
    planes, (h, w), (high, wide) = x.numel() // (shape[-2] * shape[-1]), shape[-2:], size
    return Case(
        name=name,
        op="dct_expand",
        shape=shape,
        dtype=str(dtype).removeprefix("torch."),
        bytes=(x.numel() + 2 * noise.numel()) * x.element_size(),
        # two products of the state with A = T_H^T[:, :h] T_h, two of the noise
        flops=2 * planes * high * (h * w + w * wide + high * wide + wide * wide),
        expected=lambda: peers.expected(x, noise, T),
        providers=_providers(x, noise),
        facts={"size": list(size), "t": T},
    )


def _providers(x: Tensor, noise: Tensor) -> list[Provider]:
    size = (noise.shape[-2], noise.shape[-1])
    # One rounding to the output type; the inside is float32 or better. `fast` may use tf32 products.
    rounding = 0.0 if x.dtype == torch.float32 else torch.finfo(x.dtype).eps
    near, loose = 1e-6 + rounding, 2e-3 + rounding

    def drawn():
        own = sk.normal(noise.shape, SEED, dtype=torch.float32, device=x.device)
        return peers.expected(x, own, T)

    def ours(precision: str, **source):
        return lambda: sk.dct_expand(x, t=T, size=size, precision=precision, **source).x

    found = [
        Provider("exact", ours("exact", noise=noise), near),
        Provider("fast", ours("fast", noise=noise), loose),
        Provider("exact, drawn noise", ours("exact", seed=SEED), near, expected=drawn),
        Provider("fast, drawn noise", ours("fast", seed=SEED), loose, expected=drawn),
        Provider("torch.fft", lambda: peers.torch_fft(x, noise, T), near),
        Provider("matmul", lambda: peers.matmul(x, noise, T), near),
        _torch_dct(x, noise, near),
    ]
    if x.is_cuda:
        y = torch.empty_like(noise)
        found += [_cupy(x, noise, near), Provider("copy (floor)", lambda: y.copy_(noise), tolerance=None)]
    elif x.dtype == torch.float32:  # SciPy has no bfloat16
        import scipy.fft

        state, given, workers = x.numpy(), noise.numpy(), torch.get_num_threads()
        call = lambda: peers.by_library(scipy.fft, state, given, T, workers=workers)  # noqa: E731  beside the others
        found.append(Provider("scipy", call, near))
    return found


def _torch_dct(x: Tensor, noise: Tensor, tolerance: float) -> Provider:
    if peers.missing("torch_dct"):
        return Provider("torch-dct", missing=peers.missing("torch_dct"))
    return Provider("torch-dct", lambda: peers.torch_dct(x, noise, T), tolerance)


def _cupy(x: Tensor, noise: Tensor, tolerance: float) -> Provider:
    if peers.missing("cupy"):
        return Provider("cupyx", missing=peers.missing("cupy"))
    import cupy  # pyright: ignore[reportMissingImports]  optional
    import cupyx.scipy.fft  # pyright: ignore[reportMissingImports]

    state, given = cupy.asarray(x.float()), cupy.asarray(noise.float())
    return Provider("cupyx", lambda: peers.by_library(cupyx.scipy.fft, state, given, T), tolerance, graph=False)
