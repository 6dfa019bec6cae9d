# SPDX-License-Identifier: Apache-2.0
"""The ends of what sizes may be: nothing at all, one pixel, sides of 4096, elements beyond 2^31; in every basis."""

import mmap

import numpy as np
import pytest
import torch

from reference import expand as reference
from reference.exact import exact_matmul
from spectral_kernels import (
    Patches,
    Tokens,
    bases,
    dct_expand,
    dct_truncate,
    dctn,
    dwt2,
    dwt_expand,
    dwt_truncate,
    fft_expand,
    fft_truncate,
    idctn,
    idwt2,
    spectral_lift,
)
from tests.bits import assert_same_bits
from tests.cases import array, available, on_every_backend, random

# name: the op, the shape of one sample
CALLS = {
    "dct_expand": (lambda x: dct_expand(x, 2, t=0.4, seed=3).x, (3, 4, 6)),
    "dct_truncate": (lambda x: dct_truncate(x, 0.5), (3, 4, 6)),
    "spectral_lift": (lambda z: spectral_lift(z, z[..., ::2, ::2], t=0.4), (3, 4, 6)),
    "dctn": (dctn, (3, 4, 6)),
    "fft_expand": (lambda x: fft_expand(x, 1.5, t=0.4, seed=3).x, (3, 4, 6)),
    "fft_truncate": (lambda x: fft_truncate(x, 0.5), (3, 4, 6)),
    "Haar": (lambda x: dwt_expand(x, 2, t=0.4, seed=3).x, (3, 4, 6)),
    "Haar, four times": (lambda x: dwt_expand(x, 4, t=0.4, seed=3).x, (3, 4, 6)),
    "db2": (lambda x: dwt_expand(x, 2, t=0.4, seed=3, wavelet="db2").x, (3, 4, 6)),
    "dwt2": (dwt2, (3, 4, 6)),
    "idwt2": (lambda x: idwt2(x, "db2"), (3, 4, 6)),
    "dwt_truncate": (lambda x: dwt_truncate(x, 0.5), (3, 4, 6)),
    "tokens": (lambda x: dct_expand(x, 2, t=0.4, seed=3, layout=Tokens(4, 6)).x, (24, 3)),
    "patches": (lambda x: dct_expand(x, 2, t=0.4, seed=3, layout=Patches(4, 6)).x, (6, 12)),
    "Haar in patches": (lambda x: dwt_expand(x, 2, t=0.4, seed=3, layout=Patches(4, 6)).x, (6, 12)),
}


@on_every_backend
@pytest.mark.parametrize("name", CALLS)
def test_no_sample_gives_no_sample(name, backend):
    function, shape = CALLS[name]
    if name in ("db2", "idwt2"):
        pytest.importorskip("pywt")
    with available(backend) as device:
        one = function(torch.zeros(1, *shape, device=device))
        none = function(torch.zeros(0, *shape, device=device, dtype=torch.bfloat16))
    assert none.shape == (0, *one.shape[1:])
    assert none.dtype == torch.bfloat16


@on_every_backend
def test_sides_of_one_pixel(backend):
    """The only frequency is the mean; whatever grows gets noise beside it."""
    x, line, column = random((2, 1, 1)), random((2, 1, 5)), random((2, 5, 1))
    with available(backend) as device:
        for expand, basis in ((dct_expand, "dct"), (fft_expand, "fft")):
            for given, size in ((x, (1, 1)), (x, (2, 3)), (line, (1, 8)), (line, (3, 5)), (column, (6, 1))):
                found = expand(given.to(device), size=size, t=0.4, seed=3).x
                assert_same_bits(found, reference.expand(array(given), size, 0.4, seed=3, basis=basis)[0])
        for size in ((2, 2), (1, 2), (4, 1)):
            found = dwt_expand(x.to(device), size=size, t=0.4, seed=3).x
            assert_same_bits(found, reference.expand(array(x), size, 0.4, seed=3, basis="haar")[0])
        assert_same_bits(dct_truncate(line.to(device), size=(1, 1)), reference.truncate(array(line), (1, 1)))
        square = random((2, 2, 2))
        lowest = dwt_truncate(square.to(device), size=(1, 1))
        assert_same_bits(lowest, reference.truncate(array(square), (1, 1), basis="haar"))
        assert_same_bits(dctn(x.to(device)), x)
        assert_same_bits(idctn(line.to(device)), reference.transform(array(line), inverse=True))
        tokens = dct_expand(x.view(1, 1, 2).to(device), size=(2, 3), t=0.4, seed=3, layout=Tokens(1, 1)).x
    planes = reference.expand(array(x.view(1, 2, 1, 1)), (2, 3), 0.4, seed=3)[0]
    assert_same_bits(tokens.mT.contiguous().view(1, 2, 2, 3), planes)


# Tables of 4096 x 4096 take a minute and a GiB: one of each kind that differs, and lines in place of whole planes.
def test_the_largest_side_has_the_reference_bits():
    x = random((1, 4096, 2))
    table = bases.analysis("dct", 4096).numpy()  # its entries are the reference's, by tests of both makers
    with np.errstate(invalid="ignore"):
        half = exact_matmul(table, array(x).astype(np.float64))
    columns = np.array([[1.0, 1.0], [1.0, -1.0]]) * np.sqrt(0.5)
    expected = reference.rounded(np.swapaxes(exact_matmul(columns, np.swapaxes(half, -1, -2)), -1, -2))
    for backend in ("torch", "native"):
        with available(backend):
            assert_same_bits(dctn(x), expected)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_the_largest_plane_of_haar(backend):
    """One plane 4096 x 4096, by four of its blocks of 2 x 2."""
    x = random((1, 64, 64)).repeat(1, 64, 64)
    with available(backend):
        bands = dwt2(x)
        again = idwt2(bands)
    for i, j in ((0, 0), (2047, 2047), (2047, 0), (0, 1)):
        block = array(x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2])
        corner = np.array([[0, 2048]])
        found = bands[0, torch.from_numpy(i + corner.T), torch.from_numpy(j + corner)]
        assert_same_bits(found, reference.transform(block, basis="haar", coarse=(1, 1))[0])
    assert float((again - x).abs().max()) < 2e-6


def far_apart(shape, strides) -> torch.Tensor:
    """A float16 tensor with these strides over memory that is reserved by name only: untouched pages cost nothing."""
    reach = 1 + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    memory = torch.frombuffer(mmap.mmap(-1, 2 * reach, flags=anonymous), dtype=torch.float16)
    view = memory.as_strided(shape, strides)
    return view.copy_(random(shape, dtype=torch.float16))


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("name", [name for name in CALLS if name != "spectral_lift"])
def test_elements_beyond_2_to_the_31(name, backend):
    """Samples 2^31 elements apart; planes, rows and columns too where the layout lets them."""
    function, shape = CALLS[name]
    if name in ("db2", "idwt2"):
        pytest.importorskip("pywt")
    strides = (2**31 + 7, 2**29 + 3, 2**28 + 5, 2**27 + 1) if len(shape) == 3 else (2**31 + 7, shape[1], 1)
    x = far_apart((2, *shape), strides)
    with available(backend):
        assert_same_bits(function(x), function(x.contiguous()))
