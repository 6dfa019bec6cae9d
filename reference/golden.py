# SPDX-License-Identifier: Apache-2.0
"""Test vectors for every backend, release and GPU: `python -m reference.golden` writes them from this specification.

A row names an op, its arguments (inputs are drawn by seed, so they need not be stored) and the SHA-256 of the result's
little-endian bytes. They lie inside the package, because an installed `python -m spectral_kernels selftest` reads them.
Rows are only added: a digest that changes is a changed result, which is a new version of the contract.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reference import expand, forecast, noise, pyramid

FOLDER = Path(__file__).parents[1] / "spectral_kernels" / "golden"
Row = dict[str, Any]


def digest(result: np.ndarray) -> str:
    return hashlib.sha256(result.astype(result.dtype.newbyteorder("<")).tobytes()).hexdigest()


def noise_rows() -> list[Row]:
    cases: list[tuple[list[int], int | list[int], int, str]] = [
        # shape, seed, stream, dtype
        ([1], 0, 0, "float32"),
        ([1000], 1, 0, "float32"),  # one row
        ([128, 128], 7, 0, "float32"),  # a whole number of tiles
        ([127, 61], 7, 0, "float32"),  # primes: the last group of four rows is short
        ([3, 2, 31, 17], 2**32 - 1, 5, "float32"),  # sample 1 is the first whose key has a high half
        ([2, 1, 9, 130], [2**63 - 1, 0], 2**32 - 1, "float32"),  # own seeds, both ends; the last stream
        ([1, 40, 5, 3], 11, 0, "float32"),  # many small planes
        ([64, 64], 7, 0, "float16"),
        ([64, 64], 7, 0, "float64"),
    ]
    return [
        {
            "op": "normal",
            "shape": shape,
            "seed": seed,
            "stream": stream,
            "dtype": dtype,
            "sha256": digest(noise.normal(shape, seed, stream, np.dtype(dtype))),
        }
        for shape, seed, stream, dtype in cases
    ]


def forecast_rows() -> list[Row]:
    """Feature k of a run is the noise of seed k, rounded to the dtype."""
    run = forecast.evaluation_steps(50)
    cases: list[tuple[str, int, list[int], int, str, str | None]] = [
        # weights, evaluations so far, targets, elements, dtype, encoding
        ("chebyshev", 1, [1], 1, "float32", None),
        ("chebyshev", 14, [49], 4096, "bfloat16", None),
        ("chebyshev", 14, [47, 48, 49], 2049, "bfloat16", None),  # three targets, a tail of one element
        ("chebyshev", 7, [9], 1031, "float16", None),
        ("moments", 14, [47, 50], 1031, "bfloat16", None),
        ("taylor", 5, [5], 1031, "float32", None),
        ("hermite", 5, [5], 1031, "bfloat16", None),
        ("linear", 5, [5], 1031, "bfloat16", None),
        ("reuse", 5, [5], 1031, "bfloat16", None),
        ("chebyshev", 8, [14], 1031, "bfloat16", "int8"),  # the last group of 32 is short
        ("chebyshev", 8, [14], 1031, "bfloat16", "float8"),
    ]
    rows: list[Row] = []
    for weights, count, targets, size, dtype, encoding in cases:
        steps, maker = run[:count], getattr(forecast, f"{weights}_weights", None)
        features: list[np.ndarray] = [noise.normal([size], k, 0, np.dtype(np.float32)) for k in range(count)]
        if dtype == "float16":
            features = [h.astype(np.float16).astype(np.float32) for h in features]
        if dtype == "bfloat16":
            bits = [forecast.round_to(h, dtype).astype(np.uint32) << 16 for h in features]
            features = [b.view(np.float32) for b in bits]
        if encoding is not None:
            features = [forecast.decode(*forecast.encode(h, encoding)) for h in features]
        if weights == "moments":
            moments = np.zeros((5, size), dtype=np.float32)
            for step, feature in zip(steps, features, strict=True):
                moments = forecast.update_moments(moments, feature, forecast.chebyshev_row(float(step), 50, 4))
            features, maker = [*moments, *features[-2:]], forecast.moment_weights
        assert maker is not None
        matrix = np.stack([maker(steps, target, 50) for target in targets])
        row = {"op": "forecast", "weights": weights, "steps": steps, "targets": targets, "num_steps": 50, "size": size}
        result = forecast.forecast(features, matrix, dtype)
        rows.append({**row, "dtype": dtype, "encoding": encoding, "sha256": digest(result)})
    return rows


def pyramid_rows() -> list[Row]:
    """The image is the noise of seed 7 on its grid 2^-17, rounded to the dtype; the digest is of one level, or of one
    noisy level or velocity of the whole pyramid."""
    cases: list[tuple[list[int], int, str, str]] = [
        # shape, levels, resample, dtype
        ([2, 3, 13, 18], 3, "area", "float32"),  # odd sides
        ([1, 64, 130], 2, "area", "bfloat16"),
        ([2, 3, 13, 18], 3, "bilinear", "float32"),
        ([1, 33, 20], 2, "bilinear", "float16"),
        ([1, 13, 18], 2, "dct", "bfloat16"),
    ]
    rows: list[Row] = []
    for shape, levels, resample, dtype in cases:
        x = pyramid.stored(noise.normal(shape, 7).astype(np.float64), dtype)
        found = pyramid.pyramid(x, pyramid.halved((shape[-2], shape[-1]), levels), resample, dtype)
        given = {"shape": shape, "levels": levels, "resample": resample, "dtype": dtype}
        for level in range(levels):
            rows.append(
                {"op": "laplacian_pyramid", **given, "level": level, "sha256": digest(packed(found[level], dtype))}
            )
        again = pyramid.reconstruct(found, resample, dtype)
        rows.append({"op": "laplacian_reconstruct", **given, "sha256": digest(packed(again, dtype))})
        if len(shape) == 4 and resample == "area":
            times = [[0.25, 0.9, 1.0], [0.0, 0.3, 0.7]]
            noisy, velocities = pyramid.noise_levels(found, times, 2**40, dtype=dtype)
            for part, result in [("noisy", noisy), ("velocities", velocities)]:
                more = {"times": times, "seed": 2**40, "part": part, "level": 2}
                rows.append({"op": "noise_levels", **given, **more, "sha256": digest(packed(result[2], dtype))})
    orthonormal: list[tuple[list[int], int, str, str]] = [
        # shape, levels, basis, dtype
        ([2, 3, 12, 20], 3, "haar", "float32"),
        ([1, 2, 6, 34], 2, "haar", "bfloat16"),
        ([1, 2, 12, 20], 3, "dct", "float32"),
        ([3, 10, 6], 2, "dct", "float16"),
    ]
    for shape, levels, basis, dtype in orthonormal:
        x = pyramid.stored(noise.normal(shape, 7).astype(np.float64), dtype)
        found = pyramid.orthonormal_pyramid(x, levels, basis, dtype)
        given = {"shape": shape, "levels": levels, "basis": basis, "dtype": dtype}
        for level in range(levels):
            values = packed(found[level], dtype)
            rows.append({"op": "laplacian_pyramid", **given, "level": level, "sha256": digest(values)})
        again = pyramid.orthonormal_reconstruct(found, basis, dtype)
        rows.append({"op": "laplacian_reconstruct", **given, "sha256": digest(packed(again, dtype))})
    return rows


def plane_rows() -> list[Row]:
    """States are the noise of seed 7, spectral noise and velocities that of seed 8, rounded to the dtype.

    The last rows are as large as FLUX: two seconds here, minutes in Triton's interpreter, which leaves them out.
    """
    cases: list[tuple[str, list[int], list[int], dict[str, Any]]] = [
        # op, shape, size, options
        ("dct_expand", [1, 1], [3, 2], {"t": 0.35, "seed": 7}),  # one pixel becomes a plane
        ("dct_expand", [2, 2, 7, 5], [13, 11], {"t": 0.35, "seed": 2**32 - 1}),  # primes
        ("dct_expand", [2, 1, 6, 10], [9, 25], {"t": [0.0, 1.0], "seed": [2**63 - 1, 0]}),  # a time and seed per sample
        ("dct_expand", [1, 16, 17], [33, 34], {"t": 0.9, "noise": True}),  # a tile and one more
        ("dct_expand", [1, 8, 9], [15, 20], {"t": 0.35, "seed": 7, "dtype": "float16"}),
        ("dct_expand", [1, 8, 9], [15, 20], {"t": 0.35, "seed": 7, "align": False, "dtype": "bfloat16"}),
        ("dct_expand", [1, 10, 4], [257, 7], {"t": 0.35, "seed": 7}),  # two launches
        ("fft_expand", [1, 8, 9], [15, 20], {"t": 0.35, "seed": 7}),
        ("dct_truncate", [2, 1, 13, 11], [7, 5], {"t": [0.0, 0.7]}),
        ("fft_truncate", [1, 15, 20], [8, 9], {"normalize": False, "dtype": "bfloat16"}),
        ("spectral_lift", [2, 1, 13, 11], [7, 5], {"t": [0.35, 1.0]}),
        ("spectral_lift", [1, 20, 18], [10, 9], {"t": 0.6, "align": False, "basis": "fft", "dtype": "float16"}),
        ("dctn", [2, 17, 31], [17, 31], {}),
        ("idctn", [1, 33, 16], [33, 16], {"dtype": "bfloat16"}),
        ("dwt_expand", [2, 2, 7, 5], [14, 10], {"t": [0.35, 0.0], "seed": 2**32 - 1}),
        ("dwt_expand", [1, 2, 5, 9], [20, 36], {"t": 0.35, "seed": 7}),  # two levels in one pass
        ("dwt_expand", [1, 3, 2], [24, 16], {"t": 0.35, "noise": True, "dtype": "bfloat16"}),  # three
        ("dwt_expand", [1, 6, 5], [12, 20], {"t": 0.35, "seed": 7}),  # tables
        ("dwt_truncate", [1, 48, 32], [3, 2], {"t": 0.7, "dtype": "float16"}),  # four levels
        ("dct_expand", [1, 16, 64, 64], [128, 128], {"t": 0.35, "seed": 7}),
        ("dct_expand", [1, 16, 64, 64], [128, 128], {"t": 0.35, "seed": 7, "dtype": "bfloat16"}),
        ("dct_truncate", [1, 16, 128, 128], [64, 64], {"t": 0.0}),
    ]
    rows: list[Row] = []
    for op, shape, size, options in cases:
        given = dict(options)
        dtype = given.pop("dtype", "float32")
        x, second = (
            pyramid.stored(noise.normal(sides, seed).astype(np.float64), dtype)
            for sides, seed in ((shape, 7), ([*shape[:-2], *size], 8))
        )
        if "noise" in given:
            given["noise"] = second
        if "t" in given:
            given["t"] = np.asarray(given["t"], np.float64)
        result = pyramid.stored(plane_op(op, x, second, (size[0], size[1]), given).astype(np.float64), dtype)
        row = {"op": op, "shape": shape, "size": size, **options, "dtype": dtype}
        rows.append({**row, "sha256": digest(packed(result, dtype))})
    return rows


def plane_op(
    op: str, x: expand.Planes, second: expand.Planes, size: expand.Size, given: dict[str, Any]
) -> expand.Planes:
    """The reference's answer to a row; `second` is the velocity of a lift."""
    basis = {"fft": {"basis": "fft"}, "dwt": {"basis": "haar"}}.get(op[:3], {})
    if op.endswith("expand"):
        return expand.expand(x, size, **basis, **given)[0]
    if op.endswith("truncate"):
        return expand.truncate(x, size, **basis, **given)
    if op == "spectral_lift":
        return expand.lift(x, second, **given)
    return expand.transform(x, inverse=op == "idctn")


def packed(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values of a type as that type; bfloat16 as its bits."""
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return values.astype(dtype)


FILES: dict[str, Callable[[], list[Row]]] = {
    "noise.json": noise_rows,
    "forecast.json": forecast_rows,
    "pyramid.json": pyramid_rows,
    "planes.json": plane_rows,
}


def text(rows: list[Row]) -> str:
    """JSON with one row a line, so that a change shows as one line."""
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


if __name__ == "__main__":
    for name, rows in FILES.items():
        (FOLDER / name).write_text(text(rows()))
        print(FOLDER / name)
