"""Records a train step on CUDA, so that one call from the host starts all its kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from headsweep.engine.hardware.memory import ran_out_of_memory

logger = logging.getLogger(__name__)

Step = Callable[[], None]


def record_graph(step: Step) -> Step:
    """Take a step once while recording it as a CUDA graph.

    The step must use tensors whose addresses do not change, and must not wait for the device. It
    must have been taken once without recording, so that libraries are initialized.

    Returns:
        A function that takes the step again.

    Raises:
        RuntimeError: the step cannot be recorded, or memory ran out.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError:
        torch.cuda.set_stream(stream)  # a recording that cannot be ended leaves its own one
        raise
    graph.replay()  # recording ran nothing
    return graph.replay


class RecordedStep:
    """Takes the first step without recording, records the second, and replays it afterwards.

    A step that cannot be recorded is called every time, with one warning.
    It refers to the recording, not to the step, so that it does not keep the owner's memory alive.
    """

    def __init__(self, record: Callable[[Step], Step] | None) -> None:
        """Store `record`; None records nothing, so that the step is called every time."""
        self.record = record
        self.replay: Step | None = None
        self.warm = False

    def __call__(self, step: Step) -> None:
        """Take the step, which must be the same one every time.

        Raises:
            RuntimeError: memory ran out, or the step itself failed.
        """
        if self.replay is not None:
            self.replay()
            return
        if self.record is not None and self.warm:
            try:
                self.replay = self.record(step)
            except RuntimeError as error:
                if ran_out_of_memory(error):
                    raise
                logger.warning("cannot record a step, so steps take longer: %s", error)
                self.record = None
            else:
                return
        step()
        self.warm = True
