"""Records a train step on CUDA, so that one call from the host starts all its kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch

Step = Callable[[], None]


def record_graph(step: Step) -> Step:
    """Take a step once while recording it as a CUDA graph.

    The step must use tensors whose addresses do not change, and must not wait for the device. It
    must have been taken once without recording, so that libraries are initialized.

    Returns:
        A function that takes the step again.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    graph.replay()  # recording ran nothing
    return graph.replay


class RecordedStep:
    """Takes the first step without recording, records the second, and replays it afterwards.

    It refers to the recording, not to the step, so that it does not keep the owner's memory alive.
    """

    def __init__(self, record: Callable[[Step], Step] | None) -> None:
        """Store `record`; None records nothing, so that the step is called every time."""
        self.record = record
        self.replay: Step | None = None
        self.warm = False

    def __call__(self, step: Step) -> None:
        """Take the step, which must be the same one every time."""
        if self.replay is not None:
            self.replay()
        elif self.record is not None and self.warm:
            self.replay = self.record(step)
        else:
            step()
            self.warm = True
