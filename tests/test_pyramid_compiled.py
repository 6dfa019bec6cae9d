# SPDX-License-Identifier: Apache-2.0
"""The pyramid kernels compiled for GPUs that are not here: spills, shared memory, fused roundings, and what is read and
written."""

import re

import pytest
from compiled import CUDA_TARGETS, TARGETS, compile_kernel

pytest.importorskip("triton")

from spectral_kernels.kernels import octave
from spectral_kernels.kernels import pyramid as kernels

STRIDES = ("i64", "i64", "i64", "i64", "i32", "i64", "i32")
PLANES = {"size": ("i32", "i32"), "coarse_size": ("i32", "i32"), "per_sample": "i32", "c2": "i32"}


def clean(compiled, shared=0):
    """No spills, no shared memory beyond what is expected, and no product fused with a sum: bits would depend on it."""
    assert (compiled.spills, compiled.float32_contractions) == (0, 0)
    assert compiled.shared <= shared
    assert compiled.registers <= (512 if compiled.target == "gfx942" else 255)
    if compiled.target in CUDA_TARGETS:
        assert not re.findall(r"\bfma\.rn\.f64", compiled.asm["ptx"])  # IEEE division is one instruction in PTX


# Every target for bfloat16, one for float32: what differs between types are a few conversions.
EVERYWHERE = [(target, "bf16") for target in TARGETS] + [("sm_90", "fp32")]


@pytest.mark.parametrize("area", [True, False], ids=["area", "bilinear"])
@pytest.mark.parametrize(("target", "dtype"), EVERYWHERE)
def test_split(target, dtype, area):
    strides = dict.fromkeys(("x_strides", "coarse_strides", "detail_strides"), STRIDES)
    compiled = compile_kernel(
        kernels.split_kernel,
        {**dict.fromkeys(("x", "coarse", "detail"), f"*{dtype}"), **strides, **PLANES},
        {"F": 2, "G": 2, "AREA": area, "ROWS": 8 if area else 2, "COLUMNS": 128},
        target=target,
        aligned=("x", "coarse", "detail"),
    )
    clean(compiled)


@pytest.mark.parametrize("area", [True, False], ids=["area", "bilinear"])
@pytest.mark.parametrize("target", TARGETS)
def test_merge(target, area):
    strides = dict.fromkeys(("coarse_strides", "detail_strides", "out_strides"), STRIDES)
    compiled = compile_kernel(
        kernels.merge_kernel,
        {**dict.fromkeys(("coarse", "detail", "out"), "*bf16"), **strides, **PLANES},
        {"F": 2, "G": 2, "AREA": area, "SUBTRACT": False, "ROWS": 8, "COLUMNS": 128},
        target=target,
        aligned=("coarse", "detail", "out"),
    )
    clean(compiled)


CONTIGUOUS = ("i32", "i32", "i32", "i32", 0, 1, 0)  # as a launch takes the strides of planes


def moved(ptx, what):
    """Bytes of each access of global memory by one thread."""
    accesses = re.findall(rf"\b{what}\.global(?:\.v(\d))?\.b(\d+)", ptx)
    return [int(vector or 1) * int(bits) // 8 for vector, bits in accesses]


@pytest.mark.parametrize("name", ["split_area", "split_bilinear", "merge_area", "merge_bilinear"])
@pytest.mark.parametrize(("target", "dtype"), EVERYWHERE)
def test_octave(target, dtype, name):
    """As it is launched on planes whose sides are multiples of 16."""
    kernel, size = getattr(octave, name), {"bf16": 2, "fp32": 4}[dtype]
    tensors = {"split": ("x", "coarse", "detail"), "merge": ("coarse", "detail", "out")}[name.split("_")[0]]
    strides = [f"{tensor}_strides" for tensor in tensors]
    blocks = 4 if dtype == "bf16" and name.endswith("area") else 2  # of a thread
    constants = {"SUBTRACT": False, "ROWS": blocks, "COLUMNS": 128, "STEPS": kernels.STEPS}
    compiled = compile_kernel(
        kernel,
        {**dict.fromkeys(tensors, f"*{dtype}"), **dict.fromkeys(strides, CONTIGUOUS), **PLANES},
        {argument: value for argument, value in constants.items() if argument in kernel.arg_names},
        target=target,
        aligned=(*tensors, *strides, "size", "coarse_size"),
    )
    clean(compiled)
    if target not in CUDA_TARGETS:
        return
    read, written = moved(compiled.asm["ptx"], "ld"), moved(compiled.asm["ptx"], "st")
    # Two rows of pixels and one of blocks, each in one access.
    fine, coarse = [2 * blocks * size] * 2, [blocks * size]
    assert sorted(written) == sorted(fine if name.startswith("merge") else coarse + fine)
    if name.endswith("area"):
        assert sorted(read) == sorted(coarse + fine if name.startswith("merge") else fine)


@pytest.mark.parametrize("target", TARGETS)
def test_noise_of_two_levels(target):
    compiled = compile_kernel(
        kernels.noise_kernel,
        {
            **dict.fromkeys(("sources", "noisy", "velocities"), ("*bf16", "*bf16")),
            "times": "*fp64",
            "mask": "*u8",
            "seeds": "*i64",
            "base_seed": "i64",
            "stream": "i64",
            "source_strides": (STRIDES, STRIDES),
            "target_strides": (STRIDES, STRIDES),
            "sizes": ("i32",) * 4,
            "planes": ("i32",) * 4,
            "first_tile": ("i32",) * 3,
        },
        {"LEVELS": 2, "PATCHES": (1, 2), "MASK": True, "SEEDS": False, "PLANES": (2, 16), "COLUMNS": (128, 16)},
        target=target,
        aligned=("sources", "noisy", "velocities"),
    )
    clean(compiled, shared=256 * 4)  # for a tile of 256 numbers in Triton 3.6; 3.9 needs none
