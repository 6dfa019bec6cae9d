# SPDX-License-Identifier: Apache-2.0
"""A real photograph, halved, noised, expanded: a picture of it, and a table of errors, bits and times."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectral_kernels import dct_expand, dct_truncate, dctn, dispatch, idctn, normal, peers

T = 0.35


def states() -> dict[str, Any]:
    """The run the picture shows: photograph, coarse state at T, expanded state at t', and the usual way beside it."""
    import skimage.data

    photo = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[None].float() / 127.5 - 1
    low = dct_truncate(photo, scale=0.5)
    coarse = (1 - T) * low + T * normal(low.shape, seed=1)
    fine, t = dct_expand(coarse, scale=2, t=T, seed=2)
    assert isinstance(t, float)
    keep = (1 - t) / (1 - T)
    usual = keep * torch.nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")
    usual = usual + (t**2 - (keep * T) ** 2) ** 0.5 * normal(usual.shape, seed=2)
    return {"photo": photo, "coarse": coarse, "fine": fine, "usual": usual, "t": t}


def power(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean power per orthonormal coefficient on rings of radial frequency, in cycles per image."""
    spectrum = dctn(x - x.mean((-2, -1), keepdim=True)).double().square().mean((0, 1)).numpy()
    ring = np.rint(_radius(x)).astype(int).ravel()
    count = np.bincount(ring)
    total = np.bincount(ring, spectrum.ravel())
    inside = slice(1, x.shape[-1] // 2)
    return np.arange(len(count))[inside], (total / count)[inside]


def _radius(x: Tensor) -> np.ndarray:
    """Radial frequency of every coefficient, in cycles per image: index k is k / 2 cycles."""
    return np.hypot(np.arange(x.shape[-2])[:, None] / 2, np.arange(x.shape[-1])[None, :] / 2)


def denoised(z: Tensor, t: float, photo: Tensor) -> Tensor:
    """One optimal linear step to the clean image, E[x | z] for a Gaussian image with the photograph's power spectrum.

    x_hat = (1 - t) P / ((1 - t)^2 P + t^2) z_hat
    """
    frequency, measured = power(photo)
    P = torch.from_numpy(np.interp(_radius(photo), frequency, measured)).float()
    mean = photo.mean((-2, -1), keepdim=True)
    gain = (1 - t) * P / ((1 - t) ** 2 * P + t**2)
    return mean + idctn(gain * dctn(z - (1 - t) * mean))


def picture(run: dict[str, Any], path: Path) -> dict[str, float]:
    """Draw the run; give the errors of the two one-step results."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    photo, t = run["photo"], run["t"]
    ours, usual = denoised(run["fine"], t, photo), denoised(run["usual"], t, photo)
    errors = {name: float((x - photo).square().mean().sqrt()) for name, x in (("ours", ours), ("usual", usual))}
    figure, axes = pyplot.subplots(2, 3, figsize=(13, 8.6), layout="constrained")
    shown = (
        (axes[0, 0], photo, "photograph, 512 x 512"),
        (axes[0, 1], run["coarse"], f"coarse state, 256 x 256, t = {T}"),
        (axes[0, 2], run["fine"], f"dct_expand: 512 x 512, t' = {t:.4f}"),
        (axes[1, 1], ours, f"one step from dct_expand, error {errors['ours']:.4f}"),
        (axes[1, 2], usual, f"one step from bilinear + renoise, error {errors['usual']:.4f}"),
    )
    for axis, image, title in shown:
        axis.imshow((image[0].permute(1, 2, 0) * 0.5 + 0.5).clamp(0, 1).numpy())
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    axis = axes[1, 0]
    frequency, clean = power(photo)
    axis.loglog(frequency, (1 - t) ** 2 * clean + t**2, "k", lw=2, label="theory, (1 - t')^2 P + t'^2")
    axis.loglog(*power(run["fine"]), "C0", lw=1, label="dct_expand")
    axis.loglog(*power(run["usual"]), "C3", lw=1, label="bilinear + renoise")
    axis.axvline(128, color="0.7", lw=0.8)
    axis.set(xlabel="frequency, cycles per image", title="power per coefficient")
    axis.title.set_fontsize(10)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return errors


def bits() -> list[tuple[str, str]]:
    """Each backend against PyTorch's result on a small crop, bit by bit."""
    x = normal((2, 3, 24, 20), seed=3).to(torch.bfloat16)

    def run(device: str) -> Tensor:
        return dct_expand(x.to(device), size=(45, 32), t=T, seed=4).x.cpu().view(torch.int16)

    with dispatch.backend("torch"):
        expected = run("cpu")
    rows = []
    for name in ("native", "triton"):
        why = dispatch.missing(name)
        if why is None:
            with dispatch.backend(name):
                same = torch.equal(run("cuda" if name == "triton" and torch.cuda.is_available() else "cpu"), expected)
            why = "same bits" if same else "DIFFERENT BITS"
        rows.append((name, why))
    return rows


def times(device: str) -> list[tuple[str, float, float]]:
    """(provider, relative error to float64, milliseconds) for 16 planes 64 x 64 -> 128 x 128 (FLUX), noise given."""
    x, noise = normal((1, 16, 64, 64), seed=5, device=device), normal((1, 16, 128, 128), seed=6, device=device)
    exact = peers.expected(x, noise, T)
    providers: dict[str, Callable[[], Any]] = {
        "dct_expand": lambda: dct_expand(x, scale=2, t=T, noise=noise).x,
        'dct_expand, precision="fast"': lambda: dct_expand(x, scale=2, t=T, noise=noise, precision="fast").x,
        "torch.fft form": lambda: peers.torch_fft(x, noise, T),
    }
    if device == "cpu":
        import scipy.fft

        arrays = x.numpy(), noise.numpy()
        providers["SciPy float32"] = lambda: peers.by_library(scipy.fft, *arrays, T, workers=torch.get_num_threads())
    spent: dict[str, list[float]] = {name: [] for name in providers}
    for _ in range(25):
        for name, call in providers.items():  # interleaved: what slows the machine slows all of them
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            spent[name].append(1000 * (time.perf_counter() - start))
    rows = []
    for name, call in providers.items():
        found = np.asarray(torch.as_tensor(call()).double().cpu())
        rows.append(
            (name, float(np.linalg.norm(found - exact) / np.linalg.norm(exact)), statistics.median(spent[name][5:]))
        )
    return rows


def run(path: Path) -> bool:
    """Everything, with progress on the way; True when all bits agree."""
    print(f"1/3  a photograph: halved, noised to t = {T}, expanded")
    state = states()
    errors = picture(state, path)
    print(f"     t' = {state['t']:.4f}; one optimal linear step lands at an error of {errors['ours']:.4f},")
    print(f"     from bilinear upsampling and renoising at {errors['usual']:.4f}. Picture: {path}")
    print("2/3  bits against the PyTorch backend")
    found = bits()
    for name, verdict in found:
        print(f"     {name:8} {verdict}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"3/3  16 planes 64 x 64 -> 128 x 128 on {device}, noise given, median of 20")
    print(f"     {'':30} {'error to float64':>17} {'ms':>8}")
    for name, error, spent in times(device):
        print(f"     {name:30} {error:17.1e} {spent:8.2f}")
    return all(verdict != "DIFFERENT BITS" for _, verdict in found)
