# SPDX-License-Identifier: Apache-2.0
"""Clocks: how long a call takes, side by side with others, on a CPU or on a GPU."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

# A sample shorter than this is mostly clock: more calls go into one.
SAMPLE_SECONDS = 1e-3


def interleaved(calls: Sequence[Callable[[], Any]], device: str, seconds: float, least: int = 5) -> list[list[float]]:
    """Milliseconds per call, samples for each call.

    In every round each call gives one sample, in an order that turns from round to round, so that a change of clock
    speed or a neighbour's load meets all of them alike. Rounds go on for about `seconds`, at least `least` of them.
    """
    clock = _gpu_milliseconds if device == "cuda" else _cpu_milliseconds
    repeats = []
    for call in calls:
        clock(call, 1)  # the first call compiles, plans and fills caches
        repeats.append(max(1, round(SAMPLE_SECONDS * 1e3 / max(clock(call, 1), 1e-3))))
    samples: list[list[float]] = [[] for _ in calls]
    begun, rounds = time.perf_counter(), 0
    while rounds < least or (time.perf_counter() - begun < seconds and rounds < 1000):
        for turn in range(len(calls)):
            i = (turn + rounds) % len(calls)
            samples[i].append(clock(calls[i], repeats[i]))
        rounds += 1
    return samples


def _cpu_milliseconds(call: Callable[[], Any], repeats: int) -> float:
    begun = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begun) * 1e3 / repeats


def _gpu_milliseconds(call: Callable[[], Any], repeats: int) -> float:
    """Between two events on the device; the first call of a sample hides the host's way to it."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / repeats


def captured(call: Callable[[], Any]) -> Callable[[], None]:
    """The replay of a CUDA graph that holds one call: what is left when no launch waits for the host."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()

    def replay(kept: Any = kept) -> None:
        del kept  # held by the default argument: the graph writes into it
        graph.replay()

    return replay


def launches(call: Callable[[], Any]) -> int | None:
    """Kernels, copies and fills that one call starts on the GPU; None where the profiler is not let at it."""
    call()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize()
    return sum("CUDA" in str(event.device_type) for event in profile.events() or []) or None


def quantiles(samples: Sequence[float]) -> list[float]:
    """The 20th, 50th and 80th percentile."""
    return [round(float(q), 6) for q in np.quantile(samples, [0.2, 0.5, 0.8])]


def relative_error(answer: Any, expected: np.ndarray) -> float:
    """||answer - expected|| / ||expected|| in float64; several tensors are compared flat, one after the other."""
    if isinstance(answer, list | tuple):  # several tensors, end to end
        answer = torch.cat([torch.as_tensor(part).flatten() for part in answer])
    if hasattr(answer, "get"):  # CuPy
        answer = answer.get()
    found = answer.detach().cpu().double().numpy() if isinstance(answer, torch.Tensor) else np.asarray(answer)
    if found.shape != expected.shape:
        raise ValueError(f"the answer has the shape {found.shape}, expected was {expected.shape}")
    return float(np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected))
