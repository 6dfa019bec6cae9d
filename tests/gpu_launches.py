# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.gpu_launches LIBRARY FAKE_DRIVER`: launches of the C loader beside those of Triton, written down.

Both meet the same fake driver, in a process of its own: without Triton's interpreter, and with a libcuda.so.1 that
nothing else shall see. Prints JSON: per case the launches of the C library, those of Triton's own launcher with the
arguments that spectral_kernels.kernels gives it, and the constants that a launch from Python would compile in.
"""

import ctypes
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import triton

from spectral_kernels import aot
from spectral_kernels.dispatch.product import Operands, Product
from spectral_kernels.kernels import forecast, noise, planes
from tests import capi

STREAM = 0x5EED
SIZES = {"i64": 8, "i32": 4, "fp32": 4}
SHARED = {True: 57344, False: 0}  # a plane product wants more than a kernel gets without asking


class Launch(ctypes.Structure):
    _fields_ = [
        ("symbol", ctypes.c_char * 64),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint32),
        ("most_shared", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
        ("argument_count", ctypes.c_int32),
        ("argument_bytes", ctypes.c_uint8 * 160),
        ("arguments", ctypes.c_uint64 * 160),
    ]


class State(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("major", "minor", "most_shared", "has_context", "fail_after", "failure")),
        *((name, ctypes.c_int32) for name in ("modules", "allocations", "launch_count")),
        ("launches", Launch * 64),
    ]


class Recorder:
    """Stands for a kernel of Triton: what a launch gives it."""

    def __init__(self):
        self.calls = []

    def __getitem__(self, grid):
        return lambda *args, **options: self.calls.append((grid, args, options))


def code_of(kernel: aot.Kernel) -> bytes:
    sizes = [SIZES.get(argument["type"], 8) for argument in aot.arguments(kernel)]
    return (b"FAKE" + bytes([len(sizes), *sizes])).ljust(256, b"\0")


def image_of(kernels: list[aot.Kernel]) -> bytes:
    """The image of the real classes, each with code for the fake driver."""
    with tempfile.TemporaryDirectory() as folder:
        entries = []
        for kernel in kernels:
            Path(folder, kernel.name).write_bytes(code_of(kernel))
            shared = SHARED[kernel.module.endswith("planes")]
            entries.append(aot.describe(kernel, "sm_90", kernel.name, shared, {"cubin": {"path": kernel.name}}))
        return aot.image(entries, Path(folder))


def by_triton(driver, kernel: aot.Kernel, grid, args, options) -> None:
    """One launch by Triton's launcher."""
    from triton.backends.nvidia.driver import CudaLauncher
    from triton.compiler import ASTSource

    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    driver.cuModuleLoadData(ctypes.byref(module), code_of(kernel))
    driver.cuModuleGetFunction(ctypes.byref(function), module, kernel.name.encode())
    names = aot.argument_names(kernel)
    types = {n: "constexpr" if n in kernel.constants else kernel.signature[n] for n in names}
    source = ASTSource(getattr(sys.modules[kernel.module], kernel.function), types, kernel.constants)
    scratch = {f"{kind}_scratch_{what}": 0 for kind in ("global", "profile") for what in ("size", "align")}
    metadata = SimpleNamespace(num_ctas=1, launch_cooperative_grid=False, launch_pdl=False, **scratch)
    given = {**dict(zip(names, args, strict=False)), **options}
    shared = SHARED[kernel.module.endswith("planes")]
    launcher = CudaLauncher(source, metadata)
    packed, grid = (kernel.warps, 1, shared), (*grid, 1, 1)[:3]
    launcher(*grid, STREAM, function.value, packed, None, None, None, *(given[n] for n in names))


def view(x: torch.Tensor) -> torch.Tensor:
    b, c, h, w = x.shape
    s = x.stride()
    return x.as_strided((b, 1, c, h, 1, w, 1), (s[0], 0, s[1], s[2], 0, s[3], 0))


def cases(gpu: capi.Gpu):
    """Name, the call of the C library, and the same call of spectral_kernels.kernels."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for coarse, fine in (((30, 37), (45, 70)), ((64, 128), (128, 256))):
            for name, *calls in plane_cases(gpu, dtype, coarse, fine):
                yield f"{name} {dtype} {coarse}", *calls
        yield f"normal {dtype}", *normal_case(gpu, dtype)
        for count in (1, 3, 14):
            for size in (4096, 1031):
                yield f"forecast {dtype} {count} {size}", *forecast_case(gpu, dtype, count, size)


def plane_cases(gpu: capi.Gpu, dtype: torch.dtype, coarse, fine):
    low, high, out = (torch.zeros(3, 2, *size, dtype=dtype) for size in (coarse, fine, fine))
    strided, small = torch.zeros(3, 2, fine[0], 2 * fine[1], dtype=dtype)[..., ::2], torch.zeros_like(low)

    def run(kind, second, formula, grid, out, x, other, seed, t):
        product = Product(kind, second, "dct", fine, grid, formula=formula)
        given = None if other is None else view(other)
        planes.launch(product, Operands(view(out), view(x), given, None, None, seed, t))

    yield (
        "noise",
        lambda: gpu.product("expand", out, low, t=0.35, seed=7),
        lambda: run("up", "synthesis", "expand", coarse, out, low, None, 7, 0.35),
    )
    yield (
        "tensor",
        lambda: gpu.product("expand", strided, low, high, t=0.35),
        lambda: run("up", "synthesis", "expand", coarse, strided, low, high, None, 0.35),
    )
    yield (
        "truncate",
        lambda: gpu.product("truncate", small, high),
        lambda: run("down", "", "truncate", coarse, small, high, None, None, 0.0),
    )
    yield (
        "truncate a state",
        lambda: gpu.product("truncate", small, high, t=0.7),
        lambda: run("down", "", "truncate", coarse, small, high, None, None, 0.7),
    )
    yield (
        "transform",
        lambda: gpu.product("analysis", out, high),
        lambda: run("analysis", "", "one", fine, out, high, None, None, 0.0),
    )
    yield (
        "lift",
        lambda: gpu.product("lift", out, high, low, t=0.6),
        lambda: run("up", "lowpass", "lift", coarse, out, low, high, None, 0.6),
    )


def normal_case(gpu: capi.Gpu, dtype: torch.dtype):
    out = torch.zeros(3, 2, 31, 130, dtype=dtype)
    return lambda: gpu.normal(out, 2**62, 5), lambda: normal_into(out, 2**62, 5)


def forecast_case(gpu: capi.Gpu, dtype: torch.dtype, count: int, size: int):
    features, out = [torch.zeros(size, dtype=dtype) for _ in range(count)], torch.zeros(1, size, dtype=dtype)
    weights = torch.linspace(-1, 1, count)[None]
    return lambda: gpu.forecast(features, weights, out), lambda: forecast.forecast(features, (), weights, out)


def normal_into(out: torch.Tensor, seed: int, stream: int) -> None:
    """`noise.normal` with memory that is given."""
    empty, torch.empty = torch.empty, lambda *_, **__: out
    try:
        noise.normal(*out.shape, seed, None, stream, out.dtype, out.device)
    finally:
        torch.empty = empty


def described(launch: Launch, kernel: aot.Kernel) -> dict:
    """A launch as JSON; in place of a table's address its contents."""
    arguments = []
    named = {argument["name"]: launch.arguments[i] for i, argument in enumerate(aot.arguments(kernel))}
    shapes = {
        "rows1": (named.get("out_size[0]"), named.get("x_size[0]")),
        "columns1": (named.get("out_size[1]"), named.get("x_size[1]")),
        "rows2": (named.get("out_size[0]"), named.get("other_size[0]")),
        "columns2": (named.get("out_size[1]"), named.get("other_size[1]")),
    }
    for i, argument in enumerate(aot.arguments(kernel)):
        value, name = launch.arguments[i], argument["name"]
        if name in shapes and (name.endswith("1") or kernel.constants["SECOND"]):
            rows, columns = shapes[name]
            value = hashlib.sha256(ctypes.string_at(value, 8 * rows * columns)).hexdigest()
        elif name in shapes:
            value = "not read"
        arguments.append([name, launch.argument_bytes[i], value])
    return {
        "kernel": launch.symbol.decode(),
        "grid": list(launch.grid),
        "block": list(launch.block),
        "shared": launch.shared_bytes,
        "stream": launch.stream,
        "count": launch.argument_count,
        "arguments": arguments,
    }


def main(library: str, fake: str) -> None:
    driver = ctypes.CDLL(fake, ctypes.RTLD_GLOBAL)
    driver.fake_cuda_state.restype = ctypes.POINTER(State)
    state = driver.fake_cuda_state().contents
    kernels = {kernel.name: kernel for kernel in aot.kernels("sm_90")}
    gpu = capi.Gpu(Path(library), image_of(list(kernels.values())), STREAM)

    from triton.backends.nvidia.driver import CudaDriver

    triton.runtime.driver.set_active(CudaDriver())
    written = {"cases": [], "golden": 0}

    def recorded(call) -> list[Launch]:
        state.launch_count = 0
        call()
        return [Launch.from_buffer_copy(state.launches[i]) for i in range(state.launch_count)]

    # A table lives as long as its plan: its contents are read before the plan goes.
    destroy, kept = gpu.c.sk_gpu_plan_destroy, []
    gpu.c.sk_gpu_plan_destroy = kept.append
    for name, c_call, python_call in cases(gpu):
        by_c = recorded(c_call)
        recorder = Recorder()
        rooms = ((planes, "fused"), (noise, "normal_kernel"), (forecast, "forecast_kernel"))
        own = [getattr(room, function) for room, function in rooms]
        for room, function in rooms:
            setattr(room, function, recorder)
        python_call()
        for (room, function), kernel in zip(rooms, own, strict=True):
            setattr(room, function, kernel)
        used = [kernels[launch.symbol.decode()] for launch in by_c]
        calls = list(zip(used, recorder.calls, strict=True))
        theirs = recorded(lambda calls=calls: [by_triton(driver, kernel, *call) for kernel, call in calls])
        written["cases"].append(
            {
                "name": name,
                "c": [described(launch, kernel) for launch, kernel in zip(by_c, used, strict=True)],
                "triton": [described(launch, kernel) for launch, kernel in zip(theirs, used, strict=True)],
                "constants": [
                    {n: [v, call[2][n]] for n, v in kernel.constants.items() if call[2].get(n, v) != v}
                    for kernel, call in calls
                ],
            }
        )
    gpu.c.sk_gpu_plan_destroy = destroy
    for plan in kept:
        destroy(plan)
    # The test vectors, which wait for a GPU: here only that every one of them is launched.
    for row in capi.golden_rows(gpu=True):
        written["golden"] += len(recorded(lambda row=row: capi.golden_result(gpu, row, torch.device("cpu")))) > 0
    written["vectors"] = len(capi.golden_rows(gpu=True))
    gpu.close()
    written["alive"] = [state.allocations]
    json.dump(written, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
