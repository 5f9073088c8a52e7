"""Linear heads, fused: one matrix product serves the logits of all slots, one their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from headsweep.engine.inputs import Inputs
from headsweep.engine.numerics.losses import (
    LossSettings,
    gradient_,
    loss_settings,
    stack_settings,
)
from headsweep.engine.numerics.optimizers import Optimizer, make_optimizer
from headsweep.engine.programs.base import GroupKey, Program
from headsweep.engine.slots import Slot
from headsweep.heads.base import Head
from headsweep.heads.registry import build_head

SMALLEST_PRODUCT = 16
"""Rows from which on a BLAS adds up every row of a product in one order, however many there are.

Measured with MKL for 1 to 30 labels, 64 to 768 features, and batches of 64 to 1,024 rows.
"""

VECTOR_BLOCK = 32
"""Elements that PyTorch's CPU kernels take at a time, at most: two AVX-512 registers."""


@dataclass
class _Member:
    """One slot with its moments, its loss and its best weights."""

    slot: Slot
    optimizer: Optimizer
    loss: LossSettings
    best_weight: Tensor
    best_bias: Tensor


@dataclass(frozen=True)
class _LossGroup:
    """Slots of one loss kind: where they stand in the stack, and their settings stacked."""

    index: Tensor
    settings: LossSettings


@dataclass(frozen=True)
class _Batch:
    """Buffers of a step on minibatches of one size `b`, lengthened by zeros to whole vectors.

    Memory that is allocated anew in every step would be zeroed by the kernel in every step.
    """

    x: Tensor
    """Inputs `(b, d)`."""
    transposed: Tensor
    """The same, `(d, b)`."""
    rows_of_targets: Tensor
    """Labels `(b, c)`, not lengthened."""
    targets: Tensor
    """Labels `(c, b)`."""
    logits: Tensor
    """Of all slots and labels `(K * c, b)`."""

    @classmethod
    def empty(cls, size: int, width: int, n_labels: int, n_logits: int, like: Tensor) -> _Batch:
        whole = size + -size % VECTOR_BLOCK
        return cls(
            x=like.new_zeros(whole, width),
            transposed=like.new_zeros(width, whole),
            rows_of_targets=like.new_zeros(size, n_labels),
            targets=like.new_zeros(n_labels, whole),
            logits=like.new_zeros(n_logits, whole),
        )

    def gather(self, x: Tensor, targets: Tensor, rows: Tensor) -> None:
        """Fill the buffers with rows `(b,)` of the training split."""
        size = len(rows)
        torch.index_select(x, 0, rows, out=self.x[:size])
        self.transposed.copy_(self.x.T)
        torch.index_select(targets, 0, rows, out=self.rows_of_targets)
        self.targets[:, :size].copy_(self.rows_of_targets.T)


class LinearProgram(Program):
    """Weights of all slots are one `(K, c, d)` tensor, dense from slot 0 to K - 1."""

    def __init__(self, key: GroupKey, inputs: Inputs) -> None:
        super().__init__(key, inputs)
        self.x = self.matrix(valid=False)
        self.x_valid = _in_whole_vectors(self.matrix(valid=True))
        self.n_labels, self.width = inputs.targets.shape[1], self.x.shape[1]
        self.smallest = -(-SMALLEST_PRODUCT // self.n_labels)
        self.members: list[_Member] = []
        self.loss_groups: list[_LossGroup] = []
        self.weight = self.x.new_zeros(0, self.n_labels, self.width)
        self.bias = self.x.new_zeros(0, self.n_labels)
        self.weight_grad = torch.empty_like(self.weight)
        self.bias_grad = torch.empty_like(self.bias)
        self.batches: dict[int, _Batch] = {}

    def admit(self, slot: Slot) -> None:
        """Stack the slot's weights behind the others'."""
        config = slot.config
        head = build_head(config.head, self.inputs.shape(config), seed=config.training.seed)
        weight = head.get_parameter("output.weight").detach().to(self.x.device)
        bias = head.get_parameter("output.bias").detach().to(self.x.device)
        place = len(self.members)
        self._reserve(place + 1)
        self.weight[place], self.bias[place] = weight, bias
        optimizer = make_optimizer(*self._buffers(place), config.training)
        loss = loss_settings(config.training, self.inputs.pos_weight)
        self.members.append(_Member(slot, optimizer, loss, weight.clone(), bias.clone()))
        self._group_losses()

    def evict(self, slot: Slot) -> None:
        """Move the last slot into the hole, so that the stack stays dense."""
        place = self._place(slot)
        last = self.members.pop()
        if last.slot is not slot:
            behind = len(self.members)
            self.weight[place], self.bias[place] = self.weight[behind], self.bias[behind]
            self.members[place] = last
            last.optimizer.bind(*self._buffers(place))
        self._group_losses()

    def train_epoch(self, minibatches: Sequence[Tensor], tape_step: int) -> None:
        """A step of all slots on each minibatch."""
        for rows in minibatches:
            self.train_batch(rows.to(self.x.device))

    def train_batch(self, rows: Tensor) -> None:
        """One step: gather once, logits and weight gradients of all slots as one product each."""
        stack, batch = self._stack_size(), self._batch(len(rows))
        batch.gather(self.x, self.inputs.targets, rows)
        weight = self.weight[:stack].view(-1, self.width)
        logits = torch.mm(weight, batch.x.T, out=batch.logits[: len(weight)])
        logits += self.bias[:stack].view(-1, 1)
        error = self._error(logits.view(stack, self.n_labels, -1), batch.targets)
        error.mul_(1 / (len(rows) * self.n_labels))
        # How a BLAS adds up a slot's gradient must not depend on how many slots stand beside it.
        # MKL keeps to one order when nothing is scaled inside the product and the inputs lie
        # transposed; other layouts change bits from 16 slots, or from 1,024 rows, on.
        torch.mm(
            error.view(len(weight), -1), batch.transposed.T,
            out=self.weight_grad[:stack].view(-1, self.width),
        )  # fmt: skip
        torch.sum(error[:, :, : len(rows)], dim=2, out=self.bias_grad[:stack])
        for member in self.members:
            member.optimizer.clip()
        for member in self.members:
            member.optimizer.step(member.slot.next_learning_rate(), member.slot.step)

    def validate(self) -> tuple[list[Slot], Tensor]:
        """Probabilities of all slots from one product."""
        stack = self._stack_size()
        weight = self.weight[:stack].view(stack * self.n_labels, self.width)
        logits = torch.mm(weight, self.x_valid.T).add_(self.bias[:stack].view(-1, 1))
        scores = logits.sigmoid_().view(stack, self.n_labels, -1)
        members = [member.slot for member in self.members]
        return members, scores[: len(members), :, : len(self.inputs.valid_targets)]

    def keep_best(self, slot: Slot) -> None:
        """Copy the slot's weights."""
        place = self._place(slot)
        self.members[place].best_weight.copy_(self.weight[place])
        self.members[place].best_bias.copy_(self.bias[place])

    def state(self, slot: Slot) -> dict[str, Tensor]:
        """The slot's part of the stack, its moments and its best weights."""
        place = self._place(slot)
        member = self.members[place]
        return {
            "weight": self.weight[place],
            "bias": self.bias[place],
            "best.weight": member.best_weight,
            "best.bias": member.best_bias,
            **member.optimizer.moments(),
        }

    def best_head(self, slot: Slot) -> Head:
        """A `LinearHead` with the best weights."""
        member = self.members[self._place(slot)]
        config = slot.config
        head = build_head(config.head, self.inputs.shape(config), seed=config.training.seed)
        head.load_state_dict(
            {"output.weight": member.best_weight.cpu(), "output.bias": member.best_bias.cpu()}
        )
        return head

    def _stack_size(self) -> int:
        """Slots in a product: those there are, and idle ones where these have too few labels."""
        return max(self.smallest, len(self.members))

    def _place(self, slot: Slot) -> int:
        return next(i for i, member in enumerate(self.members) if member.slot is slot)

    def _buffers(self, place: int) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters and gradient buffers of the slot at a place of the stack."""
        return (
            [self.weight[place], self.bias[place]],
            [self.weight_grad[place], self.bias_grad[place]],
        )

    def _batch(self, size: int) -> _Batch:
        """The buffers for minibatches of one size; an epoch has two, its last one may be short."""
        if size not in self.batches:
            logits = len(self.weight) * self.n_labels
            self.batches[size] = _Batch.empty(size, self.width, self.n_labels, logits, like=self.x)
        return self.batches[size]

    def _error(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Gradients of the losses `(K, c, b)`, in the logits' place.

        Slots of one loss kind are done together; of idle slots the logits are left as they are.
        """
        if len(self.loss_groups) == 1:
            gradient_(logits[: len(self.members)], targets, self.loss_groups[0].settings)
            return logits
        for group in self.loss_groups:
            logits[group.index] = gradient_(logits[group.index], targets, group.settings)
        return logits

    def _group_losses(self) -> None:
        kinds = dict.fromkeys(member.loss.kind for member in self.members)
        self.loss_groups = [
            _LossGroup(
                torch.tensor(
                    [i for i, m in enumerate(self.members) if m.loss.kind == kind],
                    device=self.x.device,
                ),
                stack_settings([m.loss for m in self.members if m.loss.kind == kind]),
            )
            for kind in kinds
        ]

    def _reserve(self, count: int) -> None:
        """Grow the stack to hold `count` slots, and let the optimisers follow their weights."""
        if count <= len(self.weight):
            return
        capacity = max(self.smallest, 2 * len(self.weight))
        weight = self.x.new_zeros(capacity, self.n_labels, self.width)
        bias = self.x.new_zeros(capacity, self.n_labels)
        weight[: len(self.weight)], bias[: len(self.bias)] = self.weight, self.bias
        self.weight, self.weight_grad = weight, torch.empty_like(weight)
        self.bias, self.bias_grad = bias, torch.empty_like(bias)
        self.batches.clear()
        for place, member in enumerate(self.members):
            member.optimizer.bind(*self._buffers(place))


def _in_whole_vectors(rows: Tensor) -> Tensor:
    """The rows, with rows of zeros behind them until vector kernels leave no remainder.

    A remainder at the very end is computed by scalar code, with other bits; whether a slot stands
    there depends on its neighbours.
    """
    return pad(rows, (0, 0, 0, -len(rows) % VECTOR_BLOCK))
