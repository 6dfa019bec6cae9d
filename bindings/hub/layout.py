# SPDX-License-Identifier: Apache-2.0
"""`python bindings/hub/layout.py OUT`: the library as a universal kernel package (Python and Triton) for `kernels`.

`kernels.get_local_kernel(OUT)` and `kernels.get_kernel("owner/name")` load a package under a name of their own, beside
an installed spectral_kernels. So imports become relative; nothing else is changed. Commands and adapters stay behind: a
kernel package is imported by frameworks, not run.
"""

import argparse
import ast
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "spectral_kernels"
VARIANT = "torch-universal"
LEFT_OUT = ("__main__.py", "adapters", "aot.py", "demo.py", "flow", "golden", "info.py", "peers.py", "plan.py",
            "selftest.py")  # fmt: skip
README = """---
license: apache-2.0
library_name: kernels
tags:
- kernels
---

# spectral-kernels

Spectral resolution changes and feature forecasting for diffusion models, with the same bits on every backend.

    from kernels import get_kernel

    sk = get_kernel("{repository}")
    y, t_aligned = sk.dct_expand(x, scale=2, t=0.35, seed=7)
"""


def relative(source: str, module: tuple[str, ...]) -> str:
    """The source of `module` (its path below the package) with relative imports."""
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(a.name.split(".")[0] == "spectral_kernels" for a in node.names):
            where = f"{'/'.join(module)}:{node.lineno}"
            raise ValueError(f"{where}: `import spectral_kernels` cannot be made relative; import from it")
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            head, *rest = node.module.split(".")
            if head == "spectral_kernels":
                dots = "." * len(module)
                line = lines[node.lineno - 1]
                lines[node.lineno - 1] = line.replace(f"from {node.module} ", f"from {dots}{'.'.join(rest)} ", 1)
    return "".join(lines)


def lay_out(target: Path, repository: str = "spectral-kernels/spectral-kernels") -> Path:
    """Write the package below `target` and return the folder of its only variant."""
    folder = target / "build" / VARIANT
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        if parts[0] in LEFT_OUT:
            continue
        to = folder.joinpath(*parts)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(relative(path.read_text(), parts))
    (version,) = re.findall(r'__version__ = "(.*)"', (PACKAGE / "__init__.py").read_text())
    metadata = {
        "name": "spectral-kernels",
        "id": f"_spectral_kernels_{version.replace('.', '_')}",
        "version": 1,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": "cuda"},
    }
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
    (target / "README.md").write_text(README.format(repository=repository))
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    print(lay_out(parser.parse_args().out))
