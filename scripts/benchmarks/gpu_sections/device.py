"""The device that is measured, and its clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")


def recorded(part: Callable[[], None]) -> Callable[[], None]:
    """Return the replay of a part of a step."""
    part()
    if not CUDA:
        return part
    wait()
    stream = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        part()
        wait()
        graph.capture_begin()
        part()
        graph.capture_end()
    wait()
    return graph.replay


def timed(call: Callable[[], object], rounds: int) -> float:
    """Return the median seconds of a call, by the device's clock."""
    taken = []
    if not CUDA:
        begun = now()
        call()
        return now() - begun
    for _ in range(3):
        call()
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        taken.append(start.elapsed_time(end) / 1e3)
    return statistics.median(taken)


def wait() -> None:
    """Wait for the device."""
    if CUDA:
        torch.cuda.synchronize()


def now() -> float:
    """Return the seconds of a clock that only runs forward."""
    return time.perf_counter()
