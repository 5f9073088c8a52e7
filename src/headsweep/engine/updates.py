"""Optimiser steps whose rate and count are tensors on the device, so that they can be recorded.

The kernels are those of `optim`, which takes both as numbers from the host. One call updates one
slot: a fused kernel moves 28 bytes a parameter, while a stack of slots with rates and decays of
their own could only be updated by a chain of elementwise kernels, which moves four times as many.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from headsweep.config import TrainingConfig
from headsweep.engine.optim import EPSILON


class Update(ABC):
    """One slot's moments, and how they change its parameters."""

    def __init__(self, params: Sequence[Tensor], training: TrainingConfig) -> None:
        self.training = training

    def clip(self, grads: list[Tensor]) -> None:
        """Scale gradients in place to a total norm of at most `clip_norm`, as PyTorch does."""
        if self.training.clip_norm is None:
            return
        total = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        torch._foreach_mul_(grads, (self.training.clip_norm / (total + 1e-6)).clamp(max=1.0))

    @abstractmethod
    def step(self, params: list[Tensor], grads: list[Tensor], rate: Tensor, count: Tensor) -> None:
        """Update parameters in place; `rate` and `count` (steps, this one included) are scalars."""

    @abstractmethod
    def moments(self) -> dict[str, Tensor]:
        """The live moments, named as `optim` names them."""


class AdamWUpdate(Update):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    def __init__(self, params: Sequence[Tensor], training: TrainingConfig) -> None:
        super().__init__(params, training)
        self.exp_avgs = [torch.zeros_like(p) for p in params]
        self.exp_avg_sqs = [torch.zeros_like(p) for p in params]

    def step(self, params: list[Tensor], grads: list[Tensor], rate: Tensor, count: Tensor) -> None:
        """One fused kernel."""
        torch._fused_adamw_(
            params,
            grads,
            self.exp_avgs,
            self.exp_avg_sqs,
            [],
            [count] * len(params),
            lr=rate,
            beta1=self.training.beta1,
            beta2=self.training.beta2,
            weight_decay=self.training.weight_decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def moments(self) -> dict[str, Tensor]:
        """First and second moments."""
        first = {f"exp_avg.{i}": moment for i, moment in enumerate(self.exp_avgs)}
        return first | {f"exp_avg_sq.{i}": moment for i, moment in enumerate(self.exp_avg_sqs)}


class SGDUpdate(Update):
    """Stochastic gradient descent with momentum and coupled weight decay."""

    def __init__(self, params: Sequence[Tensor], training: TrainingConfig) -> None:
        super().__init__(params, training)
        self.momenta = [torch.zeros_like(p) for p in params]

    def step(self, params: list[Tensor], grads: list[Tensor], rate: Tensor, count: Tensor) -> None:
        """One fused kernel."""
        torch._fused_sgd_(
            params,
            grads,
            self.momenta,
            lr=rate,
            momentum=self.training.momentum,
            weight_decay=self.training.weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,  # momenta start at zero, so the first step is like the others
        )

    def moments(self) -> dict[str, Tensor]:
        """The momenta."""
        return {f"momentum.{i}": momentum for i, momentum in enumerate(self.momenta)}


def make_update(params: Sequence[Tensor], training: TrainingConfig) -> Update:
    """The update that `training.optimizer` names."""
    kind = AdamWUpdate if training.optimizer == "adamw" else SGDUpdate
    return kind(params, training)
