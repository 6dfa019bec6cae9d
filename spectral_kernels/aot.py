# SPDX-License-Identifier: Apache-2.0
"""`python -m spectral_kernels.aot --arch sm_80,sm_90,sm_100,gfx942 --out DIR`: Triton kernels as files, without a GPU.

Each kernel of each stated class becomes a .cubin with its .ptx (NVIDIA) or a .hsaco (AMD), and manifest.json says how
to launch it: symbol, arguments in order, grid, shared memory, threads, hashes, versions. The source, the constants and
the rule of no fused multiply-adds are those of a launch from Python, and so are the bits.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ARCHES = ("sm_80", "sm_90", "sm_100", "gfx942")
FORMAT = 1  # of the manifest

_PLANES = (("sample", "i64"), ("outer", "i64"), ("inner", "i64"), ("row", "i64"), ("row in patch", "i64"),
           ("column", "i64"), ("column in patch", "i64"))  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """One compilation: `signature` types the arguments a launch gives, `constants` are compiled in.

    grid: the launch grid as a formula of what a caller knows. says: for which calls this class is.
    """

    name: str
    module: str
    function: str
    signature: dict[str, str | tuple[str, ...]]
    constants: dict[str, object]
    warps: int
    grid: tuple[str, ...]
    says: str
    aligned: tuple[str, ...] = ()


def kernels(arch: str) -> Iterator[Kernel]:
    """Every class that is compiled for an architecture."""
    for dtype in ("fp32", "bf16"):
        for second in ("noise", "tensor"):
            for side in (64, 128):
                yield _expand(arch, dtype, second, side)
        yield Kernel(
            name=f"normal_{dtype}",
            module="spectral_kernels.kernels.noise",
            function="normal_kernel",
            signature={
                "p_noise": f"*{dtype}",
                "p_seeds": "*i64",
                **dict.fromkeys(("base_seed", "stream", "planes", "rows", "columns"), "i64"),
            },
            constants={"PER_SAMPLE": True, "QUADS": 2, "COLUMNS": 128},
            warps=4,
            grid=("samples * planes * ceil(rows / 8) * ceil(columns / 128)",),
            says="noise [samples, planes, rows, columns], contiguous, one seed per sample",
        )
        for count in (4, 8, 16):
            yield Kernel(
                name=f"forecast_{dtype}_{count}",
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
                grid=("ceil((stop - start) / 1024)",),
                says=f"weighted sum of {count // 2 + 1} to {count} features of start..stop elements, all pointers and "
                "start, stop, stride multiples of 16; features past `count` are not read",
                aligned=("features", "out", "start", "stop", "stride"),
            )


def _expand(arch: str, dtype: str, second: str, side: int) -> Kernel:
    """dct_expand for widths of at most `side` -> 2 side, one time per call, one seed per sample."""
    strides = tuple(kind for _, kind in _PLANES)
    return Kernel(
        name=f"expand_{dtype}_{second}_{side}",
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
            **{"ADD": False, "MASKED": True, "FORMULA": "expand", "PART": "", "SEEDS": True, "TIMES": False},
            # 22 bits per slice for every length up to 256.
            **dict.fromkeys(("BITS_ROWS1", "BITS_COLUMNS1", "BITS_ROWS2", "BITS_COLUMNS2"), 22),
            **{"ROWS": 16, "COLUMNS": 16, "DEPTH": 16, "WIDTH1": side, "WIDTH2": 2 * side},
        },
        warps=8 if side > 64 else 4,
        grid=("samples * planes", "ceil(rows of out / 16)"),
        says=f"aligned dct_expand of planes at most {side} wide to at most {2 * side} wide and 256 high; tables are "
        "the two slices [2, m, K] of bases.sliced; t and ratio are the bit patterns of float64 numbers; pointers that "
        "a class does not read may repeat another one",
    )


def compile_one(kernel: Kernel, arch: str, folder: Path) -> dict:
    """Compile a kernel, write its files, and return its entry of the manifest."""
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(importlib.import_module(kernel.module), kernel.function)
    types = {n: "constexpr" if n in kernel.constants else kernel.signature[n] for n in function.arg_names}
    aligned = {
        (i, *place): [["tt.divisibility", 16]]
        for i, (n, kind) in enumerate(types.items())
        if n in kernel.aligned
        for place in ([(j,) for j in range(len(kind))] if isinstance(kind, tuple) else [()])
    }
    target = GPUTarget("cuda", int(arch[3:]), 32) if arch.startswith("sm_") else GPUTarget("hip", arch, 64)
    options = {"num_warps": kernel.warps, "num_stages": 1, "enable_fp_fusion": False}
    made = triton.compile(ASTSource(function, types, kernel.constants, aligned), target=target, options=options)
    files = {}
    for stage in ("cubin", "ptx") if arch.startswith("sm_") else ("hsaco",):
        content = made.asm[stage]
        data = content.encode() if isinstance(content, str) else content
        path = folder / arch / f"{kernel.name}.{stage}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        files[stage] = {"path": str(path.relative_to(folder)), "sha256": hashlib.sha256(data).hexdigest()}
    return {
        "name": kernel.name,
        "arch": arch,
        "symbol": made.metadata.name,
        "files": files,
        "arguments": _arguments(kernel, list(types)),
        "grid": list(kernel.grid),
        "threads": kernel.warps * target.warp_size,
        "shared_bytes": made.metadata.shared,
        "for": kernel.says,
    }


def _arguments(kernel: Kernel, names: Sequence[str]) -> list[dict[str, str]]:
    """What a launch passes, one by one: tuples are flat, constants are gone.

    Triton appends two pointers for its own scratch memory; these kernels use none, so null is passed for both.
    """
    found = []
    for name in names:
        if name in kernel.constants:
            continue
        kind = kernel.signature[name]
        flat = [(name, kind)] if isinstance(kind, str) else [(f"{name}[{i}]", k) for i, k in enumerate(kind)]
        found += [{"name": n, "type": k, **({"multiple_of": 16} if name in kernel.aligned else {})} for n, k in flat]
    scratch = [{"name": f"{which}_scratch", "type": "*i8", "value": "null"} for which in ("global", "profile")]
    return found + scratch


def build(arches: Sequence[str], folder: Path, only: str = "") -> dict:
    """Compile all kernels whose names begin with `only`, write manifest.json, and return it."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("aot: Triton's interpreter cannot compile; unset TRITON_INTERPRET")
    unknown = sorted(set(arches) - set(ARCHES))
    if unknown or not arches:
        raise ValueError(f"aot: arch must be some of {', '.join(ARCHES)}, got {', '.join(unknown) or 'none'}")
    import spectral_kernels

    entries = [
        compile_one(kernel, arch, folder) for arch in arches for kernel in kernels(arch) if kernel.name.startswith(only)
    ]
    if not entries:
        raise ValueError(f"aot: no kernel begins with {only!r}; without --only all are compiled")
    manifest = {
        "format": FORMAT,
        "versions": {"spectral_kernels": spectral_kernels.__version__, "triton": metadata.version("triton")},
        "kernels": entries,
    }
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
