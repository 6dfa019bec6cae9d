# SPDX-License-Identifier: Apache-2.0
"""`python -m spectral_kernels`: what it prints and how it exits."""

import subprocess
import sys

import pytest
import torch

import spectral_kernels
from spectral_kernels import dispatch, info, selftest
from spectral_kernels.__main__ import COMMANDS, main


def test_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "spectral_kernels", "info"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0].split() == ["spectral_kernels", spectral_kernels.__version__]


def test_help_names_every_command_and_its_meaning(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    for command in COMMANDS:
        assert command.__doc__
        assert f"{command.__name__} {command.__doc__.splitlines()[0]}" in printed


NO_PICTURE, NOWHERE = __file__, "/no/such/file"
WRONG_USE = [
    [],
    ["nonsense"],
    ["selftest", "--backend", "nonsense"],
    ["plan", "--steps", "0"],
    ["plan", "--rewarm", "-1"],
    ["plan", "--spectrum", NOWHERE],
    ["plan", "--spectrum", NO_PICTURE],
    ["plan", "--plot", f"{NOWHERE}/plan.png"],
    ["spectrum", NOWHERE],
    ["spectrum", NO_PICTURE],
]


@pytest.mark.parametrize("argv", WRONG_USE)
def test_wrong_use_exits_with_2(argv, capsys):
    pytest.importorskip("PIL", reason="reads pictures")
    pytest.importorskip("matplotlib", reason="draws")
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert "usage: python -m spectral_kernels" in capsys.readouterr().err


def test_info_names_versions_devices_and_the_reason_for_a_missing_backend(capsys, monkeypatch):
    why = {"torch": None, "native": "the core was not built", "triton": None}
    monkeypatch.setattr(dispatch, "missing", why.get)
    monkeypatch.setattr(info, "PACKAGES", ("torch",))
    assert main(["info"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    lines = {name: what.strip() for name, what in lines.items()}
    assert lines["torch"] == torch.__version__
    assert lines["backend native"] == "the core was not built"
    assert lines["backend triton"] == "ready"
    assert f"{torch.get_num_threads()} threads" in lines["CPU"]
    assert torch.cuda.is_available() or lines["GPU"] == "none that PyTorch sees"


def test_a_package_that_is_not_installed_has_no_version():
    assert info.versions(("torch", "no-such-package"))["no-such-package"] is None


def test_selftest_passes_here(capsys):
    assert main(["selftest", "--backend", "torch"]) == 0
    count = len(selftest.vectors())
    assert count > 0
    assert f"torch: {count} of {count} test vectors agree" in capsys.readouterr().out


def test_selftest_fails_loudly_and_names_a_missing_backend(capsys, monkeypatch):
    rows = [{**row, "sha256": "0" * 64} for row in selftest.vectors()[:1]] + selftest.vectors()[1:]
    monkeypatch.setattr(selftest, "vectors", lambda: rows)
    why = {"torch": None, "native": "the core was not built", "triton": "there is no GPU"}
    monkeypatch.setattr(dispatch, "missing", why.get)
    assert main(["selftest"]) == 1
    printed = capsys.readouterr().out
    assert f"torch: {rows[0]['op']} FAILED" in printed and "must be 0000" in printed
    assert f"torch: {len(rows) - 1} of {len(rows)} test vectors agree" in printed
    assert "native: missing, the core was not built" in printed


def test_selftest_of_a_missing_backend_fails_when_it_was_asked_for(capsys, monkeypatch):
    monkeypatch.setattr(dispatch, "missing", lambda name: "there is no GPU")
    assert main(["selftest", "--backend", "triton"]) == 1
    assert capsys.readouterr().out == "triton: missing, there is no GPU\n"
