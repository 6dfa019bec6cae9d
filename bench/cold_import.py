# SPDX-License-Identifier: Apache-2.0
"""What `import spectral_kernels` takes beyond `import torch`: `python -m bench.cold_import` appends a row.

Each time in a Python of its own, with byte code on disk as an installed package has it; the first one, which writes it,
does not count.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import rows

CODE = """
from time import perf_counter
begin = perf_counter()
import torch
middle = perf_counter()
import spectral_kernels
print(middle - begin, perf_counter() - middle)
"""


def measure(times: int = 9) -> list[tuple[float, float]]:
    """Seconds of `import torch` and of `import spectral_kernels` after it."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"PYTHONPYCACHEPREFIX": folder, "PYTHONPATH": str(Path(__file__).parents[1])}
        found = []
        for _ in range(times + 1):
            command = [sys.executable, "-c", CODE]
            printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            torch_seconds, own_seconds = map(float, printed.split())
            found.append((torch_seconds, own_seconds))
    return found[1:]


def main() -> None:
    argparse.ArgumentParser(prog="python -m bench.cold_import", description="Measure; append a row.").parse_args()
    of_torch, own = zip(*measure(), strict=True)
    p20, _, _, p80 = statistics.quantiles(own, n=5, method="inclusive")
    p50 = statistics.median(own)
    times = [1e3 * seconds for seconds in (p20, p50, p80)]
    row = {
        "suite": "import",
        "imports": len(own),
        "milliseconds": times,
        "torch_milliseconds": 1e3 * statistics.median(of_torch),
    }
    rows.append({**rows.circumstances("cpu"), **row}, "import")
    print("import spectral_kernels: {1:.0f} ms beyond torch ({0:.0f} to {2:.0f})".format(*times))


if __name__ == "__main__":
    main()
