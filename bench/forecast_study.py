# SPDX-License-Identifier: Apache-2.0
"""Which forecaster is right how often? `python -m bench.forecast_study` appends rows to results/forecast_study.jsonl.

Three kinds of trajectories, 50 steps each, none of which needs trained weights:

* `analytic`: functions with their nearest singularity on the Bernstein ellipse rho, where theory gives bounds (checked
here). * `crops`: a flow sampler whose denoiser is the exact posterior mean over 2000 crops of photographs.
* `patches`: the same with a posterior mean per 8 x 8 patch over 1500 patches, averaged where patches overlap: a local
denoiser, which
  composes new images instead of recalling crops.

Measured for every forecaster and schedule: `feature_error`, the relative error of forecasts at skipped steps along the
true trajectory; for samplers also what errors come to when they feed back: `psnr` of the result against the 50-step run
from the same noise, and `rmse` of the state at steps 10, 20, ..., 50 (the paper's table 5).
"""

import argparse
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import rows
from spectral_kernels import Forecaster, evaluation_steps
from spectral_kernels import weights as makers

NUM_STEPS = 50
RESULTS = rows.RESULTS / "forecast_study.jsonl"

Row = dict[str, Any]

# name -> (weight maker, options)
FORECASTERS: dict[str, tuple[Callable[..., Tensor], Row]] = {
    "Chebyshev": (makers.chebyshev_weights, {"blend": 1.0}),
    "Chebyshev, blend 0.5": (makers.chebyshev_weights, {"blend": 0.5}),
    "Taylor 1": (makers.taylor_weights, {"order": 1}),
    "Taylor 2": (makers.taylor_weights, {"order": 2}),
    "Taylor 3": (makers.taylor_weights, {"order": 3}),
    "Hermite 2": (makers.hermite_weights, {"order": 2}),
    "reuse": (makers.reuse_weights, {}),
}

ADAPTIVE = {nfe: evaluation_steps(NUM_STEPS, budget=nfe) for nfe in range(10, 17)}
# Fixed windows after a warm-up of 5, as TaylorSeer runs: 16, 14, 12 and 10 evaluations.
FIXED = {len(s): s for s in (evaluation_steps(NUM_STEPS, window, 5, 0) for window in (4, 5, 6, 8))}


# ---------------------------------------------------------------- trajectories


def analytic(rho: float, noise: float = 0.0, count: int = 256, seed: int = 0) -> Tensor:
    """[51, count] functions of tau = 2 i / 50 - 1: Re c / (z - tau), poles z spread over the ellipse rho, each scaled
    to RMS 1."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, count)
    pole = 0.5 * (rho * np.exp(1j * angle) + np.exp(-1j * angle) / rho)
    tau = 2 * np.arange(NUM_STEPS + 1)[:, None] / NUM_STEPS - 1
    values = (np.exp(1j * rng.uniform(0, 2 * np.pi, count)) / (pole - tau)).real
    values /= np.sqrt((values**2).mean(0))
    return torch.tensor(values + noise * rng.standard_normal(values.shape), dtype=torch.float32)


@functools.cache
def photographs() -> list[np.ndarray]:
    """Grey photographs of scikit-image, in [-1, 1]."""
    import skimage.data

    names = "astronaut brick camera chelsea coffee coins grass gravel moon page rocket clock"
    images = (getattr(skimage.data, name)().astype(np.float32) / 127.5 - 1 for name in names.split())
    return [image[..., :3].mean(-1) if image.ndim == 3 else image for image in images]


def crops(size: int, count: int, seed: int) -> Tensor:
    """[count, size, size] crops at random places and scales, flat ones left out."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        image, scale = photographs()[rng.integers(len(photographs()))], rng.choice([1, 2, 3, 4, 6])
        side = size * scale
        if min(image.shape) < side:
            continue
        y, x = (rng.integers(n - side + 1) for n in image.shape)
        crop = image[y : y + side, x : x + side].reshape(size, scale, size, scale).mean((1, 3))
        if crop.std() > 0.08:
            found.append(crop)
    return torch.tensor(np.array(found))


def posterior_mean(z: Tensor, t: float, data: Tensor) -> Tensor:
    """E[x | z] for z = (1 - t) x + t noise and x uniform over the rows of `data`."""
    s = 1 - t
    logits = (s * z @ data.T - 0.5 * s * s * (data * data).sum(1)) / (t * t)
    return torch.softmax(logits, dim=-1) @ data


def crop_velocity(z: Tensor, t: float, data: Tensor) -> Tensor:
    flat = z.flatten(1)
    return ((flat - posterior_mean(flat, t, data.flatten(1))) / t).view_as(z)


def patch_velocity(z: Tensor, t: float, data: Tensor, side: int = 8, stride: int = 2) -> Tensor:
    """Every patch (wrapped around the border) gets its own posterior mean; a pixel is the mean over the patches that
    hold it."""
    around = side - stride
    wrapped = torch.nn.functional.pad(z[:, None], (0, around, 0, around), mode="circular")
    patches = torch.nn.functional.unfold(wrapped, side, stride=stride).transpose(1, 2)
    means = posterior_mean(patches.flatten(0, 1), t, data.flatten(1)).view_as(patches).transpose(1, 2)
    total = torch.nn.functional.fold(means, wrapped.shape[-2:], side, stride=stride)[:, 0]
    size = z.shape[-1]
    total[:, :around] += total[:, size:]
    total[:, :, :around] += total[:, :, size:]
    return (z - total[:, :size, :size] * (stride / side) ** 2) / t


def sigmas(mu: float = 1.15) -> list[float]:
    """FLUX's 50 noise levels at 1024 px and the final 0."""
    t = np.linspace(1, 1 / NUM_STEPS, NUM_STEPS)
    return [*(math.exp(mu) / (math.exp(mu) + 1 / t - 1)).tolist(), 0.0]


def sampler(kind: str, batch: int) -> tuple[Tensor, Callable[[Tensor, float], Tensor]]:
    """The noise a run begins with, and the velocity that the network would give."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(batch, 32, 32, generator=generator)
    if kind == "crops":
        return noise, functools.partial(crop_velocity, data=crops(32, 2000, seed=0))
    return noise, functools.partial(patch_velocity, data=crops(8, 1500, seed=0))


# ---------------------------------------------------------------- runs


def feature_error(truth: Tensor, forecaster: Forecaster, steps: list[int]) -> float:
    """RMS over skipped steps of |forecast - truth| / |truth|, the history being true."""
    errors = []
    forecaster.reset()
    for i in range(NUM_STEPS):
        if i in steps:
            forecaster.update(i, truth[i])
        else:
            errors.append(((forecaster.predict(i) - truth[i]).norm() / truth[i].norm()).item())
    return float(np.sqrt(np.mean(np.square(errors)))) if errors else 0.0


def sample(
    noise: Tensor, velocity: Callable[[Tensor, float], Tensor], forecaster: Forecaster | None, steps: list[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """Euler's method; skipped steps take their velocity from the forecaster. -> (states before each step and after the
    last, velocities)"""
    levels, states, velocities = sigmas(), [noise], []
    if forecaster is not None:
        forecaster.reset()
    for i in range(NUM_STEPS):
        if forecaster is None or i in steps:
            v = velocity(states[-1], levels[i])
            if forecaster is not None:
                forecaster.update(i, v)
        else:
            v = forecaster.predict(i)
        velocities.append(v)
        states.append(states[-1] + (levels[i + 1] - levels[i]) * v)
    return states, velocities


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over samples of the PSNR in dB; images span 2."""
    return (10 * torch.log10(4 / (a - b).square().flatten(1).mean(1).clamp_min(1e-12))).mean().item()


def fewer_steps(noise: Tensor, velocity: Callable[[Tensor, float], Tensor], nfe: int) -> Tensor:
    """The same sampler with nfe steps: what skipping has to beat."""
    t = np.linspace(1, 1 / nfe, nfe)
    levels = [*(math.exp(1.15) / (math.exp(1.15) + 1 / t - 1)).tolist(), 0.0]
    z = noise
    for a, b in itertools.pairwise(levels):
        z = z + (b - a) * velocity(z, a)
    return z


def settings() -> Iterator[tuple[str, str, str, list[int], Callable[..., Tensor], Row]]:
    """(sweep, forecaster, schedule, steps, maker, options) of every run."""
    for schedule, table in (("adaptive", ADAPTIVE), ("fixed", FIXED)):
        for steps in table.values():
            for name, (maker, options) in FORECASTERS.items():
                yield "forecasters", name, schedule, steps, maker, options
    for steps in ADAPTIVE.values():
        for blend in (0.5, 1.0):
            for ridge in (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0):
                options = {"ridge": ridge, "blend": blend}
                yield "ridge", "Chebyshev", "adaptive", steps, makers.chebyshev_weights, options
            for degree in (1, 2, 3, 4, 5, 6, 8):
                options = {"degree": degree, "blend": blend}
                yield "degree", "Chebyshev", "adaptive", steps, makers.chebyshev_weights, options
            options = {"sigmas": sigmas(), "blend": blend}
            yield "axis", "Chebyshev", "adaptive", steps, makers.chebyshev_weights, options
    for steps in (ADAPTIVE[14], ADAPTIVE[10]):
        for extra in ({"storage": "moments"}, {"encoding": "int8"}, {"encoding": "float8"}, {"max_features": 8}):
            yield "storage", "Chebyshev", "adaptive", steps, makers.chebyshev_weights, {"blend": 0.5, **extra}


def study(kind: str, batch: int | None = None) -> Iterator[Row]:
    """All rows of one kind of trajectory."""
    if kind.startswith("analytic"):
        facts = dict(part.split("=") for part in kind.split()[1:])
        truth = analytic(float(facts["rho"]), float(facts.get("noise", 0)))
        noise, velocity, states = None, None, []
    else:
        noise, velocity = sampler(kind, batch or {"crops": 32, "patches": 4}[kind])
        states, velocities = sample(noise, velocity, None, [])
        truth = torch.stack(velocities)
        for nfe in range(10, 17):
            result = fewer_steps(noise, velocity, nfe)
            yield {"sweep": "fewer steps", "forecaster": "fewer steps", "nfe": nfe, "psnr": psnr(result, states[-1])}
    for sweep, name, schedule, steps, maker, options in settings():
        forecaster = Forecaster(NUM_STEPS, maker, **options)
        row: Row = {"sweep": sweep, "forecaster": name, "schedule": schedule, "nfe": len(steps)}
        row |= {"options": {k: v if k != "sigmas" else "run" for k, v in options.items()}, "steps": steps}
        row["feature_error"] = feature_error(truth, forecaster, steps)
        if noise is not None and velocity is not None:
            reached, _ = sample(noise, velocity, forecaster, steps)
            row["psnr"] = psnr(reached[-1], states[-1])
            row["rmse"] = {i: (reached[i] - states[i]).square().mean().sqrt().item() for i in (10, 20, 30, 40, 50)}
        yield row


# ---------------------------------------------------------------- bounds


def check_bounds() -> list[Row]:
    """MATH of the paper's theorems 3.1 to 3.3 on functions whose constants are known; raises where a bound is
    broken."""
    from numpy.polynomial import chebyshev

    found: list[Row] = []
    tau = np.linspace(-1, 1, 2001)
    for rho in (1.3, 1.6, 2.0, 3.0):
        # 1 / (a - tau) has its pole at rho_0 = 1.15 rho, and on the ellipse rho the largest magnitude at its right end.
        a = 0.5 * (1.15 * rho + 1 / (1.15 * rho))
        function = functools.partial(lambda t, a: 1 / (a - t), a=a)
        largest = 1 / (a - 0.5 * (rho + 1 / rho))
        series = chebyshev.chebinterpolate(function, 200)
        for degree in range(1, 9):
            error = np.abs(function(tau) - chebyshev.chebval(tau, series[: degree + 1])).max()
            bound = 2 * largest * rho**-degree / (rho - 1)
            found.append({"sweep": "series bound", "rho": rho, "degree": degree, "error": error, "bound": bound})
            if error > bound:
                raise ArithmeticError(f"Chebyshev truncation: {error} above its bound {bound} at rho = {rho}")
            found += _ridge_bound(function, series, degree, bound, rho)
    for order in (0, 1, 2, 3):
        for distance in (0.1, 0.4, 1.0):
            # exp expanded at 0 with its true derivatives: the largest derivative on the way is exp(distance).
            error = math.exp(distance) - sum(distance**j / math.factorial(j) for j in range(order + 1))
            bound = math.exp(distance) * distance ** (order + 1) / math.factorial(order + 1)
            found.append(
                {"sweep": "Taylor bound", "order": order, "distance": distance, "error": error, "bound": bound}
            )
            if error > bound:
                raise ArithmeticError(f"Taylor remainder: {error} above its bound {bound} at order {order}")
    return found


def _ridge_bound(function, series: np.ndarray, degree: int, truncation: float, rho: float) -> Iterator[Row]:
    """|h - forecast| <= ridge |phi| |c| / (s_min^2 + ridge) + truncation (1 + sum |w|), for the forecast's own weights
    w."""
    for count in (6, 10, 14):
        steps = ADAPTIVE[14][:count]
        target = steps[-1] + 1
        tau = 2 * np.array([*steps, target]) / NUM_STEPS - 1
        phi = np.polynomial.chebyshev.chebvander(tau, degree)
        w = makers.chebyshev_weights(steps, target, NUM_STEPS, degree=degree, blend=1.0).double().numpy()
        error = abs(function(tau[-1]) - w @ function(tau[:-1]))
        smallest = np.linalg.svd(phi[:-1], compute_uv=False)
        shrink = 0.1 / ((smallest[-1] ** 2 if count > degree else 0.0) + 0.1)
        bound = shrink * np.linalg.norm(phi[-1]) * np.linalg.norm(series[: degree + 1])
        bound += truncation * (1 + np.abs(w).sum()) + 2.0**-24 * np.abs(w * function(tau[:-1])).sum()
        yield {"sweep": "ridge bound", "rho": rho, "degree": degree, "count": count, "error": error, "bound": bound}
        if error > bound:
            raise ArithmeticError(f"ridge forecast: {error} above its bound {bound} at rho = {rho}, degree = {degree}")


DATA = ["analytic rho=1.2", "analytic rho=1.5", "analytic rho=2", "analytic rho=3", "crops", "patches"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.forecast_study", description="Measure; append rows.")
    parser.add_argument("data", nargs="*", default=DATA, help=f"trajectories, default: {', '.join(DATA)}")
    kinds = parser.parse_args().data
    where = {**rows.circumstances("cpu"), "suite": "forecast study"}
    for row in check_bounds():
        rows.append({**where, "data": "bounds", **row}, RESULTS.stem)
    for kind in kinds:
        begun = time.perf_counter()
        for count, row in enumerate(study(kind), 1):
            rows.append({**where, "data": kind, **row}, RESULTS.stem)
            print(f"{kind}: {count} rows, {time.perf_counter() - begun:.0f} s", end="\r", flush=True)
        print()


if __name__ == "__main__":
    main()
