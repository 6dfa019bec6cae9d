# SPDX-License-Identifier: Apache-2.0
"""`python -m spectral_kernels.aot --arch sm_80,sm_90,sm_100,gfx942 --out DIR`: Triton kernels as files, without a GPU.

Each kernel of each stated class becomes a .cubin with its .ptx (NVIDIA) or a .hsaco (AMD), and manifest.json says how
to launch it: symbol, arguments in order, limits of the class, grid, shared memory, threads, hashes, versions. The
source, the constants and the rule of no fused multiply-adds are those of a launch from Python, and so are the bits.
kernels.skgpu holds the cubins with their launch rules in one file: what the C library loads (`spectral_kernels_gpu.h`)
or embeds (cmake -DSK_EMBED_GPU=DIR).
"""

import argparse
import hashlib
import importlib
import inspect
import json
import os
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path

ARCHES = ("sm_80", "sm_90", "sm_100", "gfx942")
FORMAT = 2  # of the manifest
IMAGE = "kernels.skgpu"
IMAGE_MAGIC = b"skgpu\0\0\1"  # the last byte is the format of the image

_PLANES = (("sample", "i64"), ("outer", "i64"), ("inner", "i64"), ("row", "i64"), ("row in patch", "i64"),
           ("column", "i64"), ("column in patch", "i64"))  # fmt: skip
_TILE = 16  # rows and columns of out per program of a plane product


@dataclass(frozen=True)
class Kernel:
    """One compilation: `signature` types the arguments a launch gives, `constants` are compiled in.

    operation, dtype   what it computes: a launch takes the first kernel of both whose `limits` hold
    limits             least and most of a value: of an argument, or of `samples`, `planes`, `patch`, `elements`
    aligned            arguments that must be multiples of 16 (pointers: of 16 bytes)
    grid               per dimension the factors (value, divisor): the product of ceil(value / divisor)
    """

    name: str
    operation: str
    dtype: str
    module: str
    function: str
    signature: dict[str, str | tuple[str, ...]]
    constants: dict[str, object]
    warps: int
    limits: dict[str, tuple[int, int]]
    grid: tuple[tuple[tuple[str, int], ...], ...]
    says: str
    aligned: tuple[str, ...] = ()


def kernels(arch: str) -> Iterator[Kernel]:
    """Every class that is compiled for an architecture; of those that fit a call the first is the fastest."""
    for dtype in ("fp32", "bf16", "fp16"):
        for operation in PRODUCTS:
            for side in (64, 128):
                yield _product(arch, dtype, operation, side)
        yield Kernel(
            name=f"normal_{dtype}",
            operation="normal",
            dtype=dtype,
            module="spectral_kernels.kernels.noise",
            function="normal_kernel",
            signature={
                "p_noise": f"*{dtype}",
                "p_seeds": "*i64",
                **dict.fromkeys(("base_seed", "stream", "planes", "rows", "columns"), "i64"),
            },
            constants={"PER_SAMPLE": False, "QUADS": 2, "COLUMNS": 128},
            warps=4,
            limits={},
            grid=((("samples", 1), ("planes", 1), ("rows", 8), ("columns", 128)),),
            says="noise [samples, planes, rows, columns], contiguous; sample b has the seed base_seed + b",
        )
        for aligned in (True, False):
            for count in (1, 2, 4, 8, 16):
                yield _forecast(dtype, count, aligned)


def _forecast(dtype: str, count: int, aligned: bool) -> Kernel:
    """The weighted sum of count / 2 + 1 to `count` features for one target."""
    return Kernel(
        name=f"forecast_{dtype}_{count}" + ("" if aligned else "_unaligned"),
        operation="forecast",
        dtype=dtype,
        module="spectral_kernels.kernels.forecast",
        function="forecast_kernel",
        signature={
            "features": (f"*{dtype}",) * count,
            "exponents": (),
            "weights": ("fp32",) * count,
            "out": f"*{dtype}",
            **{"start": "i64", "stop": "i64", "stride": "i64", "count": "i32"},
        },
        constants={"K": count, "G": 1, "WIDE": False, "SCALARS": True, "encoding": "", "BLOCK": 1024},
        warps=4,
        limits={"count": (count // 2 + 1, count)},
        grid=((("elements", 1024),),),
        says="elements start..stop of features and out, elements = stop - start; features past `count` are not read",
        aligned=("features", "out", "start", "stop") if aligned else (),
    )


# The plane products: the second term, whether its corner is zero, whether gamma E is added, the formula of the weights.
# With the ratio 1 "truncate" is 1, the transforms, and "expand" and "lift" are those without alignment.
PRODUCTS = {
    "expand_noise": ("noise", True, False, "expand"),
    "expand_tensor": ("tensor", True, False, "expand"),
    "single": ("", False, False, "truncate"),
    "lift": ("tensor", False, True, "lift"),
}


def _product(arch: str, dtype: str, operation: str, side: int) -> Kernel:
    """A plane product of widths of at most `side` and 2 side, one time per call, sample b with seed base_seed + b."""
    second, masked, adds, formula = PRODUCTS[operation]
    width1, width2 = (side, 2 * side) if second else (2 * side, 16)
    strides = tuple(kind for _, kind in _PLANES)
    most = {"x_size[0]": 256, "x_size[1]": width1, "out_size[0]": 256, "out_size[1]": 256}
    if second:
        most |= {"other_size[0]": 256, "other_size[1]": width2, "out_size[1]": width2}
    return Kernel(
        name=f"{operation}_{dtype}_{side}",
        operation=operation,
        dtype=dtype,
        module="spectral_kernels.kernels.planes",
        function="fused",
        signature={
            **{"out": f"*{dtype}", "x": f"*{dtype}", "other": f"*{dtype}", "seeds": "*i64", "times": "*fp64"},
            **dict.fromkeys(("rows1", "columns1", "rows2", "columns2"), "*fp32"),
            **dict.fromkeys(("base_seed", "stream", "t", "ratio"), "i64"),
            **dict.fromkeys(("out_strides", "x_strides", "other_strides"), strides),
            **dict.fromkeys(("out_size", "x_size", "other_size", "corner"), ("i32", "i32")),
            **{"per_sample": "i32", "c2": "i32"},
        },
        constants={
            **{"MODE": "exact", "DOT": "ieee" if arch.startswith("gfx") else "tf32x3", "PATCH": 1, "SECOND": second},
            **{"ADD": adds, "MASKED": masked, "FORMULA": formula, "PART": "", "SEEDS": False, "TIMES": False},
            # 22 bits per slice for every length up to 256.
            **dict.fromkeys(("BITS_ROWS1", "BITS_COLUMNS1", "BITS_ROWS2", "BITS_COLUMNS2"), 22),
            **{"ROWS": _TILE, "COLUMNS": _TILE, "DEPTH": 16, "WIDTH1": width1, "WIDTH2": width2},
        },
        warps=8 if side > 64 else 4,
        limits={"patch": (1, 1), **{value: (1, largest) for value, largest in most.items()}},
        grid=((("samples", 1), ("planes", 1)), (("out_size[0]", _TILE),)),
        says="strides of " + ", ".join(name for name, _ in _PLANES) + "; tables are the two slices [2, m, K] of "
        "bases.sliced; t and ratio are the bit patterns of float64 numbers; pointers that a class does not read may "
        "repeat another one",
    )


def compile_one(kernel: Kernel, arch: str, folder: Path) -> dict:
    """Compile a kernel, write its files, and return its entry of the manifest."""
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(importlib.import_module(kernel.module), kernel.function)
    types = {n: "constexpr" if n in kernel.constants else kernel.signature[n] for n in argument_names(kernel)}
    aligned = {
        (i, *place): [["tt.divisibility", 16]]
        for i, (n, kind) in enumerate(types.items())
        if n in kernel.aligned
        for place in ([(j,) for j in range(len(kind))] if isinstance(kind, tuple) else [()])
    }
    target = GPUTarget("cuda", int(arch[3:]), 32) if arch.startswith("sm_") else GPUTarget("hip", arch, 64)
    options = {"num_warps": kernel.warps, "num_stages": 1, "enable_fp_fusion": False}
    with knobs.compilation.scope():
        # Line tables are three quarters of a cubin, and name the folder this package happens to lie in.
        knobs.compilation.disable_line_info = True
        made = triton.compile(ASTSource(function, types, kernel.constants, aligned), target=target, options=options)
    files = {}
    for stage in ("cubin", "ptx") if arch.startswith("sm_") else ("hsaco",):
        content = made.asm[stage]
        data = content.encode() if isinstance(content, str) else content
        path = folder / arch / f"{kernel.name}.{stage}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        files[stage] = {"path": str(path.relative_to(folder)), "sha256": hashlib.sha256(data).hexdigest()}
    return describe(kernel, arch, made.metadata.name, made.metadata.shared, files)


def describe(kernel: Kernel, arch: str, symbol: str, shared_bytes: int, files: dict) -> dict:
    """A kernel's entry of the manifest."""
    return {
        "name": kernel.name,
        "operation": kernel.operation,
        "dtype": kernel.dtype,
        "arch": arch,
        "symbol": symbol,
        "files": files,
        "arguments": arguments(kernel),
        "limits": {value: list(limits) for value, limits in kernel.limits.items()},
        "grid": [[list(factor) for factor in factors] for factors in kernel.grid],
        "threads": kernel.warps * (32 if arch.startswith("sm_") else 64),
        "shared_bytes": shared_bytes,
        "for": kernel.says,
    }


def arguments(kernel: Kernel) -> list[dict[str, str]]:
    """What a launch passes, one by one: tuples are flat, constants are gone.

    Triton appends two pointers for its own scratch memory; these kernels use none, so null is passed for both.
    """
    found = []
    for name in argument_names(kernel):
        if name in kernel.constants:
            continue
        kind = kernel.signature[name]
        flat = [(name, kind)] if isinstance(kind, str) else [(f"{name}[{i}]", k) for i, k in enumerate(kind)]
        found += [{"name": n, "type": k, **({"multiple_of": 16} if name in kernel.aligned else {})} for n, k in flat]
    scratch = [{"name": f"{which}_scratch", "type": "*i8", "value": "null"} for which in ("global", "profile")]
    return found + scratch


def argument_names(kernel: Kernel) -> list[str]:
    """In the order of the kernel's source, constants too."""
    function = getattr(importlib.import_module(kernel.module), kernel.function)
    return list(inspect.signature(function.fn).parameters)


def image(entries: Sequence[dict], folder: Path) -> bytes:
    """The cubins of a manifest's kernels with their launch rules, as `bindings/capi/gpu_image.cpp` reads them.

    Little-endian, no padding: magic, CRC-32 of what follows, number of kernels (uint32 each); per kernel the strings
    (uint32 length, bytes) arch, operation, dtype and symbol, threads and shared bytes (uint32); then lists, each with
    its uint32 length: arguments (name, type, multiple), limits (name, int64 least, int64 most), grid (list of factors
    (name, uint32 divisor)); last the cubin (uint64 length, bytes).
    """

    def text(value: str) -> bytes:
        return struct.pack("<I", len(value)) + value.encode()

    def listed(items: Sequence[bytes]) -> bytes:
        return struct.pack("<I", len(items)) + b"".join(items)

    parts = []
    for entry in entries:
        code = (folder / entry["files"]["cubin"]["path"]).read_bytes()
        parts += [text(entry[key]) for key in ("arch", "operation", "dtype", "symbol")]
        parts.append(struct.pack("<II", entry["threads"], entry["shared_bytes"]))
        parts.append(
            listed(
                [
                    text(argument["name"]) + text(argument["type"]) + struct.pack("<I", argument.get("multiple_of", 1))
                    for argument in entry["arguments"]
                ]
            )
        )
        parts.append(listed([text(name) + struct.pack("<qq", *limits) for name, limits in entry["limits"].items()]))
        parts.append(
            listed([listed([text(n) + struct.pack("<I", d) for n, d in factors]) for factors in entry["grid"]])
        )
        parts.append(struct.pack("<Q", len(code)) + code)
    content = struct.pack("<I", len(entries)) + b"".join(parts)
    return IMAGE_MAGIC + struct.pack("<I", zlib.crc32(content)) + content


def build(arches: Sequence[str], folder: Path, only: str = "") -> dict:
    """Compile all kernels whose names begin with `only`; write manifest.json, which is returned, and kernels.skgpu."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("aot: Triton's interpreter cannot compile; unset TRITON_INTERPRET")
    unknown = sorted(set(arches) - set(ARCHES))
    if unknown or not arches:
        raise ValueError(f"aot: arch must be some of {', '.join(ARCHES)}, got {', '.join(unknown) or 'none'}")
    import spectral_kernels

    todo = [(kernel, arch, folder) for arch in arches for kernel in kernels(arch) if kernel.name.startswith(only)]
    if not todo:
        raise ValueError(f"aot: no kernel begins with {only!r}; without --only all are compiled")
    # A kernel takes one core up to ten seconds, a process as long as two of them to begin.
    jobs = min(len(os.sched_getaffinity(0)), len(todo) // 8)
    if jobs < 2:
        entries = [compile_one(*job) for job in todo]
    else:
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            entries = list(pool.map(compile_one, *zip(*todo, strict=True)))
    manifest = {
        "format": FORMAT,
        "versions": {"spectral_kernels": spectral_kernels.__version__, "triton": metadata.version("triton")},
        "kernels": entries,
    }
    (folder / IMAGE).write_bytes(image([entry for entry in entries if "cubin" in entry["files"]], folder))
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m spectral_kernels.aot", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--arch", default=",".join(ARCHES), help=f"some of {','.join(ARCHES)} (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files and manifest.json")
    parser.add_argument("--only", default="", help="only kernels whose names begin so")
    arguments = parser.parse_args(argv)
    try:
        manifest = build(arguments.arch.split(","), arguments.out, arguments.only)
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    for entry in manifest["kernels"]:
        print(f"{entry['arch']} {entry['name']}: {entry['shared_bytes']} bytes of shared memory")
    return 0


if __name__ == "__main__":
    sys.exit(main())
