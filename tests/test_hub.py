# SPDX-License-Identifier: Apache-2.0
"""The kernel package for the hub, loaded by the `kernels` library where the package itself is out of reach."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import spectral_kernels as sk
from tests.bits import assert_same_bits

pytest.importorskip("kernels", reason="pip install kernels")

ROOT = Path(__file__).parents[1]

USE = """
import sys
from pathlib import Path
import kernels, torch
sk = kernels.get_local_kernel(Path(sys.argv[1]))
assert "spectral_kernels" not in sys.modules
x = torch.arange(96, dtype=torch.float32).reshape(1, 2, 6, 8).sin()
y, t = sk.dct_expand(x, 2, t=0.3, seed=5)
weights = sk.chebyshev_weights([0, 1, 2], 4, 10)
torch.save({"expand": y, "t": t, "forecast": sk.forecast([x, x + 1, x * 2], weights)}, sys.argv[2])
"""


@pytest.fixture(scope="module")
def layout():
    spec = importlib.util.spec_from_file_location("layout", ROOT / "bindings" / "hub" / "layout.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_hub_package_has_the_same_bits(layout, tmp_path):
    folder = layout.lay_out(tmp_path / "package")
    assert not list(folder.rglob("*.so"))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-c", USE, str(tmp_path / "package"), str(tmp_path / "results")]
    subprocess.run(command, cwd=tmp_path, env={**environment, "HF_HUB_OFFLINE": "1"}, check=True)
    results = torch.load(tmp_path / "results")
    x = torch.arange(96, dtype=torch.float32).reshape(1, 2, 6, 8).sin()
    expected = sk.dct_expand(x, 2, t=0.3, seed=5)
    assert_same_bits(results["expand"], expected.x)
    assert results["t"] == expected.t
    weights = sk.chebyshev_weights([0, 1, 2], 4, 10)
    assert_same_bits(results["forecast"], sk.forecast([x, x + 1, x * 2], weights))


def test_imports_become_relative(layout):
    source = "from spectral_kernels import bases\nfrom spectral_kernels.exact import split\nimport torch\n"
    assert layout.relative(source, ("dispatch", "planes.py")) == (
        "from .. import bases\nfrom ..exact import split\nimport torch\n"
    )


def test_what_cannot_become_relative_is_refused(layout):
    with pytest.raises(ValueError, match="cannot be made relative"):
        layout.relative("import spectral_kernels\n", ("noise.py",))
