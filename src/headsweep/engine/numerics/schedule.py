"""Learning rate by step."""

from __future__ import annotations

import math

from headsweep.config.training_section import TrainingConfig

RISE_FROM = 25.0
"""Largest over first learning rate of `one_cycle`."""

FALL_TO = 1e4
"""First over last learning rate of `one_cycle`."""


def learning_rate(training: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of optimizer step `step` (0-based).

    Rises linearly over `warmup_epochs`, then stays constant, or falls along half a cosine to zero
    at the end of `max_epochs` (Loshchilov & Hutter 2017); or goes through one cycle.
    """
    if training.schedule == "one_cycle":
        return one_cycle(training, step, training.max_epochs * steps_per_epoch)
    warmup = round(training.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    if training.schedule == "constant":
        return training.learning_rate
    total = training.max_epochs * steps_per_epoch
    progress = (step - warmup) / max(1, total - warmup)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def one_cycle(training: TrainingConfig, step: int, total: int) -> float:
    """Return the learning rate of step `step` (0-based) of `total`, as PyTorch's `OneCycleLR`.

    The rate rises along half a cosine from 1/25 of `learning_rate`, which it reaches after
    `one_cycle_rise` of all steps, and falls along another one to 1/250,000 (Smith & Topin 2018).
    """
    largest = training.learning_rate
    peak, last = training.one_cycle_rise * total - 1, total - 1
    if step < peak:
        return _between(largest / RISE_FROM, largest, step / peak)
    share = (step - peak) / (last - peak) if last > peak else 0.0
    return _between(largest, largest / RISE_FROM / FALL_TO, min(1.0, share))


def _between(start: float, end: float, share: float) -> float:
    """Return the value at a share of the way along half a cosine."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
