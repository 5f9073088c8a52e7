"""Early stopping: how long a slot has not improved."""

from __future__ import annotations

import math
from collections import deque

from headsweep.config.training_section import TrainingConfig


class EarlyStopping:
    """Watches the moving average of one validation metric.

    An epoch improves if the mean of the last `early_stopping_window` values (of fewer in the first
    epochs) is better than that of every earlier epoch from `early_stopping_start_epoch` on.
    """

    def __init__(self, training: TrainingConfig) -> None:
        self.training = training
        self.epoch = 0
        self.improved_in = 0
        """Epoch of the last improvement."""
        self._best = -math.inf
        self._last: deque[float] = deque(maxlen=training.early_stopping_window)

    def update(self, *, auprc_macro: float, auroc_macro: float, loss: float, value: float) -> bool:
        """Take the metrics of the next epoch; they must be finite. `value` is `training.metric`.

        Returns:
            Whether the slot has run out of patience.
        """
        training = self.training
        self.epoch += 1
        match training.early_stopping_metric:
            case "auprc_macro":
                self._last.append(auprc_macro)
            case "auroc_macro":
                self._last.append(auroc_macro)
            case "loss":
                self._last.append(-loss)
            case None:
                self._last.append(value)
        if self.epoch < training.early_stopping_start_epoch:
            self.improved_in = self.epoch
            return False
        average = math.fsum(self._last) / len(self._last)
        if average > self._best:
            self._best, self.improved_in = average, self.epoch
        patience = training.early_stopping_patience
        return patience is not None and self.epoch - self.improved_in >= patience
