"""One optimiser step for one slot: PyTorch's own fused kernels, called without their wrappers.

The wrappers of `torch.optim` cost more than a linear head's whole update; the operators below are
the ones they call, so the numbers are those of `torch.optim.AdamW` and `SGD` with `fused=True`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from headsweep.config import TrainingConfig

EPSILON = 1e-8


class Optimizer(ABC):
    """Moments of one slot's parameters, updated in place."""

    def __init__(self, params: Sequence[Tensor], training: TrainingConfig) -> None:
        self.params = list(params)
        self.training = training

    def step(self, grads: Sequence[Tensor], learning_rate: float) -> None:
        """Update the parameters from gradients of the same shapes; clips them in place."""
        if self.training.clip_norm is not None:
            _clip(grads, self.training.clip_norm)
        self._update(list(grads), learning_rate)

    @abstractmethod
    def _update(self, grads: list[Tensor], learning_rate: float) -> None: ...


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    def __init__(self, params: Sequence[Tensor], training: TrainingConfig) -> None:
        super().__init__(params, training)
        self.exp_avgs = [torch.zeros_like(p) for p in self.params]
        self.exp_avg_sqs = [torch.zeros_like(p) for p in self.params]
        self.steps = [torch.zeros((), device=p.device) for p in self.params]

    def _update(self, grads: list[Tensor], learning_rate: float) -> None:
        for step in self.steps:
            step += 1
        torch.ops.aten._fused_adamw_(
            self.params,
            grads,
            self.exp_avgs,
            self.exp_avg_sqs,
            [],
            self.steps,
            lr=learning_rate,
            beta1=self.training.beta1,
            beta2=self.training.beta2,
            weight_decay=self.training.weight_decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and coupled weight decay."""

    def __init__(self, params: Sequence[Tensor], training: TrainingConfig) -> None:
        super().__init__(params, training)
        self.momenta = [torch.zeros_like(p) for p in self.params]
        self.first = True

    def _update(self, grads: list[Tensor], learning_rate: float) -> None:
        torch.ops.aten._fused_sgd_(
            self.params,
            grads,
            self.momenta,
            lr=learning_rate,
            momentum=self.training.momentum,
            weight_decay=self.training.weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=self.first,
        )
        self.first = False


def make_optimizer(params: Sequence[Tensor], training: TrainingConfig) -> Optimizer:
    """The optimiser that `training.optimizer` names."""
    return AdamW(params, training) if training.optimizer == "adamw" else SGD(params, training)


def _clip(grads: Sequence[Tensor], max_norm: float) -> None:
    """Scale gradients in place to a total norm of at most `max_norm`, as PyTorch does."""
    total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))
    scale = (max_norm / (total + 1e-6)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(scale)
