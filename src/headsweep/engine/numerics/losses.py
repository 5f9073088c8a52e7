"""Multi-label losses and their gradients with respect to the logits, elementwise.

Every function takes logits and targets of the same layout; hyperparameters are floats for one slot
or tensors that broadcast against the layout for a stack of slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from headsweep.config.training_section import TrainingConfig

Hyper = float | Tensor

SMALLEST_PROBABILITY = 1e-8


@dataclass(frozen=True)
class LossSettings:
    """A loss by name with its hyperparameters; `pos_weight` broadcasts over the label axis."""

    kind: str
    pos_weight: Tensor
    label_smoothing: Hyper
    focal_gamma: Hyper
    focal_alpha: Hyper
    gamma_neg: Hyper
    gamma_pos: Hyper
    clip: Hyper


def loss_settings(training: TrainingConfig, pos_weight: Tensor) -> LossSettings:
    """Return the loss of one slot; `pos_weight` `(c,)` is capped at `training.pos_weight_cap`."""
    return LossSettings(
        kind=training.loss,
        pos_weight=pos_weight.clamp(max=training.pos_weight_cap),
        label_smoothing=training.label_smoothing,
        focal_gamma=training.focal_gamma,
        focal_alpha=training.focal_alpha,
        gamma_neg=training.asymmetric_gamma_neg,
        gamma_pos=training.asymmetric_gamma_pos,
        clip=training.asymmetric_clip,
    )


def stack_settings(slots: Sequence[LossSettings]) -> LossSettings:
    """Return the losses of K slots of one kind, for logits `(K, c, b)`.

    A power of a number is rounded differently than a power of a tensor, so settings are tensors
    even if all slots agree; only without smoothing both are equal.
    """

    def column(values: Sequence[Hyper]) -> Tensor:
        return torch.tensor([float(v) for v in values], device=slots[0].pos_weight.device).view(
            -1, 1, 1
        )

    smoothing = [slot.label_smoothing for slot in slots]
    return LossSettings(
        kind=slots[0].kind,
        pos_weight=torch.stack([slot.pos_weight for slot in slots]).unsqueeze(2),
        label_smoothing=column(smoothing) if any(smoothing) else 0.0,
        focal_gamma=column([slot.focal_gamma for slot in slots]),
        focal_alpha=column([slot.focal_alpha for slot in slots]),
        gamma_neg=column([slot.gamma_neg for slot in slots]),
        gamma_pos=column([slot.gamma_pos for slot in slots]),
        clip=column([slot.clip for slot in slots]),
    )


def loss(logits: Tensor, targets: Tensor, settings: LossSettings) -> Tensor:
    """Return the elementwise loss."""
    return LOSSES[settings.kind](logits, _smooth(targets, settings.label_smoothing), settings)


def gradient_(logits: Tensor, targets: Tensor, settings: LossSettings) -> Tensor:
    """Return the elementwise derivative of the loss by the logits, written over the logits."""
    smoothed = _smooth(targets, settings.label_smoothing)
    if settings.kind == "bce":
        return logits.sigmoid_().sub_(smoothed)
    return logits.copy_(GRADIENTS[settings.kind](logits, smoothed, settings))


def _smooth(targets: Tensor, smoothing: Hyper) -> Tensor:
    if isinstance(smoothing, float) and smoothing == 0:
        return targets
    return targets * (1 - smoothing) + 0.5 * smoothing


def _bce(z: Tensor, y: Tensor, s: LossSettings) -> Tensor:
    return -(y * logsigmoid(z) + (1 - y) * logsigmoid(-z))


def _weighted_bce(z: Tensor, y: Tensor, s: LossSettings) -> Tensor:
    return -(s.pos_weight * y * logsigmoid(z) + (1 - y) * logsigmoid(-z))


def _weighted_bce_gradient(z: Tensor, y: Tensor, s: LossSettings) -> Tensor:
    p = torch.sigmoid(z)
    return p * (1 - y) - s.pos_weight * y * (1 - p)


def _focal(z: Tensor, y: Tensor, s: LossSettings) -> Tensor:
    """Return the focal loss (Lin et al. 2017, equation 5), as a mixture over soft targets."""
    p = torch.sigmoid(z)
    positive = s.focal_alpha * (1 - p) ** s.focal_gamma * -logsigmoid(z)
    negative = (1 - s.focal_alpha) * p**s.focal_gamma * -logsigmoid(-z)
    return y * positive + (1 - y) * negative


def _focal_gradient(z: Tensor, y: Tensor, s: LossSettings) -> Tensor:
    p = torch.sigmoid(z)
    q = 1 - p
    positive = q**s.focal_gamma * (s.focal_gamma * p * logsigmoid(z) - q)
    negative = p**s.focal_gamma * (p - s.focal_gamma * q * logsigmoid(-z))
    return y * s.focal_alpha * positive + (1 - y) * (1 - s.focal_alpha) * negative


def _asymmetric(z: Tensor, y: Tensor, s: LossSettings) -> Tensor:
    """Return the asymmetric loss (Ridnik et al. 2021, equation 7).

    Negatives easier than `clip` weigh nothing.
    """
    p = torch.sigmoid(z)
    shifted = (p - s.clip).clamp(min=SMALLEST_PROBABILITY)
    positive = (1 - p) ** s.gamma_pos * -logsigmoid(z)
    negative = shifted**s.gamma_neg * -torch.log1p(-shifted.clamp(max=1 - 1e-7))
    return y * positive + (1 - y) * negative


def _asymmetric_gradient(z: Tensor, y: Tensor, s: LossSettings) -> Tensor:
    p = torch.sigmoid(z)
    q = 1 - p
    shifted = (p - s.clip).clamp(min=SMALLEST_PROBABILITY)
    bounded = shifted.clamp(max=1 - 1e-7)
    counts = (shifted > SMALLEST_PROBABILITY) * p * q
    positive = q**s.gamma_pos * (s.gamma_pos * p * logsigmoid(z) - q)
    negative = counts * (
        shifted**s.gamma_neg / (1 - bounded)
        - s.gamma_neg * shifted ** (s.gamma_neg - 1) * torch.log1p(-bounded)
    )
    return y * positive + (1 - y) * negative


_Elementwise = Callable[[Tensor, Tensor, LossSettings], Tensor]

LOSSES: dict[str, _Elementwise] = {
    "bce": _bce,
    "weighted_bce": _weighted_bce,
    "focal": _focal,
    "asymmetric": _asymmetric,
}
GRADIENTS: dict[str, _Elementwise] = {
    "weighted_bce": _weighted_bce_gradient,
    "focal": _focal_gradient,
    "asymmetric": _asymmetric_gradient,
}
