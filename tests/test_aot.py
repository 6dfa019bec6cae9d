# SPDX-License-Identifier: Apache-2.0
"""Kernels compiled into files without a GPU: the manifest says what is in them."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from spectral_kernels import aot

ROOT = Path(__file__).parents[1]
WIDTH = {"u64": 8, "b64": 8, "u32": 4, "b32": 4, "f32": 4, "f64": 8}
BYTES = {"i64": 8, "i32": 4, "fp32": 4, "fp64": 8}


def run(*arguments, **environment):
    """The command in a Python of its own: in this one the kernels may be wrapped for the interpreter."""
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "spectral_kernels.aot", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**kept, **environment}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """One kernel with tuples of arguments and one without, for both makers of GPUs."""
    manifests = {}
    for only in ("forecast_bf16_4", "normal_fp32"):
        folder = tmp_path_factory.mktemp(only)
        result = run("--arch", "sm_90,gfx942", "--only", only, "--out", str(folder))
        assert result.returncode == 0, result.stderr
        manifests[only] = folder, json.loads((folder / "manifest.json").read_text())
    return manifests


def entries(compiled):
    return [(folder, entry) for folder, manifest in compiled.values() for entry in manifest["kernels"]]


def size_of(argument):
    return 8 if argument["type"].startswith("*") else BYTES[argument["type"]]


def test_every_file_is_there_with_its_hash(compiled):
    assert sorted(e["arch"] for _, e in entries(compiled)) == ["gfx942"] * 3 + ["sm_90"] * 3
    for folder, entry in entries(compiled):
        assert set(entry["files"]) == ({"cubin", "ptx"} if entry["arch"] == "sm_90" else {"hsaco"})
        for stage, file in entry["files"].items():
            data = (folder / file["path"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file["sha256"]
            assert entry["symbol"].encode() in data
            if stage != "ptx":
                assert data[:4] == b"\x7fELF"


def test_the_arguments_are_those_of_the_compiled_function(compiled):
    for folder, entry in entries(compiled):
        if entry["arch"] != "sm_90":
            continue
        ptx = (folder / entry["files"]["ptx"]["path"]).read_text()
        (head,) = re.findall(rf"\.entry {entry['symbol']}\((.*?)\)", ptx, re.DOTALL)
        params = [WIDTH[kind] for kind in re.findall(r"\.param \.(\w+)", head)]
        assert params == [size_of(argument) for argument in entry["arguments"]]
        (threads,) = re.findall(r"\.reqntid (\d+)", ptx)
        assert int(threads) == entry["threads"]
        assert not re.search(r"\bfma\.\w+(\.ftz)?\.f32", ptx)  # the promise of bits


def test_all_classes_name_every_argument():
    for arch in aot.ARCHES:
        names = [kernel.name for kernel in aot.kernels(arch)]
        assert len(set(names)) == len(names)
        for kernel in aot.kernels(arch):
            assert sorted([*kernel.signature, *kernel.constants]) == sorted(aot.argument_names(kernel))
            assert set(kernel.aligned) <= set(kernel.signature)


def test_files_do_not_depend_on_where_the_package_lies(compiled):
    for folder, entry in entries(compiled):
        for file in entry["files"].values():
            assert str(ROOT).encode() not in (folder / file["path"]).read_bytes()


def test_the_image_holds_the_cubins_and_no_other_code(compiled):
    for folder, manifest in compiled.values():
        content = (folder / aot.IMAGE).read_bytes()
        assert content.startswith(aot.IMAGE_MAGIC)
        codes = {arch: [] for arch in ("sm_90", "gfx942")}
        for entry in manifest["kernels"]:
            stage = "cubin" if entry["arch"] == "sm_90" else "hsaco"
            codes[entry["arch"]].append((folder / entry["files"][stage]["path"]).read_bytes())
        assert all(code in content for code in codes["sm_90"])
        assert not any(code in content for code in codes["gfx942"])


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--arch", "sm_75"], {}, "got sm_75"),
        (["--only", "nothing"], {}, "no kernel begins with"),
        ([], {"TRITON_INTERPRET": "1"}, "unset TRITON_INTERPRET"),
    ],
)
def test_errors(arguments, environment, message, tmp_path):
    result = run(*arguments, "--out", str(tmp_path), **environment)
    assert result.returncode == 2
    assert message in result.stderr
