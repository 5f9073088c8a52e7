"""Lays out the parameters of many MLPs side by side, as the layers of `mlp_stacked_layers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from headsweep.config.head_section import MLPConfig
from headsweep.engine.numerics.losses import LossSettings
from headsweep.engine.numerics.optimizers import Optimizer
from headsweep.engine.programs.mlp_stacked_layers import Block, Hidden, Layers, Noise, Norm, slices
from headsweep.engine.slots import Slot

NEVER = -1.0
"""A threshold that all noise exceeds."""


@dataclass
class Member:
    """One slot; `params` and `grads` are views into the stacks, in the order of its head's."""

    slot: Slot
    config: MLPConfig
    names: list[str]
    params: list[Tensor]
    grads: list[Tensor]
    best: list[Tensor]
    optimizer: Optimizer
    loss: LossSettings

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the hidden layers."""
        return self.config.widths

    @property
    def has_norm(self) -> bool:
        """Whether its layers are normalized."""
        return self.config.norm == "layer"

    def index(self, depth: int) -> int:
        """Return where a hidden layer's weight is in `params`; bias, scale, shift follow."""
        return depth * (4 if self.has_norm else 2)

    def move(self, index: int, param: Tensor, grad: Tensor) -> None:
        """Move one parameter and its gradient to other memory: a part of a stack."""
        param.copy_(self.params[index])
        self.params[index], self.grads[index] = param, grad


def lay_out(members: Sequence[Member], batch_size: int) -> Layers:
    """Move the parameters of members, given in the order of their widths, into stacks.

    Returns:
        Their layers.
    """
    hidden: list[Hidden] = []
    first_row = dict.fromkeys((m.slot.number for m in members), 0)
    """Of every slot in the matrix of its last layer so far."""
    for depth in range(max(len(m.widths) for m in members)):
        here = [m for m in members if len(m.widths) > depth]
        hidden.append(_lay_out_hidden(here, depth, first_row))
        rows = slices([m.widths[depth] for m in here])
        first_row |= {m.slot.number: r.start for m, r in zip(here, rows, strict=True)}
    n_labels = len(members[0].params[-1])
    outputs: list[tuple[int, Block]] = []
    for widths, run in groupby(members, key=lambda m: m.widths):
        ending = list(run)
        after = outputs[-1][1].rows.stop if outputs else 0
        before = first_row[ending[0].slot.number]
        outputs.append((len(widths) - 1, _stack(ending, [-2] * len(ending), before, after)))
    bias, bias_grad = (members[0].params[-1].new_zeros(len(members) * n_labels) for _ in range(2))
    for member, rows_of in zip(members, slices([n_labels] * len(members)), strict=True):
        member.move(-1, bias[rows_of], bias_grad[rows_of])
        member.optimizer.bind(member.params, member.grads)
    return Layers(hidden, outputs, bias, bias_grad, _lay_out_noise(members, batch_size))


def _lay_out_hidden(members: Sequence[Member], depth: int, first_row: dict[int, int]) -> Hidden:
    """Return one hidden layer of those members that have it."""
    widths = [m.widths[depth] for m in members]
    blocks: list[Block] = []
    if depth == 0:
        blocks.append(_join(members, widths))
    else:
        for _, run in groupby(members, key=lambda m: m.widths[: depth + 1]):
            alike = list(run)
            after = blocks[-1].rows.stop if blocks else 0
            before = first_row[alike[0].slot.number]
            blocks.append(_stack(alike, [m.index(depth) for m in alike], before, after))
    bias, bias_grad = (members[0].params[0].new_zeros(sum(widths)) for _ in range(2))
    for member, rows in zip(members, slices(widths), strict=True):
        member.move(member.index(depth) + 1, bias[rows], bias_grad[rows])
    activations = [
        (kind, _column([m.config.activation == kind for m in members], widths, bias.device))
        for kind in dict.fromkeys(m.config.activation for m in members)
    ]
    return Hidden(blocks, bias, bias_grad, _lay_out_norm(members, depth, bias), [*activations])


def _join(members: Sequence[Member], widths: Sequence[int]) -> Block:
    """Return the first layer: one map from the shared input to the units of all members."""
    like = members[0].params[0]
    weight, grad = (like.new_zeros(1, sum(widths), like.shape[1]) for _ in range(2))
    for member, rows in zip(members, slices(widths), strict=True):
        member.move(0, weight[0, rows], grad[0, rows])
    return Block(weight, grad, slice(0, like.shape[1]), slice(0, sum(widths)))


def _stack(members: Sequence[Member], indices: Sequence[int], before: int, after: int) -> Block:
    """Return weights of one shape, at `indices` of the members' parameters.

    `before` and `after` are the members' first rows in the layer that is read and in this one.
    """
    like = members[0].params[indices[0]]
    count, (h_out, h_in) = len(members), like.shape
    weight, grad = (like.new_zeros(count, h_out, h_in) for _ in range(2))
    for k, (member, index) in enumerate(zip(members, indices, strict=True)):
        member.move(index, weight[k], grad[k])
    rows_before = slice(before, before + count * h_in)
    return Block(weight, grad, rows_before, slice(after, after + count * h_out))


def _lay_out_norm(members: Sequence[Member], depth: int, like: Tensor) -> Norm | None:
    """Return scales and shifts of one layer; None where no member has them."""
    if not any(m.has_norm for m in members):
        return None
    widths = [m.widths[depth] for m in members]
    scale, shift = torch.ones_like(like), torch.zeros_like(like)
    scale_grad, shift_grad = torch.zeros_like(like), torch.zeros_like(like)
    for member, rows in zip(members, slices(widths), strict=True):
        if member.has_norm:
            member.move(member.index(depth) + 2, scale[rows], scale_grad[rows])
            member.move(member.index(depth) + 3, shift[rows], shift_grad[rows])
    runs, start = [], 0
    for width, run in groupby(widths):
        count = len(list(run))
        runs.append((slice(start, start + count * width), count))
        start += count * width
    return Norm(
        scale, shift, scale_grad, shift_grad, runs,
        passed=torch.tensor([[not m.has_norm] for m in members], device=like.device),
        slot_of_row=_column(range(len(members)), widths, like.device).squeeze(1),
    )  # fmt: skip


def _lay_out_noise(members: Sequence[Member], batch_size: int) -> Noise | None:
    """Return the noise of all units; None where no member drops any."""
    if all(m.config.dropout == 0 for m in members):
        return None
    device = members[0].params[0].device
    layers = [
        [m for m in members if len(m.widths) > depth]
        for depth in range(max(len(m.widths) for m in members))
    ]
    widths = [m.widths[depth] for depth, here in enumerate(layers) for m in here]
    dropout = [m.config.dropout for here in layers for m in here]
    unit = torch.cat([torch.arange(width, dtype=torch.int32) for width in widths]).unsqueeze(1)
    row = torch.arange(batch_size, dtype=torch.int32)
    sizes = [sum(m.widths[depth] for m in here) for depth, here in enumerate(layers)]
    return Noise(
        positions=(row * _column(widths, widths, row.device).int() + unit).to(device),
        layer_of_row=_column(range(len(layers)), sizes, device).squeeze(1),
        threshold=_column([p if p > 0 else NEVER for p in dropout], widths, device),
        scale=_column([1 / (1 - p) for p in dropout], widths, device),
        sizes=sizes,
    )


def _column(values: Sequence[float], widths: Sequence[int], device: torch.device) -> Tensor:
    """Return a column `(H, 1)`: a value for each slot, repeated over its units."""
    repeats = torch.tensor(widths)
    return torch.tensor(values).repeat_interleave(repeats).unsqueeze(1).to(device)
