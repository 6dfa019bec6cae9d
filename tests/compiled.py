# SPDX-License-Identifier: Apache-2.0
"""Compile Triton kernels for GPUs that are not here, and read what the assembler says about them.

The kernels of a test process may be wrapped for Triton's interpreter, and then cannot be compiled. So a second Python
without the interpreter, started at the first call and kept, compiles them by name:

    compiled = compile_kernel(normal_kernel, {"p_noise": "*fp32", "rows": "i64", ...}, {"QUADS": 8}, target="sm_90")
    assert compiled.spills == 0 and compiled.float32_contractions == 0
"""

import atexit
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CUDA_TARGETS = ("sm_80", "sm_90", "sm_100")
TARGETS = (*CUDA_TARGETS, "gfx942")

_worker: subprocess.Popen | None = None


@dataclass(frozen=True)
class Compiled:
    """One kernel for one target.

    `shared` counts bytes per program, `registers` 32-bit registers per thread (VGPRs on AMD), `spills` bytes
    spilled (on AMD: spilled registers). `asm` holds the stages as text: ttir, ttgir, llir, ptx or amdgcn.
    """

    target: str
    shared: int
    registers: int
    spills: int
    asm: dict[str, str]

    @property
    def float32_contractions(self) -> int:
        """Fused float32 multiply-adds in the PTX; on AMD 0 always, where division and square root are made of them."""
        return len(re.findall(r"\bfma\.\w+(?:\.ftz)?\.f32", self.asm.get("ptx", "")))


def compile_kernel(
    fn,
    signature: dict[str, str | tuple[str | int, ...]],
    constexprs: dict | None = None,
    *,
    target: str,
    num_warps: int = 4,
    aligned: tuple[str, ...] = (),
    **options,
) -> Compiled:
    """Compile `fn`, a `@triton.jit` function at the top level of a module, for "sm_80", ..., "gfx942", "gfx1100".

    `signature` types the runtime arguments ("*fp32", "i64", "fp64", a tuple of types for a tuple, where a number stands
    for itself, as a launch takes a stride of 1), `constexprs` gives the others (numbers, strings, None), `aligned`
    names arguments that a launch would find divisible by 16. Further options go to Triton (`num_stages`);
    floating-point fusion is off unless asked for.
    """
    job = {
        "module": fn.fn.__module__,
        "name": fn.fn.__name__,
        "signature": signature,
        "constexprs": constexprs or {},
        "target": target,
        "aligned": list(aligned),
        "options": {"num_warps": num_warps, "enable_fp_fusion": False, **options},
    }
    worker = _running_worker()
    assert worker.stdin is not None and worker.stdout is not None
    print(json.dumps(job), file=worker.stdin, flush=True)
    answer = worker.stdout.readline()
    if not answer:
        raise RuntimeError(f"the compiling process ended with {worker.wait()}; its messages are above")
    result = json.loads(answer)
    if "error" in result:
        raise RuntimeError(f"{job['name']} does not compile for {target}:\n{result['error']}")
    return Compiled(**result)


def _running_worker() -> subprocess.Popen:
    global _worker
    if _worker is None or _worker.poll() is not None:
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
        _worker = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        atexit.register(_worker.kill)
    return _worker


def _serve() -> None:
    """Read one job a line, write one result a line."""
    import traceback

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what compilers print must not mix with the answers
    for line in sys.stdin:
        try:
            result = _compile(**json.loads(line))
        except Exception:
            result = {"error": traceback.format_exc()}
        answers.write(json.dumps(result) + "\n")
        answers.flush()


def _compile(
    module: str, name: str, signature: dict, constexprs: dict, target: str, aligned: list[str], options: dict
) -> dict:
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    fn = getattr(importlib.import_module(module), name)
    missing = [n for n in fn.arg_names if n not in signature and n not in constexprs]
    if missing:
        raise TypeError(f"{name}: neither signature nor constexprs has {', '.join(missing)}")
    types = {n: "constexpr" if n in constexprs else signature[n] for n in fn.arg_names}
    types = {n: _tupled(t) for n, t in types.items()}
    parts = {
        (i, j): part
        for i, t in enumerate(types.values())
        if isinstance(t, tuple)
        for j, part in enumerate(t)
    }  # fmt: skip
    numbers = {place: part for place, part in parts.items() if isinstance(part, int)}
    names = [i for i, n in enumerate(types) if n in aligned]
    places = [(i,) for i in names if not isinstance(types[fn.arg_names[i]], tuple)]
    places += [place for place in parts if place[0] in names and place not in numbers]
    attributes = {place: [["tt.divisibility", 16]] for place in places}
    types = {
        n: tuple("constexpr" if isinstance(part, int) else part for part in t) if isinstance(t, tuple) else t
        for n, t in types.items()
    }
    if target.startswith("sm_"):
        gpu = GPUTarget("cuda", int(target[3:]), 32)
    else:
        gpu = GPUTarget("hip", target, 64 if target.startswith("gfx9") else 32)
    kernel = triton.compile(ASTSource(fn, types, constexprs | numbers, attributes), target=gpu, options=options)
    asm = {stage: text for stage, text in kernel.asm.items() if isinstance(text, str)}
    registers, spills = _assembled(asm["ptx"]) if "ptx" in asm else _described(asm["amdgcn"])
    return {"target": target, "shared": kernel.metadata.shared, "registers": registers, "spills": spills, "asm": asm}


def _tupled(types):
    """Lists as tuples, tuples within tuples too: JSON knows none."""
    return tuple(map(_tupled, types)) if isinstance(types, list) else types


def _assembled(ptx: str) -> tuple[int, int]:
    """Registers and bytes of spilling by the ptxas that Triton ships."""
    import tempfile

    from triton.backends.nvidia.compiler import get_ptxas

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        (gpu,) = re.findall(r"^\.target (\w+)", ptx, re.MULTILINE)
        command = [
            get_ptxas(int(gpu.strip("sm_af"))).path,
            "-v",
            "--fmad=false",
            f"--gpu-name={gpu}",
            source,
            "-o",
            f"{source}.o",
        ]
        log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    (registers,) = re.findall(r"Used (\d+) registers", log)
    return int(registers), sum(map(int, re.findall(r"(\d+) bytes spill (?:stores|loads)", log)))


def _described(amdgcn: str) -> tuple[int, int]:
    """VGPRs and spilled registers by the metadata the AMD compiler writes into its assembly."""
    read = {key: int(value) for key, value in re.findall(r"\.(\w+_count):\s+(\d+)", amdgcn)}
    return read["vgpr_count"], read["vgpr_spill_count"] + read["sgpr_spill_count"]


if __name__ == "__main__":
    _serve()
