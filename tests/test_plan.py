# SPDX-License-Identifier: Apache-2.0
import re

import numpy as np
import pytest
import torch

from spectral_kernels import PowerSpectrum
from spectral_kernels.__main__ import main
from spectral_kernels.plan import MODELS, load
from tests.test_resolution_schedule import scheduler_sigmas
from tests.test_spectrum import field

NAMES = {"flux.1": "FLUX.1", "flux.2": "FLUX.2", "qwen-image": "Qwen-Image", "z-image": "Z-Image", "wan2.1": "Wan 2.1"}


@pytest.mark.parametrize("model", MODELS)
def test_levels_are_the_schedulers(model):
    """Against diffusers' schedulers, which compute in float32; UniPC lowers a first level of 1 by 1e-6."""
    made = MODELS[model]
    levels = made.levels(made.grid(made.size), made.steps)
    expected = scheduler_sigmas(NAMES[model]).tolist()
    assert levels == pytest.approx(expected, rel=1e-5, abs=2e-6)


def test_large_flux2_images_have_their_own_line():
    pipeline = pytest.importorskip("diffusers.pipelines.flux2.pipeline_flux2")
    model = MODELS["flux.2"]
    for size in [(512, 512), (1024, 1024), (2048, 1024)]:
        grid = model.grid(size)
        mu = pipeline.compute_empirical_mu(grid[0] * grid[1], 30)
        expected = np.exp(mu) / (np.exp(mu) + 1)
        assert model.levels(grid, 30)[15] == pytest.approx(expected, rel=1e-12)


def test_plan_prints_the_published_row(capsys):
    assert main(["plan", "--model", "flux.1", "--delta", "0.05", "--schedule", "published", "--attention", "0.3"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"64 x 64 +0 +28 ", text) and "1.72x fewer token-steps" in text
    share = 0.7 / 4 + 0.3 / 16
    assert f"FLOPs: {50 / (22 + 28 * share):.2f}x fewer where attention is 30% of a full step" in text


def test_plan_prints_which_steps_run_at_which_size(capsys):
    """The published schedules of both papers: 28 coarse steps of 50, 14 evaluations by windows of 2, 2.75, ..."""
    arguments = ["plan", "--schedule", "published", "--forecast", "--rewarm", "3"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "forecast: 17 of 50 steps evaluated" in text
    assert re.search(r"^ +64 x 64  0 1 2 3 4 6 8 11 15 20 25$", text, re.MULTILINE)
    assert re.search(r"^ +128 x 128  28 29 30 31 38 46$", text, re.MULTILINE)
    assert f"{50 / (6 + 11 / 4):.2f}x fewer token-steps with both" in text
    assert main([*arguments, "--forecast", "10"]) == 0
    assert "forecast: 13 of 50 steps" in capsys.readouterr().out
    assert main(arguments[:3]) == 0
    assert "forecast" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*arguments, "--forecast", "3"])
    assert "take 6 to 27 evaluations, got budget = 3" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main([*arguments, "--rewarm", "0"])
    assert "--rewarm: 0 is not a number of at least 1" in capsys.readouterr().err


def test_plan_compares_and_plots(capsys, tmp_path):
    arguments = ["plan", "--model", "wan2.1", "--scales", "0.25", "0.5", "1", "--plot", str(tmp_path / "p.png")]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert text.count("15 x 26") + text.count("14 x 26") + text.count("16 x 26") == 3 and "matched" in text
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"


def test_measured_spectra_plan_runs(capsys, tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = field(MODELS["flux.1"].spectrum, (40, 60), 10)
    for k, plane in enumerate(pixels):
        grey = ((plane[0] / plane.abs().max() + 1) * 127.5).byte().numpy()
        image.fromarray(grey).save(tmp_path / f"{k}.png")
    out = tmp_path / "out.json"
    assert (
        main(["spectrum", str(tmp_path), "--size", "32", "--output", str(out), "--plot", str(tmp_path / "s.png")]) == 0
    )
    assert "10 samples" in capsys.readouterr().out and (tmp_path / "s.png").exists()
    law = PowerSpectrum.load(out).fit()
    assert 1.5 < law.exponent < 3
    assert main(["plan", "--spectrum", str(out), "--schedule", "published"]) == 0
    with pytest.raises(SystemExit):
        main(["plan", "--spectrum", str(out), "--delta", "0"])
    assert "largest legal delta" in capsys.readouterr().err


def test_images_are_cropped_to_the_shape_and_arrays_taken_as_they_are(tmp_path):
    image = pytest.importorskip("PIL.Image")
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, 10:50] = 255
    image.fromarray(picture).save(tmp_path / "a.png")
    (only,) = load([tmp_path / "a.png"], (20, 20))
    assert only.shape == (1, 3, 20, 20) and bool((only == 1).all())
    array = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    np.save(tmp_path / "b.npy", array)
    (only,) = load([tmp_path / "b.npy"], (20, 20))
    assert torch.equal(only, torch.from_numpy(array))


@pytest.mark.parametrize("arguments, message", [
    (["--size", "1000"], "multiples of 16 pixels"),
    (["--scales", "0.5", "0.75"], "end at 1"),
    (["--delta", "3"], "largest legal delta"),
    (["--attention", "30"], "attention must be a share"),
    (["--size", "0x5"], "neither a side nor"),
])  # fmt: skip
def test_bad_input(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(["plan", *arguments])
    assert message in capsys.readouterr().err
