"""MLP heads: a hand-written forward and backward pass for each slot at its true widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor, nn

from headsweep.config.head_section import MLPConfig
from headsweep.engine.inputs import Inputs, Variant
from headsweep.engine.numerics.dropout_noise import kept, uniforms
from headsweep.engine.numerics.losses import gradient_, loss_settings
from headsweep.engine.programs.per_slot import SingleTrainer, SlotwiseProgram
from headsweep.engine.slots import Slot
from headsweep.heads.base import Head

LAYER_NORM_EPSILON = 1e-5

aten = torch.ops.aten


@dataclass(frozen=True)
class MLPBatch:
    """A minibatch: inputs `(b, d)`, targets `(b, c)`, and the dropout noise of every layer.

    `weights` are those of `Inputs.loss_weights`.
    """

    x: Mapping[Variant, Tensor]
    targets: Tensor
    weights: Tensor | None
    noise: tuple[Tensor, ...]


@dataclass(frozen=True)
class _Layer:
    """Values of one hidden layer's forward pass that its backward pass needs."""

    before: Tensor
    """Input of the linear map `(b, h_in)`."""
    normed: tuple[Tensor, Tensor, Tensor] | None
    """Linear output, mean and reciprocal deviation of layer normalization."""
    pre: Tensor
    """Input of the activation; for relu and tanh its output, which gives their derivative."""
    noise: Tensor | None
    """None also if `pre` shows which inputs were dropped."""


class MLPTrainer(SingleTrainer[MLPBatch]):
    """One MLP; its gradients are those of autograd, computed without building a graph."""

    def __init__(self, slot: Slot, inputs: Inputs) -> None:
        super().__init__(slot, inputs)
        assert isinstance(slot.config.head, MLPConfig)
        self.config = slot.config.head
        self.x_valid = inputs.matrix(self.variant, valid=True)
        self.loss = loss_settings(slot.config.training, inputs.pos_weight)
        self.params_a_layer = 4 if self.config.norm == "layer" else 2

    @staticmethod
    def first_layers(head: Head) -> Sequence[nn.Parameter]:
        """Return the first hidden layer's weights."""
        return [next(head.parameters())]

    def compute_gradients(self, batch: MLPBatch) -> None:
        """Run forward, loss gradient and backward."""
        layers: list[_Layer] = []
        a = batch.x[self.variant]
        for depth, width in enumerate(self.config.widths):
            layer, a = self._forward_layer(depth, width, a, batch)
            layers.append(layer)
        weight, bias = self.params[-2:]
        logits = torch.addmm(bias, a, weight.T, alpha=self._gain(len(layers)))
        error = gradient_(logits, batch.targets, self.loss)
        error.mul_(1 / error.numel() if batch.weights is None else batch.weights)
        error = self._backward_linear(len(layers), a, error)
        for depth in reversed(range(len(layers))):
            error = self._backward_layer(depth, layers[depth], error)

    def validate(self) -> Tensor:
        """Return logits `(n_valid, c)` of the head's own forward pass."""
        self.head.eval()
        logits: Tensor = self.head(self.x_valid)
        return logits

    def _forward_layer(
        self, depth: int, width: int, before: Tensor, batch: MLPBatch
    ) -> tuple[_Layer, Tensor]:
        weight, bias, *norm = self._layer_params(depth)
        z = torch.addmm(bias, before, weight.T, alpha=self._gain(depth))
        normed = None
        if norm:
            linear = z
            scale, shift = norm
            z, mean, rstd = torch.native_layer_norm(
                linear, (width,), scale, shift, LAYER_NORM_EPSILON
            )
            normed = (linear, mean, rstd)
        match self.config.activation:
            case "relu":
                pre = a = z.relu_()
            case "tanh":
                pre = a = z.tanh_()
            case "gelu":
                pre, a = z, aten.gelu(z)
            case "silu":
                pre, a = z, aten.silu(z)
        noise = None
        if self.config.dropout > 0:
            noise = batch.noise[depth][: z.numel()].view_as(z)
            a = kept(a, noise, self.config.dropout)
            if self.config.activation == "relu":
                pre, noise = a, None
        return _Layer(before, normed, pre, noise), a

    def _backward_layer(self, depth: int, layer: _Layer, error: Tensor) -> Tensor:
        """Fill the layer's gradients.

        Returns:
            The error `(b, h_in)` of the layer before.
        """
        if layer.noise is not None:
            error = kept(error, layer.noise, self.config.dropout)
        match self.config.activation:
            case "relu":
                error = aten.threshold_backward(error, layer.pre, 0)
            case "tanh":
                error = aten.tanh_backward(error, layer.pre)
            case "gelu":
                error = aten.gelu_backward(error, layer.pre)
            case "silu":
                error = aten.silu_backward(error, layer.pre)
        if layer.normed is not None:
            linear, mean, rstd = layer.normed
            norm = self._layer_params(depth)[2:]
            error, *norm_grads = aten.native_layer_norm_backward(
                error, linear, linear.shape[1:], mean, rstd, *norm, [True, True, True]
            )
            first = depth * self.params_a_layer
            for grad, norm_grad in zip(self.grads[first + 2 : first + 4], norm_grads, strict=True):
                grad.copy_(norm_grad)
        return self._backward_linear(depth, layer.before, error)

    def _backward_linear(self, depth: int, before: Tensor, error: Tensor) -> Tensor:
        """Fill a linear map's gradients.

        Returns:
            The error `(b, h_in)` of its input.
        """
        first, gain = depth * self.params_a_layer, self._gain(depth)
        grad = self.grads[first]
        torch.addmm(grad, error.T, before, beta=0, alpha=gain, out=grad)
        torch.sum(error, 0, out=self.grads[first + 1])
        if depth == 0:
            return error
        return torch.addmm(before, error, self.params[first], beta=0, alpha=gain)

    def _gain(self, depth: int) -> float:
        """Return the inverted-dropout scale 1/(1-p), a free `alpha` of matrix products."""
        return 1 / (1 - self.config.dropout) if depth > 0 else 1.0

    def _layer_params(self, depth: int) -> list[Tensor]:
        first = depth * self.params_a_layer
        return self.params[first : first + self.params_a_layer]


class MLPProgram(SlotwiseProgram[MLPBatch, MLPTrainer]):
    """Slots of any input, depth, width, activation and dropout on one tape."""

    def trainer(self, slot: Slot) -> MLPTrainer:
        """Return an MLP trainer."""
        return MLPTrainer(slot, self.inputs)

    def prepare_batch(
        self, rows: Tensor, tape_step: int, members: Sequence[MLPTrainer]
    ) -> MLPBatch:
        """Gather the rows, and draw dropout noise for the widest slot of every layer.

        Returns:
            The minibatch.
        """
        dropping = [m.config.widths for m in members if m.config.dropout > 0]
        widest = [max(layer) for layer in zip_longest(*dropping, fillvalue=0)]
        return MLPBatch(
            x=self.gather(rows, members),
            targets=self.inputs.targets.index_select(0, rows),
            weights=self.inputs.loss_weights(rows),
            noise=tuple(
                uniforms(self.key.seed, tape_step, layer, len(rows) * width, rows.device)
                for layer, width in enumerate(widest)
            ),
        )
