# SPDX-License-Identifier: Apache-2.0
"""dct_expand and fft_expand: the definition against SciPy, and every backend against the definition by bits."""

import math

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import expand as reference
from reference.noise import normal as reference_noise
from spectral_kernels import dct_expand, dct_truncate, dctn, fft_expand, normal
from tests.bits import assert_same_bits
from tests.cases import (
    BATCHES,
    DTYPES,
    FEW_SIZES,
    HALVES,
    LARGE,
    SIZES,
    STRIDES,
    array,
    available,
    on_every_backend,
    random,
    rounded,
    share_rounded,
    slow,
)

PRIMES = SIZES[4]


def by_scipy(x, noise, size, t):
    """The definition in float64: spectrum in the corner, noise elsewhere, back."""
    h, w = x.shape[-2:]
    spectrum = t * noise.astype(np.float64)
    spectrum[..., :h, :w] = scipy.fft.dctn(x.astype(np.float64), axes=(-2, -1), norm="ortho")
    ratio = math.sqrt(size[0] * size[1] / (h * w))
    return scipy.fft.idctn(spectrum, axes=(-2, -1), norm="ortho") * ratio / (1 + (ratio - 1) * t)


# The sizes of all tests, FLUX, one frame of Wan, and past the first shortening of slices (256).
@pytest.mark.parametrize("sizes", [*SIZES, ((64, 64), (128, 128)), ((45, 80), (90, 160)), ((150, 100), (300, 270))])
@pytest.mark.parametrize("t", [0.0, 0.35, 1.0])
def test_reference_is_scipys_result_correctly_rounded(sizes, t):
    coarse, fine = sizes
    planes = max(2, 20000 // (fine[0] * fine[1]))
    x, noise = array(random((planes, *coarse))), array(random((planes, *fine), 1))
    found, _ = reference.expand(x, fine, t, noise=noise)
    true = by_scipy(x, noise, fine, t)
    # Rounding to float32 alone leaves 2.5e-8 in the mean square, at most 2^-24.
    assert np.linalg.norm(found - true) <= 4e-8 * np.linalg.norm(true)
    assert share_rounded(found, true) >= 0.999


@on_every_backend
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_size_has_the_reference_bits(sizes, backend):
    coarse, fine = sizes
    x, noise = random((2, *coarse)), random((2, *fine), 1)
    with available(backend) as device:
        drawn, time = dct_expand(x.to(device), size=fine, t=0.35, seed=7)
        given = dct_expand(x.to(device), size=fine, t=0.35, noise=noise.to(device)).x
    expected, expected_time = reference.expand(array(x), fine, 0.35, seed=7)
    assert_same_bits(drawn, expected)
    assert time == expected_time
    assert_same_bits(given, reference.expand(array(x), fine, 0.35, noise=array(noise))[0])


@on_every_backend
@pytest.mark.parametrize("sizes", FEW_SIZES, ids=str)
def test_fourier_has_the_reference_bits(sizes, backend):
    coarse, fine = sizes
    x = random((1, *coarse))
    with available(backend) as device:
        drawn = fft_expand(x.to(device), size=fine, t=0.35, seed=7).x
    assert_same_bits(drawn, reference.expand(array(x), fine, 0.35, seed=7, basis="fft")[0])


@on_every_backend
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_types_are_rounded_like_the_reference(dtype, backend):
    coarse, fine = PRIMES
    x, noise = random((3, *coarse), dtype=dtype), random((3, *fine), 1, dtype)
    with available(backend) as device:
        drawn = dct_expand(x.to(device), size=fine, t=0.35, seed=7).x
        given = dct_expand(x.to(device), size=fine, t=0.35, noise=noise.to(device)).x
    assert_same_bits(drawn, rounded(reference.expand(array(x), fine, 0.35, seed=7)[0], dtype))
    assert_same_bits(given, rounded(reference.expand(array(x), fine, 0.35, noise=array(noise))[0], dtype))


@on_every_backend
def test_above_256_has_the_reference_bits(backend):
    coarse, fine = LARGE
    x = random((1, *coarse))
    with available(backend) as device:
        drawn = dct_expand(x.to(device), size=fine, t=0.35, seed=7).x
    assert_same_bits(drawn, reference.expand(array(x), fine, 0.35, seed=7)[0])


@on_every_backend
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_planes_of_a_batch_are_numbered_as_the_noise_is(batch, backend):
    x = random((*batch, 3, 5))
    with available(backend) as device:
        drawn = dct_expand(x.to(device), size=(4, 7), t=0.6, seed=2**33).x
        given = dct_expand(x.to(device), size=(4, 7), t=0.6, noise=normal((*batch, 4, 7), 2**33, device=device)).x
    assert_same_bits(drawn, reference.expand(array(x), (4, 7), 0.6, seed=2**33)[0])
    assert_same_bits(given, drawn)


@on_every_backend
@pytest.mark.parametrize("strided", STRIDES, ids=lambda f: f.__name__)
def test_strides_do_not_matter(strided, backend):
    coarse, fine = PRIMES
    with available(backend) as device:
        x, noise = strided(random((2, 3, *coarse), device=device)), strided(random((2, 3, *fine), 1, device=device))
        found = dct_expand(x, size=fine, t=0.35, noise=noise).x
    assert_same_bits(found, reference.expand(array(x), fine, 0.35, noise=array(noise))[0])


@on_every_backend
def test_samples_do_not_see_their_batch(backend):
    """Each with its own time and seed: permuted, sliced, alone."""
    x = random((4, 2, 5, 7))
    times, seeds = [0.35, 0.0, 1.0, 0.9], [2**63 - 1, 0, 2**31, 5]
    size = (9, 8)
    with available(backend) as device:
        x = x.to(device)
        batch, batch_times = dct_expand(x, size=size, t=times, seed=seeds)
        order = [2, 0, 3, 1]
        permuted = dct_expand(x[order], size=size, t=[times[i] for i in order], seed=[seeds[i] for i in order]).x
        sliced = dct_expand(x[1:3, :1], size=size, t=times[1:3], seed=torch.tensor(seeds[1:3], device=device)).x
        alone = [dct_expand(x[i : i + 1], size=size, t=times[i], seed=seeds[i]) for i in range(4)]
    expected, expected_times = reference.expand(array(x), size, np.array(times), seed=seeds)
    assert_same_bits(batch, expected)
    assert_same_bits(batch_times, np.minimum(expected_times, 1))
    assert_same_bits(permuted, batch[order])
    assert_same_bits(sliced, batch[1:3, :1])
    assert_same_bits(torch.cat([y.x for y in alone]), batch)
    assert [y.t for y in alone] == batch_times.tolist()


@on_every_backend
def test_times_of_every_kind_are_their_numbers(backend):
    x = random((2, 1, 3, 4))
    with available(backend) as device:
        x = x.to(device)
        expected = dct_expand(x, 2, t=0.25, seed=1).x
        for t in ([0.25, 0.25], torch.tensor(0.25), torch.tensor([0.25]), torch.tensor([0.25, 0.25]).half()):
            assert_same_bits(dct_expand(x, 2, t=t, seed=1).x, expected)
        on_device = torch.tensor([0.25, 0.25], dtype=torch.float64, device=device)
        assert_same_bits(dct_expand(x, 2, t=on_device, seed=1).x, expected)
        assert_same_bits(dct_expand(x, 2, t=1, seed=1).x, dct_expand(x, 2, t=1.0, seed=1).x)
        unaligned = dct_expand(x, 2, t=0.25, seed=1, align=False)
    assert unaligned.t == 0.25
    assert_same_bits(unaligned.x, reference.expand(array(x), (6, 8), 0.25, seed=1, align=False)[0])


@pytest.mark.parametrize("t", [[0.25, 0.5], torch.tensor([0.25, 0.5], dtype=torch.float64)], ids=["list", "tensor"])
def test_the_times_of_a_result_are_its_own(t):
    """A list of times is kept for the next call with the same numbers, and a gradient may still need a tensor's."""
    x = random((2, 1, 3, 4))
    expected = dct_expand(x, 2, t=[0.25, 0.5], seed=1).x
    dct_expand(x, 2, t=t, seed=1, align=False).t.zero_()
    assert_same_bits(dct_expand(x, 2, t=t, seed=1).x, expected)


def test_seeds_of_samples_count_up():
    x = random((3, 2, 5, 7))
    assert_same_bits(dct_expand(x, 2, t=0.5, seed=40).x, dct_expand(x, 2, t=0.5, seed=[40, 41, 42]).x)
    generators = [torch.Generator().manual_seed(3) for _ in range(3)]
    drawn = [int(torch.randint(0, 2**62, (), generator=torch.Generator().manual_seed(3)))] * 3
    assert_same_bits(dct_expand(x, 2, t=0.5, seed=generators).x, dct_expand(x, 2, t=0.5, seed=drawn).x)


@on_every_backend
def test_noise_without_weight_and_in_the_corner_is_never_looked_at(backend):
    x = random((2, 3, 4))
    noise = random((2, 6, 8), 1)
    spoiled = noise.clone()
    spoiled[..., :3, :4] = math.nan
    with available(backend) as device:
        x = x.to(device)
        clean = dct_expand(x, 2, t=0.5, noise=noise.to(device)).x
        assert_same_bits(dct_expand(x, 2, t=0.5, noise=spoiled.to(device)).x, clean)
        still = dct_expand(x, 2, t=0).x
        nothing = torch.full_like(noise, math.nan, device=device)
        assert_same_bits(dct_expand(x, 2, t=0, noise=nothing).x, still)
        assert_same_bits(dct_expand(x, 2, t=[0.0, 0.0], noise=nothing).x, still)
        assert_same_bits(dct_expand(x, 2, t=0, seed=3).x, still)


@on_every_backend
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_number_spoils_its_plane_alone(bad, backend):
    coarse, fine = (5, 17), (9, 18)
    x, noise = random((4, *coarse)), random((4, *fine), 1)
    x[1, 4, 16] = bad
    noise[2, 8, 17] = bad
    for dtype in DTYPES[: 1 if slow(backend) else 3]:
        given = x.to(dtype), noise.to(dtype)
        with available(backend) as device:
            found = dct_expand(given[0].to(device), size=fine, t=0.35, noise=given[1].to(device)).x
        assert found[1:3].isnan().all()
        assert found[[0, 3]].isfinite().all()
        assert_same_bits(found, rounded(reference.expand(array(given[0]), fine, 0.35, noise=array(given[1]))[0], dtype))


# The smallest subnormal, subnormal, the smallest normal, everyday, beyond float16, and where kappa overflows float32.
@on_every_backend
@pytest.mark.parametrize("magnitude", [2.0**-149, 1e-40, 2.0**-126, 1.0, 1e5, 3e38])
def test_magnitudes_to_the_ends_of_float32(magnitude, backend):
    coarse, fine = PRIMES
    x = (random((2, *coarse)).double() * magnitude).clamp(-3e38, 3e38).float()
    with available(backend) as device:
        found = dct_expand(x.to(device), size=fine, t=0.01, seed=5).x
        still = dct_expand(x.to(device), size=fine, t=0).x
    assert_same_bits(found, reference.expand(array(x), fine, 0.01, seed=5)[0])
    assert_same_bits(still, reference.expand(array(x), fine, 0.0)[0])


@on_every_backend
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_types_to_their_ends(dtype, backend):
    """Subnormal and overflowing results of half types, and rows of very different size in one plane."""
    limits = torch.finfo(dtype)
    x = random((3, 7, 5)).double()
    scale = torch.tensor([limits.smallest_normal, 1.0, limits.max / 2], dtype=torch.float64)
    x = (x * scale[:, None, None]).clamp(limits.min, limits.max).to(dtype)
    x[1, ::2] *= 1000
    with available(backend) as device:
        found = dct_expand(x.to(device), size=(13, 11), t=0).x
    expected = rounded(reference.expand(array(x), (13, 11), 0.0)[0], dtype)
    assert expected[0].abs().min() < limits.smallest_normal
    assert expected[2].isinf().any()
    assert_same_bits(found, expected)


@on_every_backend
def test_zeros_come_out_positive(backend):
    x = torch.zeros(2, 3, 4)
    x[1] = -0.0
    with available(backend) as device:
        found = dct_expand(x.to(device), 2, t=0).x
    assert_same_bits(found, torch.zeros(2, 6, 8))


@on_every_backend
@pytest.mark.parametrize("sizes", FEW_SIZES, ids=str)
def test_float64_is_scipys(sizes, backend):
    coarse, fine = sizes
    x, noise = random((2, *coarse)).double(), random((2, *fine), 1).double()
    with available(backend) as device:
        found = dct_expand(x.to(device), size=fine, t=0.35, noise=noise.to(device)).x.cpu()
        drawn = dct_expand(x.to(device), size=fine, t=0.35, seed=7).x.cpu()
    assert np.abs(found.numpy() - by_scipy(array(x), array(noise), fine, 0.35)).max() <= 1e-12
    own = reference_noise((2, *fine), 7)
    assert np.abs(drawn.numpy() - by_scipy(array(x), own, fine, 0.35)).max() <= 1e-12


@on_every_backend
@pytest.mark.parametrize("sizes", [*FEW_SIZES, ((64, 64), (128, 128)), ((512, 100), (1024, 200))], ids=str)
def test_fast_stays_below_its_bound(sizes, backend):
    """Every factor and product of float32 is off by at most u = 2^-24. The signs of K roundings in a dot are as good as
    random, so a product adds about sqrt(K) u (Higham and Mary, SIAM J. Sci. Comput. 41, 2019): sqrt(h) + sqrt(w) for
    the signal, sqrt(H) + sqrt(W) for the noise. Below 2e-6 to sides of 256, whatever the order; blocked sums, which all
    backends have, stay far below it at larger ones too.
    """
    coarse, fine = sizes
    if slow(backend) and fine[0] > 64:
        pytest.skip("takes minutes in Triton's interpreter; runs on a GPU")
    x, noise = random((2, *coarse)), random((2, *fine), 1)
    with available(backend) as device:
        found = dct_expand(x.to(device), size=fine, t=0.35, noise=noise.to(device), precision="fast").x.cpu()
        times = torch.tensor([0.35, 0.35], dtype=torch.float64, device=device)
        again = dct_expand(x.to(device), size=fine, t=times, noise=noise.to(device), precision="fast").x.cpu()
    true = by_scipy(array(x), array(noise), fine, 0.35)
    bound = min(2e-6, 2.0**-24 * (2 + math.sqrt(fine[0]) + math.sqrt(fine[1])))
    for result in (found, again):
        assert np.linalg.norm(result.numpy() - true) <= bound * np.linalg.norm(true)


@on_every_backend
def test_tiers_are_told_apart(backend):
    x = random((2, 20, 33))
    with available(backend) as device:
        exact, fast = (
            dct_expand(x.to(device), size=(47, 48), t=0.35, seed=7, precision=p).x for p in ("exact", "fast")
        )
    assert not torch.equal(exact, fast)


def test_expanding_twice_aligns_like_once():
    t, x = 0.35, random((1, 4, 6))
    middle = dct_expand(x, 2, t=t, seed=1)
    twice, t_twice = dct_expand(middle.x, 2, t=middle.t, seed=2)
    once, t_once = dct_expand(x, 4, t=t, seed=3)
    assert t_twice == pytest.approx(t_once, rel=1e-15)
    assert t_once == pytest.approx(4 * t / (1 + 3 * t), rel=1e-15)
    # The shared band: kappas multiply, x's own spectrum stays.
    band = slice(None), slice(4), slice(6)
    assert torch.allclose(dctn(twice)[band], dctn(once)[band], rtol=0, atol=1e-6)  # float32 between the steps


@pytest.mark.parametrize(("coarse", "fine"), [((16, 24), (32, 48)), ((7, 5), (13, 11))])
def test_expansion_of_a_truncation_is_the_low_pass(coarse, fine):
    x = random((3, *fine))
    low = dct_expand(dct_truncate(x, size=coarse), size=fine, t=0).x
    spectrum = scipy.fft.dctn(array(x).astype(np.float64), axes=(-2, -1), norm="ortho")
    spectrum[:, coarse[0] :] = 0
    spectrum[:, :, coarse[1] :] = 0
    expected = scipy.fft.idctn(spectrum, axes=(-2, -1), norm="ortho")
    # Two roundings to float32, the first one carried over by maps of norm 1 with factors 1/r and r.
    assert np.linalg.norm(low.numpy() - expected) <= 2 * 2.0**-24 * np.linalg.norm(expected)


def test_white_noise_stays_white():
    """At t = 1 a state is pure noise and must stay standard normal: its energy is chi squared, within five sigma."""
    x = normal((4, 8, 20, 24), 3)
    y, t = dct_expand(x, 1.7, t=1.0, seed=9)
    assert t == 1.0
    count = y.numel()
    assert abs(y.double().square().sum() - count) < 5 * math.sqrt(2 * count)


sides = st.integers(1, 64)


@st.composite
def calls(draw):
    coarse = draw(sides), draw(sides)
    fine = tuple(draw(st.integers(side, min(4 * side, 96))) for side in coarse)
    return {
        "coarse": coarse,
        "fine": fine,
        "batch": draw(st.sampled_from(BATCHES[:6])),
        "strided": draw(st.sampled_from(STRIDES)),
        "exponent": draw(st.integers(-149, 127)),
        "seed": draw(st.integers(0, 2**63 - 3)),
        "t": draw(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))),
        "dtype": draw(st.sampled_from(DTYPES)),
        "align": draw(st.booleans()),
    }


@settings(max_examples=60)
@given(call=calls())
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_any_call_has_the_reference_bits(backend, call):
    values = random((*call["batch"], *call["coarse"]), call["seed"] % 2**32).double() * 2.0 ** call["exponent"]
    limit = torch.finfo(call["dtype"]).max
    x = call["strided"](values.clamp(-limit, limit).to(call["dtype"])) if values.numel() else values.to(call["dtype"])
    options = {"seed": call["seed"], "align": call["align"]}
    with available(backend):
        found, t = dct_expand(x, size=call["fine"], t=call["t"], **options)
    expected, expected_t = reference.expand(array(x), call["fine"], call["t"], **options)
    assert_same_bits(found, rounded(expected, call["dtype"]))
    assert t == min(expected_t, 1.0)


@settings(max_examples=5)
@given(call=calls())
def test_any_small_call_has_the_reference_bits_in_triton(call):
    coarse = tuple(min(side, 20) for side in call["coarse"])
    fine = tuple(min(max(side, c), 33) for side, c in zip(call["fine"], coarse, strict=True))
    values = random((2, *coarse), call["seed"] % 2**32).double() * 2.0 ** call["exponent"]
    limit = torch.finfo(call["dtype"]).max
    x = call["strided"](values.clamp(-limit, limit).to(call["dtype"]))
    options = {"seed": call["seed"], "align": call["align"]}
    with available("triton") as device:
        found = dct_expand(x.to(device), size=fine, t=call["t"], **options).x
    assert_same_bits(found, rounded(reference.expand(array(x), fine, call["t"], **options)[0], call["dtype"]))
