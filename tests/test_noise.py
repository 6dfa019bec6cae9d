# SPDX-License-Identifier: Apache-2.0
"""The library's noise: its bits on every backend, and the law it follows."""

from contextlib import contextmanager

import pytest
import torch
from bits import assert_same_bits
from compiled import TARGETS, compile_kernel

from reference import noise as reference
from spectral_kernels import dispatch, normal


@contextmanager
def available(name):
    """Run on one backend, or skip with the reason; gives the device to use."""
    why = dispatch.missing(name)
    if why is not None:
        pytest.skip(why)
    with dispatch.backend(name):
        yield "cuda" if name == "triton" and torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers(counter, key, words):
    # kat_vectors of the Random123 distribution: zeros, ones, digits of pi.
    assert tuple(int(word) for word in reference.philox(*counter, *key)) == words


SHAPES = [
    (1,),  # one slot
    (37,),  # one row, odd
    (5, 7),  # a plane of primes: the last group of four rows is short
    (3, 1, 130),  # a batch of rows wider than a tile
    (2, 3, 41, 1),  # columns of one
    (2, 1, 2, 3, 4),  # several leading dimensions
    (0, 4, 4),  # no sample
    (2, 0, 4),  # no row
]


@pytest.mark.parametrize("name", ["torch", "triton"])
@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 2], ids=["zero", "high half", "largest for two samples"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_backend_draws_the_reference_bits(name, shape, seed):
    seed = min(seed, 2**63 - max(1, shape[0] if len(shape) > 2 else 1))
    with available(name) as device:
        drawn = normal(shape, seed, stream=2**32 - 1, device=device)
    assert_same_bits(drawn, reference.normal(shape, seed, 2**32 - 1))


@pytest.mark.parametrize("target", TARGETS)
def test_kernel_compiles_without_spills_or_contractions(target):
    pytest.importorskip("triton")
    from spectral_kernels.kernels.noise import normal_kernel

    integers = dict.fromkeys(("base_seed", "stream", "planes", "rows", "columns"), "i64")
    compiled = compile_kernel(
        normal_kernel,
        {"p_noise": "*fp32", "p_seeds": "*i64", **integers},
        {"PER_SAMPLE": True, "QUADS": 2, "COLUMNS": 128},
        target=target,
    )
    assert (compiled.spills, compiled.shared, compiled.float32_contractions) == (0, 0, 0)
    assert compiled.registers <= 64  # enough for full occupancy on every NVIDIA chip named
