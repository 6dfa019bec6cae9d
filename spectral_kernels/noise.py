# SPDX-License-Identifier: Apache-2.0
"""Standard normal noise that depends on nothing but seed and position: the noise inside `dct_expand`, on its own."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectral_kernels.arguments import plain, readable, whole
from spectral_kernels.cached import cached
from spectral_kernels.dispatch import noise as ops

Seed = int | Sequence[int] | Tensor | torch.Generator | Sequence[torch.Generator]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_END = 1 << 63


def normal(
    shape: Sequence[int],
    seed: Seed,
    *,
    stream: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Independent standard normal deviates, a pure function of (seed, stream, plane, row, column).

        x = sign * Phi^-1(1 - p), rounded to a multiple of 2^-17      sign and p from one 32-bit word of Philox 4x32-10
        key = seed      counter = (column, row // 4, plane, stream)      word = row % 4

    The same bits on every device and backend, alone or in a batch, on a small grid or inside a larger one. |x| < 6.5;
    before the rounding x is within 1.8e-6 of the exact quantile.

    Parameters
    ----------
    shape : ints `[..., rows, columns]`; with three dimensions or more the first one counts samples, the ones between
        number the planes of a sample; `(n,)` is one row
    seed : int, 0 <= seed < 2**63: sample b has the seed `seed + b`. Or one int per sample (a sequence, or an int64
        tensor of shape `[samples]`, read where it lies and not checked on a GPU). Or a `torch.Generator`, which gives
        one int below 2**62 and moves on; or one generator per sample
    stream : int, 0 <= stream < 2**32: independent noise for the same seed, for instance one per stage
    dtype : float32, float64 (both exact), float16 or bfloat16 (rounded once, to nearest even)
    device : where the noise is made; nothing is copied there

    Returns
    -------
    contiguous tensor of `shape`; it has no gradient

    Raises
    ------
    TypeError : shape, seed, stream or dtype of another kind
    ValueError : a negative size, a seed or stream out of range, a count of seeds that is not the number of samples

    Source
    ------
    J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox); reference/noise.py.
    """
    shape = _checked_shape(shape)
    if dtype not in _DTYPES:
        raise TypeError(
            f"normal: dtype must be float32, float64, float16 or bfloat16, got {dtype}; draw float32 and convert it"
        )
    samples, _, _, _ = plane_counts(shape)
    device = torch.device(device)
    base_seed, seeds = seeds_for("normal", seed, samples, device)
    return ops.normal(shape, base_seed, seeds, checked_stream("normal", stream), dtype, device)


def plane_counts(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """(samples, planes per sample, rows, columns) of a shape; see `normal`."""
    rows, columns = (1, *shape)[-2:]
    samples = shape[0] if len(shape) >= 3 else 1
    return samples, prod(shape[1:-2]), rows, columns


def seeds_for(op: str, seed: Seed, samples: int, device: torch.device) -> tuple[int | None, Tensor | None]:
    """What backends take: an int `base` (sample b has the seed base + b) or an int64 tensor `[samples]`, never both.

    An int stays an int, so nothing is copied to the device; a sequence becomes a tensor that is kept for the next call
    with the same numbers; a tensor on the device is used as it is, without a look at its values.
    """
    if isinstance(seed, torch.Generator):
        drawn = _draw(seed)
        if readable(drawn):
            return int(drawn), None
        return None, drawn.to(device) + torch.arange(samples, device=device)
    if isinstance(seed, Tensor):
        return None, _seed_tensor(op, seed, samples, device)
    if isinstance(seed, np.ndarray):
        seed = seed.tolist()
    if isinstance(seed, Sequence) and not isinstance(seed, (str, bytes)):
        if len(seed) != samples:
            raise ValueError(
                f"{op}: seed must have one number per sample, {samples}, got {len(seed)}; an int gives sample b the "
                "seed seed + b"
            )
        if samples and isinstance(seed[0], torch.Generator):
            return None, torch.stack([_draw(_checked_generator(op, s)).to(device) for s in seed])
        numbers = tuple(_checked_seed(op, s, 1) for s in seed)
        if device.type == "cpu":
            return None, torch.tensor(numbers, dtype=torch.int64, device=device)
        if device.type == "cuda" and device.index is None:  # "cuda" is another device whenever the current one changes
            device = torch.device("cuda", torch.cuda.current_device())
        return None, _copied(numbers, device)
    return _checked_seed(op, seed, samples), None


def checked_stream(op: str, stream: int) -> int:
    stream = plain(stream)
    if isinstance(stream, bool) or not isinstance(stream, int):
        raise TypeError(f"{op}: stream must be an int, got {type(stream).__name__}")
    if not 0 <= stream < 1 << 32:
        raise ValueError(f"{op}: stream must be 0 <= stream < 2**32, got {stream}; use the seed for larger numbers")
    return stream


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    shape = plain(shape)
    if isinstance(shape, str) or not isinstance(shape, Sequence):
        raise TypeError(f"normal: shape must be a sequence of ints, got {type(shape).__name__}; write (n,) for one row")
    shape = tuple(map(plain, shape))
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, (int, torch.SymInt)):
            raise TypeError(f"normal: shape must hold ints, got {size!r} in {shape}")
    if len(shape) == 0:
        raise ValueError("normal: shape must have at least one dimension, got (); use (1,) and [0]")
    for size in shape:
        if size < 0:
            raise ValueError(f"normal: shape must hold sizes of 0 or more, got {shape}")
    _, planes, rows, columns = plane_counts(shape)
    if columns > 1 << 32 or rows > 1 << 34 or planes > 1 << 32:
        raise ValueError(
            f"normal: a sample has at most 2**32 planes of 2**34 rows and 2**32 columns, got {shape}; "
            "draw it in parts with different streams"
        )
    return shape


def _checked_seed(op: str, seed: Any, samples: int) -> int:
    if isinstance(seed, np.integer):
        seed = int(seed)
    if isinstance(seed, bool) or not isinstance(seed, (int, torch.SymInt)):
        raise TypeError(
            f"{op}: seed must be an int, one int per sample, an int64 tensor or a torch.Generator, or a list of them, "
            f"got {type(seed).__name__} {seed!r}"
        )
    if not 0 <= seed <= _END - max(samples, 1):
        too = f", and seed + b too for each of {samples} samples" if samples > 1 else ""
        raise ValueError(f"{op}: seed must be 0 <= seed < 2**63{too}, got {seed}; reduce it modulo 2**62")
    return seed  # pyright: ignore[reportReturnType]  a SymInt while tracing


def _seed_tensor(op: str, seeds: Tensor, samples: int, device: torch.device) -> Tensor:
    whole(op, "seed", seeds)
    if seeds.dtype != torch.int64:
        raise TypeError(f"{op}: a tensor of seeds must be int64, got {seeds.dtype}; convert it with .to(torch.int64)")
    if seeds.shape != (samples,):
        raise ValueError(
            f"{op}: a tensor of seeds must have one per sample, the shape ({samples},), got {tuple(seeds.shape)}; an "
            "int gives sample b the seed seed + b"
        )
    if seeds.is_meta and device.type != "meta":
        raise ValueError(f"{op}: the tensor of seeds is on meta and holds no numbers for {device}")
    if readable(seeds) and bool((seeds < 0).any()):
        raise ValueError(f"{op}: seed must be 0 <= seed < 2**63, got {int(seeds.min())} in a tensor of seeds")
    return seeds.to(device).contiguous()


def _checked_generator(op: str, generator: object) -> torch.Generator:
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"{op}: seed must hold only generators or only ints, got {type(generator).__name__} among them")
    return generator


def _draw(generator: torch.Generator) -> Tensor:
    """One int64 below 2**62, on the generator's device."""
    return torch.randint(0, 1 << 62, (), generator=generator, device=generator.device)


@cached(maxsize=64)
def _copied(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Seeds on a GPU. Kept, so that a second call copies nothing and can be captured in a CUDA graph."""
    return torch.tensor(numbers, dtype=torch.int64, device=device)
