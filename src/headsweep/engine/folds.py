"""Cross-validated trials: a slot has one head for each fold, and one clock for all of them.

The heads of a fold are trained by a program of their own, on the fold's own training rows in the
order of the fold's own tape, so each equals a head that is trained on that fold alone. A trial is
measured once an epoch, on the scores that its heads give to the rows they did not train on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from headsweep.data.folds import Folds
from headsweep.engine.inputs import Inputs
from headsweep.engine.programs.base import GroupKey, Program
from headsweep.engine.slot_metrics import best_metrics
from headsweep.engine.slots import EpochReport, Slot
from headsweep.engine.tape import permutation
from headsweep.heads.base import Head

AVERAGED = ("auprc_macro", "auroc_macro", "auprc_skill", "balanced_accuracy")
"""Metrics whose mean over folds is kept beside the metric of the pooled scores."""


class FoldedInputs(Inputs):
    """The inputs of all folds; as `Inputs`, all rows with their targets for the pooled metrics.

    Attributes:
        folds: inputs of each fold: statistics of its training rows alone, and its held-out rows.
        held_out: indices `(n_k,)` of each fold's held-out rows.
    """

    def __init__(self, folds: Folds, device: torch.device, *, ranks_logits: bool = True) -> None:
        super().__init__(folds.rows, folds.rows, device, ranks_logits=ranks_logits)
        numbers = range(folds.count)
        self.folds: list[Inputs] = [
            _FoldInputs(folds.training(k), folds.held_out(k), device, ranks_logits=ranks_logits)
            for k in numbers
        ]
        self.held_out = [torch.from_numpy(folds.held_out_rows(k)) for k in numbers]


class _FoldInputs(Inputs):
    """One fold; its held-out rows may lack a label, since only those of all folds are measured."""

    def _refuse_undefined(self) -> None:
        pass


@dataclass
class FoldedSlot(Slot):
    """One cross-validated trial in training.

    Its own fields count over all folds: an epoch has the steps of all of them.

    Attributes:
        folds: the clock of each fold's head.
    """

    folds: Sequence[Slot] = field(default_factory=tuple)

    @classmethod
    def of(cls, folds: Sequence[Slot]) -> FoldedSlot:
        """Return a trial of newly initialized heads, one for each fold."""
        first = folds[0]
        return cls(
            first.number,
            first.config,
            max(fold.batch_size for fold in folds),
            sum(fold.steps_per_epoch for fold in folds),
            first.max_epochs,
            folds=folds,
        )

    @property
    def taken(self) -> int:
        """Minibatches of the present epoch that the heads have taken."""
        return sum(fold.taken for fold in self.folds)

    def count_steps(self) -> None:
        """Count the steps that the heads have taken."""
        self.step = sum(fold.step for fold in self.folds)

    def set_clock(self, step: int, history: Sequence[EpochReport]) -> None:
        """Set the clock, and that of each head, to that of an earlier run after these epochs."""
        super().set_clock(step, history)
        for fold in self.folds:
            fold.epoch = len(history)
            # A solver takes no steps.
            fold.step = fold.steps_per_epoch * len(history) if step else 0

    def count_epoch(self) -> None:
        """Count an epoch of the trial and of each head."""
        super().count_epoch()
        for fold in self.folds:
            fold.count_epoch()


class FoldedProgram(Program):
    """A program for each fold; slots are `FoldedSlot`s, whose scores are pooled."""

    def __init__(
        self, key: GroupKey, inputs: FoldedInputs, make: Callable[[GroupKey, Inputs], Program]
    ) -> None:
        super().__init__(key, inputs)
        self.folded = inputs
        self.programs = [make(key, fold) for fold in inputs.folds]
        self.slots: dict[int, FoldedSlot] = {}

    def admit(self, slot: Slot) -> None:
        """Build a head for each fold."""
        assert isinstance(slot, FoldedSlot)
        for program, fold in zip(self.programs, slot.folds, strict=True):
            program.admit(fold)
        self.slots[slot.number] = slot

    def evict(self, slot: Slot) -> None:
        """Remove the slot's heads."""
        for program, fold in self._folds(slot):
            program.evict(fold)
        del self.slots[slot.number]

    def train_epoch(self, order: Tensor, position: int) -> None:
        """Train the heads of one fold after the other, each fold on its own tape.

        Args:
            order: not used: it is a permutation of the rows of all folds.
            position: the tapes' position.
        """
        try:
            for program in self.programs:
                own = permutation(self.key.seed, position, program.inputs.n_train)
                program.train_epoch(own, position)
        finally:
            for slot in self.slots.values():
                slot.count_steps()

    def validate(self) -> tuple[list[Slot], Tensor]:
        """Score every row by the head that did not train on it.

        Returns:
            The slots, and their scores `(K, c, n)` in the order of the rows of all folds.
        """
        slots: list[Slot] = list(self.slots.values())
        place = {slot.number: k for k, slot in enumerate(slots)}
        pooled: Tensor | None = None
        for program, rows in zip(self.programs, self.folded.held_out, strict=True):
            members, scores = program.validate()
            if pooled is None:
                pooled = scores.new_empty(*scores.shape[:2], len(self.folded.valid_targets))
            at = torch.tensor([place[member.number] for member in members], device=scores.device)
            pooled[at[:, None], :, rows.to(scores.device)] = scores.transpose(1, 2)
        assert pooled is not None
        return slots, pooled

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return the label probabilities of scores, as the heads compute them."""
        return self.programs[0].probabilities(scores)

    def recall_at_10(self, slot: Slot, *, best: bool) -> float:
        """Return the recall@10 within each fold's held-out rows, averaged over all rows."""
        recalls = [p.recall_at_10(fold, best=best) for p, fold in self._folds(slot)]
        return float(np.average(recalls, weights=[len(rows) for rows in self.folded.held_out]))

    def keep_best(self, slot: Slot) -> None:
        """Store the present weights of every fold's head as the best."""
        for program, fold in self._folds(slot):
            program.keep_best(fold)

    def state(self, slot: Slot) -> dict[str, Tensor]:
        """Return the tensors of every fold's head, by `fold<k>.<name>`."""
        return {
            f"fold{k}.{name}": tensor
            for k, (program, fold) in enumerate(self._folds(slot))
            for name, tensor in program.state(fold).items()
        }

    def restore(self, slot: Slot, state: Mapping[str, Tensor]) -> None:
        """Overwrite the tensors of every fold's head."""
        for k, (program, fold) in enumerate(self._folds(slot)):
            prefix = f"fold{k}."
            own = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
            program.restore(fold, own)

    def best_head(self, slot: Slot) -> Head:
        """Refuse to choose one of the heads.

        Raises:
            TypeError: always; a cross-validated trial has a head for each fold.
        """
        raise TypeError("a cross-validated trial has a head for each fold")

    def best_heads(self, slot: Slot) -> list[Head]:
        """Return the head of each fold, with the weights of the trial's best epoch."""
        return [program.best_head(fold) for program, fold in self._folds(slot)]

    def _folds(self, slot: Slot) -> list[tuple[Program, Slot]]:
        return list(zip(self.programs, self.slots[slot.number].folds, strict=True))


def fold_means(
    inputs: FoldedInputs, scores: Tensor, probabilities: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """Return the mean over folds of each ranking metric, `<metric>_fold_mean`.

    Args:
        inputs: of all folds.
        scores: out-of-fold scores `(c, n)` of one trial.
        probabilities: the label probabilities of scores.

    Returns:
        The means over the folds in which a metric is defined; those defined in none are left out.
    """
    by_fold = [
        best_metrics(
            inputs.valid_targets[rows.numpy()],
            scores[:, rows],
            probabilities,
            ranks_logits=inputs.ranks_logits,
        )
        for rows in inputs.held_out
    ]
    means = {}
    for name in AVERAGED:
        values = [fold[name] for fold in by_fold if math.isfinite(fold[name])]
        if values:
            means[f"{name}_fold_mean"] = float(np.mean(values))
    return means
