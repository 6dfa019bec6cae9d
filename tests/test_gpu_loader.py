# SPDX-License-Identifier: Apache-2.0
"""The C loader of GPU kernels launches what Triton launches: the same arguments in the same order and sizes, the same
grid, block and shared memory, for the classes that spectral_kernels.aot compiles. On a GPU: the test vectors.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
pytest.importorskip("cmake")

from spectral_kernels import aot, selftest
from tests import capi

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "library"  # of `make library`: what it built is not built again
LIBRARY = "bindings/capi/libspectral_kernels.so"

# One class serves both formulas, with the ratio 1; tiles change no bit and no argument; a class holds narrower planes.
SAME = {"FORMULA": [["truncate", "one"]]}
SPEED = {"WIDTH1", "WIDTH2", "num_warps"}


@pytest.fixture(scope="module")
def launches():
    if not shutil.which("c++") or not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("needs a C++ compiler and Python.h: Triton compiles its launcher")
    capi.build(BUILD, targets=("spectral_kernels", "fake_cuda"))
    fake = BUILD / "bindings/capi/tests/fake_cuda/libcuda.so.1"
    library = BUILD / LIBRARY
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT), "TRITON_LIBCUDA_PATH": str(fake.parent)}
    command = [sys.executable, "-m", "tests.gpu_launches", str(library), str(fake)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_launches_are_those_of_triton(launches):
    assert len(launches["cases"]) > 40
    for case in launches["cases"]:
        assert case["c"] == case["triton"], case["name"]
        assert all(launch["count"] == len(launch["arguments"]) for launch in case["c"])


def test_the_class_is_what_python_would_compile(launches):
    for case in launches["cases"]:
        for different in case["constants"]:
            unknown = {n: pair for n, pair in different.items() if n not in SPEED and pair not in SAME.get(n, [])}
            assert unknown == {}, case["name"]


def test_every_class_is_used(launches):
    used = {launch["kernel"] for case in launches["cases"] for launch in case["c"]}
    # Forecasts of 2 and 5 to 8 features differ in their number alone.
    rest = {kernel.name for kernel in aot.kernels("sm_90")} - used
    assert all(name.startswith("forecast") and name.split("_")[2] in ("2", "8") for name in rest), rest


def test_every_vector_of_these_operations_is_launched(launches):
    assert launches["golden"] == launches["vectors"] > 25
    assert launches["alive"] == [0]


@pytest.fixture(scope="module")
def gpu(tmp_path_factory):
    """The library with the kernels for this GPU embedded, as a user would build it."""
    if not torch.cuda.is_available() or torch.version.hip:
        pytest.skip("needs an NVIDIA GPU")
    arch = "sm_{}{}".format(*torch.cuda.get_device_capability())
    if arch not in aot.ARCHES:
        pytest.skip(f"no class is compiled for {arch}")
    folder = ROOT / "build" / "gpu"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "spectral_kernels.aot", "--arch", arch, "--out", str(folder / "kernels")]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    capi.build(folder, f"-DSK_EMBED_GPU={folder / 'kernels'}")
    torch.zeros(1, device="cuda")  # makes the context
    found = capi.Gpu(folder / LIBRARY, stream=torch.cuda.current_stream().cuda_stream)
    yield found
    torch.cuda.synchronize()
    found.close()


@pytest.mark.gpu
@pytest.mark.parametrize("row", capi.golden_rows(gpu=True), ids=lambda row: f"{row['op']}-{row['sha256'][:6]}")
def test_vectors_on_a_gpu(gpu, row):
    found = capi.golden_result(gpu, row, torch.device("cuda"))
    assert selftest.digest(found) == row["sha256"]
