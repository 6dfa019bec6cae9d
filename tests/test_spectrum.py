# SPDX-License-Identifier: Apache-2.0
import json
import math

import numpy as np
import pytest
import scipy.fft
import torch

from spectral_kernels.schedule import resolution_schedule
from spectral_kernels.spectrum import FLUX_LATENT, PowerLaw, PowerSpectrum
from tests.bits import assert_same_bits

# A square, and a wide grid with an odd side: rings are ellipses in index space.
SIZES = [(32, 32), (24, 45)]


def field(law, size, samples, channels=1, seed=0):
    """Draws of a Gaussian field whose DCT coefficients have the law's power at their radial frequency."""
    h, w = size
    radius = min(size) / 2 * np.hypot(np.arange(h)[:, None] / h, np.arange(w) / w)
    radius[0, 0] = 0.5
    noise = np.random.default_rng(seed).standard_normal((samples, channels, h, w))
    x = scipy.fft.idctn(noise * np.sqrt(law.amplitude) * radius ** (-law.exponent / 2), axes=(-2, -1), norm="ortho")
    return torch.tensor(x, dtype=torch.float32)


def test_no_law_holds_at_frequency_zero():
    assert FLUX_LATENT(0.0) == math.inf and FLUX_LATENT(torch.zeros(1)).item() == math.inf


def same(a, b):
    assert a.state() == b.state()
    assert_same_bits(a.power, b.power)
    assert a.fit() == b.fit()


@pytest.mark.parametrize("size", SIZES)
def test_rings_against_scipy(size):
    """Mean over samples, channels and coefficients of every ring, written out."""
    x = field(FLUX_LATENT, size, 8, channels=3)
    spectrum = PowerSpectrum(size).update(x + 5.0)
    power = (scipy.fft.dctn(x.double().numpy(), axes=(-2, -1), norm="ortho") ** 2).mean((0, 1))
    n = min(size)
    assert spectrum.samples == 8 and spectrum.planes == 24 and len(spectrum.power) == n - 1
    for k in (1, 2, 7, n - 1):
        members = [
            (i, j)
            for i in range(size[0])
            for j in range(size[1])
            if abs(n * math.hypot(i / size[0], j / size[1]) - k) < 0.5
        ]
        # float32 coefficients (the mean of 5 adds rounding to all of them): 2^-24 of the plane's norm each.
        assert spectrum.power[k - 1] == pytest.approx(np.mean([power[m] for m in members]), rel=1e-4)
        log_mean = np.mean([math.log(n * math.hypot(i / size[0], j / size[1]) / 2) for i, j in members])
        assert spectrum.frequencies[k - 1] == pytest.approx(math.exp(log_mean), rel=1e-14)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("law", [FLUX_LATENT, PowerLaw(40.0, 2.45)])
def test_fit_recovers_the_law(size, law):
    fitted = PowerSpectrum(size).update(field(law, size, 400)).fit()
    # 400 draws: log power per ring is off by sqrt(2 / (400 * 3)) = 0.04 in the lowest ring and less above; the ring's
    # width adds a bias of a few per cent to the lowest ones. Slope over log 31 = 3.4.
    assert fitted.exponent == pytest.approx(law.exponent, abs=0.06)
    assert fitted.amplitude == pytest.approx(law.amplitude, rel=0.12)
    assert fitted.r_squared > 0.995 and fitted.reference_size == size


def test_the_fit_is_least_squares_through_the_rings_of_its_window():
    spectrum = PowerSpectrum((32, 32)).update(field(FLUX_LATENT, (32, 32), 8))
    window = (spectrum.frequencies[4], spectrum.frequencies[17])
    x, y = np.log(spectrum.frequencies[4:18]), np.log(spectrum.power[4:18])
    slope = np.cov(x, y)[0, 1] / np.var(x, ddof=1)
    intercept = y.mean() - slope * x.mean()
    law = spectrum.fit(frequencies=window)
    assert law.exponent == pytest.approx(-slope, rel=1e-10)
    assert law.amplitude == pytest.approx(math.exp(intercept), rel=1e-10)
    assert law.r_squared == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, rel=1e-10)


def test_any_order_and_any_split_have_the_same_bits():
    # Nine decades between samples: a float64 running sum would depend on the order.
    x = field(FLUX_LATENT, (32, 32), 24, channels=2) * torch.logspace(-6, 3, 24)[:, None, None, None]
    whole = PowerSpectrum((32, 32)).update(x)
    backwards = PowerSpectrum((32, 32))
    for sample in x.flip(0):
        backwards.update(sample[None])
    same(whole, backwards)
    same(whole, PowerSpectrum((32, 32)).merge(PowerSpectrum((32, 32)).update(x[10:])).update(x[:10]))
    same(whole, PowerSpectrum.measure(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=7)))
    same(whole, PowerSpectrum.measure(iter(x.split(5)), progress=True))


def worker(rank, path, store):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    x = torch.load(path)
    # Uneven shards, interleaved; rank 1 has no sample of the last kind.
    spectrum = PowerSpectrum((32, 32)).update(x[[0, 3, 4]] if rank else x[[5, 1, 2, 6, 7, 8]])
    spectrum.all_reduce()
    torch.save(spectrum.state(), f"{path}.{rank}")
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_bits_of_one(tmp_path):
    x = field(FLUX_LATENT, (32, 32), 9) * torch.logspace(-6, 3, 9)[:, None, None, None]
    torch.save(x, tmp_path / "x")
    torch.multiprocessing.spawn(worker, (str(tmp_path / "x"), str(tmp_path / "store")), nprocs=2)
    whole = PowerSpectrum((32, 32)).update(x)
    for rank in (0, 1):
        same(PowerSpectrum.from_state(torch.load(tmp_path / f"x.{rank}")), whole)


def test_file_round_trip(tmp_path):
    spectrum = PowerSpectrum((24, 45)).update(field(FLUX_LATENT, (24, 45), 8))
    spectrum.save(tmp_path / "s.json")
    same(PowerSpectrum.load(tmp_path / "s.json"), spectrum)
    assert json.loads((tmp_path / "s.json").read_text())["power_law"]["exponent"] == spectrum.fit().exponent
    spectrum.plot(tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"
    for other in ("[1, 2]", "no JSON"):
        (tmp_path / "other.json").write_text(other)
        with pytest.raises(ValueError, match=r"load: .*other\.json is not a spectrum"):
            PowerSpectrum.load(tmp_path / "other.json")
    for totals in (["1"], [*spectrum.state()["totals"][:-1], "-1"]):
        with pytest.raises(ValueError, match="from_state: totals must be 23"):
            PowerSpectrum.from_state(spectrum.state() | {"totals": totals})


def test_photographs_fall_with_exponent_near_2_4():
    """The published pixel exponent is 2.449. Photographs that come with scikit-image, centre squares at 256 px."""
    data, image = pytest.importorskip("skimage.data"), pytest.importorskip("PIL.Image")
    spectrum = PowerSpectrum((256, 256))
    for name in ("astronaut", "coffee", "chelsea", "camera", "rocket", "moon", "coins", "retina"):
        pixels = getattr(data, name)()
        h, w = pixels.shape[:2]
        s = min(h, w)
        square = image.fromarray(pixels[(h - s) // 2 :, (w - s) // 2 :][:s, :s]).resize((256, 256), image.LANCZOS)
        grey = np.asarray(square.convert("L"), np.float32) / 127.5 - 1
        spectrum.update(torch.tensor(grey))
    law = spectrum.fit()
    assert 2.3 < law.exponent < 2.75 and law.r_squared > 0.95


def test_a_measurement_plans_a_run():
    spectrum = PowerSpectrum((32, 32)).update(field(FLUX_LATENT, (32, 32), 64))
    sigmas = np.linspace(1, 0, 51)
    plan = resolution_schedule(sigmas, [(16, 16), (32, 32)], spectrum, 0.05)
    assert plan == resolution_schedule(sigmas, [(16, 16), (32, 32)], spectrum.fit(), 0.05)
    assert len(plan.stages) == 2


def test_bad_input():
    for size in [(3, 32), (32,)]:
        with pytest.raises(ValueError, match="PowerSpectrum: size"):
            PowerSpectrum(size)
    spectrum = PowerSpectrum((8, 8))
    with pytest.raises(ValueError, match="no samples yet"):
        _ = spectrum.power
    with pytest.raises(TypeError, match=r"update: x must be floating-point, got torch\.uint8"):
        spectrum.update(torch.zeros(8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"update: x must end in \(8, 8\), got \(1, 8, 9\)"):
        spectrum.update(torch.zeros(1, 8, 9))
    x = torch.randn(3, 2, 8, 8)
    x[2, 0, 1, 1] = math.inf
    with pytest.raises(ValueError, match="sample 2 of x is not finite"):
        spectrum.update(x)
    assert spectrum.samples == 0
    with pytest.raises(ValueError, match="at least 8 samples, got 7"):
        spectrum.update(field(FLUX_LATENT, (8, 8), 7)).fit()
    spectrum.update(field(FLUX_LATENT, (8, 8), 20))
    rings = spectrum.frequencies
    with pytest.raises(ValueError, match="at least 4 rings, got 3"):
        spectrum.fit(frequencies=(rings[2], rings[4]))
    assert spectrum.fit(frequencies=(rings[2], rings[5])).exponent > 0
    with pytest.raises(ValueError, match="no power at"):
        PowerSpectrum((8, 8)).update(torch.zeros(9, 8, 8)).fit()
    rising = field(PowerLaw(1.0, 1.0), (8, 8), 9)
    ramp = torch.tensor(scipy.fft.idctn(np.hypot(*np.mgrid[:8, :8]) * np.ones((9, 1, 1)), axes=(-2, -1), norm="ortho"))
    with pytest.raises(ValueError, match="power must fall with frequency"):
        PowerSpectrum((8, 8)).update(ramp.float()).fit()
    with pytest.raises(ValueError, match="merge: sizes must agree"):
        spectrum.merge(PowerSpectrum((8, 9)).update(torch.randn(9, 8, 9)))
    with pytest.raises(ValueError, match="at least one tensor, got none"):
        PowerSpectrum.measure([])
    assert PowerSpectrum((8, 8)).update(rising).fit().exponent > 0
