# SPDX-License-Identifier: Apache-2.0
"""The library's noise: its bits on every backend, and the law it follows."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from bits import assert_same_bits
from compiled import TARGETS, compile_kernel
from torch._dynamo.testing import CompileCounter

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
    assert tuple(int(word) for word in reference.philox(counter, key)) == words


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


@pytest.mark.parametrize("name", ["torch", "native", "triton"])
@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 2], ids=["zero", "high half", "largest for two samples"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_backend_draws_the_reference_bits(name, shape, seed):
    seed = min(seed, 2**63 - max(1, shape[0] if len(shape) > 2 else 1))
    with available(name) as device:
        drawn = normal(shape, seed, stream=2**32 - 1, device=device)
    assert_same_bits(drawn, reference.normal(shape, seed, 2**32 - 1))


BLOCKS = [
    (600, 500),  # torch: one plane in two blocks of rows
    (1, 40, 130, 61),  # torch: 32 planes in one block, 8 in the next
]


@pytest.mark.parametrize("shape", BLOCKS, ids=str)
def test_blocks_of_the_torch_backend_meet(shape):
    with available("torch"):
        assert_same_bits(normal(shape, 5), reference.normal(shape, 5))


@pytest.mark.parametrize("name", ["torch", "triton"])
def test_planes_beyond_sixteen_bits(name):
    with available(name) as device:
        if name == "triton" and device == "cpu":
            pytest.skip("70001 programs take minutes in Triton's interpreter; runs on a GPU")
        drawn = normal((1, 70001, 2, 3), 5, device=device)
    assert_same_bits(drawn[0, -1], reference.deviates(2, 3, [70000], 5)[0])


@pytest.mark.parametrize("name", ["torch", "triton"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes_are_float32_rounded_once(name, dtype):
    expected = torch.from_numpy(reference.normal((2, 37, 41), 3)).to(dtype)
    with available(name) as device:
        assert_same_bits(normal((2, 37, 41), 3, dtype=dtype, device=device), expected)


@pytest.mark.parametrize("name", ["torch", "triton"])
def test_each_sample_has_its_own_seed(name):
    seeds = [2**63 - 1, 0, 2**31, 5]  # the first and the last seed, and a low half that looks negative
    shape = (4, 2, 6, 5)
    with available(name) as device:
        drawn = normal(shape, seeds, device=device)
        from_tensor = normal(shape, torch.tensor(seeds, device=device), device=device)
        permuted = normal(shape, [seeds[i] for i in (2, 0, 3, 1)], device=device)
        alone = normal((1, *shape[1:]), seeds[2], device=device)
        consecutive = normal((2, *shape[1:]), 4, device=device)
    assert_same_bits(drawn, reference.normal(shape, seeds))
    assert_same_bits(from_tensor, drawn)
    assert_same_bits(permuted, drawn[[2, 0, 3, 1]])
    assert_same_bits(alone[0], drawn[2])
    assert_same_bits(consecutive[1], drawn[3])  # sample 1 of seed 4 has the seed 5


@pytest.mark.parametrize("name", ["torch", "triton"])
def test_a_slot_does_not_know_the_grid_around_it(name):
    with available(name) as device:
        large = normal((2, 3, 41, 140), 9, device=device)
        small = normal((2, 2, 17, 33), 9, device=device)
    assert_same_bits(large[:, :2, :17, :33], small)


def test_seeds_of_other_kinds_are_their_numbers():
    expected = normal((2, 3, 4), 5)
    assert_same_bits(normal((2, 3, 4), np.int64(5)), expected)
    assert_same_bits(normal((2, 3, 4), np.array([5, 6]).tolist()), expected)
    assert_same_bits(normal((2, 3, 4), (np.int64(5), 6)), expected)


def test_generators_give_a_seed_and_move_on():
    def drawn_from(number):
        return int(torch.randint(0, 2**62, (), generator=torch.Generator().manual_seed(number)))

    generator = torch.Generator().manual_seed(3)
    first = normal((2, 3, 4), generator)
    assert_same_bits(first, normal((2, 3, 4), drawn_from(3)))
    assert not torch.equal(first, normal((2, 3, 4), generator))
    own = [torch.Generator().manual_seed(number) for number in (8, 9)]
    assert_same_bits(normal((2, 3, 4), own), normal((2, 3, 4), [drawn_from(8), drawn_from(9)]))


MESSAGES = [
    (TypeError, "shape must be a sequence of ints, got int", (5, 0), {}),
    (TypeError, "shape must hold ints, got 2.5", ((2.5, 3), 0), {}),
    (TypeError, "shape must hold ints, got True", ((True, 3), 0), {}),
    (ValueError, "at least one dimension", ((), 0), {}),
    (ValueError, "sizes of 0 or more, got \\(2, -3\\)", ((2, -3), 0), {}),
    (ValueError, "at most 2\\*\\*32 planes", ((0, 2**33, 1, 1), 0), {}),
    (TypeError, "got bool", ((2,), True), {}),
    (TypeError, "got float", ((2,), 1.0), {}),
    (TypeError, "got str", ((2,), "7"), {}),
    (TypeError, "got NoneType", ((2,), None), {}),
    (ValueError, "got -1; reduce", ((2,), -1), {}),
    (ValueError, "got 9223372036854775808", ((2,), 2**63), {}),
    (ValueError, "each of 2 samples, got 9223372036854775807", ((2, 1, 1), 2**63 - 1), {}),
    (ValueError, "one number per sample, 2, got 3", ((2, 1, 1), [1, 2, 3]), {}),
    (ValueError, "one number per sample, 1, got 2", ((5, 7), [1, 2]), {}),
    (ValueError, "got -4", ((2, 1, 1), [1, -4]), {}),
    (TypeError, "got bool", ((2, 1, 1), [1, False]), {}),
    (TypeError, "only generators or only ints, got int", ((2, 1, 1), [torch.Generator(), 1]), {}),
    (TypeError, "got Generator", ((2, 1, 1), [1, torch.Generator()]), {}),
    (TypeError, "must be int64, got torch.int32", ((2, 1, 1), torch.zeros(2, dtype=torch.int32)), {}),
    (ValueError, "one per sample, the shape \\(2,\\), got \\(3,\\)", ((2, 1, 1), torch.arange(3)), {}),
    (ValueError, "got -7 in a tensor", ((2, 1, 1), torch.tensor([3, -7])), {}),
    (TypeError, "stream must be an int, got float", ((2,), 0), {"stream": 0.5}),
    (TypeError, "stream must be an int, got bool", ((2,), 0), {"stream": True}),
    (ValueError, "got -1; use the seed", ((2,), 0), {"stream": -1}),
    (ValueError, "stream must be 0 <= stream < 2\\*\\*32", ((2,), 0), {"stream": 2**32}),
    (TypeError, "dtype must be float32.*got torch.int64", ((2,), 0), {"dtype": torch.int64}),
]


@pytest.mark.parametrize(("kind", "message", "arguments", "options"), MESSAGES, ids=[m for _, m, _, _ in MESSAGES])
def test_errors_say_what_is_wrong(kind, message, arguments, options):
    with pytest.raises(kind, match=f"^normal: .*{message}"):
        normal(*arguments, **options)


@pytest.mark.parametrize("seed", [(3, None), (None, torch.tensor([3, 4]))], ids=["one seed", "a seed per sample"])
def test_custom_op_is_sound(seed):
    op = torch.ops.spectral_kernels.normal.default
    torch.library.opcheck(op, ((2, 3, 5), *seed, 0, torch.bfloat16, torch.device("cpu")))


def test_compiles_into_one_graph_for_all_seeds_and_batches():
    counter = CompileCounter()
    doubled = torch.compile(lambda seed, n: normal((n, 4, 5), seed) * 2, fullgraph=True, backend=counter, dynamic=True)
    for seed, samples in [(3, 2), (2**62 + 1, 2), (9, 3), (17, 5)]:
        assert_same_bits(doubled(seed, samples), normal((samples, 4, 5), seed) * 2)
    assert counter.frame_count == 1
    for seeds in ([1, 2], torch.tensor([5, 6])):
        assert_same_bits(doubled(seeds, 2), normal((2, 4, 5), seeds) * 2)


def test_fake_and_meta_results_have_shape_and_dtype():
    drawn = normal((2, 3, 4), 3, dtype=torch.bfloat16, device="meta")
    assert (drawn.shape, drawn.dtype, drawn.device.type) == ((2, 3, 4), torch.bfloat16, "meta")


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
