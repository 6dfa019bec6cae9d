# SPDX-License-Identifier: Apache-2.0
"""What this machine is and what runs on it: for `python -m spectral_kernels info`, bug reports and benchmark rows."""

import os
import platform
import statistics
import time
from importlib import metadata
from pathlib import Path

import torch

import spectral_kernels
from spectral_kernels import dct_expand, dispatch

PACKAGES = ("torch", "triton", "numpy", "scipy", "diffusers", "PyWavelets", "matplotlib", "scikit-image")


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Installed version of each package, None where it is not installed; Python and this library come first."""
    found: dict[str, str | None] = {
        "spectral_kernels": spectral_kernels.__version__,
        "python": platform.python_version(),
    }
    for name in packages:
        try:
            # PyTorch itself also says what it was built for.
            found[name] = str(torch.__version__) if name == "torch" else metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def cpu() -> str:
    """The processor's name as it gives it itself."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """Name, architecture and memory of each GPU that PyTorch sees."""
    found = []
    for index in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(index)
        architecture = getattr(p, "gcnArchName", "") if torch.version.hip else f"sm_{p.major}{p.minor}"
        found.append(f"{p.name}, {architecture}, {p.total_memory / 2**30:.0f} GiB")
    return found


def backends() -> dict[str, str]:
    """Each backend: "ready", or why it is missing."""
    return {name: dispatch.missing(name) or "ready" for name in dispatch.BACKENDS}


def cost_of_exact(seconds: float = 0.3) -> tuple[float, int]:
    """The time of precision="exact" over that of "fast" on the present device, and the calls of each.

    Medians of calls in turns, over about `seconds`, of dct_expand with drawn noise, 16 planes 64x64 -> 128x128 in
    float32 (FLUX's latent). The first call of each, which builds tables and compiles kernels, is not counted.
    """
    on_gpu = torch.cuda.is_available()
    x = torch.zeros(1, 16, 64, 64, device="cuda" if on_gpu else "cpu")
    samples: dict[str, list[float]] = {"exact": [], "fast": []}
    begun = None
    while begun is None or time.perf_counter() - begun < seconds or len(samples["exact"]) < 4:
        for precision, times in samples.items():
            start = time.perf_counter()
            dct_expand(x, 2, t=0.5, seed=1, precision=precision)
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        begun = begun or time.perf_counter()
    return statistics.median(samples["exact"][1:]) / statistics.median(samples["fast"][1:]), len(samples["exact"]) - 1


def precision_advice(ratio: float, calls: int) -> str:
    """One line; above 1.5 times it says what to do."""
    advice = '; where equal bits are not needed, precision="fast" pays here' if ratio > 1.5 else ""
    return f"exact takes {ratio:.1f} x the time of fast (16 planes 64x64 -> 128x128, {calls} calls each){advice}"


def report() -> str:
    """All of it, in lines."""
    lines = [(name, version or "not installed") for name, version in versions().items()]
    lines.append(("CPU", f"{cpu()}, {cores()} cores, {torch.get_num_threads()} threads, {platform.system()}"))
    lines += [("GPU", gpu) for gpu in gpus()] or [("GPU", "none that PyTorch sees")]
    lines += [(f"backend {name}", state) for name, state in backends().items()]
    lines.append(("precision", precision_advice(*cost_of_exact())))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {what}" for name, what in lines)
