# SPDX-License-Identifier: Apache-2.0
"""The wheel: with and without a C++ compiler, and what is in it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import spectral_kernels

ROOT = Path(__file__).parents[1]
# What the build reads; a copy, so that nothing is written into the checkout.
SOURCES = ("pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", "spectral_kernels", "bindings")


def build(folder: Path, **environment: str) -> Path:
    """The wheel, built as `pip install .` does, with the build backend that is installed here."""
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        elif source.exists():
            shutil.copy(source, folder / name)
    backend = "from scikit_build_core.build import build_wheel; build_wheel('wheels')"
    subprocess.run(
        [sys.executable, "-c", f"import os; os.mkdir('wheels'); {backend}"],
        cwd=folder,
        env={**os.environ, **environment},
        check=True,
    )
    (wheel,) = (folder / "wheels").glob("*.whl")
    return wheel


def test_no_compiler_gives_a_pure_python_wheel(tmp_path):
    wheel = build(tmp_path, CXX="/no/such/compiler")
    assert wheel.name == f"spectral_kernels-{spectral_kernels.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(n for n in names if n.endswith(".dist-info/METADATA"))).decode()
    shipped = {n for n in names if ".dist-info/" not in n}
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "spectral_kernels").rglob("*")
        if path.is_file() and path.suffix in (".py", ".json", ".typed")
    }
    assert shipped == package  # no test, no benchmark, no reference; every golden file
    assert "spectral_kernels/py.typed" in shipped
    assert any(n.startswith("spectral_kernels/golden/") for n in shipped)
    assert any(n.endswith(".dist-info/licenses/LICENSE") for n in names)
    assert "License-Expression: Apache-2.0" in metadata


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler")
def test_a_compiler_gives_a_wheel_of_this_platform(tmp_path):
    assert not build(tmp_path).name.endswith("-none-any.whl")
