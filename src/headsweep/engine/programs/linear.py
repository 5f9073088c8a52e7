"""Linear heads, fused: one matrix product serves the logits of all slots, one their gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from headsweep.engine.inputs import Inputs
from headsweep.engine.losses import (
    LossSettings,
    gradient,
    loss_settings,
    stack_settings,
)
from headsweep.engine.optim import Optimizer, make_optimizer
from headsweep.engine.programs.base import GroupKey, Program
from headsweep.engine.slots import Slot
from headsweep.heads.base import Head
from headsweep.heads.registry import build_head

SMALLEST_STACK = 4

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


class LinearProgram(Program):
    """Weights of all slots are one `(K, c, d)` tensor, dense from slot 0 to K - 1."""

    def __init__(self, key: GroupKey, inputs: Inputs) -> None:
        super().__init__(key, inputs)
        self.x = inputs.matrix(key.input, key.normalization, valid=False)
        self.x_valid = inputs.matrix(key.input, key.normalization, valid=True)
        self.n_labels, self.width = inputs.targets.shape[1], self.x.shape[1]
        self.members: list[_Member] = []
        self.loss_groups: list[_LossGroup] = []
        self.weight = self.x.new_zeros(0, self.n_labels, self.width)
        self.bias = self.x.new_zeros(0, self.n_labels)
        self.weight_grad = torch.empty_like(self.weight)
        self.bias_grad = torch.empty_like(self.bias)

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

    def train_batch(self, rows: Tensor, tape_step: int) -> None:
        """One step: gather once, logits and weight gradients of all slots as one product each."""
        count, stack, n_labels = len(self.members), self._stack_size(), self.n_labels
        x = self.x.index_select(0, rows)
        targets = self.inputs.targets.index_select(0, rows).T
        weight = self.weight[:stack].view(stack * n_labels, self.width)
        logits = torch.addmm(self.bias[:stack].view(-1, 1), weight, x.T)
        blocks = _in_whole_vectors(logits).view(stack, n_labels, -1)
        error = self._error(blocks[:count], _in_whole_vectors(targets))
        error = error[:, :, : len(rows)].contiguous().mul_(1 / (len(rows) * n_labels))
        if stack > count:
            error = torch.cat([error, error.new_zeros(stack - count, n_labels, len(rows))])
        # How a BLAS adds up a slot's gradient must not depend on how many slots stand beside it.
        # MKL keeps to one order when nothing is scaled inside the product and the inputs lie
        # transposed; other layouts change bits from 16 slots, or from 1,024 rows, on.
        transposed = x.T.contiguous()
        torch.mm(
            error.view(stack * n_labels, -1), transposed.T,
            out=self.weight_grad[:stack].view(stack * n_labels, self.width),
        )  # fmt: skip
        torch.sum(error, dim=2, out=self.bias_grad[:stack])
        for member in self.members:
            member.optimizer.step(member.slot.next_learning_rate())

    def validate(self) -> tuple[list[Slot], Tensor]:
        """Probabilities of all slots from one product."""
        stack = self._stack_size()
        weight = self.weight[:stack].view(stack * self.n_labels, self.width)
        logits = torch.addmm(self.bias[:stack].view(-1, 1), weight, self.x_valid.T)
        scores = _in_whole_vectors(logits).sigmoid_().view(stack, self.n_labels, -1)
        n_valid = len(self.x_valid)
        return [member.slot for member in self.members], scores[: len(self.members), :, :n_valid]

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
        """Slots in a product: those there are, or a few idle ones beside them.

        A product with very few rows takes another path through a BLAS, with other bits.
        """
        return max(SMALLEST_STACK, len(self.members))

    def _place(self, slot: Slot) -> int:
        return next(i for i, member in enumerate(self.members) if member.slot is slot)

    def _buffers(self, place: int) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters and gradient buffers of the slot at a place of the stack."""
        return (
            [self.weight[place], self.bias[place]],
            [self.weight_grad[place], self.bias_grad[place]],
        )

    def _error(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Gradient of the summed losses `(K, c, b)`; slots of one loss kind are done together."""
        if len(self.loss_groups) == 1:
            return gradient(logits, targets, self.loss_groups[0].settings)
        error = torch.empty_like(logits)
        for group in self.loss_groups:
            error[group.index] = gradient(logits[group.index], targets, group.settings)
        return error

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
        capacity = max(SMALLEST_STACK, 2 * len(self.weight))
        weight = self.x.new_zeros(capacity, self.n_labels, self.width)
        bias = self.x.new_zeros(capacity, self.n_labels)
        weight[: len(self.weight)], bias[: len(self.bias)] = self.weight, self.bias
        self.weight, self.weight_grad = weight, torch.empty_like(weight)
        self.bias, self.bias_grad = bias, torch.empty_like(bias)
        for place, member in enumerate(self.members):
            member.optimizer.bind(*self._buffers(place))


def _in_whole_vectors(rows: Tensor) -> Tensor:
    """The rows, lengthened by zeros until the vector kernels leave no remainder.

    A remainder at the very end is computed by scalar code, with other bits; whether a slot stands
    there depends on its neighbours.
    """
    return pad(rows, (0, -rows.shape[-1] % VECTOR_BLOCK))
