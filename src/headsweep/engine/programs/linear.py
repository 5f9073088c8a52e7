"""Linear heads, fused: slots of one batch size share a step, those of one input also products."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from headsweep.engine.inputs import Inputs, Variant
from headsweep.engine.programs.base import GroupKey, Program, minibatches
from headsweep.engine.programs.linear_rows import (
    GatheredRows,
    RowBuffers,
    Rows,
    in_whole_vectors,
    rows_at_once,
    sharing_sizes,
)
from headsweep.engine.programs.linear_stack import Member, Stack
from headsweep.engine.slots import Slot
from headsweep.heads.base import Head
from headsweep.heads.registry import rebuild_head

LARGEST_STACK = 32
"""Slots of a stack; weights, gradients and moments of more do not fit into a core's cache."""


class LinearProgram(Program):
    """Stacks of slots of one batch size, which are trained in turn on the same gathered rows."""

    def __init__(self, key: GroupKey, inputs: Inputs) -> None:
        super().__init__(key, inputs)
        self.members: dict[int, Member] = {}
        self.stacks: dict[int, list[Stack]] = {}
        self.buffers = RowBuffers(inputs)
        self.x_valid: dict[Variant, Tensor] = {}

    def admit(self, slot: Slot) -> None:
        """Build the slot's head, which is added to a stack before the next step."""
        member = Member.new(slot, self.inputs)
        stacks = self.stacks.setdefault(slot.batch_size, [])
        with_room = [stack for stack in stacks if len(stack.members) < LARGEST_STACK]
        if not with_room:
            with_room = [Stack(self.inputs, self.key.precision)]
            stacks += with_room
        alike = (s for s in with_room if any(m.variant == member.variant for m in s.members))
        stack = next(alike, with_room[0])
        stack.members = [*stack.members, member]
        self.members[slot.number] = member

    def evict(self, slot: Slot) -> None:
        """Remove the slot."""
        gone = self.members.pop(slot.number)
        stacks = self.stacks[slot.batch_size]
        stack = next(stack for stack in stacks if gone in stack.members)
        stack.members = [member for member in stack.members if member is not gone]
        if not stack.members:
            stacks.remove(stack)
        if not stacks:
            del self.stacks[slot.batch_size]
        if all(member.variant != gone.variant for member in self.members.values()):
            self.buffers.clear()

    def train_epoch(self, order: Tensor, position: int) -> None:
        """Train on whole minibatches, gathered for many steps at once, then on short ones."""
        for sizes in sharing_sizes(self.stacks):
            if all(self.stacks[size][0].members[0].slot.taken == 0 for size in sizes):
                self._train_whole(sizes, order)
            for size in sizes:
                for rows in minibatches(self.stacks[size][0].members[0].slot, order):
                    (minibatch,) = self._gather(rows, [size]).parts(len(rows))
                    for stack in self.stacks[size]:
                        self.train_batch(stack, minibatch)

    def train_batch(self, stack: Stack, rows: Rows) -> None:
        """Take one step of all slots of a stack."""
        stack.train_batch(rows)

    def validate(self) -> tuple[list[Slot], Tensor]:
        """Return the logits of all slots, from one product for each input and batch size."""
        members: list[Member] = []
        parts: list[Tensor] = []
        for stack in itertools.chain.from_iterable(self.stacks.values()):
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
        """Return the validation rows, padded to whole vectors."""
        if variant not in self.x_valid:
            x = self.inputs.matrix(variant, valid=True)
            self.x_valid[variant] = pad(x, (0, 0, *in_whole_vectors(len(x))))
        return self.x_valid[variant]

    def _train_whole(self, sizes: Sequence[int], order: Tensor) -> None:
        """Train batch sizes, each of which divides those before it, on all whole minibatches.

        A stack takes all its steps on the gathered rows before the next one does, so that its
        weights and moments stay in cache.
        """
        start = 0
        for i, size in enumerate(sizes):
            while (left := len(order) - start) >= size:
                length = rows_at_once(size, left)
                gathered = self._gather(order[start : start + length], sizes[i:])
                for other in sizes[i:]:
                    parts = gathered.parts(other)
                    for stack in self.stacks[other]:
                        for part in parts:
                            self.train_batch(stack, part)
                start += length

    def _gather(self, rows: Tensor, sizes: Sequence[int]) -> GatheredRows:
        variants: dict[Variant, bool] = {}
        for size in sizes:
            for stack in self.stacks[size]:
                for product in stack.buffers(min(size, len(rows))).products:
                    needed = variants.get(product.variant, False)
                    variants[product.variant] = needed or product.features_first
        return self.buffers.gather(rows.to(self.inputs.device), variants)
