"""Retrieval heads on a GPU: one step of all slots of a batch size, recorded once and replayed.

A step reads the epoch's rows and learning rates from the device, at an index that the device
counts. Slots are trained and validated on several streams, because one slot fills a part of a GPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from headsweep.engine.hardware.cuda_graphs import RecordedStep, Step, record_graph
from headsweep.engine.inputs import Inputs
from headsweep.engine.numerics.schedule import learning_rate
from headsweep.engine.programs.base import GroupKey, by_batch_size, minibatches
from headsweep.engine.programs.retrieval import RetrievalBatch, RetrievalProgram, RetrievalTrainer
from headsweep.engine.slots import Slot

N_STREAMS = 8


class RecordedRetrievalProgram(RetrievalProgram):
    """Records the step of each batch size again after slots were admitted or evicted.

    The last minibatch of an epoch, if it is short, is not recorded.
    """

    def __init__(self, key: GroupKey, inputs: Inputs) -> None:
        super().__init__(key, inputs)
        self.steps: dict[int, _Steps] = {}
        self.record = record_graph if inputs.device.type == "cuda" else None
        self.streams = _streams(inputs.device)

    def admit(self, slot: Slot) -> None:
        """Build the slot's head."""
        super().admit(slot)
        self.steps.pop(slot.batch_size, None)

    def evict(self, slot: Slot) -> None:
        """Remove the slot's head."""
        super().evict(slot)
        self.steps.pop(slot.batch_size, None)

    def train_epoch(self, order: Tensor, position: int) -> None:
        """Train one batch size after another."""
        for size, slots in by_batch_size([m.slot for m in self.members.values()]).items():
            members = [self.members[slot.number] for slot in slots]
            rows_of = minibatches(slots[0], order)
            n_whole = sum(len(rows) == size for rows in rows_of)
            if n_whole:
                if size not in self.steps:
                    self.steps[size] = _Steps(members, self._batch, self.record, self.streams)
                self.steps[size].take(rows_of[:n_whole])
            for rows in rows_of[n_whole:]:
                batch = self._batch(rows.to(self.inputs.device), members)
                for member in members:
                    member.train_batch(batch)

    def validate(self) -> tuple[list[Slot], Tensor]:
        """Search the neighbours of every slot's validation rows.

        Returns:
            The slots and their scores `(K, c, n_valid)`.
        """
        members, scores = list(self.members.values()), []
        with _side_by_side(self.streams):
            for member, stream in zip(members, itertools.cycle(self.streams)):
                with torch.cuda.stream(stream):
                    scores.append(member.validate().T)
        return [member.slot for member in members], torch.stack(scores)

    def _batch(self, rows: Tensor, members: Sequence[RetrievalTrainer]) -> RetrievalBatch:
        return self.prepare_batch(rows, 0, members)


class _Steps:
    """Whole minibatches of the slots of one batch size, and what their steps read."""

    def __init__(
        self,
        members: Sequence[RetrievalTrainer],
        batch_of: Callable[[Tensor, Sequence[RetrievalTrainer]], RetrievalBatch],
        record: Callable[[Step], Step] | None,
        streams: Sequence[torch.cuda.Stream | None],
    ) -> None:
        slot, inputs = members[0].slot, members[0].inputs
        zeros = inputs.targets.new_zeros
        self.members, self.batch_of = members, batch_of
        self.rows = zeros(slot.steps_per_epoch, slot.batch_size, dtype=torch.int64)
        self.rates = zeros(slot.steps_per_epoch, len(members))
        self.counts = zeros(len(members))
        """Optimizer steps of every slot; float32, as the fused kernels require."""
        self.taken = zeros(1, dtype=torch.int64)
        self.recorded = RecordedStep(record)
        self.streams = streams[: len(members)]

    def take(self, rows_of: Sequence[Tensor]) -> None:
        """Put on the device what the steps will read, then take them."""
        slots = [member.slot for member in self.members]
        rates = [
            [learning_rate(s.config.training, s.step + i, s.steps_per_epoch) for s in slots]
            for i in range(len(rows_of))
        ]
        self.rows[: len(rows_of)].copy_(torch.stack(list(rows_of)))
        self.rates[: len(rows_of)].copy_(torch.tensor(rates))
        self.counts.copy_(torch.tensor([float(slot.step) for slot in slots]))
        self.taken.zero_()
        for _ in rows_of:
            self.recorded(self.step)
            for slot in slots:
                slot.step += 1

    def step(self) -> None:
        """Take one step of all slots; weights change only after the last allocation."""
        rows = self.rows.index_select(0, self.taken).squeeze(0)
        rates = self.rates.index_select(0, self.taken).squeeze(0)
        self.counts += 1
        batch = self.batch_of(rows, self.members)
        with _side_by_side(self.streams):
            for member, stream in zip(self.members, itertools.cycle(self.streams)):
                with torch.cuda.stream(stream):
                    member.compute_gradients(batch)
                    member.optimizer.clip()
            for k, (member, stream) in enumerate(zip(self.members, itertools.cycle(self.streams))):
                with torch.cuda.stream(stream):
                    member.optimizer.step(rates[k], self.counts[k])
        self.taken.add_(1)


@contextmanager
def _side_by_side(streams: Sequence[torch.cuda.Stream | None]) -> Iterator[None]:
    """Let streams wait for the present one, and the present one for all of them at the end.

    Memory of one stream is used again by it alone, hence not before the next of these blocks.
    """
    side = [stream for stream in streams if stream is not None]
    if side:
        present = torch.cuda.current_stream()
        for stream in side:
            stream.wait_stream(present)
    yield
    for stream in side:
        present.wait_stream(stream)


def _streams(device: torch.device) -> list[torch.cuda.Stream | None]:
    """Return the streams of slots; on a CPU one None, which leaves the stream as it is."""
    if device.type != "cuda":
        return [None]
    return [torch.cuda.Stream(device) for _ in range(N_STREAMS)]  # type: ignore[no-untyped-call]
