"""Layers of many MLPs side by side: true widths, no padding, kernels that serve all slots at once.

Activations of a layer lie in one matrix `(H, b)`: the units of all slots that have the layer, one
slot after another. Slots are ordered by their widths, so that those with a layer of one shape lie
together and one batched product serves them; the first layer, whose input all share, is a single
product. A slot without a further layer goes from its last one to the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise

import torch
from torch import Tensor

from headsweep.config.head_section import MLPConfig
from headsweep.engine.numerics.dropout_noise import uniforms_at
from headsweep.engine.numerics.losses import LossSettings
from headsweep.engine.numerics.optimizers import Optimizer
from headsweep.engine.programs.mlp import LAYER_NORM_EPSILON
from headsweep.engine.slots import Slot

NEVER = -1.0
"""A threshold that all noise exceeds."""

aten = torch.ops.aten

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": aten.gelu,
    "silu": aten.silu,
}
BACKWARD: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "relu": lambda error, z, a: aten.threshold_backward(error, a, 0),
    "tanh": lambda error, z, a: aten.tanh_backward(error, a),
    "gelu": lambda error, z, a: aten.gelu_backward(error, z),
    "silu": lambda error, z, a: aten.silu_backward(error, z),
}
"""Errors before an activation, from those behind it, its input and its output."""


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
        """Let one parameter and its gradient lie where the stack wants them."""
        param.copy_(self.params[index])
        self.params[index], self.grads[index] = param, grad


@dataclass(frozen=True)
class Block:
    """Slots side by side whose maps have one shape: weights `(k, h_out, h_in)`."""

    weight: Tensor
    weight_grad: Tensor
    before: slice
    """Their rows in the matrix of the layer before."""
    rows: slice
    """Their rows in this layer's matrix."""

    def forward(self, before: Tensor, out: Tensor) -> None:
        """Fill the rows of `out` `(H, b)`."""
        torch.bmm(self.weight, self._inputs(before), out=self._outputs(out))

    def backward(self, error: Tensor, before: Tensor, out: Tensor | None) -> None:
        """Fill the gradient of the weights, and the rows of `out`: the errors before the map."""
        errors = self._outputs(error)
        torch.bmm(errors, self._inputs(before).transpose(1, 2), out=self.weight_grad)
        if out is not None:
            torch.bmm(self.weight.transpose(1, 2), errors, out=self._inputs(out))

    def _inputs(self, matrix: Tensor) -> Tensor:
        return matrix[self.before].view(len(self.weight), self.weight.shape[2], -1)

    def _outputs(self, matrix: Tensor) -> Tensor:
        return matrix[self.rows].view(len(self.weight), self.weight.shape[1], -1)


@dataclass(frozen=True)
class Norm:
    """Layer normalization of those slots of a layer that have it; the others pass unchanged."""

    scale: Tensor
    shift: Tensor
    scale_grad: Tensor
    shift_grad: Tensor
    runs: list[tuple[slice, int]]
    """Rows and number of neighbours of one width."""
    passed: Tensor
    """Which slots are not normalized, `(K, 1)`."""
    slot_of_row: Tensor

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output, the normalized input, and the reciprocal deviation by row."""
        variance = self._by_slot(z, lambda part: part.var(1, correction=0))
        rstd = variance.add_(LAYER_NORM_EPSILON).rsqrt_().masked_fill_(self.passed, 1.0)
        rstd_by_row = rstd.index_select(0, self.slot_of_row)
        normed = (z - self._means(z)).mul_(rstd_by_row)
        return normed * self.scale.unsqueeze(1) + self.shift.unsqueeze(1), normed, rstd_by_row

    def backward(self, error: Tensor, normed: Tensor, rstd_by_row: Tensor) -> Tensor:
        """Return the errors before the normalization (Ba et al. 2016); fill the gradients."""
        weighted = error * normed
        torch.sum(weighted, 1, out=self.scale_grad)
        torch.sum(error, 1, out=self.shift_grad)
        scale = self.scale.unsqueeze(1)
        error = error * scale
        slope = self._means(weighted.mul_(scale))
        return (error - self._means(error)).sub_(slope.mul_(normed)).mul_(rstd_by_row)

    def _means(self, matrix: Tensor) -> Tensor:
        """Return by row the mean over the units of its slot; 0 where nothing is normalized."""
        means = self._by_slot(matrix, lambda part: part.mean(1))
        return means.masked_fill_(self.passed, 0.0).index_select(0, self.slot_of_row)

    def _by_slot(self, matrix: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """Return a reduction over the units of every slot, `(K, b)`."""
        parts = [reduce(matrix[rows].view(k, -1, matrix.shape[1])) for rows, k in self.runs]
        return torch.cat(parts)


@dataclass(frozen=True)
class Trace:
    """What one hidden layer's backward pass needs of its forward pass; matrices `(H, b)`."""

    before: Tensor
    normed: tuple[Tensor, Tensor] | None
    z: Tensor
    """Input of the activation."""
    a: Tensor
    """Output of the activation."""
    keep: Tensor | None
    """Factors by which dropout multiplies."""
    after: Tensor


@dataclass(frozen=True)
class Hidden:
    """One hidden layer of all slots that have it, `H` units together."""

    blocks: list[Block]
    bias: Tensor
    bias_grad: Tensor
    norm: Norm | None
    activations: list[tuple[str, Tensor]]
    """Kinds that occur, each with the rows that have it, `(H, 1)`."""

    def forward(self, before: Tensor, keep: Tensor | None) -> Trace:
        """Return the trace of the layer, computed from the matrix of the layer before."""
        z = before.new_empty(len(self.bias), before.shape[1])
        for block in self.blocks:
            block.forward(before, z)
        z += self.bias.unsqueeze(1)
        normed = None
        if self.norm is not None:
            z, *kept = self.norm.forward(z)
            normed = (kept[0], kept[1])
        a = self._chosen(lambda kind: ACTIVATIONS[kind](z))
        return Trace(before, normed, z, a, keep, a if keep is None else a * keep)

    def backward(self, error: Tensor, trace: Trace, out: Tensor | None) -> None:
        """Fill the gradients, and `out`: the errors behind the layer before."""
        behind = error if trace.keep is None else error * trace.keep
        error = self._chosen(lambda kind: BACKWARD[kind](behind, trace.z, trace.a))
        if self.norm is not None and trace.normed is not None:
            error = self.norm.backward(error, *trace.normed)
        torch.sum(error, 1, out=self.bias_grad)
        for block in self.blocks:
            block.backward(error, trace.before, out)

    def _chosen(self, compute: Callable[[str], Tensor]) -> Tensor:
        """Return every row computed by its own kind; a kernel for each kind, not for each slot."""
        (first, _), *others = self.activations
        chosen = compute(first)
        for kind, rows in others:
            chosen = torch.where(rows, compute(kind), chosen)
        return chosen


@dataclass(frozen=True)
class Noise:
    """Dropout of the units of all layers, one row each, from the stream of `noise.uniforms`."""

    positions: Tensor
    """int32 `(ΣH, b)`: row of the minibatch times the slot's width, plus unit."""
    layer_of_row: Tensor
    threshold: Tensor
    """Dropout, or `NEVER`, `(ΣH, 1)`."""
    scale: Tensor
    sizes: list[int]

    def keep(self, keys: Tensor) -> list[Tensor]:
        """Return factors `(H, b)` by layer; `keys` are int32, one for each layer."""
        noise = uniforms_at(self.positions, keys.index_select(0, self.layer_of_row).unsqueeze(1))
        factors = (noise > self.threshold) * self.scale
        return [factors[rows] for rows in _slices(self.sizes)]


@dataclass(frozen=True)
class Layers:
    """All heads from the input to the logits."""

    hidden: list[Hidden]
    outputs: list[tuple[int, Block]]
    """The maps to the logits, each with the hidden layer that it reads."""
    bias: Tensor
    """Of the logits, `(K * c,)`."""
    bias_grad: Tensor
    noise: Noise | None
    """None where no slot drops anything."""

    def forward(self, x: Tensor, keep: Sequence[Tensor] | None) -> tuple[list[Trace], Tensor]:
        """Return traces of the hidden layers, and logits `(K * c, b)`, of inputs `(d, b)`.

        `keep` holds what `Noise.keep` gave; None drops nothing.
        """
        traces: list[Trace] = []
        a = x
        for depth, layer in enumerate(self.hidden):
            traces.append(layer.forward(a, None if keep is None else keep[depth]))
            a = traces[-1].after
        logits = x.new_empty(len(self.bias), x.shape[1])
        for depth, block in self.outputs:
            block.forward(traces[depth].after, logits)
        return traces, logits.add_(self.bias.unsqueeze(1))

    def backward(self, traces: Sequence[Trace], error: Tensor) -> None:
        """Fill all gradients from the errors of the logits `(K * c, b)`."""
        errors = [torch.empty_like(trace.a) for trace in traces]
        torch.sum(error, 1, out=self.bias_grad)
        for depth, block in self.outputs:
            block.backward(error, traces[depth].after, errors[depth])
        for depth in reversed(range(len(traces))):
            before = errors[depth - 1] if depth > 0 else None
            self.hidden[depth].backward(errors[depth], traces[depth], before)


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
        rows = _slices([m.widths[depth] for m in here])
        first_row |= {m.slot.number: r.start for m, r in zip(here, rows, strict=True)}
    n_labels = len(members[0].params[-1])
    outputs: list[tuple[int, Block]] = []
    for widths, run in groupby(members, key=lambda m: m.widths):
        ending = list(run)
        after = outputs[-1][1].rows.stop if outputs else 0
        before = first_row[ending[0].slot.number]
        outputs.append((len(widths) - 1, _stack(ending, [-2] * len(ending), before, after)))
    bias, bias_grad = (members[0].params[-1].new_zeros(len(members) * n_labels) for _ in range(2))
    for member, rows_of in zip(members, _slices([n_labels] * len(members)), strict=True):
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
    for member, rows in zip(members, _slices(widths), strict=True):
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
    for member, rows in zip(members, _slices(widths), strict=True):
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
    for member, rows in zip(members, _slices(widths), strict=True):
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


def _slices(widths: Sequence[int]) -> list[slice]:
    """Return rows of each slot in a matrix that holds one after another."""
    return [slice(start, stop) for start, stop in pairwise(accumulate(widths, initial=0))]
