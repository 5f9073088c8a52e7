"""A slot: one trial in training, with its progress and its clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from headsweep.config.schema import Config
from headsweep.engine.early_stopping import EarlyStopping
from headsweep.engine.numerics.schedule import learning_rate


@dataclass(frozen=True)
class EpochReport:
    """Validation metrics of one slot after one epoch.

    `value` is the metric that `training.metric` names, by which the best epoch is chosen.
    `failure` says why the slot cannot be trained further; the metrics are then NaN. `finished` is
    set after `max_epochs`, on early stopping and on failure.
    """

    slot: int
    epoch: int
    auprc_macro: float
    auroc_macro: float
    loss: float
    value: float
    best_value: float
    best_epoch: int
    finished: bool
    failure: str | None = None
    metric: str = "auprc_macro"
    """Name of the metric of `value`."""

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics under the names that files and loggers use."""
        return {
            "epoch": self.epoch,
            "val/auprc_macro": self.auprc_macro,
            "val/auroc_macro": self.auroc_macro,
            "val/loss": self.loss,
            f"val/{self.metric}": self.value,
        }


@dataclass
class Slot:
    """One trial in training.

    Attributes:
        number: unique in its engine and never used again.
        config: the trial's config.
        batch_size: rows of a minibatch, at most as many as there are training rows.
        steps_per_epoch: minibatches of an epoch.
        max_epochs: number of epochs after which the trial ends.
        step: optimizer steps taken so far.
        epoch: epochs validated so far.
    """

    number: int
    config: Config
    batch_size: int
    steps_per_epoch: int
    max_epochs: int
    step: int = 0
    epoch: int = 0
    best_value: float = -math.inf
    best_epoch: int = 0
    history: list[EpochReport] = field(default_factory=list)
    best_scores: Tensor | None = None
    """Validation scores `(c, n_valid)` of the best epoch, on the CPU; a restored slot has none
    until it improves."""
    early_stopping: EarlyStopping = field(init=False)

    def __post_init__(self) -> None:
        self.early_stopping = EarlyStopping(self.config.training)

    @property
    def taken(self) -> int:
        """Minibatches of the present epoch that the slot has taken; a solver takes none."""
        return max(0, self.step - self.epoch * self.steps_per_epoch)

    def next_learning_rate(self) -> float:
        """Advance the slot's clock by one step.

        Returns:
            The learning rate of that step.
        """
        rate = learning_rate(self.config.training, self.step, self.steps_per_epoch)
        self.step += 1
        return rate

    def count_epoch(self) -> None:
        """Count a validated epoch."""
        self.epoch += 1

    def set_clock(self, step: int, history: Sequence[EpochReport]) -> None:
        """Set the clock to that of an earlier run of the same config after these epochs."""
        self.step, self.epoch = step, len(history)
        self.history = [replace(report, slot=self.number) for report in history]
        self.best_value, self.best_epoch = (
            history[-1].best_value,
            history[-1].best_epoch,
        )
        self.early_stopping = EarlyStopping(self.config.training)
        for report in history:
            self._out_of_patience(report.auprc_macro, report.auroc_macro, report.loss, report.value)

    def finish_epoch(
        self, auprc_macro: float, auroc_macro: float, loss: float, value: float
    ) -> EpochReport:
        """Record an epoch's validation metrics; NaN means that the scores were not finite.

        Returns:
            The report of the epoch.
        """
        self.count_epoch()
        failure = None
        if not math.isfinite(value):
            failure = f"scores must be finite, found NaN or infinity in epoch {self.epoch}"
        elif value > self.best_value:
            self.best_value, self.best_epoch = value, self.epoch
        impatient = failure is None and self._out_of_patience(auprc_macro, auroc_macro, loss, value)
        report = EpochReport(
            slot=self.number,
            epoch=self.epoch,
            auprc_macro=auprc_macro,
            auroc_macro=auroc_macro,
            loss=loss,
            value=value,
            best_value=self.best_value,
            best_epoch=self.best_epoch,
            finished=failure is not None or self.epoch >= self.max_epochs or impatient,
            failure=failure,
            metric=self.config.training.metric,
        )
        self.history.append(report)
        return report

    def _out_of_patience(
        self, auprc_macro: float, auroc_macro: float, loss: float, value: float
    ) -> bool:
        return self.early_stopping.update(
            auprc_macro=auprc_macro, auroc_macro=auroc_macro, loss=loss, value=value
        )
