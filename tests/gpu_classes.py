# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.gpu_classes ARCH`: compile what a launch would on a GPU that is not here, and print what fails.

Triton turns a number that is 1 into a constant and looks at what is divisible by 16, which its interpreter does not; so
calls go through Triton's own way to a launch, with a driver that names a chip and has none.
"""

import json
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from spectral_kernels import (
    Forecaster,
    chebyshev_forecast,
    dct_expand,
    dispatch,
    dwt2,
    dwt_expand,
    forecast,
    laplacian_pyramid,
    laplacian_reconstruct,
    noise_levels,
    normal,
    spectral_lift,
)

compiled: set[int] = set()


class Driver:
    """What Triton asks before it compiles."""

    def __init__(self, arch: int):
        self.arch = arch

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)


def only_compile(kernel, grid):
    return lambda *args, **options: compiled.add(id(kernel.run(*args, grid=grid, warmup=True, **options)))


def planes(*shape: int) -> torch.Tensor:
    return torch.zeros(1, 1, *shape)


def moments() -> None:
    forecaster = Forecaster(50, storage="moments", degree=0)
    forecaster.update(0, torch.zeros(1))
    forecaster.predict(1)


TIMES = torch.zeros(1, dtype=torch.float64)
# Sides, planes, features and elements of one.
CALLS = {
    "dwt2": lambda: dwt2(planes(2, 10)),
    "dwt_expand": lambda: dwt_expand(planes(1, 1), 2, t=0.4, seed=3),
    "dwt_expand, given": lambda: dwt_expand(planes(5, 1), 2, t=0.4, noise=planes(10, 2)),
    "Haar lift": lambda: spectral_lift(planes(2, 2), planes(1, 1), t=0.4, basis="haar"),
    "dct_expand": lambda: dct_expand(planes(1, 1), size=(3, 1), t=0.4, seed=3),
    "dct_expand in two": lambda: dct_expand(planes(1, 1), size=(1, 300), t=0.4, seed=3),
    "normal": lambda: normal((1,), 3),
    "pyramids": lambda: laplacian_reconstruct(laplacian_pyramid(planes(1, 4), 2, "area"), "area"),
    "bilinear pyramids": lambda: laplacian_reconstruct(laplacian_pyramid(planes(1, 4), 3, "bilinear"), "bilinear"),
    "noise_levels": lambda: noise_levels([planes(1, 1)], [[0.1]], 7, mask=torch.ones(1, 1, dtype=torch.bool)),
    "forecast": lambda: forecast([torch.zeros(1)], [1.0]),
    "chebyshev_forecast": lambda: chebyshev_forecast([torch.zeros(1)], TIMES, TIMES[0] + 1, 50),
    "moments": moments,
}


def main(arch: int) -> None:
    triton.runtime.driver.set_active(Driver(arch))
    JITFunction.__getitem__ = only_compile
    dispatch.missing = lambda name: None  # as where this GPU is
    failed = {}
    for name, call in CALLS.items():
        try:
            with dispatch.backend("triton"):
                call()
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
    json.dump({"compiled": len(compiled), "failed": failed}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]))
