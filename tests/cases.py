# SPDX-License-Identifier: Apache-2.0
"""What the tests of the plane product run on: sizes, batches, memory layouts and magnitudes, each with its reason."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from spectral_kernels import dispatch

# (coarse, fine)
SIZES = [
    ((1, 1), (1, 1)),  # nothing to do
    ((1, 1), (3, 2)),  # one pixel becomes a plane
    ((1, 9), (1, 16)),  # a line: sides of one pixel keep their only frequency
    ((8, 8), (16, 16)),  # the everyday ratio of 2; the coarse side fills half a tile
    ((7, 5), (13, 11)),  # primes: no tile, no group of four rows of noise is full
    ((6, 10), (9, 25)),  # ratios 1.5 and 2.5, another one per axis
    ((11, 16), (11, 17)),  # one side stays, the other grows past a tile by one
    ((20, 33), (47, 48)),  # several tiles per side; the last one full or one short
]
FEW_SIZES = [SIZES[i] for i in (1, 4, 7)]
# 257 is the first side whose intermediate leaves the chip: two launches of the Triton backend.
LARGE = ((10, 4), (257, 7))

BATCHES = [
    (),  # a lone plane is one sample
    (3,),  # three samples of one plane
    (2, 3),
    (2, 1, 3),
    (2, 2, 1, 3),  # more planes of a sample than the kernels have dimensions for
    (0,),  # no sample
    (2, 0),  # samples without planes
]

HALVES = [torch.float16, torch.bfloat16]
DTYPES = [torch.float32, *HALVES]


def contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.ndim > 2 else x.T.contiguous().T


def transposed(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT


def sliced(x: Tensor) -> Tensor:
    """Every second row and every third column of a larger tensor, from an offset; what lies between is NaN."""
    large = x.new_full((*x.shape[:-2], 2 * x.shape[-2] + 3, 3 * x.shape[-1] + 5), float("nan"))
    part = large[..., 3 : 3 + 2 * x.shape[-2] : 2, 5 : 5 + 3 * x.shape[-1] : 3]
    part.copy_(x)
    return part


def expanded(x: Tensor) -> Tensor:
    """The first plane for all: strides of 0 in every leading dimension."""
    return x[(0,) * (x.ndim - 2)].expand(x.shape)


STRIDES: list[Callable[[Tensor], Tensor]] = [contiguous, channels_last, transposed, sliced, expanded]


def random(shape, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    """Normal numbers, none of them special, the same on every machine."""
    values = np.random.default_rng(seed).standard_normal(shape)
    return torch.from_numpy(np.asarray(values, np.float32)).to(dtype).to(device)


def array(x: Tensor) -> np.ndarray:
    """What the reference gets: the tensor's values, exactly."""
    return x.detach().cpu().to(torch.float64 if x.dtype == torch.float64 else torch.float32).numpy()


def rounded(result: np.ndarray, dtype: torch.dtype) -> Tensor:
    """A float32 result of the reference in the dtype of the output; the NaN of half types is written by hand."""
    result = torch.from_numpy(np.ascontiguousarray(result))
    if dtype == torch.float32:
        return result
    quiet = torch.tensor({torch.float16: 0x7E00, torch.bfloat16: 0x7FC0}[dtype], dtype=torch.int16).view(dtype)
    return torch.where(result.isnan(), quiet, result.to(dtype))


def share_rounded(found: np.ndarray, true: np.ndarray) -> float:
    """The share of float32 results within half a unit in the last place of the truth.

    SciPy's own error in float64, some 2^-51 of the largest value, must not break the ties that sums of few float32
    numbers often are: hence the allowance, 2^-23 of half a unit.
    """
    half = np.spacing(np.abs(found)).astype(np.float64) / 2
    return float(np.mean(np.abs(found - true) <= half + 2.0**-48 * np.abs(true).max()))


@contextmanager
def available(name: str) -> Iterator[str]:
    """Run on one backend, or skip with the reason; gives the device to use."""
    why = dispatch.missing(name)
    if why is not None:
        pytest.skip(f"{name}: {why}")
    with dispatch.backend(name):
        yield "cuda" if name == "triton" and torch.cuda.is_available() else "cpu"


on_every_backend = pytest.mark.parametrize("backend", dispatch.BACKENDS)


def needs_gpu_memory(gib: float) -> None:
    """Skip where the GPU has less memory free."""
    free = torch.cuda.mem_get_info()[0] / 2**30 if torch.cuda.is_available() else 0.0
    if free < gib:
        pytest.skip(f"needs {gib:g} GiB of free GPU memory, there are {free:.1f}")


def slow(backend: str) -> bool:
    """Triton's interpreter takes some 0.1 s per program: it gets fewer cases."""
    return backend == "triton" and not torch.cuda.is_available()
