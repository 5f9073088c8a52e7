"""Launches of grouped kernels: counted, recorded on CUDA, replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Replay = Callable[[], None]


class Launcher:
    """Starts kernels, and counts them."""

    def __init__(self) -> None:
        self.launches = 0

    def __call__(self, kernel: Any, grid: int | tuple[int, int], *args: Any, **meta: Any) -> None:
        """Start a kernel on a grid."""
        self.launches += 1
        kernel[grid if isinstance(grid, tuple) else (grid,)](*args, **meta)


class GraphedStep:
    """Takes a step that reads all its input from the device, and records it if there is a GPU.

    The first step is taken as it is, since kernels are compiled when they first run. A later one is
    recorded as a CUDA graph, which is replayed until `forget` says that memory has moved.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._warm = False
        self._replay: Replay | None = None

    def forget(self, *, new_kernels: bool = False) -> None:
        """Discard the recording; kernels that never ran must run once before they are recorded."""
        self._replay = None
        if new_kernels:
            self._warm = False

    def __call__(self, step: Callable[[], None]) -> None:
        """Take the step on the current stream; recording needs `stream` to be the current one."""
        if self.stream is None or not self._warm:
            step()
            self._warm = True
            return
        if self._replay is None:
            self._replay = self._record(step)
        self._replay()

    def _record(self, step: Callable[[], None]) -> Replay:
        """Record without collecting garbage, which `torch.cuda.graph` does for 0.1 s and more.

        A step allocates nothing, so the graph's memory pool stays empty.

        Returns:
            The function that replays the graph.
        """
        assert self.stream is not None
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            step()
        finally:
            graph.capture_end()
        replay: Replay = graph.replay
        return replay
