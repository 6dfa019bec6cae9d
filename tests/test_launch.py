# SPDX-License-Identifier: Apache-2.0
"""Launch settings of the Triton backend: none of them changes a bit."""

import pytest
import torch

from reference import expand as reference
from spectral_kernels import dct_expand, spectral_lift
from tests.bits import assert_same_bits
from tests.cases import array, available, random

pytest.importorskip("triton")

from spectral_kernels.kernels import launch, planes

SIZES = (5, 17), (19, 35)  # no tile divides them; two to three tiles of 16, one to two of 32


# In the interpreter warps mean nothing.
TILES = [tile for tile in launch.TILES if tile.warps == 4 or torch.cuda.is_available()]


@pytest.fixture
def tiled(monkeypatch):
    """Set the tile of every launch, and the side up to which one kernel does all."""

    def use(tile, fused_side):
        monkeypatch.setattr(planes, "fused_tile", lambda *_: tile)
        monkeypatch.setattr(planes, "pair_tile", lambda *_: tile)
        monkeypatch.setattr(planes, "FUSED_SIDE", fused_side)

    return use


@pytest.mark.parametrize("fused_side", [256, 0], ids=["one launch", "two launches"])
@pytest.mark.parametrize("tile", TILES, ids=lambda t: f"{t.rows}x{t.columns}x{t.depth}x{t.warps}")
def test_no_tile_changes_a_bit(tile, fused_side, tiled):
    coarse, fine = SIZES
    x = random((1, *coarse))
    tiled(tile, fused_side)
    with available("triton") as device:
        found = dct_expand(x.to(device), size=fine, t=0.35, seed=7).x
    assert_same_bits(found, reference.expand(array(x), fine, 0.35, seed=7)[0])


@pytest.mark.parametrize("fused_side", [256, 0], ids=["one launch", "two launches"])
@pytest.mark.parametrize("tile", [launch.TILES[0], launch.TILES[-1]], ids=["smallest", "largest"])
def test_a_second_tensor_and_the_sum(tile, fused_side, tiled):
    coarse, fine = SIZES
    x, noise, z = random((1, *coarse)), random((1, *fine), 1), random((1, *fine), 2)
    tiled(tile, fused_side)
    with available("triton") as device:
        given = dct_expand(x.to(device), size=fine, t=0.35, noise=noise.to(device)).x
        lifted = spectral_lift(z.to(device), x.to(device), t=0.35)
    assert_same_bits(given, reference.expand(array(x), fine, 0.35, noise=array(noise))[0])
    assert_same_bits(lifted, reference.lift(array(z), array(x), 0.35))


@pytest.mark.parametrize("mode", ["exact", "fast", "double"])
def test_choices_are_among_the_tiles_that_are_walked(mode):
    for side in (1, 16, 100, 128, 129, 256):
        assert launch.fused_tile(mode, (side, side), (1, 1)) in launch.TILES
    assert mode == "fast" or launch.pair_tile(mode) in launch.TILES
