"""MLP heads: a hand-written forward and backward pass for each slot at its true widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor, nn

from headsweep.config.head_section import MLPConfig
from headsweep.engine.inputs import Inputs, Variant
from headsweep.engine.numerics.dropout_noise import apply_dropout, apply_dropout_, uniforms
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
class _Linear:
    """A linear map's weights and gradient buffers, with the views that its products read."""

    weight: Tensor
    transposed: Tensor
    """`weight.T`."""
    bias: Tensor
    weight_grad: Tensor
    bias_grad: Tensor
    gain: float
    """Inverted-dropout scale 1/(1-p) of its input, a free `alpha` of matrix products."""

    def forward(self, before: Tensor) -> Tensor:
        """Return the outputs `(b, h_out)` of inputs `(b, h_in)`."""
        return torch.addmm(self.bias, before, self.transposed, alpha=self.gain)

    def fill_gradients(self, before: Tensor, error: Tensor) -> None:
        """Compute the gradients of weight and bias from the output's error `(b, h_out)`."""
        grad = self.weight_grad
        torch.addmm(grad, error.T, before, beta=0, alpha=self.gain, out=grad)
        torch.sum(error, 0, out=self.bias_grad)

    def input_error(self, before: Tensor, error: Tensor) -> Tensor:
        """Return the error `(b, h_in)` of the input."""
        return torch.addmm(before, error, self.weight, beta=0, alpha=self.gain)


@dataclass(frozen=True)
class _Norm:
    """Scale and shift of layer normalization, and their gradient buffers."""

    scale: Tensor
    shift: Tensor
    scale_grad: Tensor
    shift_grad: Tensor

    def forward(self, linear: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the normalized rows, and the mean and reciprocal deviation of each row."""
        return torch.native_layer_norm(
            linear, linear.shape[1:], self.scale, self.shift, LAYER_NORM_EPSILON
        )

    def backward(self, linear: Tensor, mean: Tensor, rstd: Tensor, error: Tensor) -> Tensor:
        """Fill the gradients.

        Returns:
            The error of the linear map's output.
        """
        error, scale_grad, shift_grad = aten.native_layer_norm_backward.default(
            error, linear, linear.shape[1:], mean, rstd, self.scale, self.shift, [True, True, True]
        )
        self.scale_grad.copy_(scale_grad)
        self.shift_grad.copy_(shift_grad)
        return error


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
    """One MLP; its gradients are those of autograd, computed without building a graph.

    Activations and errors are overwritten where they are not needed again, so that those of a
    wide layer stay in the cache.
    """

    def __init__(self, slot: Slot, inputs: Inputs) -> None:
        super().__init__(slot, inputs)
        assert isinstance(slot.config.head, MLPConfig)
        self.config = slot.config.head
        self.x_valid = inputs.matrix(self.variant, valid=True)
        self.loss = loss_settings(slot.config.training, inputs.pos_weight)
        self.linears, self.norms = self._by_layer()

    @staticmethod
    def first_layers(head: Head) -> Sequence[nn.Parameter]:
        """Return the first hidden layer's weights."""
        return [next(head.parameters())]

    def compute_gradients(self, batch: MLPBatch) -> None:
        """Run forward, loss gradient and backward."""
        layers: list[_Layer] = []
        a = batch.x[self.variant]
        for depth in range(len(self.config.widths)):
            layer, a = self._forward_layer(depth, a, batch)
            layers.append(layer)
        output = self.linears[-1]
        error = gradient_(output.forward(a), batch.targets, self.loss)
        error.mul_(1 / error.numel() if batch.weights is None else batch.weights)
        output.fill_gradients(a, error)
        for depth in reversed(range(len(layers))):
            error = self.linears[depth + 1].input_error(a, error)
            error = self._backward_layer(depth, layers[depth], error)
            a = layers[depth].before
            self.linears[depth].fill_gradients(a, error)

    def validate(self) -> Tensor:
        """Return logits `(n_valid, c)` of the head's own forward pass."""
        self.head.eval()
        logits: Tensor = self.head(self.x_valid)
        return logits

    def _forward_layer(self, depth: int, before: Tensor, batch: MLPBatch) -> tuple[_Layer, Tensor]:
        z = self.linears[depth].forward(before)
        normed = None
        if self.norms:
            linear = z
            z, mean, rstd = self.norms[depth].forward(linear)
            normed = (linear, mean, rstd)
        match self.config.activation:
            case "relu":
                pre = a = z.relu_()
            case "tanh":
                pre = a = z.tanh_()
            case "gelu":
                pre, a = z, aten.gelu.default(z)
            case "silu":
                pre, a = z, aten.silu.default(z)
        noise = None
        if self.config.dropout > 0:
            noise = batch.noise[depth][: z.numel()].view_as(z)
            if self.config.activation == "tanh":
                a = apply_dropout(a, noise, self.config.dropout)
            else:
                apply_dropout_(a, noise, self.config.dropout)
            if self.config.activation == "relu":
                noise = None
        return _Layer(before, normed, pre, noise), a

    def _backward_layer(self, depth: int, layer: _Layer, error: Tensor) -> Tensor:
        """Return the error `(b, h)` of the linear map's output, written over that of the layer's.

        Fills the gradients of a normalization.
        """
        if layer.noise is not None:
            apply_dropout_(error, layer.noise, self.config.dropout)
        pre = layer.pre
        match self.config.activation:
            case "relu":
                aten.threshold_backward.grad_input(error, pre, 0, grad_input=error)
            case "tanh":
                aten.tanh_backward.grad_input(error, pre, grad_input=error)
            case "gelu":
                aten.gelu_backward.grad_input(error, pre, grad_input=error)
            case "silu":
                aten.silu_backward.grad_input(error, pre, grad_input=error)
        if layer.normed is not None:
            error = self.norms[depth].backward(*layer.normed, error)
        return error

    def _by_layer(self) -> tuple[list[_Linear], list[_Norm]]:
        """Return the linear maps, and the normalizations of hidden layers if there are any."""
        linears, norms = [], []
        params = iter(zip(self.params, self.grads, strict=True))
        for depth in range(len(self.config.widths) + 1):
            (weight, weight_grad), (bias, bias_grad) = next(params), next(params)
            gain = 1 / (1 - self.config.dropout) if depth > 0 else 1.0
            linears.append(_Linear(weight, weight.T, bias, weight_grad, bias_grad, gain))
            if self.config.norm == "layer" and depth < len(self.config.widths):
                (scale, scale_grad), (shift, shift_grad) = next(params), next(params)
                norms.append(_Norm(scale, shift, scale_grad, shift_grad))
        return linears, norms


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
