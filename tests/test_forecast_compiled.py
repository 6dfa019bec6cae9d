# SPDX-License-Identifier: Apache-2.0
"""The forecast kernels compiled for GPUs that are not here: loads, registers, spills, roundings."""

import re

import pytest
from compiled import CUDA_TARGETS, TARGETS, compile_kernel

pytest.importorskip("triton")

from spectral_kernels.kernels import forecast as kernels

SPAN = {"start": "i64", "stop": "i64", "stride": "i64", "count": "i32"}
FIT = {"num_steps": "fp64", "ridge": "fp64", "blend": "fp64"}


def vector_loads(compiled, width: int) -> int:
    """16-byte loads (width 4) or 8-byte ones (2) in the PTX."""
    return len(re.findall(rf"ld\.global\.v{width}\.b32", compiled.asm["ptx"]))


# The official history of 14 padded to 16, one target; 8 features and 4 targets; the ring of 100 padded to 128.
@pytest.mark.parametrize(("count", "targets", "registers"), [(16, 1, 128), (8, 4, 128), (128, 1, 255)])
@pytest.mark.parametrize("target", TARGETS)
def test_weighted_sum(target, count, targets, registers):
    compiled = compile_kernel(
        kernels.forecast_kernel,
        {
            "features": ("*bf16",) * count,
            "exponents": (),
            "weights": ("fp32",) * (count * targets),
            "out": "*bf16",
            **SPAN,
        },
        {"K": count, "G": targets, "WIDE": False, "SCALARS": True, "encoding": "", "BLOCK": 1024},
        target=target,
        aligned=("features", "out", "start", "stop", "stride"),
    )
    # 128 pointers and weights are more than AMD's 100 scalar registers: some are parked in lanes of vector registers.
    assert compiled.spills <= (128 if target == "gfx942" and count == 128 else 0)
    assert (compiled.shared, compiled.float32_contractions) == (0, 0)
    assert compiled.registers <= (512 if target == "gfx942" else registers)
    if target in CUDA_TARGETS:
        assert vector_loads(compiled, 4) == count  # each feature once, 16 bytes a thread, for any number of targets


@pytest.mark.parametrize("encoding", ["int8", "float8"])
@pytest.mark.parametrize("target", TARGETS)
def test_encoded_sum(target, encoding):
    compiled = compile_kernel(
        kernels.forecast_kernel,
        {
            "features": ("*i8" if encoding == "int8" else "*u8",) * 8,
            "exponents": ("*u8",) * 8,
            "weights": ("fp32",) * 8,
            "out": "*bf16",
            **SPAN,
        },
        {"K": 8, "G": 1, "WIDE": False, "SCALARS": True, "encoding": encoding, "BLOCK": 1024},
        target=target,
        aligned=("features", "out", "start", "stop", "stride"),
    )
    assert (compiled.spills, compiled.shared, compiled.float32_contractions) == (0, 0, 0)
    if target in CUDA_TARGETS:
        assert vector_loads(compiled, 2) == 8  # 8 elements of one byte


@pytest.mark.parametrize("target", TARGETS)
def test_moments(target):
    compiled = compile_kernel(
        kernels.update_moments_kernel,
        {"moments": "*fp32", "feature": "*bf16", "row": ("fp32",) * 5, "start": "i64", "stop": "i64", "stride": "i64"},
        {"P": 5, "SCALARS": True, "BLOCK": 1024},
        target=target,
        aligned=("moments", "feature", "start", "stop", "stride"),
    )
    assert (compiled.spills, compiled.float32_contractions) == (0, 0)
    if target in CUDA_TARGETS:
        assert vector_loads(compiled, 4) == 1 + 2 * 5  # the feature once, each moment in two halves


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_weights_on_the_device(target, fused):
    """Division and square root in float64 are the IEEE ones, and nothing is contracted."""
    if fused:
        compiled = compile_kernel(
            kernels.chebyshev_forecast_kernel,
            {
                "features": ("*bf16",) * 16,
                **{"positions": "*fp64", "targets": "*fp64", "out": "*bf16"},
                **SPAN,
                **FIT,
            },
            {"K": 16, "G": 1, "P": 5, "PP": 8, "BLOCK": 1024},
            target=target,
            aligned=("features", "positions", "targets", "out", "start", "stop", "stride"),
        )
    else:
        compiled = compile_kernel(
            kernels.chebyshev_weights_kernel,
            {"positions": "*fp64", "targets": "*fp64", "out": "*fp32", "count": "i32", **FIT},
            {"P": 5, "PP": 8, "KK": 16},
            target=target,
            num_warps=1,
        )
    assert (compiled.spills, compiled.float32_contractions) == (0, 0)
    if target in CUDA_TARGETS:
        ptx = compiled.asm["ptx"]
        assert "sqrt.rn.f64" in ptx
        assert "div.rn.f64" in ptx
        assert not re.search(r"fma\.rn\.f64|sqrt\.approx|div\.full|\.ftz", ptx)
    else:
        assert not re.search(r"llvm\.(fma|fmuladd)|fast|contract", compiled.asm["llir"])
