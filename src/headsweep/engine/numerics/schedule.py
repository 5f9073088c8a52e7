"""Learning rate by step."""

from __future__ import annotations

import math

from headsweep.config.schema import TrainingConfig


def learning_rate(training: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of optimizer step `step` (0-based).

    Rises linearly over `warmup_epochs`, then stays constant, or falls along half a cosine to zero
    at the end of `max_epochs` (Loshchilov & Hutter 2017).
    """
    warmup = round(training.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    if training.schedule == "constant":
        return training.learning_rate
    total = training.max_epochs * steps_per_epoch
    progress = (step - warmup) / max(1, total - warmup)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
