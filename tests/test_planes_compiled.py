# SPDX-License-Identifier: Apache-2.0
"""The plane product compiled for GPUs that are not here: shared memory, spills, tensor cores, roundings."""

import re

import pytest
from compiled import CUDA_TARGETS, TARGETS, compile_kernel

pytest.importorskip("triton")

import triton

from spectral_kernels.kernels import launch, planes

pytestmark = pytest.mark.skipif(
    tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 9),
    reason=f"the limits are those of Triton 3.9; {triton.__version__} spills more, and has fewer float64 tensor cores",
)

STRIDES, SIZE = ("i64",) * 7, ("i32", "i32")
TENSORS = {"x": "*fp32", "other": "*fp32", "seeds": "*i64", "x_strides": STRIDES, "other_strides": STRIDES}


def compiled(kernel, mode, tile, target, signature, **constexprs):
    """An expansion of float32 planes that draws its noise, as `launch` asks for it."""
    names = kernel.arg_names
    given = {
        "MODE": mode,
        "DOT": launch.dot_precision("fast", target == "gfx942"),
        **{"PATCH": 1, "SECOND": "noise", "ADD": False, "MASKED": True, "FORMULA": "expand", "PART": ""},
        **{"SEEDS": False, "TIMES": False, "ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth},
        **{name: 22 for name in names if name.startswith("BITS_")},
        **constexprs,
    }
    types = {"base_seed": "i64", "stream": "i64", "t": "i64", "ratio": "i64", "times": "*fp64", **TENSORS}
    types |= {"out_strides": STRIDES, "corner": SIZE, "per_sample": "i32", "c2": "i32", **signature}
    return compile_kernel(
        kernel,
        {name: types[name] for name in names if name in types},
        {name: given[name] for name in names if name in given},
        target=target,
        num_warps=tile.warps,
        num_stages=1,
    )


def assert_sound(result, mode):
    """Double precision on tensor cores where the promise is, and no product contracted with a sum outside of them."""
    if result.target not in CUDA_TARGETS:
        assert not re.search(r"llvm\.fmuladd|\bfast\b", result.asm["llir"])
        if mode == "exact":
            assert "v_mfma_f64" in result.asm["amdgcn"]
        return
    ptx = result.asm["ptx"]
    assert not re.search(r"fma\.rn(\.ftz)?\.f64|div\.full|\.approx", ptx)
    if mode == "exact":
        assert result.float32_contractions == 0
        assert re.search(r"mma\.sync[\w.]*f64", ptx)


# Shared memory of one program, of which an A100 has 163 KiB, an H100 227 KiB and an MI300 64 KiB (it needs a third).
# Spilled bytes (AMD: registers, scalar ones among them) as found with Triton 3.9, and some room.
FUSED = [
    ("exact", 64, 57344, {"sm_80": 0, "sm_90": 0, "sm_100": 32, "gfx942": 16}),  # FLUX latents
    ("fast", 64, 32768, {"sm_80": 0, "sm_90": 0, "sm_100": 0, "gfx942": 16}),
    ("exact", 128, 114688, {"sm_80": 32, "sm_90": 128, "sm_100": 176, "gfx942": 350}),  # the largest of one launch
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("mode", "side", "shared", "spills"), FUSED, ids=["FLUX", "FLUX fast", "largest"])
def test_one_launch(mode, side, shared, spills, target):
    sizes = (2 * side, 2 * side), (side, side)
    tables = dict.fromkeys(("rows1", "columns1", "rows2", "columns2"), "*fp32")
    result = compiled(
        planes.fused,
        mode,
        launch.fused_tile(mode, *sizes),
        target,
        {"out": "*fp32", **tables, "out_size": SIZE, "x_size": SIZE, "other_size": SIZE},
        WIDTH1=side,
        WIDTH2=2 * side,
    )
    assert_sound(result, mode)
    assert result.shared <= shared
    assert result.spills <= spills[target]


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("precision", ["tf32", "bf16x3"])
def test_other_products_of_float32(precision, target):
    """They compile, and the tensor core is asked for them."""
    tables = dict.fromkeys(("rows1", "columns1", "rows2", "columns2"), "*fp32")
    result = compiled(
        planes.fused,
        "fast",
        launch.fused_tile("fast", (128, 128), (64, 64)),
        target,
        {"out": "*fp32", **tables, "out_size": SIZE, "x_size": SIZE, "other_size": SIZE},
        DOT=launch.dot_precision(precision, target == "gfx942"),
        WIDTH1=64,
        WIDTH2=128,
    )
    if target == "sm_90":
        assert re.search(r"(wgmma|mma)[\w.]*\.(\w+\.)*" + precision[:4], result.asm["ptx"])
    elif precision == "bf16x3":
        assert re.search(r"v_mfma_f32\w*bf16", result.asm["amdgcn"])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_two_launches(mode, target):
    half = {"half1": "*fp32", "half2": "*fp32"} if mode == "fast" else {"half1": "*fp64", "half2": "*fp64"}
    tables = dict.fromkeys(("rows1", "columns1", "rows2", "columns2"), "*fp32")
    sizes = {"height": "i32", "x_size": SIZE, "other_size": SIZE, "column_tiles1": "i32"}
    outputs = {"out": "*fp32", "out_size": SIZE, "width1": "i32", "width2": "i32"}
    tile = launch.pair_tile(mode)
    for kernel in (planes.rows, planes.columns):
        result = compiled(
            kernel, mode, tile, target, {**half, **tables, **(sizes if kernel is planes.rows else outputs)}
        )
        assert_sound(result, mode)
        assert result.shared <= (16 << 10) + 8
        assert result.spills == 0


def test_states_are_addressed_with_64_bits():
    """Every array of pointers into x, E or the output moves by 64-bit numbers even where the strides are small, and so
    does every way to a plane: more than 2^31 elements are reached. Tables and rows of one plane stay below 2^31."""
    small = ("i32",) * 7
    tables = dict.fromkeys(("rows1", "columns1", "rows2", "columns2"), "*fp32")
    states = {"out": "*bf16", "x": "*bf16", "other": "*bf16"}
    strides = dict.fromkeys(("out_strides", "x_strides", "other_strides"), small)
    sizes = {"out_size": SIZE, "x_size": SIZE, "other_size": SIZE, "column_tiles1": "i32", "height": "i32"}
    widths = {"half1": "*fp64", "half2": "*fp64", "width1": "i32", "width2": "i32"}
    for kernel in (planes.fused, planes.rows, planes.columns):
        result = compiled(
            kernel, "exact", launch.pair_tile("exact"), "sm_90", {**tables, **states, **strides, **sizes, **widths},
            PATCH=2, SECOND="tensor", ADD=True, FORMULA="lift", WIDTH1=16, WIDTH2=32,
        )  # fmt: skip
        moves = re.findall(
            r"tt\.addptr %\S+, %\S+ : (tensor<[\dx]*)?!tt\.ptr<(\w+)>>?, (?:tensor<[\dx]*)?(i\d+)", result.asm["ttir"]
        )
        into_states = {bits for _, dtype, bits in moves if dtype == "bf16"}
        to_planes = {bits for tensor, dtype, bits in moves if not tensor and dtype == "f64"}
        assert into_states == {"i64"} and to_planes <= {"i64"}
