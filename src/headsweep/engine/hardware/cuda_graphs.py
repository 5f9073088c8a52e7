"""Recording a train step on CUDA, so that all its kernels start by one call from the host."""

from __future__ import annotations

from collections.abc import Callable

import torch

Step = Callable[[], None]


def record_graph(step: Step) -> Step:
    """Take a step once while recording it as a CUDA graph.

    The step must read and write tensors that stay where they are, and must not wait for the
    device. It must have been taken before as it is, so that libraries have been set up.

    Returns:
        A function that takes it again.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    graph.replay()  # recording ran nothing
    return graph.replay


class RecordedStep:
    """Takes a step as it is the first time, records the second, and replays it from then on.

    It holds the recording, not the step, so that nothing keeps its owner's memory alive.
    """

    def __init__(self, record: Callable[[Step], Step] | None) -> None:
        """`record` is None where nothing is to be recorded: the step is then called every time."""
        self.record = record
        self.replay: Step | None = None
        self.warm = False

    def __call__(self, step: Step) -> None:
        """Take the step, the same one every time."""
        if self.replay is not None:
            self.replay()
        elif self.record is not None and self.warm:
            self.replay = self.record(step)
        else:
            step()
            self.warm = True
