# SPDX-License-Identifier: Apache-2.0
"""Runs that grow: with explicit expansion, and in full-resolution coordinates."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from spectral_kernels import wavelets
from spectral_kernels.expand import (
    dct_expand,
    dct_truncate,
    dwt_expand,
    dwt_truncate,
    fft_expand,
    fft_truncate,
    spectral_lift,
)
from spectral_kernels.flow.solvers import Solver, Velocity, euler
from spectral_kernels.noise import normal
from spectral_kernels.schedule import ResolutionSchedule, Size, Stage, align_time
from spectral_kernels.transforms import _transform, idctn

BASES = {"dct": (dct_expand, dct_truncate), "fft": (fft_expand, fft_truncate)}


def resizing(basis: str) -> tuple[Callable, Callable]:
    """Expansion and truncation in a basis: "dct", "fft", or the name of a wavelet."""
    if basis in BASES:
        return BASES[basis]
    name = wavelets.canonical("progressive", basis)
    return partial(dwt_expand, wavelet=name), partial(dwt_truncate, wavelet=name)


def expansion_noise(x: Tensor, coarse: Size, basis: str) -> Tensor:
    """White noise as its spectrum, which is how an expansion from `coarse` takes it."""
    name = basis if basis in BASES else wavelets.canonical("progressive", basis)
    return _transform("progressive", name, "analysis", x, (-2, -1), "exact", coarse=coarse)


def initial_noise(shape: tuple[int, ...], seed: int, **options) -> Tensor:
    """White noise [n, c, H, W] whose cosine spectrum is `normal(shape, seed)`, the noise of `dct_expand(seed=seed)`.

    Its low band is the initial noise of a smaller grid, `initial_noise((n, c, h, w), seed)`, so runs of one seed share
    their noise at every resolution. Options: dtype, device.
    """
    return idctn(normal(shape, seed, **options))


def band(x: Tensor, size: Size, basis: str = "dct") -> Tensor:
    """The low band of noise as white noise on a smaller grid; x itself where the grid is its own."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return resizing(basis)[1](x, size=size, normalize=False)


def full_size(op: str, plan: ResolutionSchedule, **states: Tensor) -> None:
    """Raise where a state is not of the plan's full size: cut to it, it would be another picture without a word."""
    for name, x in states.items():
        if tuple(x.shape[-2:]) != tuple(plan.size):
            raise ValueError(
                f"{op}: {name} must have the full size of the plan, {tuple(plan.size)}, got {tuple(x.shape[-2:])}"
            )


def progressive(
    velocity: Velocity, plan: ResolutionSchedule, noise: Tensor, *, solver: Solver = euler, basis: str = "dct"
) -> Tensor:
    """Sample by spectral progressive diffusion: solve each stage on its own grid, expand between stages.

    Parameters
    ----------
    velocity : v(x, t) at every stage's size
    plan : from `resolution_schedule`, any of its schedules
    noise : [n, c, H, W], white, full size: the first stage starts from its low band, and each expansion fills its new
        frequencies from the same noise, so the result can be compared with the plain run `solver(velocity, noise, ...)`
    solver : `euler`, `heun`, or of your own; it starts anew at each stage, as multi-step solvers must
    basis : "dct", "fft", or the name of a wavelet, see `dwt_expand`; its stages must differ by powers of two

    Returns
    -------
    State [n, c, H, W] at the last level of the plan.

    Source: Spectral Progressive Diffusion, section 4.1.
    """
    full_size("progressive", plan, noise=noise)
    x = band(noise, plan.stages[0].size, basis)
    x = solver(velocity, x, plan.stages[0].sigmas)
    return climb(velocity, plan, x, noise, 0, solver, basis)


def climb(velocity, plan, x: Tensor, noise: Tensor, stage: int, solver: Solver, basis: str) -> Tensor:
    """From the end of a stage to the end of the run."""
    expand, _ = resizing(basis)
    for before, after in zip(plan.stages[stage:-1], plan.stages[stage + 1 :], strict=True):
        fresh = expansion_noise(band(noise, after.size, basis), before.size, basis)
        x, _ = expand(x, size=after.size, t=before.sigma_out, noise=fresh, align=plan.align)
        x = solver(velocity, x, after.sigmas)
    return x


def full_resolution(
    velocity: Velocity,
    plan: ResolutionSchedule,
    noise: Tensor,
    *,
    solver: Solver = euler,
    basis: str = "dct",
    restart: bool | None = None,
) -> Tensor:
    """The same run with a state that has full size all the time; only the model sees small grids.

        z' = kappa [coarse state in the low band; t * noise in the high band],   t' = kappa t = align_time(t, r)

    A coarse step lifts the coarse velocity, v' = (z' - r up(x0)) / t'. At a transition nothing is left to do. For
    solvers linear in the state and the data prediction, Euler among them, this is `progressive` exactly. "matched"
    plans need no more than this: their full levels are the model's own schedule.

    Parameters as in `progressive`; the plan must be aligned.

    restart : start the solver anew at each stage. Default: as the schedules are meant, True for "published" and
        "respaced", False for "matched", whose multi-step solvers keep their history.

    Source: derived from Spectral Progressive Diffusion, section 4.1; see `spectral_lift`.
    """
    if not plan.align:
        raise ValueError("full_resolution: plan must be aligned, got align=False; use progressive for unaligned plans")
    full_size("full_resolution", plan, noise=noise)
    stages = [(lifted(velocity, stage, basis), stage) for stage in plan.stages]
    if restart if restart is not None else plan.schedule != "matched":
        x = noise
        for full_velocity, stage in stages:
            x = solver(full_velocity, x, [align_time(t, stage.ratio)[0] for t in stage.sigmas])
        return x

    def by_level(z: Tensor, t: float) -> Tensor:
        """The velocity of the stage that runs at this level; at the level between two stages, of the finer."""
        return next(v for v, stage in stages if t > sigmas[stage.first_step + stage.num_steps])(z, t)

    sigmas = plan.full_sigmas
    return solver(by_level, noise, sigmas)


def lifted(velocity: Velocity, stage: Stage, basis: str = "dct") -> Velocity:
    """A stage's velocity as one at full resolution: truncate the state, ask the coarse model, lift its answer."""
    _, truncate = resizing(basis)

    def full_velocity(z: Tensor, t_full: float) -> Tensor:
        if tuple(z.shape[-2:]) == stage.size:
            return velocity(z, t_full)
        t, _ = align_time(t_full, 1 / stage.ratio)
        return spectral_lift(z, velocity(truncate(z, size=stage.size, t=t), t), t=t, basis=basis)

    return full_velocity
