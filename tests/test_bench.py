# SPDX-License-Identifier: Apache-2.0
"""The benchmark runner: who may be timed, what a row holds, and the rehearsal of everything that wants a GPU."""

import importlib.util
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import gpu, measure, plot, rows, run, suites, tune
from bench.case import Case, Provider, Tunable
from spectral_kernels import peers

ROOT = Path(__file__).parents[1]


def case(*providers: Provider) -> Case:
    """The sum of two numbers as an op."""
    return Case("pair", "add", (2,), "float32", 12, 1, lambda: np.array([3.0, 4.0]), list(providers), {"t": 0.5})


# Even, odd, a ratio that is not a whole number, a single point; and the Wan side that is odd.
@pytest.mark.parametrize(
    ("shape", "size"), [((2, 3, 5, 6), (9, 13)), ((1, 1), (2, 3)), ((1, 45, 80), (90, 160)), ((4, 8, 8), (16, 16))]
)
@pytest.mark.parametrize("peer", [peers.torch_fft, peers.matmul])
def test_peers_compute_the_definition(peer, shape, size):
    x, noise = torch.randn(shape), torch.randn(*shape[:-2], *size)
    found = peer(x, noise, 0.35)
    # Single precision: about log2(n) roundings of 6e-8 by FFT, sqrt(n) by a product; n is at most 160.
    assert measure.relative_error(found, peers.expected(x, noise, 0.35)) < 8e-7
    assert found.dtype == x.dtype
    assert peer(x.bfloat16(), noise.bfloat16(), 0.35).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("shape", "size"), [((2, 3, 5, 6), (9, 13)), ((1, 1), (2, 3)), ((1, 45, 80), (90, 160)), ((4, 8, 8), (8, 11))]
)
def test_fourier_peers_compute_the_definition(shape, size):
    import spectral_kernels as sk

    x, noise = torch.randn(shape), torch.randn(*shape[:-2], *size)
    expected = sk.fft_expand(x.double(), t=0.35, size=size, noise=noise.double()).x
    assert measure.relative_error(peers.fourier_matmul(x.double(), noise.double(), 0.35), expected.numpy()) < 1e-13
    for peer in (peers.fourier_matmul, peers.fourier_fft):
        assert measure.relative_error(peer(x, noise, 0.35), expected.numpy()) < 8e-7


def test_peers_expect_what_the_library_computes():
    import spectral_kernels as sk

    x, noise = torch.randn(2, 3, 8, 7).double(), torch.randn(2, 3, 12, 15).double()
    ours = sk.dct_expand(x, t=0.35, size=(12, 15), noise=noise).x
    assert measure.relative_error(ours, peers.expected(x, noise, 0.35)) < 1e-12


def test_right_providers_are_timed_and_wrong_ones_are_not():
    right = Provider("right", lambda: torch.tensor([3.0, 4.0]))
    wrong = Provider("wrong", lambda: torch.tensor([3.0, 4.1]))
    broken = Provider("broken", lambda: 1 / 0)
    shape = Provider("broadcast", lambda: torch.tensor([[3.0, 4.0]]))
    absent = Provider("absent", missing="not installed")
    nan = Provider("nan", lambda: torch.tensor([float("nan"), 4.0]))
    floor = Provider("floor", lambda: None, tolerance=None)
    found, problems = run.run_case(case(wrong, right, broken, shape, absent, nan, floor), "cpu", 0.01)
    assert [row["provider"] for row in found] == ["right", "floor"]
    assert [problem.split(":")[0] for problem in problems] == [
        f"pair, {name}" for name in ("wrong", "broken", "broadcast", "nan")
    ]
    assert "relative error 0.02 against float64, at most 1e-05" in problems[0]


def test_a_row_says_what_was_measured():
    (row,), _ = run.run_case(case(Provider("right", lambda: np.array([3.0, 4.0]))), "cpu", 0.01)
    p20, p50, p80 = row.pop("ms")
    assert 0 < p20 <= p50 <= p80
    assert row.pop("samples") >= 5
    assert row.pop("GBps") == pytest.approx(12 / p50 / 1e6, abs=1e-3)
    assert row == {
        **{"op": "add", "case": "pair", "provider": "right", "shape": [2], "dtype": "float32", "t": 0.5, "bytes": 12},
        **{"flops": 1, "launches": None, "error": 0.0, "mode": "eager"},
    }
    where = rows.circumstances("cpu")
    assert where["versions"]["torch"] == torch.__version__
    assert where["threads"] == torch.get_num_threads()
    assert set(where) == {"commit", "dirty", "date", "device", "cpu", "cores", "threads", "load", "versions"}


def test_providers_take_turns():
    order = []
    calls = [lambda name=name: order.append(name) for name in "abc"]
    measure.interleaved(calls, "cpu", seconds=0.0, least=2)
    # The first round begins with a, the second with b; a sample may hold many calls.
    turns = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert "".join(turns).endswith("abcbca")


def test_rows_are_appended(tmp_path):
    rows.append({"a": 1}, "x", tmp_path)
    rows.append({"a": 2}, "x", tmp_path)
    assert (tmp_path / "x.jsonl").read_text() == '{"a": 1}\n{"a": 2}\n'
    assert list(rows.read(tmp_path)) == [{"a": 1}, {"a": 2}]


def test_nothing_is_timed_when_the_tests_fail(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "gate", lambda tests: False)
    options = ["--tiny", "--seconds", "0", "--device", "cpu", "--results", str(tmp_path)]
    assert run.main(["--suite", "expand", *options]) == 1
    assert list(rows.read(tmp_path)) == []
    assert "suite expand: its tests do not pass" in capsys.readouterr().err


def test_the_gate_is_pytest(tmp_path):
    red, green = tmp_path / "test_red.py", tmp_path / "test_green.py"
    red.write_text("def test(): assert False\n")
    green.write_text("def test(): pass\n")
    assert run.gate([str(green)])
    assert not run.gate([str(green), str(red)])


@pytest.mark.parametrize("name", suites.SUITES)
def test_every_suite_measures_its_tiny_cases(name, tmp_path, capsys):
    """Every provider that is installed agrees with float64, and gives a row."""
    options = ["--tiny", "--seconds", "0", "--device", "cpu", "--no-gate", "rehearsal", "--results", str(tmp_path)]
    assert run.main(["--suite", name, *options]) == 0, capsys.readouterr().err
    found = list(rows.read(tmp_path, name))
    assert found
    assert all(row["gate"] == "not run: rehearsal" and row["suite"] == name for row in found)
    assert plot.newest(found + found) == found
    # What the table shows is in the rows.
    table = plot.table(found, found[0]["device"], name)
    for row in found:
        assert f"{row['ms'][1]:.3g}" in table and row["case"] in table and row["provider"] in table


@pytest.mark.parametrize("name", suites.SUITES)
def test_every_suite_names_tests_that_exist(name):
    tests = suites.load(name).TESTS
    assert tests
    for test in tests:
        assert (ROOT / test).exists(), test


def test_an_unknown_suite_is_an_error():
    with pytest.raises(ValueError, match="there is no suite 'nonsense'; there are expand"):
        suites.load("nonsense")


def test_a_setting_that_changes_bits_is_not_timed():
    def answer(setting):
        if setting == "too big":
            raise RuntimeError("out of shared memory")
        return torch.tensor([1.0, -0.0 if setting == "wrong" else 0.0])

    candidates = ["first", "second", "wrong", "too big"]
    found, problems = tune.tune(Tunable("t", "add", (1,), "float32", "first", candidates, answer), "cpu", 0.0)
    assert [(row["setting"], row["current"]) for row in found] == [("first", True), ("second", False)]
    assert problems == ["t: wrong changes the result"]
    near = Tunable("t", "add", (1,), "float32", "first", candidates, answer, tolerance=1e-3)
    assert [row["setting"] for row in tune.tune(near, "cpu", 0.0)[0]] == ["first", "second", "wrong"]


def test_plots_draw_rows(tmp_path):
    found, _ = run.run_case(case(Provider("right", lambda: np.array([3.0, 4.0]))), "cpu", 0.0)
    for row in found:
        rows.append({**rows.circumstances("cpu"), "suite": "sums", **row}, "sums", tmp_path)
    assert plot.main(["--results", str(tmp_path), "--out", str(tmp_path / "plots")]) == 0
    (picture,) = (tmp_path / "plots").iterdir()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert plot.main(["--results", str(tmp_path / "none")]) == 1


def test_the_readme_says_what_the_rows_say():
    given, found = plot.DOCUMENT.read_text(encoding="utf-8"), list(rows.read())
    assert given.count("<!-- rows:") == 2
    assert plot.document(given, found) == given
    with pytest.raises(ValueError, match="no rows of expand at 0000000; name a commit that has some"):
        plot.document("<!-- rows: expand 0000000 --><!-- end -->", found)


# ---------------------------------------------------------------- make gpu


def piece(name: str, code: str, seconds: int = 60, passing: tuple[int, ...] = (0,)) -> gpu.Piece:
    return gpu.Piece(name, ["-c", code], seconds, passing)


def test_pieces_that_passed_are_not_run_again(tmp_path, capfd):
    log = tmp_path / "log"
    write = f"open({str(log)!r}, 'a').write"
    todo = [
        piece("one", f"{write}('1')"),
        piece("two", f"{write}('2'); exit(4)"),
        piece("three", f"{write}('3')"),
    ]
    assert gpu.run(todo, tmp_path / "state", 600) == 1
    assert log.read_text() == "123"
    assert gpu.run(todo, tmp_path / "state", 600) == 1
    assert log.read_text() == "1232"  # only what failed
    todo[1] = piece("two", f"{write}('2'); exit(5)", passing=(0, 5))
    assert gpu.run(todo, tmp_path / "state", 600) == 0
    assert gpu.run(todo, tmp_path / "state", 0) == 0  # nothing left to do takes no time
    assert "two: failed with exit code 4" in capfd.readouterr().out


def test_nothing_is_measured_before_its_tests_have_passed(tmp_path, capfd):
    measure_it = gpu.Piece("measure", ["-c", "print('measured')"], 60, needs="tests")
    assert gpu.run([piece("tests", "exit(1)"), measure_it], tmp_path, 600) == 1
    assert "measured\n" not in capfd.readouterr().out
    assert gpu.run([piece("tests", ""), measure_it], tmp_path, 600) == 0
    assert "measured\n" in capfd.readouterr().out


def test_time_is_kept(tmp_path, capfd):
    endless = piece("endless", "import time; time.sleep(60)", seconds=1)
    assert gpu.run([endless, piece("short", "")], tmp_path, 600) == 1
    printed = capfd.readouterr().out
    assert "endless: stopped, its time was over" in printed and "short: passed" in printed
    assert gpu.run([piece("late", "")], tmp_path, 1) == 3
    assert "=== late" not in capfd.readouterr().out
    assert gpu.run([piece("late", "")], tmp_path, 600) == 0  # the same command continues


def test_what_a_stopped_piece_started_is_stopped_too(tmp_path, capfd):
    """Test workers outlive a killed pytest, and would keep its output open for ever."""
    forgotten = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).wait()"
    begun = time.monotonic()
    assert gpu.run([piece("parent", forgotten, seconds=1)], tmp_path, 600, tmp_path / "gpu.log") == 1
    assert time.monotonic() - begun < 30
    assert "parent: stopped" in (tmp_path / "gpu.log").read_text()


def test_a_piece_without_its_packages_is_left_out(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    loop = gpu.Piece("loop flux forecast", ["-c", "print('looped')"], 60)
    assert gpu.run([loop, piece("short", "")], tmp_path, 600) == 0
    printed = capfd.readouterr().out
    assert "left out, diffusers is not installed" in printed and "looped\n" not in printed


def test_a_copy_without_git_is_known_by_its_sources(tmp_path, monkeypatch):
    """A result of other sources must not count as passed, nor a row look clean."""
    monkeypatch.setattr(rows, "git", lambda *_: None)
    monkeypatch.setattr(rows, "ROOT", tmp_path)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "a.py").write_text("1")
    first, where = rows.state_key(), rows.circumstances("cpu")
    assert where["commit"] is None and "dirty" not in where and where["sources"] in first
    (tmp_path / "bench" / "a.py").write_text("2")
    assert rows.state_key() != first


def test_candidates_are_shared_out_between_the_processes_that_compile(monkeypatch):
    called = []

    def answer(setting):
        called.append(setting)
        raise RuntimeError("it does not fit this GPU")

    tunables = [
        Tunable("a", "add", (1,), "float32", 0, [1, 2, 3], answer),
        Tunable("b", "add", (1,), "", 0, [4], answer),
    ]
    for share in (0, 1):
        tune.call_share(tunables, share, 2)
    assert called == [1, 3, 2, 4]


def test_without_a_gpu_only_the_rehearsal_runs(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "sees no GPU" in capsys.readouterr().err


def test_rehearsal_of_every_piece(tmp_path):
    command = [sys.executable, "-m", "bench.gpu", "--dry", "--results", str(tmp_path)]
    command += ["--state", str(tmp_path / ".gpu-state")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    loops = {"e2e"} if importlib.util.find_spec("diffusers") else set()
    assert {row["suite"] for row in rows.read(tmp_path)} == set(suites.SUITES) | loops
    (state,) = (tmp_path / ".gpu-state").iterdir()
    possible = [piece for piece in gpu.pieces(True, tmp_path) if not gpu.without(piece)]
    assert len(list(state.iterdir())) == len(possible)
    assert "=== all pieces, in short" in (tmp_path / "gpu.log").read_text()


COMMANDS = sorted(path.stem for path in (ROOT / "bench").glob("*.py") if "__main__" in path.read_text())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does_before_it_does_it(name, monkeypatch, capsys):
    """Asked for help, or given a word that it does not know, none measures, draws or appends rows."""
    if name in ("e2e", "forecast_transition", "small_transformer"):
        pytest.importorskip("diffusers", reason="needs the extra [diffusers]")
    monkeypatch.setattr(rows, "append", None)
    for word, code in (("--help", 0), ("--unknown", 2)):
        monkeypatch.setattr("sys.argv", [name, word])
        with pytest.raises(SystemExit) as left:
            runpy.run_module(f"bench.{name}", run_name="__main__")
        assert left.value.code == code
    assert f"usage: python -m bench.{name}" in capsys.readouterr().out
