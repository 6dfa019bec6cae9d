# SPDX-License-Identifier: Apache-2.0
"""Launches of the Triton backend: no setting changes a bit; what a GPU would refuse or mistake, seen without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reference import expand as reference
from spectral_kernels import (
    Forecaster,
    arguments,
    bases,
    cached,
    chebyshev_forecast,
    chebyshev_weights,
    dct_expand,
    dispatch,
    dwt_expand,
    forecast,
    laplacian_pyramid,
    laplacian_reconstruct,
    noise_levels,
    normal,
    spectral_lift,
)
from spectral_kernels import noise as noise_room
from spectral_kernels.dispatch import pyramid as pyramid_room
from spectral_kernels.dispatch.product import Operands, Product
from tests.bits import assert_same_bits
from tests.cases import array, available, random

pytest.importorskip("triton")

from triton.runtime.interpreter import GridExecutor
from triton.runtime.jit import JITFunction

from spectral_kernels.kernels import haar, launch, noise, octave, planes, pyramid

ROOT = Path(__file__).parents[1]
SIZES = (5, 17), (19, 35)  # no tile divides them; two to three tiles of 16, one to two of 32


# In the interpreter warps and stages mean nothing.
TILES = [
    tile
    for tile in launch.PAIR_TILES
    if torch.cuda.is_available() or (tile in launch.TILES and tile.warps == 4) or tile == launch.pair_tile("exact")
]


@pytest.fixture
def tiled(monkeypatch):
    """Set the tile of every launch, and the side up to which one kernel does all."""

    def use(tile, fused_side):
        monkeypatch.setattr(planes, "fused_tile", lambda *_: tile)
        monkeypatch.setattr(planes, "pair_tile", lambda *_: tile)
        monkeypatch.setattr(planes, "fused_side", lambda *_: fused_side)

    return use


@pytest.mark.parametrize("fused_side", [256, 0], ids=["one launch", "two launches"])
@pytest.mark.parametrize("tile", TILES, ids=lambda t: f"{t.rows}x{t.columns}x{t.depth}x{t.warps}x{t.stages}")
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
    assert launch.pair_tile(mode) in launch.PAIR_TILES


# ---------------------------------------------------------------- what only a GPU would show


def states(device):
    return random((2, 3, 4, 6), device=device), random((2, 3, 8, 12), 1, device=device)


def forecast_on_device(x, _):
    times = torch.arange(2.0, dtype=torch.float64, device=x.device)
    return chebyshev_forecast([x, x], times, times[1:] + 1, 50)


def moments(x, _):
    forecaster = Forecaster(50, storage="moments")
    forecaster.update(0, x)
    return forecaster.predict(1)


# Every way into a kernel.
LAUNCHES = {
    "planes": lambda x, e: dct_expand(x, size=e.shape[-2:], t=0.3, noise=e).x,
    "planes in two": lambda x, _: dct_expand(x[:1, :1], size=(257, 6), t=0.3, seed=1).x,
    "Haar": lambda x, _: dwt_expand(x, 2, t=0.3, seed=1).x,
    "Haar given": lambda x, e: dwt_expand(x, 2, t=0.3, noise=e).x,
    "noise": lambda x, _: normal(x.shape, 7, device=x.device),
    "forecast": lambda x, _: forecast([x, x], [1.0, 2.0]),
    "forecast on the device": forecast_on_device,
    "weights on the device": lambda x, _: chebyshev_weights(
        torch.arange(2.0, dtype=torch.float64, device=x.device), 3.0, 50
    ),
    "moments": moments,
    "pyramid": lambda x, _: laplacian_pyramid(x, 2),
    "pyramid up": lambda x, e: laplacian_reconstruct([x, e]),
    "levels": lambda x, e: noise_levels([x, e], [[0.1, 0.2]] * 2, 7),
}


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_kernel_runs_on_the_gpu_of_its_tensors(name, monkeypatch):
    """Triton launches on the current device, whatever the tensors are on."""
    current, launched = [], []

    class DeviceOf:
        def __init__(self, tensor):
            self.tensor = tensor

        def __enter__(self):
            current.append(self.tensor)

        def __exit__(self, *_):
            current.pop()

    interpreted = not torch.cuda.is_available()
    launcher, run = (GridExecutor, "__call__") if interpreted else (JITFunction, "run")
    plainly = getattr(launcher, run)

    def recorded(self, *args, **kwargs):
        launched.append(bool(current))
        return plainly(self, *args, **kwargs)

    monkeypatch.setattr(torch.cuda, "device_of", DeviceOf)
    monkeypatch.setattr(launcher, run, recorded)
    with available("triton") as device:
        LAUNCHES[name](*states(device))
    assert launched and all(launched)


class Grids:
    """Stands for a kernel: keeps the grids of its launches."""

    def __init__(self):
        self.found = []

    def __getitem__(self, grid):
        return lambda *_, **__: self.found.append(grid)


@pytest.mark.parametrize("shape", [(1, 4096, 4096), (1, 4096, 1), (1, 1, 4096)], ids=str)
def test_grids_fit_cuda_at_the_largest_side(shape, monkeypatch):
    """The second and third dimension of a grid end at 65535, the first at 2^31 - 1."""
    grids = Grids()
    kernels = {
        planes: ("fused", "rows", "columns"),
        haar: ("haar", "haar_noise"),
        pyramid: ("split_kernel", "merge_kernel", "noise_kernel"),
        octave: ("split_area", "split_bilinear", "merge_area", "merge_bilinear"),
    }
    for room, names in kernels.items():
        for name in names:
            monkeypatch.setattr(room, name, grids)
    monkeypatch.setattr(noise, "normal_kernel", grids)
    x = torch.empty(1, device="meta").expand(shape)
    view = x[None, :, None, :, None, :, None].transpose(1, 2)
    for factor in (2, 3):  # blocks of 2 x 2 have kernels of their own
        low = torch.empty(1, device="meta").expand(1, 1, 1, -(-shape[1] // factor), 1, -(-shape[2] // factor), 1)
        for resample in ("area", "bilinear"):
            pyramid.split(view, low, view, resample)
            pyramid.merge(low, view, view, resample, False)
    pyramid.noise_levels([view], [view, view], torch.zeros(1, 1), None, None, 7, 0)
    noise.normal(*shape, 1, 7, None, 0, torch.float32, torch.device("meta"))
    product = Product("analysis", "", "dct", (1, 1), (1, 1))
    monkeypatch.setattr(Product, "tables", lambda *_: (x, x))
    operands = Operands(view, view, None, None, None, None, 0.0)
    planes.launch(product, operands)
    half = tuple(max(1, side // 2) for side in shape[1:])
    haar.launch(product._replace(basis="haar", fine=tuple(2 * side for side in half), coarse=half), operands)
    assert len(grids.found) == 13
    for grid in grids.found:
        assert grid[0] < 2**31 and max(grid[1:], default=0) <= 65535, grid


def test_one_launch_is_for_chips_that_hold_it(monkeypatch):
    """float64 tensor cores, and memory for a plane's rows; else two launches."""
    cuda = torch.device("cuda", 0)

    def side(mode, *capability):
        launch.fused_side.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        return launch.fused_side(mode, cuda)

    monkeypatch.setattr(torch.version, "hip", None)
    assert [side("exact", *chip) for chip in ((8, 6), (8, 9), (12, 0))] == [0, 0, 0]
    assert side("exact", 9, 0) == side("double", 8, 0) >= 128
    assert side("fast", 8, 9) == 256
    launch.fused_side.cache_clear()
    assert launch.fused_side("exact", torch.device("cpu")) == 256


# ---------------------------------------------------------------- what is kept for a graph


def test_a_constant_that_a_graph_was_captured_with_stays(monkeypatch):
    class Constant:
        is_cuda = True

        def __init__(self, number):
            self.number = number

        def data_ptr(self):
            return self.number

    monkeypatch.setattr(cached, "_in_graphs", {})
    make = cached.cached(maxsize=2)(Constant)
    capturing = [False]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    first = make(1)
    assert make(1) is first and cached._in_graphs == {}
    capturing[0] = True
    assert make(1) is first
    capturing[0] = False
    for number in range(2, 9):
        make(number)
    assert make(1) is not first  # the cache let it go
    assert list(cached._in_graphs.values()) == [first]


@pytest.mark.parametrize(
    "table",
    [
        bases.sliced,
        bases.rounded,
        bases.noise_weights,
        arguments._on_device,
        noise_room._copied,
        pyramid_room._kept_counts,
        pyramid_room._kept_points,
    ],
    ids=lambda f: f.__name__,
)
def test_every_constant_on_a_device_is_kept_for_graphs(table):
    assert table.__code__ is cached.cached(1)(lambda: None).__code__


def test_seeds_of_samples_are_kept_by_device(monkeypatch):
    """ "cuda" is whatever GPU is current."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    asked = []
    monkeypatch.setattr(noise_room, "_copied", lambda numbers, device: asked.append(device))
    noise_room.seeds_for("normal", [1, 2], 2, torch.device("cuda"))
    noise_room.seeds_for("normal", [1, 2], 2, torch.device("cuda", 0))
    assert asked == [torch.device("cuda", 1), torch.device("cuda", 0)]


@pytest.mark.parametrize(
    ("triton", "numpy", "fails"),
    [("3.6.0", "2.4.0", True), ("3.6.0", "2.3.5", False), ("3.7.0", "2.5.2", False), ("3.10.0", "2.5.2", False)],
)
def test_an_interpreter_that_fails_is_told(triton, numpy, fails):
    why = dispatch._interpreter_fails(triton, numpy)
    assert (why is not None) == fails
    if fails:
        assert "pip install 'triton>=3.7' or 'numpy<2.4'" in why


def test_numbers_of_one_compile():
    """They are constants to the compiler, and only to it."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.gpu_classes", "90"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["failed"] == {}
    assert found["compiled"] >= 15
