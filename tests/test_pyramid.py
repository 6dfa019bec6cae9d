# SPDX-License-Identifier: Apache-2.0
"""Pyramids: bits on every backend, and what comes back after reconstruction."""

import numpy as np
import pytest
import torch
from bits import assert_same_bits
from torch.nn import functional

from reference import noise
from reference import pyramid as reference
from spectral_kernels import dispatch, dwt2, laplacian_pyramid, laplacian_reconstruct, layouts, noise_levels, normal

RESAMPLES = ["area", "bilinear", "dct"]
DTYPES = ["float32", "float16", "bfloat16"]
BACKENDS = dispatch.BACKENDS


@pytest.fixture(params=BACKENDS)
def device(request):
    why = dispatch.missing(request.param)
    if why is not None:
        pytest.skip(why)
    with dispatch.backend(request.param):
        yield "cuda" if request.param == "triton" and torch.cuda.is_available() else "cpu"


def states(shape, dtype="float32", seed=0):
    """Normal numbers of a type: (tensor, the same values as float32 for the reference)."""
    x = torch.from_numpy(noise.normal(shape, seed)).to(getattr(torch, dtype))
    return x, x.float().numpy()


CASES = [
    ((8, 8), 2),  # one octave of an even plane
    ((2, 3, 13, 18), 4),  # odd sides: blocks of one row at the edge, to 2 x 3 pixels
    ((1, 1, 1, 37), 6),  # a line: one side is one pixel from the start
    ((2, 9, 16), 1),  # no octave: a copy
    ((2, 1, 2, 2, 10, 12), 2),  # video with a leading dimension more
    ((3, 0, 8, 8), 2),  # no plane
    ((2, 13, 18), [(4, 5), (13, 18)]),  # blocks of 4 x 4 that do not divide either side
    ((1, 2, 12, 36), [(2, 12), (4, 12), (12, 36)]),  # factors of 2, 1 and 3: division that rounds
    ((3, 400, 600), 2),  # several chunks
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize(("shape", "levels"), CASES, ids=str)
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_the_reference_bits(backend, resample, dtype, shape, levels):
    if dispatch.missing(backend):
        pytest.skip(dispatch.missing(backend))
    with dispatch.backend(backend):
        compare_bits("cpu", shape, levels, resample, dtype)


@pytest.mark.parametrize(
    ("shape", "levels", "resample", "dtype"),
    [
        ((2, 1, 13, 18), 3, "area", "float32"),  # odd sides and every dtype
        ((1, 1, 13, 18), 3, "area", "bfloat16"),
        ((1, 1, 13, 18), 2, "bilinear", "float16"),
        ((1, 1, 13, 18), 3, "bilinear", "float32"),
        ((1, 1, 9, 9), 2, "bilinear", "bfloat16"),
        ((2, 1, 20, 36), 3, "bilinear", "float32"),  # exactly half twice
        ((1, 2, 2, 6), 2, "bilinear", "float16"),  # to a line
        ((1, 1, 36, 12), [(12, 12), (36, 12)], "bilinear", "float32"),  # one side keeps its size
        ((1, 1, 9, 9), 2, "dct", "bfloat16"),  # the subtraction of a stored image
        ((1, 13, 18), [(4, 5), (13, 18)], "area", "float16"),  # blocks of 4 x 4 that do not divide either side
        ((1, 1, 12, 36), [(4, 12), (12, 36)], "area", "float32"),  # blocks of 9: division that rounds
        ((1, 1, 37), 3, "area", "float32"),  # one side is one pixel from the start
        ((1, 2, 1, 1, 2, 6), 2, "bilinear", "float32"),  # more leading dimensions than strides have names for
        ((3, 0, 8, 8), 2, "area", "float32"),  # nothing to do
    ],
    ids=str,
)
def test_triton_has_the_reference_bits(shape, levels, resample, dtype):
    if dispatch.missing("triton"):
        pytest.skip(dispatch.missing("triton"))
    with dispatch.backend("triton"):
        compare_bits("cuda" if torch.cuda.is_available() else "cpu", shape, levels, resample, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize(("shape", "levels"), [*CASES, ((2, 3, 513, 1025), 5)], ids=str)
def test_the_reference_bits_on_a_gpu(resample, dtype, shape, levels):
    compare_bits("cuda", shape, levels, resample, dtype)


def compare_bits(device, shape, levels, resample, dtype):
    """Every level, and the preview of each stage."""
    x, values = states(shape, dtype)
    sizes = reference.halved(shape[-2:], levels) if isinstance(levels, int) else levels
    expected = reference.pyramid(values, sizes, resample, dtype)
    found = laplacian_pyramid(x.to(device), levels, resample)
    assert [level.dtype for level in found] == [x.dtype] * len(sizes)
    for level, wanted in zip(found, expected, strict=True):
        assert_same_bits(level.float(), wanted)
    for k in range(1, len(sizes) + 1):
        preview = laplacian_reconstruct(found[:k], resample)
        assert_same_bits(preview.float(), reference.reconstruct(expected[:k], resample, dtype))


@pytest.mark.parametrize("resample", ["area", "bilinear"])
def test_strides_do_not_matter(device, resample):
    x = states((1, 2, 7, 18))[0].to(device)
    strided = [
        x.transpose(-1, -2).contiguous().transpose(-1, -2),
        x.to(memory_format=torch.channels_last),
        torch.stack([x, x], -1)[..., 1],
    ]
    for y in strided:
        for a, b in zip(laplacian_pyramid(y, 2, resample), laplacian_pyramid(x, 2, resample), strict=True):
            assert_same_bits(a, b)
    spread = x.expand(2, -1, -1, -1)
    assert_same_bits(laplacian_pyramid(spread, 2, resample)[1][1], laplacian_pyramid(x, 2, resample)[1][0])


# Blocks of 2 x 2, with an odd side; interpolation to half; all other ratios.
@pytest.mark.parametrize(
    ("resample", "low", "high"),
    [
        ("area", (7, 17), (13, 34)),
        ("area", (5, 12), (13, 34)),
        ("bilinear", (7, 17), (14, 34)),
        ("bilinear", (7, 9), (13, 18)),
    ],
    ids=str,
)
def test_tiles_change_no_bit(resample, low, high):
    pytest.importorskip("triton")
    from spectral_kernels.kernels import pyramid as kernels

    x = states((1, 1, *high))[0]
    if torch.cuda.is_available():
        x = x.cuda()
    elif dispatch.missing("triton"):
        pytest.skip(dispatch.missing("triton"))
    view = layouts.view(x, "planes", high)
    wanted = [torch.from_numpy(level) for level in reference.pyramid(x.cpu().numpy(), [low, high], resample)]
    for tile in [(2, 32, 4), (16, 8, 1), (8, 64, 2)]:
        coarse, detail, again = x.new_empty(1, 1, *low), torch.empty_like(x), torch.empty_like(x)
        views = [layouts.view(y, "planes", y.shape[-2:]) for y in (coarse, detail, again)]
        kernels.split(view, *views[:2], resample, tile)
        kernels.merge(*views, resample, False, tile)
        assert_same_bits(coarse, wanted[0])
        assert_same_bits(detail, wanted[1])
        assert_same_bits(again, reference.reconstruct([level.numpy() for level in wanted], resample))


def test_area_is_pooling_and_bilinear_is_interpolation():
    x = torch.randn(2, 3, 12, 20, dtype=torch.float64)
    area, bilinear = laplacian_pyramid(x, 2), laplacian_pyramid(x, [(5, 7), (12, 20)], "bilinear")
    # float64 sums of 4 terms: a few units of 2^-53.
    torch.testing.assert_close(area[0], functional.avg_pool2d(x, 2), rtol=0, atol=4e-15)
    torch.testing.assert_close(area[1], x - functional.interpolate(area[0], scale_factor=2), rtol=0, atol=4e-15)
    down = functional.interpolate(x, size=(5, 7), mode="bilinear")
    torch.testing.assert_close(bilinear[0], down, rtol=0, atol=1e-14)
    up = functional.interpolate(down, size=(12, 20), mode="bilinear")
    torch.testing.assert_close(bilinear[1], x - up, rtol=0, atol=1e-14)


# Blocks of 2 x 2 to 29 x 31; interpolation to a fraction of both sides, of one, and to one pixel less.
@pytest.mark.parametrize("size", [(29, 31), (12, 9), (1, 62), (2, 2), (57, 61)], ids=str)
@pytest.mark.parametrize("resample", ["area", "bilinear"])
def test_a_coarse_pixel_keeps_its_bound(resample, size):
    fine = (58, 62)
    if resample == "area" and size == (57, 61):
        size = (29, 62)
    x = torch.rand(3, *fine) + 1  # of one sign, so that sums grow
    blocks = [-(-a // b) for a, b in zip(fine, size, strict=True)]
    bound = 8 if resample == "bilinear" else sum(blocks) - 1
    error = (
        laplacian_pyramid(x, [size, fine], resample)[0].double()
        - laplacian_pyramid(x.double(), [size, fine], resample)[0]
    )
    assert error.abs().max() <= bound * 2.0**-24 * 2


@pytest.mark.parametrize("resample", RESAMPLES)
def test_a_flat_image_has_no_details(resample):
    coarse, *details = laplacian_pyramid(torch.full((1, 1, 13, 10), 0.75), 3, resample)
    torch.testing.assert_close(coarse, torch.full_like(coarse, 0.75), rtol=2e-7, atol=0)
    for detail in details:
        torch.testing.assert_close(detail, torch.zeros_like(detail), rtol=0, atol=2e-7)


@pytest.mark.parametrize(
    ("dtype", "bits", "levels"),
    [("float32", 8, 8), ("float32", 20, 2), ("float32", 16, 4), ("float16", 8, 2), ("bfloat16", 5, 2)],
)
def test_pixels_on_a_grid_come_back_as_they_were(dtype, bits, levels):
    """p + 1 - 2 L bits; signs add nothing."""
    x = torch.randint(-(2**bits) + 1, 2**bits, (1, 2, 129, 130)).to(getattr(torch, dtype)) * 2.0**-9
    assert_same_bits(laplacian_reconstruct(laplacian_pyramid(x, levels)), x + 0.0)


def test_the_library_s_noise_comes_back_as_it_was():
    x = normal((2, 3, 65, 64), 3)
    assert_same_bits(laplacian_reconstruct(laplacian_pyramid(x, 2)), x)


@pytest.mark.parametrize("resample", RESAMPLES)
def test_pixels_near_their_neighbours_come_back_as_they_were(resample):
    x = torch.rand(4, 1, 64, 65)
    pyramid = laplacian_pyramid(x, 2, resample)
    again = laplacian_reconstruct(pyramid, resample)
    near = pyramid[1].abs() < x / 2
    assert 0.5 < near.float().mean() < 0.9
    assert_same_bits(again[near], x[near])
    lost = (again != x)[~near].float().mean()
    assert 0 < lost < 0.5  # and elsewhere some do not: the condition is not idle


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("resample", RESAMPLES)
def test_bound_of_the_rest(resample, dtype):
    x = torch.randn(4, 2, 45, 64).to(getattr(torch, dtype))
    unit = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    for levels in (2, 3, 5):
        again = laplacian_reconstruct(laplacian_pyramid(x, levels, resample), resample)
        error = (again.double() - x.double()).abs().max()
        gain = 5 * 2.5 if resample == "dct" else 3
        assert error <= gain * (levels - 1) * unit * (1 + 8 * unit) * x.abs().max()


def test_nan_stays_with_its_pixels(device):
    x = states((1, 2, 8, 8))[0]
    x[0, 0, 2, 5] = torch.nan
    x[0, 1, 0, 0] = -torch.inf
    values = x.numpy()
    for resample in ("area", "bilinear"):
        expected = reference.pyramid(values, [(4, 4), (8, 8)], resample)
        found = laplacian_pyramid(x.to(device), 2, resample)
        for level, wanted in zip(found, expected, strict=True):
            assert_same_bits(level, wanted)
        assert_same_bits(laplacian_reconstruct(found, resample), reference.reconstruct(expected, resample))
    assert int(laplacian_pyramid(x, 2)[1].isnan().sum()) == 4 + 1  # a block, and inf - inf


def test_no_zero_is_negative(device):
    x = states((1, 3, 7, 10))[0]
    x[0, 0, ::2], x[0, 1] = -0.0, -0.0
    for resample in ("area", "bilinear"):
        expected = reference.pyramid(x.numpy(), [(4, 5), (7, 10)], resample)
        found = laplacian_pyramid(x.to(device), 2, resample)
        for level, wanted in zip(found, expected, strict=True):
            assert_same_bits(level, wanted)
        given = [torch.full_like(level, -0.0) for level in found]
        assert_same_bits(laplacian_reconstruct(given, resample), torch.zeros(1, 3, 7, 10))


SMALLEST = {"float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("resample", "sizes"),
    [
        ("area", [(4, 5), (7, 10)]),  # blocks of 2 x 2, and others
        ("area", [(3, 4), (7, 10)]),
        ("bilinear", [(4, 5), (8, 10)]),  # exactly half, and not
        ("bilinear", [(3, 4), (7, 10)]),
        ("dct", [(3, 4), (7, 10)]),
    ],
    ids=str,
)
def test_numbers_that_the_type_hardly_holds(device, resample, sizes, dtype):
    """A negative number below the smallest one of a type is rounded to -0, and stored so once."""
    x = (states((1, 3, *sizes[-1]))[0] * 2).round() * SMALLEST[dtype]
    x = x.to(getattr(torch, dtype))
    expected = reference.pyramid(x.float().numpy(), sizes, resample, dtype)
    found = laplacian_pyramid(x.to(device), sizes, resample)
    for level, wanted in zip(found, expected, strict=True):
        assert_same_bits(level.float(), wanted)
    if dtype != "float32":
        assert (expected[0].view(np.int32) == -(2**31)).any()
    again = reference.reconstruct(expected, resample, dtype)
    assert_same_bits(laplacian_reconstruct(found, resample).float(), again)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("basis", ["dct", "haar"])
def test_orthonormal_levels_of_numbers_that_the_type_hardly_holds(device, basis, dtype):
    x = (states((1, 3, 4, 8))[0] * 2).round() * SMALLEST[dtype]
    x = x.to(getattr(torch, dtype))
    expected = reference.orthonormal_pyramid(x.float().numpy(), 2, basis, dtype)
    found = laplacian_pyramid(x.to(device), 2, basis=basis)
    for level, wanted in zip(found, expected, strict=True):
        assert_same_bits(level.float(), wanted)
    again = reference.orthonormal_reconstruct(expected, basis, dtype)
    assert_same_bits(laplacian_reconstruct(found, basis=basis).float(), again)


def test_a_lone_level_is_stored_like_any_other():
    bits = torch.tensor([0, -(2**31), 0x7FC00001, -1, 0x7F800001, 0x3F800000], dtype=torch.int32)  # zeros, NaNs, 1
    x = bits.view(torch.float32).view(1, 2, 3)
    (level,) = laplacian_pyramid(x, 1)
    again = laplacian_reconstruct([x])
    assert level.data_ptr() != x.data_ptr() != again.data_ptr()
    assert_same_bits(level, reference.pyramid(x.numpy(), [(2, 3)])[0])
    assert_same_bits(again, reference.reconstruct([x.numpy()]))


@pytest.mark.parametrize("basis", ["dct", "haar"])
@pytest.mark.parametrize("shape", [(2, 3, 16, 24), (3, 8, 12), (16, 16)], ids=str)
def test_orthonormal_pyramid(shape, basis):
    x = torch.randn(shape)
    levels = laplacian_pyramid(x, 3, basis=basis)
    h, w = shape[-2:]
    bands = [h // 4 * (w // 4), h // 4 * (w // 4) * 3, h // 2 * (w // 2) * 3]
    assert [level.numel() for level in levels] == [x.numel() * n // (h * w) for n in bands]
    again = laplacian_reconstruct(levels, basis=basis)
    assert (again - x).norm() < 12 * 2.0**-24 * x.norm()  # six roundings of orthonormal maps a level
    # Parseval: every level down divides the coarse image by r = 2.
    energy = sum(4.0 ** (2 - max(s, 1) + (s == 0)) * levels[s].double().square().sum() for s in range(3))
    torch.testing.assert_close(energy, x.double().square().sum(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("basis", ["dct", "haar"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_orthonormal_pyramid_has_the_reference_bits(backend, dtype, basis):
    if dispatch.missing(backend):
        pytest.skip(dispatch.missing(backend))
    x, values = states((2, 3, 12, 20), dtype)
    expected = reference.orthonormal_pyramid(values, 3, basis, dtype)
    with dispatch.backend(backend):
        found = laplacian_pyramid(x, 3, basis=basis)
        for level, wanted in zip(found, expected, strict=True):
            assert_same_bits(level.float(), wanted)
        for k in (2, 3):
            preview = laplacian_reconstruct(found[:k], basis=basis)
            assert_same_bits(preview.float(), reference.orthonormal_reconstruct(expected[:k], basis, dtype))


def test_haar_levels_are_the_means_and_the_bands_of_dwt2():
    x = torch.randint(-128, 128, (2, 3, 8, 12)).float()
    coarse, detail = laplacian_pyramid(x, 2, basis="haar")
    assert_same_bits(coarse, functional.avg_pool2d(x, 2) + 0.0)
    bands = dwt2(x)
    assert_same_bits(detail[:, 3:6], bands[..., 4:, :6].contiguous())  # high rows, all channels
    assert_same_bits(laplacian_reconstruct([coarse, detail], basis="haar"), x + 0.0)  # integers: no rounding anywhere


def test_a_band_lies_where_it_lies_in_the_image():
    x = torch.zeros(1, 32, 32)
    x[0, 20:24, 6:10] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    band = laplacian_pyramid(x, 2, basis="dct")[1][0].square()  # high columns
    rows, columns = torch.arange(16.0) + 0.5, torch.arange(16.0) + 0.5
    assert abs((band.sum(1) @ rows) / band.sum() - 11) < 1
    assert abs((band.sum(0) @ columns) / band.sum() - 4) < 1


TIMES = [[0.3, 1.0, 1.0], [0.05, 0.625, 0.0]]
MASK = [[True, False, False], [True, True, True]]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_noised_levels_have_the_reference_bits(device, dtype, masked):
    x, values = states((2, 2, 5, 20), dtype)
    sizes = [(2, 5), (3, 10), (5, 20)]
    levels = laplacian_pyramid(x.to(device), 3)
    mask = torch.tensor(MASK, device=device) if masked else None
    found = noise_levels(levels, torch.tensor(TIMES, dtype=torch.float64), [5, 2**40], mask=mask, stream=7)
    expected = reference.noise_levels(
        reference.pyramid(values, sizes, "area", dtype), np.float64(TIMES), [5, 2**40],
        mask=MASK if masked else None, stream=7, dtype=dtype,
    )  # fmt: skip
    for part, wanted in zip(found, expected, strict=True):
        for level, value in zip(part, wanted, strict=True):
            assert_same_bits(level.float(), value)


def test_noise_of_levels_is_the_library_s(device):
    levels = [torch.zeros(2, 1, 8, 8, device=device), torch.zeros(2, 1, 16, 16, device=device)]
    noisy, velocities = noise_levels(levels, [[1, 1], [1, 1]], 9)
    for s in range(2):
        assert_same_bits(noisy[s], normal(levels[s].shape, 9, stream=s))
        assert_same_bits(velocities[s], noisy[s])


def test_layouts_of_noised_levels(device):
    levels = [torch.randn(2, 3, 4, 6, device=device), torch.randn(2, 3, 8, 12, device=device)]
    asked = [layouts.Tokens(4, 6), layouts.Patches(8, 12)]
    planes = noise_levels(levels, [[0.2, 0.5], [0.9, 1.0]], 3)
    tokens = noise_levels(levels, [[0.2, 0.5], [0.9, 1.0]], 3, layouts=asked)
    for plain, packed in zip(planes, tokens, strict=True):
        assert_same_bits(packed[0], plain[0].permute(0, 2, 3, 1).reshape(2, 24, 3).contiguous())
        patches = plain[1].view(2, 3, 4, 2, 6, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 24, 12)
        assert_same_bits(packed[1], patches.contiguous())


def test_a_sample_has_the_same_noise_alone(device):
    levels = [torch.randn(3, 2, 5, 7, device=device)]
    together = noise_levels(levels, [[0.5]] * 3, 4)
    alone = noise_levels([levels[0][2:]], [[0.5]], 6)
    assert_same_bits(together.noisy[0][2:], alone.noisy[0])


def test_a_level_without_planes_beside_one_with_planes(device):
    """Five dimensions and more are merged, which must not divide by no elements."""
    levels = [torch.randn(2, 0, 3, 1, 4, 4, device=device), torch.randn(2, 1, 5, 7, device=device)]
    noisy = noise_levels(levels, [[0.5, 0.5]] * 2, 4).noisy
    assert noisy[0].shape == levels[0].shape
    assert_same_bits(noisy[1], noise_levels(levels[1:], [[0.5]] * 2, 4, stream=1).noisy[0])
