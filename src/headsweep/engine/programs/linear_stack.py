"""Linear heads of one batch size side by side: weights, losses and updates of one step.

Logits of all slots are one matrix `(R, b)`. Its rows are ordered by input variant: the slots of
one variant are a block, which one matrix product fills and another one takes gradients from.
Everything elementwise is done for all blocks at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from headsweep.config.training_section import Precision
from headsweep.engine.inputs import Inputs, Variant
from headsweep.engine.numerics.losses import (
    LossSettings,
    gradient_,
    loss_settings,
    stack_settings,
)
from headsweep.engine.numerics.optimizers import Optimizer, make_optimizer
from headsweep.engine.programs.linear_products import needs_features_first
from headsweep.engine.programs.linear_rows import Rows, in_whole_vectors
from headsweep.engine.slots import Slot
from headsweep.heads.registry import build_head

SMALLEST_PRODUCT = 16
"""Rows from which on a BLAS adds up every row of a product in one order, however many there are.

Measured with MKL for 1 to 30 labels, 64 to 768 features, and batches of 64 to 1,024 rows.
"""


@dataclass
class Member:
    """One slot with its moments, its loss and its best weights.

    `weight` `(c, d)` and `bias` `(c,)` are views into a stack once it is laid out.
    """

    slot: Slot
    variant: Variant
    weight: Tensor
    bias: Tensor
    optimizer: Optimizer
    loss: LossSettings
    best_weight: Tensor
    best_bias: Tensor

    @classmethod
    def new(cls, slot: Slot, inputs: Inputs) -> Member:
        """Return a member with newly initialized weights, not in a stack yet."""
        config = slot.config
        head = build_head(config.head, inputs.shape(config), seed=config.training.seed)
        weight, bias = (
            head.get_parameter(f"output.{name}").detach().to(inputs.device)
            for name in ("weight", "bias")
        )
        return cls(
            slot,
            Variant.of(config),
            weight,
            bias,
            make_optimizer([weight, bias], [torch.empty(0)] * 2, config.training),
            loss_settings(config.training, inputs.pos_weight),
            weight.clone(),
            bias.clone(),
        )

    def move(self, weight: Tensor, bias: Tensor, weight_grad: Tensor, bias_grad: Tensor) -> None:
        """Move the weights and gradients to other memory."""
        weight.copy_(self.weight)
        bias.copy_(self.bias)
        self.weight, self.bias = weight, bias
        self.optimizer.bind([weight, bias], [weight_grad, bias_grad])


@dataclass(frozen=True)
class Block:
    """Slots of one input variant, which share products.

    Idle slots with zero weights follow the members where these have too few labels for a product
    (`SMALLEST_PRODUCT`).
    """

    variant: Variant
    members: list[Member]
    x: Tensor
    """Training inputs `(n, d)`."""
    weight: Tensor
    """`(k, c, d)`."""
    weight_grad: Tensor
    bias: Tensor
    """`(k, c)`, a view into the stack's."""
    slots: slice
    """Of the stack's slots, idle ones included."""

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits `(k, c, n)` of inputs `(n, d)`."""
        k, n_labels, width = self.weight.shape
        product = torch.mm(self.weight.view(-1, width), x.T).add_(self.bias.reshape(-1, 1))
        return product.view(k, n_labels, -1)


@dataclass(frozen=True)
class Products:
    """Operands of a block's two products in a step, views into the stack."""

    variant: Variant
    weight: Tensor
    """`(k * c, d)`."""
    logits: Tensor
    """`(k * c, b)`, later the gradients of the losses."""
    weight_grad: Tensor
    """`(k * c, d)`."""
    features_first: bool
    """Whether the second product reads inputs stored feature by feature."""


@dataclass(frozen=True)
class Buffers:
    """Logits of a stack for minibatches of one length, and views of them.

    Memory allocated in every step would be zeroed by the operating system in every step.
    """

    logits: Tensor
    """`(K, c, b)`."""
    unpadded: Tensor
    """`(K, c, length)`."""
    products: list[Products]


@dataclass(frozen=True)
class LossGroup:
    """Slots of one loss kind, and their settings stacked; `index` is None where all are."""

    index: Tensor | None
    settings: LossSettings


@dataclass(frozen=True)
class Layout:
    """Members of one batch size laid out for a step, `K` slots with the idle ones."""

    blocks: list[Block]
    members: list[Member]
    bias: Tensor
    """`(K, c)`."""
    bias_column: Tensor
    """`(K, c, 1)`, a view."""
    bias_grad: Tensor
    losses: list[LossGroup]


class Stack:
    """Slots of one batch size; stacks are rebuilt before the first step after a change of slots."""

    def __init__(self, inputs: Inputs, precision: Precision) -> None:
        self.inputs, self.precision = inputs, precision
        self._members: list[Member] = []
        self._layout: Layout | None = None
        self._buffers: dict[int, Buffers] = {}
        """By length of the minibatch; an epoch's last one may be short."""

    @property
    def members(self) -> list[Member]:
        """The slots, in the order in which they were admitted."""
        return self._members

    @members.setter
    def members(self, members: list[Member]) -> None:
        self._members = members
        self._layout = None
        self._buffers.clear()

    def laid_out(self) -> Layout:
        """Return the layout of the present members."""
        if self._layout is None:
            self._layout = lay_out(self._members, self.inputs)
        return self._layout

    def train_batch(self, rows: Rows) -> None:
        """Take one step of all slots on a minibatch."""
        layout, buffers = self.laid_out(), self.buffers(rows.length)
        for block in buffers.products:
            torch.mm(block.weight, rows.transposed[block.variant], out=block.logits)
        error = self._error(buffers.logits, rows.targets)
        if rows.labelled is None:
            error.mul_(rows.share)
        else:
            error.mul_(rows.labelled / rows.labelled.sum().clamp_min(1))
        for block in buffers.products:
            x = rows.features_first if block.features_first else rows.x
            torch.mm(block.logits, x[block.variant], out=block.weight_grad)
        torch.sum(buffers.unpadded, dim=2, out=layout.bias_grad)
        for member in layout.members:
            member.optimizer.clip()
        for member in layout.members:
            member.optimizer.step(member.slot.next_learning_rate(), member.slot.step)

    def _error(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the gradients of the losses `(K, c, b)`, in the logits' place.

        Slots of one loss kind are computed together; logits of idle slots may stay unchanged.
        """
        layout = self.laid_out()
        logits.add_(layout.bias_column)
        for group in layout.losses:
            if group.index is None:
                return gradient_(logits, targets, group.settings)
            logits[group.index] = gradient_(logits[group.index], targets, group.settings)
        return logits

    def buffers(self, length: int) -> Buffers:
        """Return the buffers for minibatches of so many rows."""
        if length not in self._buffers:
            layout, whole = self.laid_out(), length + in_whole_vectors(length)[1]
            logits = self.inputs.targets.new_zeros((*layout.bias.shape, whole))
            products = [self._products(block, logits) for block in layout.blocks]
            self._buffers[length] = Buffers(logits, logits[:, :, :length], products)
        return self._buffers[length]

    def _products(self, block: Block, logits: Tensor) -> Products:
        whole = logits.shape[2]
        weight, grad = (w.view(-1, w.shape[2]) for w in (block.weight, block.weight_grad))
        on_cpu = logits.device.type == "cpu"
        return Products(
            block.variant,
            weight,
            logits[block.slots].view(-1, whole),
            grad,
            not on_cpu or needs_features_first(len(weight), whole, weight.shape[1], self.precision),
        )


def lay_out(members: Sequence[Member], inputs: Inputs) -> Layout:
    """Move the members' parameters into stacks.

    Returns:
        The layout.
    """
    n_labels = inputs.targets.shape[1]
    smallest = -(-SMALLEST_PRODUCT // n_labels)
    of_variant: dict[Variant, list[Member]] = {}
    for member in members:
        of_variant.setdefault(member.variant, []).append(member)
    sizes = [max(smallest, len(alike)) for alike in of_variant.values()]
    bias, bias_grad = (inputs.targets.new_zeros(sum(sizes), n_labels) for _ in range(2))
    blocks: list[Block] = []
    places: list[Member | None] = []
    bounds = pairwise(accumulate(sizes, initial=0))
    for (variant, alike), (start, stop) in zip(of_variant.items(), bounds, strict=True):
        x = inputs.matrix(variant, valid=False)
        weight, grad = (x.new_zeros(stop - start, n_labels, x.shape[1]) for _ in range(2))
        here = slice(start, stop)
        blocks.append(Block(variant, alike, x, weight, grad, bias[here], here))
        places += [*alike, *[None] * (stop - start - len(alike))]
    for block in blocks:
        for k, member in enumerate(block.members):
            at = block.slots.start + k
            member.move(block.weight[k], bias[at], block.weight_grad[k], bias_grad[at])
    in_order = [member for member in places if member is not None]
    losses = _losses(places, bias.device)
    return Layout(blocks, in_order, bias, bias.unsqueeze(2), bias_grad, losses)


def _losses(places: Sequence[Member | None], device: torch.device) -> list[LossGroup]:
    """Return the slots by loss kind; if there is only one kind, idle slots have it too."""
    by_kind: dict[str, list[int]] = {}
    for place, member in enumerate(places):
        if member is not None:
            by_kind.setdefault(member.loss.kind, []).append(place)
    losses = [None if member is None else member.loss for member in places]
    if len(by_kind) == 1:
        some = next(loss for loss in losses if loss is not None)
        return [LossGroup(None, stack_settings([loss or some for loss in losses]))]
    return [
        LossGroup(
            torch.tensor(kind, device=device),
            stack_settings([loss for place in kind if (loss := losses[place]) is not None]),
        )
        for kind in by_kind.values()
    ]
