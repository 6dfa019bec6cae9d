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

from reference import noise

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


FILES: dict[str, Callable[[], list[Row]]] = {"noise.json": noise_rows}


def text(rows: list[Row]) -> str:
    """JSON with one row a line, so that a change shows as one line."""
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


if __name__ == "__main__":
    for name, rows in FILES.items():
        (FOLDER / name).write_text(text(rows()))
        print(FOLDER / name)
