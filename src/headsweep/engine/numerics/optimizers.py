"""One optimizer step for one slot: PyTorch's own fused kernels, called without their wrappers.

The wrappers of `torch.optim` cost more than a linear head's whole update; the functions below are
the ones they call, so the numbers are those of `torch.optim.AdamW` and `SGD` with `fused=True`.
One call updates one slot: a fused kernel moves 28 bytes a parameter, while a stack of slots with
rates and decays of their own could only be updated by a chain of elementwise kernels, which moves
four times as many.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from headsweep.config.training_section import TrainingConfig


class Optimizer(ABC):
    """Updates one slot's parameters in place from gradients in fixed buffers."""

    def __init__(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], training: TrainingConfig
    ) -> None:
        self.training = training
        self.bind(params, grads)

    def bind(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Use copies of the same parameters and gradient buffers at other addresses.

        An update is elementwise, so it uses the order in memory: PyTorch's kernels would copy a
        gradient that is stored column by column.
        """
        self.params, self.grads = in_memory_order(params), in_memory_order(grads)

    def clip(self) -> None:
        """Scale the gradients in place to a total norm of at most `clip_norm`, as PyTorch does.

        The step's last allocation.
        """
        if self.training.clip_norm is not None:
            total = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self.grads)))
            scale = (self.training.clip_norm / (total + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(self.grads, scale)

    @abstractmethod
    def step(self, learning_rate: float | Tensor, count: int | Tensor) -> None:
        """Take the `count`-th update of the parameters, counted from 1.

        Both are numbers, or scalars on the device, so that a step can be recorded.
        """

    @abstractmethod
    def moments(self) -> dict[str, Tensor]:
        """Return the tensors of the optimizer's state, by name, not copied."""


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    def __init__(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], training: TrainingConfig
    ) -> None:
        super().__init__(params, grads, training)
        self.exp_avgs = [torch.zeros_like(p) for p in params]
        self.exp_avg_sqs = [torch.zeros_like(p) for p in params]
        self.averages = in_memory_order(self.exp_avgs), in_memory_order(self.exp_avg_sqs)
        self.betas = training.betas
        self.count = torch.zeros((), device=self.params[0].device)
        self.counts = [self.count] * len(self.params)

    def moments(self) -> dict[str, Tensor]:
        """Return first and second moments; the number of steps is the slot's."""
        first = {f"exp_avg.{i}": moment for i, moment in enumerate(self.exp_avgs)}
        second = {f"exp_avg_sq.{i}": moment for i, moment in enumerate(self.exp_avg_sqs)}
        return {**first, **second}

    def step(self, learning_rate: float | Tensor, count: int | Tensor) -> None:
        """Take the update of `torch.optim.AdamW`."""
        if isinstance(count, Tensor):
            counts = [count] * len(self.params)
        else:
            self.count.fill_(count)
            counts = self.counts
        torch._fused_adamw_(
            self.params,
            self.grads,
            *self.averages,
            [],
            counts,
            lr=learning_rate,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.training.weight_decay,
            eps=self.training.adam_epsilon,
            amsgrad=False,
            maximize=False,
        )


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and coupled weight decay."""

    def __init__(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], training: TrainingConfig
    ) -> None:
        super().__init__(params, grads, training)
        self.momenta = [torch.zeros_like(p) for p in params]
        self.stored_momenta = in_memory_order(self.momenta)

    def moments(self) -> dict[str, Tensor]:
        """Return the momenta."""
        return {f"momentum.{i}": momentum for i, momentum in enumerate(self.momenta)}

    def step(self, learning_rate: float | Tensor, count: int | Tensor) -> None:
        """Take the update of `torch.optim.SGD`."""
        torch._fused_sgd_(
            self.params,
            self.grads,
            self.stored_momenta,
            lr=learning_rate,
            momentum=self.training.momentum,
            weight_decay=self.training.weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,  # momenta start at zero, so the first step is like the others
        )


def in_memory_order(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return views `(n,)` of matrices and vectors, in the order of their elements in memory."""
    return [(t if t.is_contiguous() else t.T).view(-1) for t in tensors]


def make_optimizer(
    params: Sequence[Tensor], grads: Sequence[Tensor], training: TrainingConfig
) -> Optimizer:
    """Return the optimizer that `training.optimizer` names."""
    kind = AdamW if training.optimizer == "adamw" else SGD
    return kind(params, grads, training)
