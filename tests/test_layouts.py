# SPDX-License-Identifier: Apache-2.0
"""Layouts: the same bits as unpacking, the op on planes, and packing again, without a copy of the state."""

import pytest
import torch

from spectral_kernels import Patches, Planes, Tokens, dct_expand, dct_truncate, normal, spectral_lift
from spectral_kernels.layouts import view
from tests.bits import assert_same_bits
from tests.cases import available, on_every_backend, random

COARSE, FINE = (4, 6), (10, 8)
CHANNELS = 3


def pack(planes, layout):
    """[B, C, h, w] as tokens, by the definitions of the pipelines that use them."""
    batch, channels, h, w = planes.shape
    if layout is Tokens:
        return planes.flatten(2).transpose(1, 2).contiguous()
    patches = planes.view(batch, channels, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, (h // 2) * (w // 2), channels * 4)


def expected(result, layout):
    return result if layout is Planes else pack(result, layout)


LAYOUTS = pytest.mark.parametrize("layout", [Patches, Tokens], ids=lambda kind: kind.__name__)


@on_every_backend
@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_expansion_is_unpack_expand_pack(dtype, layout, backend):
    with available(backend) as device:
        x, noise = random((2, CHANNELS, *COARSE), dtype=dtype), random((2, CHANNELS, *FINE), 1, dtype)
        x, noise = x.to(device), noise.to(device)
        drawn = dct_expand(pack(x, layout), size=FINE, t=[0.3, 0.8], seed=9, layout=layout(*COARSE)).x
        given = dct_expand(pack(x, layout), size=FINE, t=0.3, noise=pack(noise, layout), layout=layout(*COARSE)).x
        assert_same_bits(drawn, pack(dct_expand(x, size=FINE, t=[0.3, 0.8], seed=9).x, layout))
        assert_same_bits(given, pack(dct_expand(x, size=FINE, t=0.3, noise=noise).x, layout))


@on_every_backend
@LAYOUTS
def test_truncation_and_lift(layout, backend):
    z, v = random((2, CHANNELS, *FINE)), random((2, CHANNELS, *COARSE), 1)
    with available(backend) as device:
        z, v = z.to(device), v.to(device)
        low = dct_truncate(pack(z, layout), size=COARSE, layout=layout(*FINE))
        lifted = spectral_lift(pack(z, layout), pack(v, layout), t=0.4, size=FINE, layout=layout(*COARSE))
        assert_same_bits(low, pack(dct_truncate(z, size=COARSE), layout))
        assert_same_bits(lifted, pack(spectral_lift(z, v, t=0.4), layout))


def test_planes_are_the_default():
    x = random((1, 2, *COARSE))
    assert_same_bits(dct_expand(x, 2, t=0.5, seed=1, layout=Planes()).x, dct_expand(x, 2, t=0.5, seed=1).x)


@LAYOUTS
def test_strided_tokens(layout):
    """Half of the channels of wider tokens, and tokens that follow others in one sequence, as in transformers."""
    tokens = pack(random((2, 2 * CHANNELS, *COARSE)), layout)
    half = tokens[..., : tokens.shape[2] // 2]
    long = torch.cat([torch.full_like(tokens[:, :3], float("nan")), tokens], 1)[:, 3:]
    assert not half.is_contiguous() and not long.is_contiguous()
    for part in (half, long):
        found = dct_expand(part, size=FINE, t=0.5, seed=1, layout=layout(*COARSE)).x
        assert_same_bits(found, dct_expand(part.contiguous(), size=FINE, t=0.5, seed=1, layout=layout(*COARSE)).x)


@LAYOUTS
def test_views_share_memory(layout):
    x = pack(random((2, CHANNELS, *COARSE)), layout)
    seen = view(x, layout.name, COARSE)
    assert seen.data_ptr() == x.data_ptr()
    assert seen.shape[:3] == (2, CHANNELS, 1)
    planes = random((2, 1, 3, *COARSE))
    assert view(planes, "planes", COARSE).data_ptr() == planes.data_ptr()


@LAYOUTS
def test_gradients_flow_through_a_layout(layout):
    x, noise = random((1, 1, 2, 2)).double(), random((1, 1, 4, 6), 1).double()
    inputs = pack(x, layout).requires_grad_(), pack(noise, layout).requires_grad_()
    torch.autograd.gradcheck(
        lambda x, noise: dct_expand(x, size=(4, 6), t=0.4, noise=noise, layout=layout(2, 2)).x, inputs
    )


def test_empty_batch_of_tokens():
    assert dct_expand(torch.zeros(0, 6, 4), 2, t=0.5, seed=1, layout=Patches(4, 6)).x.shape == (0, 24, 4)
    assert normal((0, 4, 4), 1).shape == (0, 4, 4)
