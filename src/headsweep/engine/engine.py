"""The engine: admits trials to groups, trains them epoch by epoch, and returns their weights."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from headsweep.config.schema import Config
from headsweep.data.dataset import Split
from headsweep.data.folds import Folds
from headsweep.engine.checkpoints import Snapshot
from headsweep.engine.folds import FoldedInputs
from headsweep.engine.groups import Group, group_key
from headsweep.engine.hardware.device import flushed_denormals, prepare_device
from headsweep.engine.hardware.memory import ran_out_of_memory
from headsweep.engine.inputs import Inputs
from headsweep.engine.programs.base import GroupKey
from headsweep.engine.slots import EpochReport
from headsweep.engine.timings import Usage
from headsweep.heads.base import Head
from headsweep.heads.predictor import Predictor, PredictorSpec, ensemble_of
from headsweep.settings import EngineSettings


@dataclass(frozen=True)
class Admission:
    """Where a trial was placed: its slot's number, never used again, and its tape position."""

    slot: int
    tape_position: int


class Engine:
    """Trains up to `slots` heads at once on one pair of splits.

    A trial's results depend only on its config (with `training.seed` and the tape position at which
    it entered), the device kind and the thread count, not on the other trials in training.
    """

    def __init__(
        self, train: Split, valid: Split, settings: EngineSettings, *, ranks_logits: bool = True
    ) -> None:
        device = prepare_device(settings)
        self._set_up(Inputs(train, valid, device, ranks_logits=ranks_logits), settings)

    def _set_up(self, inputs: Inputs, settings: EngineSettings) -> None:
        self.slots = settings.slots_on(inputs.device.type)
        self.inputs = inputs
        self.usage = Usage()
        self._groups: list[Group] = []
        self._group_of: dict[int, Group] = {}
        self._largest: dict[GroupKey, int] = {}
        """Most slots of a group, set after memory was too small for more."""
        self._numbers = itertools.count()

    @property
    def free(self) -> int:
        """The number of trials that can still be admitted."""
        return self.slots - len(self._group_of)

    def admit(self, config: Config) -> Admission:
        """Place a trial in its group, at the present position of the group's tape.

        Returns:
            Its slot, and the tape position at which it entered.

        Raises:
            ConfigError: the head does not fit the features.
        """
        key = self._key(config)
        group = next((g for g in self._groups if g.key == key and self._has_room(g)), None)
        return self._place(config, group or Group(key, self.inputs, position=0))

    def replay(self, config: Config) -> Admission:
        """Place a trial in a group at the position `config.training.tape_position` of the tape.

        Returns:
            Its slot, and the tape position at which it entered.

        Raises:
            ConfigError: the head does not fit the features.
        """
        key, position = self._key(config), config.training.tape_position
        group = next(
            (
                g
                for g in self._groups
                if (g.key, g.position) == (key, position) and self._has_room(g)
            ),
            None,
        )
        return self._place(config, group or Group(key, self.inputs, position))

    @torch.no_grad()
    def restore(self, config: Config, snapshot: Snapshot) -> Admission:
        """Continue a trial from a snapshot.

        Returns:
            Its slot, and the tape position from which it continues.

        Raises:
            ConfigError: the head does not fit the features.
        """
        key = self._key(config)
        position = config.training.tape_position + len(snapshot.history)
        admission = self._place(config, Group(key, self.inputs, position))
        self._group_of[admission.slot].restore(admission.slot, snapshot)
        return admission

    @torch.no_grad()
    def run_epoch(self) -> list[EpochReport]:
        """Train every slot for one epoch and validate it; finished slots stay until evicted.

        When memory runs out, the other groups are first moved to host memory; if that is not
        enough, the group is split in half. A trial fails only if it does not fit alone.

        Returns:
            A report of every slot.
        """
        reports: list[EpochReport] = []
        pending = list(self._groups)
        with flushed_denormals():
            while pending:
                group = pending.pop(0)
                if not group.in_step:
                    pending = [group, self._split(group), *pending]
                    continue
                shortage = self._shortage(group, reports)
                if shortage is None:
                    continue
                group.park()
                others = [g for g in self._groups if g.on_device]
                if others and group.in_step:
                    for other in others:
                        other.park()
                if others or not group.in_step:
                    pending = [group, *pending]
                elif len(group.slots) > 1:
                    pending = [group, self._split(group), *pending]
                else:
                    reports += group.fail(
                        f"does not fit into memory even alone: {shortage.rstrip('.')}. "
                        "Lower training.batch_size, or use a smaller head"
                    )
        return reports

    def evict(self, slot: int) -> None:
        """Free a slot; a group without slots ends."""
        group = self._group_of.pop(slot)
        group.evict(slot)
        if not group.slots:
            self._groups.remove(group)

    def history(self, slot: int) -> tuple[EpochReport, ...]:
        """Return all reports of a slot so far."""
        return tuple(self._group_of[slot].slots[slot].history)

    @torch.no_grad()
    def metrics(self, slot: int) -> dict[str, float]:
        """Return all recorded metrics of a slot's best epoch, by name; see `trial_metrics`."""
        return self._group_of[slot].metrics(slot)

    def snapshot(self, slot: int) -> Snapshot:
        """Return all that the slot's next epoch depends on, copied to the CPU."""
        group = self._group_of[slot]
        return Snapshot(group.slots[slot].step, self.history(slot), group.state(slot))

    @torch.no_grad()
    def predictor(self, slot: int) -> Predictor:
        """Return the slot's head with its best weights and its normalizers, on the CPU."""
        group = self._group_of[slot]
        (head,) = group.best_heads(slot)
        return as_predictor(group.slots[slot].config, self.inputs, head)

    @torch.no_grad()
    def present_predictor(self, slot: int) -> Predictor:
        """Return the slot's head with its present weights, which are its best from then on."""
        self._group_of[slot].keep_best(slot)
        return self.predictor(slot)

    def _key(self, config: Config) -> GroupKey:
        self.inputs.shape(config)  # refuses a head that does not fit the features
        return group_key(config, self.inputs)

    def _has_room(self, group: Group) -> bool:
        return len(group.slots) < self._largest.get(group.key, self.slots)

    def _split(self, group: Group) -> Group:
        """Move half of a group to a new group, and let no group of this key grow larger.

        Returns:
            The new group.
        """
        sibling = group.split()
        self._largest[group.key] = max(len(group.slots), len(sibling.slots))
        self._groups.append(sibling)
        self._group_of |= dict.fromkeys(sibling.slots, sibling)
        return sibling

    def _shortage(self, group: Group, reports: list[EpochReport]) -> str | None:
        """Run an epoch of a group and add its reports.

        The error itself is not kept: its traceback holds the tensors that filled the memory.

        Returns:
            What the device said when memory ran out, if it did.

        Raises:
            RuntimeError: any other failure of the device or the program.
        """
        try:
            reports += group.run_epoch(self.usage)
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            return str(error).partition("\n")[0]
        return None

    def _place(self, config: Config, group: Group) -> Admission:
        if self.free == 0:
            raise RuntimeError(f"all {self.slots} slots are in use")
        number = next(self._numbers)
        group.admit(number, config)
        if group not in self._groups:
            self._groups.append(group)
        self._group_of[number] = group
        return Admission(number, group.position)


class FoldedEngine(Engine):
    """Trains up to `slots` cross-validated trials at once, each with a head for every fold.

    An `EpochReport` is of the pooled scores that the heads give to the rows they did not train on.
    """

    def __init__(
        self, folds: Folds, settings: EngineSettings, *, ranks_logits: bool = True
    ) -> None:
        device = prepare_device(settings)
        inputs = FoldedInputs(folds, device, ranks_logits=ranks_logits)
        self._folds = inputs.folds
        self._set_up(inputs, settings)

    @torch.no_grad()
    def predictor(self, slot: int) -> Predictor:
        """Return the mean of the slot's heads, with their weights of the trial's best epoch."""
        group = self._group_of[slot]
        config, heads = group.slots[slot].config, group.best_heads(slot)
        pairs = zip(self._folds, heads, strict=True)
        members = [as_predictor(config, inputs, head) for inputs, head in pairs]
        return ensemble_of(members, [1 / len(members)] * len(members))


def as_predictor(config: Config, inputs: Inputs, head: Head) -> Predictor:
    """Return a head with the normalizers of the rows that it was trained on."""
    shape, normalization = inputs.shape(config), config.features.normalization
    normalizers = {m: inputs.normalizer(m, normalization) for m in shape.widths}
    return Predictor(
        PredictorSpec(config.head, shape, normalization, inputs.labels), normalizers, head
    )
