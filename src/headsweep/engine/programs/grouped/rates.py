"""Learning rates and bias corrections of all slots for the steps of an epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headsweep.engine.numerics.schedule import one_cycle
from headsweep.engine.slots import Slot


def step_rates(slots: Sequence[Slot], steps: int) -> NDArray[np.float32]:
    """Compute the numbers that the updates of the next steps read, in float64.

    Args:
        slots: in the order of their numbers in the tables.
        steps: how many.

    Returns:
        `(steps, K, 4)`: the learning rate; the factor of decoupled weight decay; the learning rate
        over the bias correction of the first moment; and one over the root of the second's.
    """
    training = [slot.config.training for slot in slots]
    spe = _column([slot.steps_per_epoch for slot in slots])
    step = _column([slot.step for slot in slots]) + np.arange(steps, dtype=np.float64)
    base = _column([t.learning_rate for t in training])
    rounded = [
        round(t.warmup_epochs * slot.steps_per_epoch)
        for t, slot in zip(training, slots, strict=True)
    ]
    warmup, total = _column(rounded), _column([t.max_epochs for t in training]) * spe
    progress = np.minimum(1.0, (step - warmup) / np.maximum(1.0, total - warmup))
    cosine = base * 0.5 * (1 + np.cos(np.pi * progress))
    constant = _column([float(t.schedule == "constant") for t in training]) > 0
    rate = np.where(constant, base, cosine)
    rate = np.where(step < warmup, base * (step + 1) / np.maximum(1.0, warmup), rate)
    for k, t in enumerate(training):
        if t.schedule == "one_cycle":
            rate[k] = [one_cycle(t, int(s), int(total[k, 0])) for s in step[k]]
    decay = 1 - rate * _column([t.weight_decay for t in training])
    first = 1 - _column([t.betas[0] for t in training]) ** (step + 1)
    second = 1 - _column([t.betas[1] for t in training]) ** (step + 1)
    rates = np.stack([rate, decay, rate / first, 1 / np.sqrt(second)], axis=2)
    return np.ascontiguousarray(rates.swapaxes(0, 1), dtype=np.float32)


def _column(values: Sequence[float]) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)[:, None]
