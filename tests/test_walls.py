# SPDX-License-Identifier: Apache-2.0
"""The walls of the house, on its import graph: who may know whom. Each rule is also shown to catch a trespasser."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path.read_text()
    for room in ("spectral_kernels", "reference")
    for path in sorted((ROOT / room).rglob("*.py"))
}


def imports(source: str, module: str, package: bool = False) -> set[str]:
    """Every module or name that a source imports, at the top or inside a function, as dotted absolute names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".")
                parents = here[: len(here) - node.level + package]
                base = ".".join([*parents, *filter(None, [base])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            if isinstance(node.args[0], ast.Constant):
                found.add(str(node.args[0].value))
    return found


def within(name: str, *rooms: str) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


def standard(name: str) -> bool:
    return name.split(".")[0] in sys.stdlib_module_names


def trespasses(module: str, source: str, package: bool = False) -> Iterator[str]:
    """What a module imports or computes against the rules."""
    for name in imports(source, module, package):
        if within(module, "reference") and not (standard(name) or within(name, "numpy", "scipy", "reference")):
            yield f"{module} imports {name}: the reference is NumPy and SciPy only"
        if within(module, "spectral_kernels") and within(name, "reference", "bench", "tests"):
            yield f"{module} imports {name}: the package stands without its specification, benchmarks and tests"
        # The coefficients of the noise's polynomials are shared with the PyTorch form; no transform is in them.
        of_kernels = ("torch", "triton", "spectral_kernels.kernels", "spectral_kernels.deviates")
        if within(module, "spectral_kernels.kernels") and not (standard(name) or within(name, *of_kernels)):
            yield f"{module} imports {name}: kernels see tables and tensors and know no transform"
        # aot compiles the kernels' source into files: it is the other reader of that room.
        readers = ("spectral_kernels.dispatch", "spectral_kernels.kernels", "spectral_kernels.aot")
        hidden = ("spectral_kernels.kernels", "spectral_kernels._native")
        if within(name, *hidden) and not within(module, *readers):
            yield f"{module} imports {name}: only dispatch knows that backends exist"
        of_adapters = ("spectral_kernels.adapters",)
        if within(module, *of_adapters) and within(name, "math", "cmath", "numpy", "scipy", "torch.special"):
            yield f"{module} imports {name}: adapters hold no arithmetic; it belongs into the library"
    if within(module, "spectral_kernels.adapters"):
        yield from (f"{module} {what}: adapters hold no arithmetic" for what in arithmetic(ast.parse(source)))


# What an adapter may call in torch: moving, cutting and joining. Everything else computes.
LAYOUT = {
    *("arange", "as_tensor", "cartesian_prod", "cat", "device", "dtype", "empty", "empty_like", "full", "full_like"),
    *("Generator", "is_grad_enabled", "is_tensor", "no_grad", "inference_mode", "nn.functional.pad", "stack", "tensor"),
    *("compiler.disable", "compiler.is_compiling", "unbind", "zeros", "zeros_like", "cuda.is_available"),
}
COMPUTING_METHODS = {
    *("add", "sub", "mul", "div", "pow", "matmul", "mm", "bmm", "lerp", "addcmul", "addcdiv", "dot", "outer", "cumsum"),
    *("exp", "log", "log2", "sqrt", "rsqrt", "sin", "cos", "tanh", "sigmoid", "softmax", "square", "reciprocal"),
    *("sum", "mean", "std", "var", "norm", "prod", "abs", "neg", "round", "floor", "ceil", "clamp", "normal"),
}


def arithmetic(tree: ast.AST) -> Iterator[str]:
    """Computation with values: `/ ** @`, a float constant beside an operator, torch functions that compute.

    Counting is allowed (`rows * columns`, `tokens // 2`, `step + 1`): integers that say where things lie.
    """
    for node in ast.walk(tree):
        if isinstance(node, (ast.BinOp, ast.AugAssign)):
            sides = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.value]
            if isinstance(node.op, (ast.Div, ast.Pow, ast.MatMult)):
                yield f"line {node.lineno} has `{ast.unparse(node)}`"
            elif any(isinstance(side, ast.Constant) and isinstance(side.value, float) for side in sides):
                yield f"line {node.lineno} has `{ast.unparse(node)}`"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = ast.unparse(node.func)
            if name.startswith("torch.") and name.removeprefix("torch.") not in LAYOUT:
                yield f"line {node.lineno} calls `{name}`"
            elif not name.startswith("torch.") and node.func.attr.removesuffix("_") in COMPUTING_METHODS:
                yield f"line {node.lineno} calls `{name}`"


@pytest.mark.parametrize("module", MODULES)
def test_walls(module):
    package = (ROOT / Path(*module.split(".")) / "__init__.py").exists()
    assert list(trespasses(module, MODULES[module], package)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("reference.noise", "import torch"),
        ("reference.wavelets", "import pywt"),
        ("reference.noise", "from spectral_kernels import noise"),
        ("spectral_kernels.expand", "def f():\n    from reference import noise"),
        ("spectral_kernels.expand", "from bench.peers import PEERS"),
        ("spectral_kernels.expand", "import importlib\nimportlib.import_module('reference.noise')"),
        ("spectral_kernels.kernels.exact", "from spectral_kernels.bases import dct"),
        ("spectral_kernels.kernels.exact", "from ..bases import dct"),
        ("spectral_kernels.kernels.exact", "import numpy as np"),
        ("spectral_kernels.expand", "from spectral_kernels.kernels import exact"),
        ("spectral_kernels.expand", "from spectral_kernels import kernels"),
        ("spectral_kernels.expand", "from . import _native"),
        ("spectral_kernels.adapters.diffusers.models", "from math import sqrt"),
        ("spectral_kernels.adapters.diffusers.models", "y = x / 2"),
        ("spectral_kernels.adapters.diffusers.models", "x *= 0.5"),
        ("spectral_kernels.adapters.diffusers.models", "y = torch.lerp(a, b, t)"),
        ("spectral_kernels.adapters.diffusers.models", "y = x.mul_(t).sum()"),
    ],
)
def test_walls_stand(module, source):
    assert list(trespasses(module, source)) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("reference.noise", "import math\nfrom collections.abc import Sequence\nfrom scipy.special import ndtri"),
        ("spectral_kernels.dispatch.planes", "def f():\n    from spectral_kernels.kernels import exact"),
        ("spectral_kernels.kernels.exact", "import triton.language as tl\nfrom spectral_kernels.kernels import launch"),
        ("spectral_kernels.adapters.diffusers.models", "n = rows * columns // 2 + 1\nids = torch.cat([a, b])"),
    ],
)
def test_walls_have_doors(module, source):
    assert list(trespasses(module, source)) == []


def fresh_python(code: str) -> str:
    """What a program prints in an interpreter of its own, started in the repository without a GPU."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_imports_without_optional_packages():
    """A name set to None in sys.modules cannot be imported, as if it were not installed."""
    absent = ["triton", "scipy", "diffusers", "matplotlib", "pywt", "skimage", "transformers"]
    code = f"import sys\nsys.modules.update(dict.fromkeys({absent}))\nimport spectral_kernels\nprint('imported')"
    assert fresh_python(code) == "imported\n"


def test_import_brings_nothing_but_torch():
    """So `import spectral_kernels` takes no time beyond `import torch`: no third-party package, no compiler stack."""
    code = """
import sys, torch
before = set(sys.modules)
import spectral_kernels
print(*sorted(set(sys.modules) - before))
"""
    brought = fresh_python(code).split()
    assert "spectral_kernels" in brought
    strangers = {name.split(".")[0] for name in brought if not standard(name)} - {"spectral_kernels", "torch"}
    assert strangers == set()
    assert [name for name in brought if within(name, "torch._dynamo", "torch._inductor")] == []
    # Rooms that a call opens when it needs them, and commands.
    rooms = (
        "_native",
        "adapters",
        "aot",
        "demo",
        "dispatch.native",
        "flow",
        "info",
        "kernels",
        "peers",
        "plan",
        "selftest",
    )
    assert [name for name in brought if within(name, *(f"spectral_kernels.{room}" for room in rooms))] == []
