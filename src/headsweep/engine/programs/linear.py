"""Linear heads, fused: slots of one batch size share a step, those of one input its products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from headsweep.engine.inputs import Inputs, Variant
from headsweep.engine.programs.base import GroupKey, Program, minibatches
from headsweep.engine.programs.linear_rows import (
    RowBuffers,
    Rows,
    in_whole_vectors,
    shared_lengths,
)
from headsweep.engine.programs.linear_stack import Member, Stack
from headsweep.engine.slots import Slot
from headsweep.heads.base import Head
from headsweep.heads.registry import rebuild_head


class LinearProgram(Program):
    """One stack of slots for each batch size; the batch sizes of an epoch train in turn."""

    def __init__(self, key: GroupKey, inputs: Inputs) -> None:
        super().__init__(key, inputs)
        self.members: dict[int, Member] = {}
        self.stacks: dict[int, Stack] = {}
        self.buffers = RowBuffers(inputs)
        self.x_valid: dict[Variant, Tensor] = {}

    def admit(self, slot: Slot) -> None:
        """Build the slot's head; it is stacked before the next step."""
        member = Member.new(slot, self.inputs)
        stack = self.stacks.get(slot.batch_size) or Stack(self.inputs)
        stack.members = [*stack.members, member]
        self.stacks[slot.batch_size] = stack
        self.members[slot.number] = member

    def evict(self, slot: Slot) -> None:
        """Forget the slot."""
        gone = self.members.pop(slot.number)
        stack = self.stacks[slot.batch_size]
        stack.members = [member for member in stack.members if member is not gone]
        if not stack.members:
            del self.stacks[slot.batch_size]
        if all(member.variant != gone.variant for member in self.members.values()):
            self.buffers.clear()

    def train_epoch(self, order: Tensor, position: int) -> None:
        """Train on whole minibatches, gathered for all batch sizes at once, then on short ones."""
        for length, sizes in shared_lengths(self.stacks).items():
            stacks = [self.stacks[size] for size in sizes]
            if all(stack.members[0].slot.taken == 0 for stack in stacks):
                self._train_together(stacks, length, order)
            for stack in stacks:
                for rows in minibatches(stack.members[0].slot, order):
                    self.train_batch(stack, self._gather(rows, [stack]))

    def train_batch(self, stack: Stack, rows: Rows) -> None:
        """Take one step of all slots of one batch size."""
        stack.train_batch(rows)

    def validate(self) -> tuple[list[Slot], Tensor]:
        """Return the logits of all slots, from one product for each input and batch size."""
        members: list[Member] = []
        parts: list[Tensor] = []
        for stack in self.stacks.values():
            for block in stack.laid_out().blocks:
                parts.append(block.logits(self._x_valid(block.variant))[: len(block.members)])
                members += block.members
        logits = parts[0] if len(parts) == 1 else torch.cat(parts)
        n_valid = len(self.inputs.valid_targets)
        return [member.slot for member in members], logits[:, :, :n_valid]

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return the sigmoid of logits, in vectors without a remainder as in training."""
        n_valid = scores.shape[2]
        return pad(scores, in_whole_vectors(n_valid)).sigmoid_()[:, :, :n_valid]

    def keep_best(self, slot: Slot) -> None:
        """Copy the slot's weights."""
        member = self.members[slot.number]
        member.best_weight.copy_(member.weight)
        member.best_bias.copy_(member.bias)

    def state(self, slot: Slot) -> dict[str, Tensor]:
        """Return the slot's part of the stack, its moments and its best weights."""
        member = self.members[slot.number]
        return {
            "weight": member.weight,
            "bias": member.bias,
            "best.weight": member.best_weight,
            "best.bias": member.best_bias,
            **member.optimizer.moments(),
        }

    def best_head(self, slot: Slot) -> Head:
        """Return a `LinearHead` with the best weights."""
        member = self.members[slot.number]
        config = slot.config
        tensors = {"output.weight": member.best_weight, "output.bias": member.best_bias}
        return rebuild_head(config.head, self.inputs.shape(config), tensors)

    def _x_valid(self, variant: Variant) -> Tensor:
        """Return the validation rows, lengthened to whole vectors."""
        if variant not in self.x_valid:
            x = self.inputs.matrix(variant, valid=True)
            self.x_valid[variant] = pad(x, (0, 0, *in_whole_vectors(len(x))))
        return self.x_valid[variant]

    def _train_together(self, stacks: Sequence[Stack], length: int, order: Tensor) -> None:
        """Train several batch sizes on as many whole minibatches as `length` rows hold."""
        for start in range(0, len(order) - length + 1, length):
            rows = self._gather(order[start : start + length], stacks)
            for stack in stacks:
                for part in rows.parts(stack.members[0].slot.batch_size):
                    self.train_batch(stack, part)

    def _gather(self, rows: Tensor, stacks: Sequence[Stack]) -> Rows:
        variants = dict.fromkeys(member.variant for stack in stacks for member in stack.members)
        return self.buffers.gather(rows.to(self.inputs.device), variants)
