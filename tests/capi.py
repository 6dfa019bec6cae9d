# SPDX-License-Identifier: Apache-2.0
"""The C library by ctypes: its structs, its functions on a CPU and a GPU, and a build of it."""

import ctypes
import fcntl
import shutil
import subprocess
import sys
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int32, c_int64, c_uint32, c_void_p
from pathlib import Path

import torch

from spectral_kernels import dispatch, normal, selftest, wavelets, weights

ROOT = Path(__file__).parents[1]
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
OPERATIONS = {"expand": 0, "truncate": 1, "analysis": 2, "synthesis": 3, "lift": 4}
BASES = {"dct": 0, "fft": 1, "haar": 2}


class Array(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_int64),
        ("data", c_void_p),
        ("dtype", c_int32),
        ("patch", c_int32),
        ("size", c_int64 * 4),
        ("stride", c_int64 * 4),
        ("patch_stride", c_int64 * 2),
    ]


class PlanOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_int64),
        *((name, c_int32) for name in ("operation", "basis", "dtype", "precision")),
        ("coarse", c_int64 * 2),
        ("fine", c_int64 * 2),
        ("threads", c_int32),
        ("reserved", c_int32),
    ]


class Noise(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_int64),
        ("values", POINTER(Array)),
        ("seeds", POINTER(c_int64)),
        ("seed_count", c_int64),
        ("stream", c_uint32),
        ("reserved", c_uint32),
    ]


class Fit(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_int64),
        ("num_steps", c_int64),
        ("degree", c_int32),
        ("reserved", c_int32),
        ("ridge", c_double),
        ("blend", c_double),
    ]


def build(folder: Path, *options: str, targets: tuple[str, ...] = ("spectral_kernels",)) -> None:
    """Configure and build the library below the checkout; one process at a time, and only what is out of date."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cmake = [sys.executable, "-m", "cmake"]
        options = options if shutil.which("make") else ("-G", "Ninja", *options)
        for command in (
            ["-S", ROOT, "-B", folder, *options],
            ["--build", folder, "--parallel", "2", "--target", *targets],
        ):
            done = subprocess.run([*cmake, *command], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr


class Library:
    """sk_*() on tensors; a status that is not SK_OK raises with its words."""

    prefix = "sk_"

    def __init__(self, library: Path, threads: int = 2):
        self.c = ctypes.CDLL(str(library))
        self.c.sk_status_string.restype = c_char_p
        self.threads = threads
        # What comes before the arguments of a function that has no plan, after those, and after those of one that has.
        self.first, self.last, self.last_of_plan = (), (c_int32(threads),), ()

    def checked(self, status: int) -> None:
        if status != 0:
            words = self.c.sk_status_string(status).decode()
            raise RuntimeError(f"status {status}: {words} (CUresult {self.c.sk_gpu_driver_result()})")

    def call(self, function: str, *arguments) -> None:
        self.checked(getattr(self.c, self.prefix + function)(*arguments))

    def product(self, operation, out, x, other=None, *, basis="dct", t=0.0, seed=None, align=True) -> None:
        """One plan product, from [.., h, w] and what the operation takes besides into `out`."""
        sizes = x.shape[-2:], out.shape[-2:]
        fine, coarse = max(sizes), min(sizes)
        if operation == "lift":
            fine, coarse = out.shape[-2:], other.shape[-2:]
        options = PlanOptions(ctypes.sizeof(PlanOptions), OPERATIONS[operation], BASES[basis], DTYPES[out.dtype])
        options.coarse[:], options.fine[:], options.threads = coarse, fine, self.threads
        plan = c_void_p()
        self.call("plan_create", byref(plan), *self.first, byref(options))
        times = [t] if isinstance(t, float) else t
        times, count = (c_double * len(times))(*times), c_int64(len(times))
        given = [byref(array(tensor)) for tensor in (x, out)]
        try:
            if operation == "expand":
                noise = Noise(ctypes.sizeof(Noise))
                if seed is not None:
                    seeds = [seed] if isinstance(seed, int) else seed
                    noise.seeds, noise.seed_count = (c_int64 * len(seeds))(*seeds), len(seeds)
                elif other is not None:
                    noise.values = ctypes.pointer(array(other))
                values = times, count, byref(noise), c_int32(align), given[1], None
            elif operation == "truncate":
                values = times, count, c_int32(align), given[1]
            elif operation == "lift":
                values = byref(array(other)), times, count, c_int32(align), given[1]
            else:
                operation, values = "transform", given[1:]
            self.call(operation, plan, given[0], *values, *self.last_of_plan)
        finally:
            if out.is_cuda:
                torch.cuda.synchronize()  # the plan's tables are in use until then
            getattr(self.c, self.prefix + "plan_destroy")(plan)

    def normal(self, out, seed, stream=0) -> None:
        seeds = [seed] if isinstance(seed, int) else seed
        table = (c_int64 * len(seeds))(*seeds)
        count = c_int64(len(seeds))
        self.call("normal", *self.first, byref(array(out)), table, count, c_uint32(stream), *self.last)

    def forecast(self, features, weights, out) -> None:
        """Weights float32 [G, K] on the host, out [G, F]."""
        pointers = (c_void_p * len(features))(*(feature.data_ptr() for feature in features))
        table = (c_float * weights.numel())(*weights.flatten().tolist())
        count, targets, size = c_int64(len(features)), c_int64(len(weights)), c_int64(out.shape[-1])
        result = DTYPES[out.dtype], c_void_p(out.data_ptr())
        self.call("forecast", *self.first, pointers, count, table, targets, size, *result, *self.last)

    def weights(self, kind, steps, targets, num_steps, width, *, degree, ridge=0.1, blend=0.5) -> torch.Tensor:
        """sk_chebyshev_weights() or sk_moment_weights(), [target][width]."""
        fit = Fit(ctypes.sizeof(Fit), num_steps, degree, 0, ridge, blend)
        out = torch.empty(len(targets), width)
        rows = (c_double * len(steps))(*steps), c_int64(len(steps)), (c_double * len(targets))(*targets)
        self.call(f"{kind}_weights", byref(fit), *rows, c_int64(len(targets)), c_void_p(out.data_ptr()))
        return out

    def chebyshev_row(self, step, num_steps, degree) -> torch.Tensor:
        fit, out = Fit(ctypes.sizeof(Fit), num_steps, degree, 0, 0.1, 0.5), torch.empty(degree + 1)
        self.call("chebyshev_row", byref(fit), c_double(step), c_void_p(out.data_ptr()))
        return out

    def evaluation_steps(self, num_steps, window, warmup, flex) -> list[int]:
        evaluated = ctypes.create_string_buffer(num_steps)
        self.call("evaluation_steps", c_int64(num_steps), c_double(window), c_int64(warmup), c_double(flex), evaluated)
        return [i for i, one in enumerate(evaluated.raw) if one]


class Gpu(Library):
    """sk_gpu_*()."""

    prefix = "sk_gpu_"

    def __init__(self, library: Path, image: bytes | None = None, stream: int = 0):
        super().__init__(library)
        self.kernels = c_void_p()
        self.first, self.last, self.last_of_plan = (self.kernels,), (c_void_p(stream),), (c_void_p(stream),)
        self.call("kernels_create", byref(self.kernels), image, c_int64(len(image or b"")))

    def close(self) -> None:
        self.c.sk_gpu_kernels_destroy(self.kernels)


def golden_rows(gpu: bool) -> list[dict]:
    """The test vectors that the C functions serve, those on a GPU with the classes of `spectral_kernels.aot`."""
    return [row for row in selftest.vectors() if _served(row, gpu)]


def _served(row: dict, gpu: bool) -> bool:
    if row["dtype"] == "float64" or row.get("encoding") or row.get("weights") == "moments":
        return False
    if row["op"] in ("normal", "forecast"):
        return True
    if row["op"] not in selftest.PLANE_OPS or _basis(row) not in BASES:
        return False
    fine, coarse = (max(row["shape"][-2:], row["size"]), min(row["shape"][-2:], row["size"]))
    local = wavelets.local_levels(_basis(row), tuple(fine), tuple(coarse))
    return not gpu or (max(fine) <= 256 and not local)


def _basis(row: dict) -> str:
    default = {"dwt": "haar", "fft": "fft"}.get(row["op"][:3], "dct")
    return row.get("basis", default)


def golden_result(library: Library, row: dict, device: torch.device) -> torch.Tensor:
    """A test vector, computed by the C library."""
    dtype = getattr(torch, row["dtype"])

    def drawn(shape, seed, kind=dtype):
        with dispatch.backend("torch"):
            return normal(shape, seed, dtype=kind).to(device)

    op, t = row["op"], row.get("t", 0.0)
    if op == "normal":
        out = torch.empty(row["shape"], dtype=dtype, device=device)
        library.normal(out if out.dim() > 1 else out[None], row["seed"], row["stream"])
        return out
    if op == "forecast":
        steps, maker = row["steps"], getattr(weights, f"{row['weights']}_weights")
        features = [drawn([row["size"]], k, torch.float32).to(dtype) for k in range(len(steps))]
        out = torch.empty((len(row["targets"]), row["size"]), dtype=dtype, device=device)
        library.forecast(features, maker(steps, row["targets"], row["num_steps"]), out)
        return out
    x = drawn(row["shape"], 7)
    out = torch.empty([*row["shape"][:-2], *row["size"]], dtype=dtype, device=device)
    other = drawn(out.shape, 8) if row.get("noise") or op == "spectral_lift" else None
    basis = _basis(row)
    if op in ("dctn", "idctn"):
        library.product("analysis" if op == "dctn" else "synthesis", out, x)
    elif op == "spectral_lift":
        z, v = (x, other) if x.shape[-1] >= other.shape[-1] else (other, x)
        out = torch.empty_like(z)
        library.product("lift", out, z, v, basis=basis, t=t, align=row.get("align", True))
    elif op.endswith("truncate"):
        library.product("truncate", out, x, basis=basis, t=t, align=row.get("normalize", True))
    else:
        align = row.get("align", True)
        library.product("expand", out, x, other, basis=basis, t=t, seed=row.get("seed"), align=align)
    return out


def array(tensor: torch.Tensor) -> Array:
    """[.., h, w] as [samples, planes, h, w]: the first axis counts samples, those between are planes."""
    planes = tensor.reshape(tensor.shape[0] if tensor.dim() > 2 else 1, -1, *tensor.shape[-2:])
    assert planes.data_ptr() == tensor.data_ptr()
    described = Array(ctypes.sizeof(Array), planes.data_ptr(), DTYPES[tensor.dtype], 1)
    described.size[:], described.stride[:] = planes.shape, planes.stride()
    return described
