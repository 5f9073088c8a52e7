"""Early stopping against a plain loop over the whole history."""

import math
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headsweep.config.training_section import TrainingConfig
from headsweep.data.dataset import Split
from headsweep.engine.early_stopping import EarlyStopping
from headsweep.engine.slots import Slot
from headsweep.engine.train_configs import train_to_end
from headsweep.settings import EngineSettings
from tests.helpers.splits import config

Epoch = tuple[float, float, float, float]
WATCHED = ("auprc_macro", "auroc_macro", "loss", None)
"""Metrics in the order of an epoch's values; null watches the objective's."""

values = st.integers(0, 8).map(lambda n: n / 8)
trainings = st.builds(
    TrainingConfig,
    early_stopping_patience=st.none() | st.integers(1, 4),
    early_stopping_metric=st.sampled_from(WATCHED),
    early_stopping_window=st.integers(1, 4),
    early_stopping_start_epoch=st.integers(1, 6),
)


def stopped_in(epochs: list[Epoch], training: TrainingConfig) -> int | None:
    """The epoch after which training ends, from averages over the whole history."""
    column = WATCHED.index(training.early_stopping_metric)
    sign = -1 if training.early_stopping_metric == "loss" else 1
    series = [sign * epoch[column] for epoch in epochs]
    window, start = training.early_stopping_window, training.early_stopping_start_epoch
    average = [fmean(series[max(0, n - window) : n]) for n in range(1, len(series) + 1)]
    for epoch in range(start, len(series) + 1):
        watched = average[start - 1 : epoch]
        best = start + watched.index(max(watched))
        patience = training.early_stopping_patience
        if patience is not None and epoch - best >= patience:
            return epoch
    return None


def first_stop(epochs: list[Epoch], training: TrainingConfig) -> int | None:
    watch = EarlyStopping(training)
    for number, (auprc, auroc, loss, value) in enumerate(epochs, 1):
        if watch.update(auprc_macro=auprc, auroc_macro=auroc, loss=loss, value=value):
            return number
    return None


@given(st.lists(st.tuples(values, values, values, values), max_size=20), trainings)
def test_early_stopping_stops_where_a_plain_loop_does(
    epochs: list[Epoch], training: TrainingConfig
) -> None:
    assert first_stop(epochs, training) == stopped_in(epochs, training)


@given(st.lists(st.tuples(values, values, values, values), min_size=1, max_size=20), trainings)
def test_slot_that_is_restored_stops_in_the_same_epoch(
    epochs: list[Epoch], training: TrainingConfig
) -> None:
    one = config("training.max_epochs=1000").model_copy(update={"training": training})
    whole = Slot(0, one, 32, 5, 1000)
    reports = [whole.finish_epoch(*epoch) for epoch in epochs]
    cut = len(epochs) // 2
    if not cut:
        return
    resumed = Slot(1, one, 32, 5, 1000)
    resumed.set_clock(cut * 5, reports[:cut])
    again = [resumed.finish_epoch(*epoch) for epoch in epochs[cut:]]
    assert again == [replace(report, slot=1) for report in reports[cut:]]


def test_slot_with_scores_that_are_not_finite_fails() -> None:
    slot = Slot(0, config("training.early_stopping_metric=loss"), 32, 5, 10)
    report = slot.finish_epoch(math.nan, math.nan, math.nan, math.nan)
    assert report.finished
    assert report.failure


@pytest.mark.parametrize("metric", ["auprc_macro", "auroc_macro", "loss"])
def test_training_ends_by_the_watched_metric_and_returns_the_best_auprc(
    metric: str, splits: tuple[Split, Split]
) -> None:
    one = config(
        "training.max_epochs=200", "training.learning_rate=0.3", "training.schedule=constant",
        f"training.early_stopping_metric={metric}", "training.early_stopping_window=4",
        "training.early_stopping_start_epoch=5", "training.early_stopping_patience=3",
    )  # fmt: skip
    (trained,) = train_to_end([one], *splits, EngineSettings(device="cpu"))
    epochs = [(r.auprc_macro, r.auroc_macro, r.loss, r.value) for r in trained.history]
    assert len(epochs) == stopped_in(epochs, one.training) < 200
    assert trained.best_value == max(auprc for auprc, *_ in epochs)
