# SPDX-License-Identifier: Apache-2.0
"""The plane product compiled for GPUs that are not here: shared memory, spills, tensor cores, roundings."""

import re

import pytest
from compiled import TARGETS, compile_kernel

pytest.importorskip("triton")

import triton

from spectral_kernels.kernels import launch, planes

VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])
NEW = VERSION >= (3, 9)
# Both ends of what is supported have their limits here; between them nothing was measured.
pytestmark = pytest.mark.skipif(
    not NEW and VERSION != (3, 6), reason=f"the limits are those of Triton 3.6 and 3.9, this is {triton.__version__}"
)
# Chips whose float64 tensor cores are used; Triton 3.6 cannot compile an exact product for AMD's.
MATRIX_UNITS = ("sm_80", "sm_90", "sm_100", "gfx942") if NEW else ("sm_80", "sm_90")
# Others, where a float64 dot is a row of multiply-adds, with the shared memory that one program may have there.
WITHOUT = {"sm_86": 99 << 10, "sm_89": 99 << 10, "sm_120": 99 << 10, "gfx1100": 64 << 10}

STRIDES, SIZE = ("i64",) * 7, ("i32", "i32")
TENSORS = {"x": "*fp32", "other": "*fp32", "seeds": "*i64", "x_strides": STRIDES, "other_strides": STRIDES}


def compiled(kernel, mode, tile, target, signature, **constexprs):
    """An expansion of float32 planes that draws its noise, as `launch` asks for it."""
    names = kernel.arg_names
    given = {
        "MODE": mode,
        "DOT": launch.dot_precision("fast", target.startswith("gfx")),
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
        num_stages=tile.stages,
    )


def assert_sound(result, mode, multiply_adds=0):
    """Double precision on tensor cores where the promise is, and no product contracted with a sum outside of dots:
    `multiply_adds` are those of a thread's dots on chips that do them without tensor cores."""
    assert not re.search(r"\bfast\b|\bcontract\b", result.asm["llir"])
    if result.target.startswith("gfx"):
        found = len(re.findall(r"llvm\.(?:fmuladd|fma)\.(?:v\d+)?f64\(", result.asm["llir"]))
        assert found <= 1 or multiply_adds
        if mode == "exact" and not multiply_adds:
            assert "v_mfma_f64" in result.asm["amdgcn"]
        return
    ptx = result.asm["ptx"]
    assert not re.search(r"div\.full|\.approx|\.ftz", ptx)
    assert len(re.findall(r"fma\.rn\.f64", ptx)) == multiply_adds
    if mode == "exact":
        assert result.float32_contractions == 0
        assert multiply_adds or re.search(r"mma\.sync[\w.]*f64", ptx)


# Shared memory of one program, of which an A100 has 163 KiB, an H100 227 KiB and an MI300 64 KiB (it needs a third).
# Spilled bytes (AMD: registers, scalar ones among them) as found, and some room.
FUSED = [
    ("exact", 64, 57344, {"sm_80": 0, "sm_90": 0, "sm_100": 32, "gfx942": 24}),  # FLUX latents
    ("fast", 64, 32768, {"sm_80": 0, "sm_90": 0, "sm_100": 0, "gfx942": 16}),
    ("exact", 128, 114688, {"sm_80": 32, "sm_90": 128, "sm_100": 176, "gfx942": 350}),  # the largest of one launch
]
if not NEW:  # above 128 an exact product has two launches there
    FUSED = [
        ("exact", 64, 57344, {"sm_80": 96, "sm_90": 192}),
        ("fast", 64, 32768, {"sm_80": 0, "sm_90": 0, "sm_100": 0, "gfx942": 0}),
    ]


@pytest.mark.parametrize(
    ("mode", "side", "shared", "spills", "target"),
    [(*row, target) for row in FUSED for target in row[3]],
    ids=lambda value: "" if isinstance(value, dict) else str(value),
)
def test_one_launch(mode, side, shared, spills, target):
    result = fused(mode, side, target)
    assert_sound(result, mode)
    assert result.shared <= shared
    assert result.spills <= spills[target]


@pytest.mark.parametrize("target", ["sm_86", "sm_120", "gfx1100"])
def test_the_fast_tier_is_one_launch_everywhere(target):
    assert fused("fast", 128, target).shared <= WITHOUT[target]


def fused(mode, side, target, **constexprs):
    sizes = (2 * side, 2 * side), (side, side)
    tables = dict.fromkeys(("rows1", "columns1", "rows2", "columns2"), "*fp32")
    return compiled(
        planes.fused,
        mode,
        launch.fused_tile(mode, *sizes),
        target,
        {"out": "*fp32", **tables, "out_size": SIZE, "x_size": SIZE, "other_size": SIZE},
        WIDTH1=side,
        WIDTH2=2 * side,
        **constexprs,
    )


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("precision", ["tf32", "bf16x3"])
def test_other_products_of_float32(precision, target):
    """They compile, and the tensor core is asked for them."""
    result = fused("fast", 64, target, DOT=launch.dot_precision(precision, target == "gfx942"))
    if target == "sm_90":
        assert re.search(r"(wgmma|mma)[\w.]*\.(\w+\.)*" + precision[:4], result.asm["ptx"])
    elif precision == "bf16x3":
        assert re.search(r"v_mfma_f32\w*bf16", result.asm["amdgcn"])


@pytest.mark.parametrize(
    ("mode", "target"), [*(("exact", target) for target in MATRIX_UNITS), *(("fast", target) for target in TARGETS)]
)
def test_two_launches(mode, target):
    for kernel in (planes.rows, planes.columns):
        result = two_launches(kernel, mode, target)
        assert_sound(result, mode)
        assert result.shared <= (16 << 10) + 8
        assert result.spills == 0


@pytest.mark.parametrize("target", [*WITHOUT, *([] if NEW else ["sm_100"])])
def test_two_launches_without_float64_matrix_units(target):
    """What spills here would spill ten times as much in one launch; the multiply-adds are those of the dots alone."""
    tile = launch.pair_tile("exact")
    for kernel, dots in ((planes.rows, 3 + 4 * 2), (planes.columns, 3 + 3)):
        result = two_launches(kernel, "exact", target)
        threads = 32 * tile.warps
        assert_sound(result, "exact", dots * tile.depth * tile.rows * tile.columns // threads)
        assert result.shared <= WITHOUT.get(target, 227 << 10)
        assert result.spills <= (1024 if target == "gfx1100" else 64)


@pytest.mark.parametrize("target", MATRIX_UNITS)
@pytest.mark.parametrize("patch", [1, 2])
def test_states_of_half_types_have_float64_dots_too(patch, target):
    """Triton 3.6 ends the process's compiler where a half type leads to such a dot within one step."""
    result = two_launches(planes.rows, "exact", target, x="*bf16", other="*bf16", PATCH=patch, SECOND="tensor")
    assert_sound(result, "exact")
    assert result.spills == 0


def two_launches(kernel, mode, target, **other):
    half = {"half1": "*fp32", "half2": "*fp32"} if mode == "fast" else {"half1": "*fp64", "half2": "*fp64"}
    tables = dict.fromkeys(("rows1", "columns1", "rows2", "columns2"), "*fp32")
    sizes = {"height": "i32", "x_size": SIZE, "other_size": SIZE, "column_tiles1": "i32"}
    outputs = {"out": "*fp32", "out_size": SIZE, "width1": "i32", "width2": "i32"}
    own = sizes if kernel is planes.rows else outputs
    states = {name: other.pop(name) for name in ("x", "other") if name in other}
    return compiled(kernel, mode, launch.pair_tile(mode), target, {**half, **tables, **own, **states}, **other)


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
