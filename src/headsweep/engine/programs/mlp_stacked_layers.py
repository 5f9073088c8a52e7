"""Layers of many MLPs side by side: true widths, no padding, kernels that serve all slots at once.

Activations of a layer are one matrix `(H, b)`: the units of all slots that have the layer, one
slot after another. Slots are ordered by their widths, so that those with a layer of one shape are
neighbours and one batched product serves them; the first layer, whose input all share, is a single
product. A slot without a further layer goes from its last one to the logits.
`mlp_stacked_layout` builds the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from headsweep.engine.numerics.dropout_noise import uniforms_at
from headsweep.engine.programs.mlp import LAYER_NORM_EPSILON

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
    """Values of a hidden layer's forward pass that its backward pass needs; matrices `(H, b)`."""

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
    """Dropout of the units of all layers, a row each: `dropout_noise.uniforms` at positions."""

    positions: Tensor
    """int32 `(ΣH, b)`: row of the minibatch times the slot's width, plus unit."""
    layer_of_row: Tensor
    threshold: Tensor
    """Dropout `(ΣH, 1)`; below 0 for units that are never dropped."""
    scale: Tensor
    sizes: list[int]

    def keep(self, keys: Tensor) -> list[Tensor]:
        """Return factors `(H, b)` by layer; `keys` are int32, one for each layer."""
        noise = uniforms_at(self.positions, keys.index_select(0, self.layer_of_row).unsqueeze(1))
        factors = (noise > self.threshold) * self.scale
        return [factors[rows] for rows in slices(self.sizes)]


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


def slices(widths: Sequence[int]) -> list[slice]:
    """Return rows of each slot in a matrix that holds one after another."""
    return [slice(start, stop) for start, stop in pairwise(accumulate(widths, initial=0))]
