"""Linear heads solved as logistic regression: all labels of all new slots in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headsweep.engine.inputs import Inputs, Variant
from headsweep.engine.numerics.logistic_solver import solve_logistic
from headsweep.engine.programs.base import GroupKey, Program
from headsweep.engine.slots import Slot
from headsweep.heads.base import Head
from headsweep.heads.registry import rebuild_head


@dataclass
class _Member:
    """One slot with its weights `(c, d)` and biases `(c,)`: zero until they are solved."""

    slot: Slot
    variant: Variant
    weight: Tensor
    bias: Tensor


class LogisticProgram(Program):
    """Solves slots in one epoch on all training rows; the tape's order is not used."""

    def __init__(self, key: GroupKey, inputs: Inputs) -> None:
        super().__init__(key, inputs)
        self.members: dict[int, _Member] = {}

    def admit(self, slot: Slot) -> None:
        """Add the slot to the next solve."""
        variant = Variant.of(slot.config)
        x = self.inputs.matrix(variant, valid=False)
        n_labels = self.inputs.targets.shape[1]
        weight, bias = x.new_zeros(n_labels, x.shape[1]), x.new_zeros(n_labels)
        self.members[slot.number] = _Member(slot, variant, weight, bias)

    def evict(self, slot: Slot) -> None:
        """Remove the slot's weights."""
        del self.members[slot.number]

    def train_epoch(self, order: Tensor, position: int) -> None:
        """Solve every slot that is not solved yet, those of one input variant together."""
        new: dict[Variant, list[_Member]] = {}
        for member in self.members.values():
            if member.slot.epoch == 0:
                new.setdefault(member.variant, []).append(member)
        for variant, members in new.items():
            self._solve(variant, members)

    def validate(self) -> tuple[list[Slot], Tensor]:
        """Return the logits of all slots."""
        members = list(self.members.values())
        logits = [
            torch.addmm(m.bias.unsqueeze(1), m.weight, self.inputs.matrix(m.variant, valid=True).T)
            for m in members
        ]
        return [member.slot for member in members], torch.stack(logits)

    def keep_best(self, slot: Slot) -> None:
        """Do nothing, since the weights of the only epoch are the best."""

    def state(self, slot: Slot) -> dict[str, Tensor]:
        """Return the solution."""
        member = self.members[slot.number]
        return {"weight": member.weight, "bias": member.bias}

    def best_head(self, slot: Slot) -> Head:
        """Return a `LinearHead` with the solution."""
        member, config = self.members[slot.number], slot.config
        tensors = {"output.weight": member.weight, "output.bias": member.bias}
        return rebuild_head(config.head, self.inputs.shape(config), tensors)

    def _solve(self, variant: Variant, members: Sequence[_Member]) -> None:
        """Solve all labels of slots with the same input variant."""
        x = self.inputs.matrix(variant, valid=False)
        n_labels = self.inputs.targets.shape[1]
        decay = [member.slot.config.training.weight_decay for member in members]
        known = self.inputs.labelled
        solution = solve_logistic(
            x,
            self.inputs.targets.T.repeat(len(members), 1),
            torch.tensor(decay, device=x.device).repeat_interleave(n_labels),
            None if known is None else known.T.repeat(len(members), 1),
        )
        weights = solution.weight.view(len(members), n_labels, -1)
        biases = solution.bias.view(len(members), n_labels)
        for member, weight, bias in zip(members, weights, biases, strict=True):
            member.weight, member.bias = weight, bias
