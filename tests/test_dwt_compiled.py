# SPDX-License-Identifier: Apache-2.0
"""The Haar kernels compiled for GPUs that are not here: no spills, nothing fused, 64-bit addresses."""

import re

import pytest
from compiled import CUDA_TARGETS, TARGETS, compile_kernel

pytest.importorskip("triton")

from spectral_kernels.kernels.haar import COLUMNS, ROWS, WARPS, haar, haar_noise, noise_tile
from spectral_kernels.wavelets import LOCAL_LEVELS

STRIDES = ("i32",) * 7  # as a launch types small numbers: the kernels must widen products of them
COMMON = {"PATCH": 1, "PART": "", "TIMES": False}
SIGNATURE = {
    "t": "i64",
    "ratio": "i64",
    "out_strides": STRIDES,
    "x_strides": STRIDES,
    "size": ("i32", "i32"),
    "per_sample": "i32",
    "c2": "i32",
}


def compiled(kind, second, formula, dtype, target, levels=1):
    pointers = {name: f"*{dtype}" for name in ("out", "x", "other", "times")}
    signature = {**pointers, **SIGNATURE, "other_strides": STRIDES}
    names = {"KIND": kind, "SECOND": second, "ADD": second == "lowpass", "FORMULA": formula}
    names |= {"LEVELS": levels, "ROWS": ROWS, "COLUMNS": COLUMNS}
    return compile_kernel(haar, signature, {**COMMON, **names}, target=target, num_warps=WARPS)


def compiled_noise(shift, dtype, target, levels=1):
    quads, columns = noise_tile(levels)
    pointers = {"out": f"*{dtype}", "x": f"*{dtype}", "seeds": "*i64", "times": "*fp64"}
    signature = {**pointers, "base_seed": "i64", "stream": "i64", **SIGNATURE}
    names = {"SHIFT": shift, "SEEDS": False, "FORMULA": "expand"}
    names |= {"LEVELS": levels, "QUADS": quads, "COLUMNS": columns}
    return compile_kernel(haar_noise, signature, {**COMMON, **names}, target=target, num_warps=WARPS)


def check(kernel):
    assert kernel.spills == 0
    assert kernel.float32_contractions == 0
    assert not re.findall(r"\bfma\.\w+\.f64", kernel.asm.get("ptx", ""))
    # Every array of pointers is offset by 64-bit numbers, so more than 2^31 elements are reached.
    offsets = re.findall(
        r"tt\.addptr %\S+, %\S+ : tensor<[^>]*!tt\.ptr<\w+>>, tensor<[\dx]*(i\d+)>", kernel.asm["ttir"]
    )
    assert offsets and set(offsets) == {"i64"}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("kind", "second", "formula"),
    [("analysis", "", "one"), ("synthesis", "", "one"), ("down", "", "truncate"), ("up", "lowpass", "lift")],
)
def test_haar(kind, second, formula, target):
    check(compiled(kind, second, formula, "bf16", target))


# The most levels, which make one row of blocks of a tile.
@pytest.mark.parametrize("target", ("sm_90", "gfx942"))
@pytest.mark.parametrize(("kind", "second", "formula"), [("analysis", "", "one"), ("up", "lowpass", "lift")])
def test_levels_of_haar(kind, second, formula, target):
    check(compiled(kind, second, formula, "fp32", target, LOCAL_LEVELS))


@pytest.mark.parametrize("target", CUDA_TARGETS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "fp64"])
def test_haar_of_other_types(dtype, target):
    check(compiled("up", "synthesis", "expand", dtype, target))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shift", [0, 3])
def test_haar_noise(shift, target):
    check(compiled_noise(shift, "bf16", target))


@pytest.mark.parametrize(("levels", "target"), [(2, "sm_90"), (2, "gfx942"), (LOCAL_LEVELS, "sm_80")])
def test_levels_of_haar_noise(levels, target):
    check(compiled_noise(3, "bf16", target, levels))
