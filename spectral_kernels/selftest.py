# SPDX-License-Identifier: Apache-2.0
"""Does this machine give the right bits? Every test vector of `golden/`, on every backend that can run here."""

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import partial
from importlib import resources
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

import spectral_kernels
from spectral_kernels import dispatch, laplacian_pyramid, laplacian_reconstruct, noise_levels, normal
from spectral_kernels import weights as makers
from spectral_kernels.forecaster import Forecaster

Row = dict[str, Any]

INTERPRETED = 1 << 12  # elements of a state that Triton's interpreter gets through in a second or two


class Result(NamedTuple):
    """What one test vector, or a whole backend that is missing, came to."""

    backend: str
    op: str
    outcome: Literal["passed", "failed", "skipped"]
    detail: str


def run(backends: Iterable[str] = dispatch.BACKENDS, rows: Iterable[Row] | None = None) -> list[Result]:
    """Compute every row on every backend and compare SHA-256 digests of the results' bytes.

    A backend that is missing here gives one result, "skipped", with the reason; so does each row that is too large for
    Triton's interpreter. An op that raises has failed.
    """
    rows = vectors() if rows is None else list(rows)
    results = []
    for name in backends:
        why = dispatch.missing(name)
        if why is not None:
            results.append(Result(name, "all", "skipped", why))
            continue
        device = torch.device("cuda" if name == "triton" and torch.cuda.is_available() else "cpu")
        with dispatch.backend(name):
            results += [_compared(name, row, device) for row in rows]
    return results


def vectors() -> list[Row]:
    """All rows of all files in `golden/`, written by `python -m reference.golden`."""
    folder = resources.files("spectral_kernels") / "golden"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)
    return [row for file in files for row in json.loads(file.read_text())]


def _compared(backend: str, row: Row, device: torch.device) -> Result:
    arguments = {key: value for key, value in row.items() if key not in ("op", "sha256")}
    case = ", ".join(f"{key}={value}" for key, value in arguments.items())
    if backend == "triton" and device.type == "cpu" and "size" in row and prod(row.get("shape", [])) > INTERPRETED:
        return Result(backend, row["op"], "skipped", f"{case}: minutes in Triton's interpreter, runs on a GPU")
    try:
        found = digest(OPS[row["op"]](device=device, **arguments))
    except Exception as error:  # a broken backend must not hide the others
        return Result(backend, row["op"], "failed", f"{case}: {type(error).__name__}: {error}")
    if found != row["sha256"]:
        return Result(backend, row["op"], "failed", f"{case}: SHA-256 is {found}, must be {row['sha256']}")
    return Result(backend, row["op"], "passed", case)


def digest(result: Tensor) -> str:
    return hashlib.sha256(result.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def _normal(shape: list[int], seed: int | list[int], stream: int, dtype: str, device: torch.device) -> Tensor:
    return normal(shape, seed, stream=stream, dtype=getattr(torch, dtype), device=device)


def _drawn(shape: list[int], seed: int, dtype: str, device: torch.device) -> Tensor:
    """The input of a row. PyTorch draws it for every backend: rows of `normal` are where a backend draws its own, and
    in Triton's interpreter the drawing took most of a test's time.
    """
    with dispatch.backend("torch"):
        return _normal(shape, seed, 0, dtype, device)


def _forecast(
    weights: str,
    steps: list[int],
    targets: list[int],
    num_steps: int,
    size: int,
    dtype: str,
    encoding: str | None,
    device: torch.device,
) -> Tensor:
    moments = weights == "moments"
    maker = getattr(makers, f"{'chebyshev' if moments else weights}_weights")
    storage = "moments" if moments else "features"
    forecaster = Forecaster(num_steps, maker, storage, max_features=None if moments else len(steps), encoding=encoding)
    for k, step in enumerate(steps):
        feature = _drawn([size], k, "float32", device)
        forecaster.update(step, feature.to(getattr(torch, dtype)))
    return forecaster.predict(targets)


def _pyramid(
    shape: list[int],
    levels: int,
    dtype: str,
    device: torch.device,
    resample: str = "area",
    basis: str | None = None,
    level: int | None = None,
) -> Tensor:
    found = laplacian_pyramid(_drawn(shape, 7, dtype, device), levels, resample, basis=basis)
    return laplacian_reconstruct(found, resample, basis=basis) if level is None else found[level]


def _noise_levels(
    shape: list[int],
    levels: int,
    resample: str,
    dtype: str,
    times: list[list[float]],
    seed: int,
    part: str,
    level: int,
    device: torch.device,
) -> Tensor:
    found = laplacian_pyramid(_drawn(shape, 7, dtype, device), levels, resample)
    return getattr(noise_levels(found, times, seed), part)[level]


def _planes(
    op: str, shape: list[int], size: list[int], dtype: str, device: torch.device, noise: bool = False, **options: Any
) -> Tensor:
    x = _drawn(shape, 7, dtype, device)
    function = getattr(spectral_kernels, op)
    if op in ("dctn", "idctn"):
        return function(x)
    if op == "spectral_lift":
        return function(x, _drawn([*shape[:-2], *size], 8, dtype, device), **options)
    if noise:
        options["noise"] = _drawn([*shape[:-2], *size], 8, dtype, device)
    result = function(x, size=size, **options)
    return result.x if op in EXPANDING else result


EXPANDING = ("dct_expand", "fft_expand", "dwt_expand")
PLANE_OPS = (*EXPANDING, "dct_truncate", "fft_truncate", "dwt_truncate", "spectral_lift", "dctn", "idctn")

# How a row's arguments become a call; the row's "op" is the key.
OPS: dict[str, Callable[..., Tensor]] = {
    "normal": _normal,
    "forecast": _forecast,
    "laplacian_pyramid": _pyramid,
    "laplacian_reconstruct": _pyramid,
    "noise_levels": _noise_levels,
    **{op: partial(_planes, op) for op in PLANE_OPS},
}
