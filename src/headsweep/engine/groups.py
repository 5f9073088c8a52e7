"""Groups: slots that share a program and read one tape."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import nan

import torch
from torch import Tensor

from headsweep.config.head_section import MLPConfig
from headsweep.config.schema import Config
from headsweep.engine.checkpoints import Snapshot
from headsweep.engine.folds import FoldedInputs, FoldedProgram, FoldedSlot, fold_means
from headsweep.engine.hardware.memory import ran_out_of_memory
from headsweep.engine.inputs import Inputs
from headsweep.engine.numerics.precision import rounded_products
from headsweep.engine.programs.autograd import AutogradProgram
from headsweep.engine.programs.base import GroupKey, Program, by_batch_size
from headsweep.engine.programs.grouped.availability import can_group, triton_available
from headsweep.engine.programs.linear import LinearProgram
from headsweep.engine.programs.logistic import LogisticProgram
from headsweep.engine.programs.mlp import MLPProgram
from headsweep.engine.programs.mlp_stacked import StackedMLPProgram
from headsweep.engine.programs.retrieval import RetrievalProgram
from headsweep.engine.programs.retrieval_recorded import RecordedRetrievalProgram
from headsweep.engine.slot_metrics import best_metrics, slot_metrics
from headsweep.engine.slots import EpochReport, Slot
from headsweep.engine.tape import batch_bounds, permutation
from headsweep.engine.timings import Usage
from headsweep.heads.base import Head

PROGRAMS: dict[str, type[Program]] = {
    "linear": LinearProgram,
    "logistic": LogisticProgram,
    "mlp": MLPProgram,
    "stacked_mlp": StackedMLPProgram,
    "retrieval": RetrievalProgram,
    "recorded_retrieval": RecordedRetrievalProgram,
    "autograd": AutogradProgram,
}

ON_CUDA = {"mlp": "stacked_mlp", "retrieval": "recorded_retrieval"}
"""Programs of a GPU where no grouped one trains the head."""

METRIC_THREADS = 4
"""Threads that rank scores while the GPU is idle; results do not depend on their number."""

RECALL = "recall_at_10"

GROUPED = ("grouped_linear", "grouped_mlp")


def program_type(name: str) -> type[Program]:
    """Return a program's class; Triton is imported for the grouped ones only."""
    if name in GROUPED:
        from headsweep.engine.programs.grouped.program import GROUPED_PROGRAMS

        return GROUPED_PROGRAMS[name]
    return PROGRAMS[name]


def group_key(config: Config, inputs: Inputs) -> GroupKey:
    """Return the key of the groups in which a config can be trained."""
    training = config.training
    program = program_name(config, inputs.device.type)
    also = program_type(program).cannot_mix(config, inputs)
    return GroupKey(program, training.seed, training.precision, also)


def program_name(config: Config, device_type: str) -> str:
    """Return the program that trains a config, which depends only on config and device kind."""
    if config.training.optimizer == "lbfgs":
        return "logistic"
    if isinstance(config.head, MLPConfig) and config.head.norm == "batch":
        return "autograd"
    if device_type == "cuda" and can_group(config) and triton_available():
        return f"grouped_{config.head.kind}"
    if config.head.kind in ON_CUDA and device_type == "cuda":
        return ON_CUDA[config.head.kind]
    return config.head.kind if config.head.kind in PROGRAMS else "autograd"


def make_program(key: GroupKey, inputs: Inputs) -> Program:
    """Return a new program: one for all rows, or one for each fold."""
    if isinstance(inputs, FoldedInputs):
        return FoldedProgram(key, inputs, make_program)
    return program_type(key.program)(key, inputs)


def new_slot(number: int, config: Config, program: str, n_train: int) -> Slot:
    """Return a new slot; a solver uses all rows at once, in one epoch."""
    training = config.training
    if program == "logistic":
        return Slot(number, config, n_train, steps_per_epoch=1, max_epochs=1)
    batch_size = min(training.batch_size, n_train)
    steps = len(batch_bounds(n_train, batch_size))
    return Slot(number, config, batch_size, steps, training.max_epochs)


class Group:
    """Slots with the same `GroupKey` at the same position of their tape.

    Their tensors are in a program on the device, or parked in host memory while the device has no
    memory for them.
    """

    def __init__(self, key: GroupKey, inputs: Inputs, position: int) -> None:
        self.key, self.inputs = key, inputs
        self.position = position
        self.slots: dict[int, Slot] = {}
        self._program: Program | None = None
        self._in_program: set[int] = set()
        """Slots in the program; a slot that is neither here nor parked has its initial weights."""
        self._parked: dict[int, Mapping[str, Tensor]] = {}
        self._next_order: tuple[int, Tensor] | None = None
        """The next position and its permutation, computed while the device trained."""

    @property
    def on_device(self) -> bool:
        """Whether the group uses memory of the device."""
        return self._program is not None

    @property
    def in_step(self) -> bool:
        """Whether slots of one batch size have taken the same steps of the present epoch."""
        return not self._ahead()

    def admit(self, number: int, config: Config) -> None:
        """Add a trial at the tape's present position.

        Raises:
            RuntimeError: the program failed for another reason than a lack of memory.
        """
        slot = self._new_slot(number, config)
        try:
            self._enter(slot)
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            self.park()  # the slot enters the program when the group trains
        self.slots[number] = slot

    def restore(self, number: int, snapshot: Snapshot) -> None:
        """Continue a trial from a snapshot."""
        slot = self.slots[number]
        slot.set_clock(snapshot.step, snapshot.history)
        if number in self._in_program:
            self._program_with(slot).restore(slot, snapshot.tensors)
        else:
            self._parked[number] = snapshot.tensors

    def state(self, number: int) -> dict[str, Tensor]:
        """Return a trial's tensors, copied to the host."""
        slot = self.slots[number]
        tensors = self._parked.get(number) or self._program_with(slot).state(slot)
        return {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}

    def evict(self, number: int) -> None:
        """Free a trial's slot."""
        slot = self.slots.pop(number)
        self._parked.pop(number, None)
        if number in self._in_program:
            self._program_with(slot).evict(slot)
            self._in_program.remove(number)

    def best_heads(self, number: int) -> list[Head]:
        """Return a trial's head with its best weights, or that of each fold."""
        slot = self.slots[number]
        return self._program_with(slot).best_heads(slot)

    def keep_best(self, number: int) -> None:
        """Store a trial's present weights as its best."""
        slot = self.slots[number]
        self._program_with(slot).keep_best(slot)

    def metrics(self, number: int) -> dict[str, float]:
        """Return all recorded metrics of a trial's best epoch; none if it has no such epoch."""
        slot = self.slots[number]
        if slot.best_scores is None:
            return {}
        program = self._program_with(slot)
        measured = best_metrics(
            self.inputs.valid_targets,
            slot.best_scores,
            program.probabilities,
            ranks_logits=self.inputs.ranks_logits,
        )
        if isinstance(self.inputs, FoldedInputs):
            measured |= fold_means(self.inputs, slot.best_scores, program.probabilities)
        if slot.config.head.kind == "retrieval":
            measured[RECALL] = program.recall_at_10(slot, best=True)
        return measured

    def park(self) -> None:
        """Move all tensors to host memory, and free the device's memory."""
        self._parked |= {number: self.state(number) for number in self._in_program}
        self._in_program.clear()
        self._program = None
        if self.inputs.device.type == "cuda":
            torch.cuda.empty_cache()

    def split(self) -> Group:
        """Move half of the parked slots, or those a step ahead, to a new group.

        Returns:
            The new group.
        """
        leaving = self._ahead() or list(self.slots)[len(self.slots) // 2 :]
        sibling = Group(self.key, self.inputs, self.position)
        for number in leaving:
            sibling.slots[number] = self.slots.pop(number)
            if number in self._parked:
                sibling._parked[number] = self._parked.pop(number)
        return sibling

    def fail(self, reason: str) -> list[EpochReport]:
        """Fail all slots.

        Returns:
            Their reports, with the reason.
        """
        reports = []
        for slot in self.slots.values():
            report = replace(slot.finish_epoch(nan, nan, nan, nan), failure=reason)
            slot.history[-1] = report
            reports.append(report)
        return reports

    def run_epoch(self, usage: Usage) -> list[EpochReport]:
        """Train every slot on the rest of its epoch, then validate all of them at once.

        If memory runs out, every slot's clock says which steps it has taken, and the next call
        continues from there.

        Args:
            usage: counters to which time and steps are added.

        Returns:
            A report of every slot.
        """
        begun = time.perf_counter()
        *_, program = (self._program_with(slot) for slot in self.slots.values())
        left = {slot.number: slot.steps_per_epoch - slot.taken for slot in self.slots.values()}
        order = self._order()
        with rounded_products(self.key.precision, self.inputs.device):
            program.train_epoch(order, self.position)
        slots, on_device = program.validate()
        if on_device.device.type == "cuda":  # the GPU is still computing the scores
            self._prepare_next_order()
        scores = on_device.to("cpu", torch.float32)
        self.position += 1
        trained = time.perf_counter()
        reports = self._report(program, slots, scores)
        usage.training_s += trained - begun
        usage.metrics_s += time.perf_counter() - trained
        batches = by_batch_size(slots).values()
        usage.fused_steps += sum(left[alike[0].number] for alike in batches)
        usage.slot_steps += sum(left.values())
        return reports

    def _new_slot(self, number: int, config: Config) -> Slot:
        if isinstance(self.inputs, FoldedInputs):
            folds = self.inputs.folds
            return FoldedSlot.of(
                [new_slot(number, config, self.key.program, fold.n_train) for fold in folds]
            )
        return new_slot(number, config, self.key.program, self.inputs.n_train)

    def _order(self) -> Tensor:
        """Return the permutation of the training rows at the present position."""
        if self._next_order is not None and self._next_order[0] == self.position:
            return self._next_order[1]
        return permutation(self.key.seed, self.position, self.inputs.n_train)

    def _prepare_next_order(self) -> None:
        position = self.position + 1
        self._next_order = position, permutation(self.key.seed, position, self.inputs.n_train)

    def _program_with(self, slot: Slot) -> Program:
        """Return the program, after adding a slot to it if necessary."""
        if slot.number not in self._in_program:
            self._enter(slot)
        assert self._program is not None
        return self._program

    def _enter(self, slot: Slot) -> None:
        self._program = self._program or make_program(self.key, self.inputs)
        self._program.admit(slot)
        if slot.number in self._parked:
            self._program.restore(slot, self._parked[slot.number])
            del self._parked[slot.number]
        self._in_program.add(slot.number)

    def _ahead(self) -> list[int]:
        """Return the slots that have taken more steps than others of their batch size."""
        ahead: list[int] = []
        for alike in by_batch_size(list(self.slots.values())).values():
            taken = [slot.taken for slot in alike]
            fewest = min(taken)
            ahead += [s.number for s, t in zip(alike, taken, strict=True) if t > fewest]
        return ahead

    def _report(self, program: Program, slots: Sequence[Slot], on_cpu: Tensor) -> list[EpochReport]:
        """Rank the scores `(K, c, n_valid)` and keep the best weights of slots that improved.

        Returns:
            A report of every slot.
        """
        numbers = slot_metrics(
            self.inputs.valid_targets,
            on_cpu,
            program.probabilities,
            metrics=[slot.config.training.metric for slot in slots],
            ranks_logits=self.inputs.ranks_logits,
            threads=METRIC_THREADS if self.inputs.device.type == "cuda" else 1,
        )
        reports = []
        for k, slot in enumerate(slots):
            auprc, auroc, loss, value = (float(values[k]) for values in numbers)
            if slot.config.training.metric == RECALL:
                value = program.recall_at_10(slot, best=False)
            report = slot.finish_epoch(auprc, auroc, loss, value)
            if report.best_epoch == report.epoch:
                program.keep_best(slot)
                slot.best_scores = on_cpu[k].clone()
            reports.append(report)
        return reports
