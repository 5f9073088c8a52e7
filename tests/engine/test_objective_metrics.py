"""The metric that chooses the best epoch, and the metrics of that epoch."""

from typing import Any

import numpy as np
import pytest

from headsweep.data.dataset import Split
from headsweep.engine.engine import Engine
from headsweep.engine.slots import EpochReport
from headsweep.evaluation.predictions import predict, retrieval_ranks
from headsweep.metrics.retrieval import recall_at
from headsweep.metrics.trial_metrics import trial_metrics
from headsweep.settings import EngineSettings
from tests.helpers.splits import config

CASES = [
    ("linear", "auprc_macro"),
    ("linear", "auroc_macro"),
    ("linear", "balanced_accuracy"),
    ("mlp", "auprc_skill"),
    ("retrieval", "recall_at_10"),
]


def trained(
    splits: tuple[Split, Split], head: str, metric: str, **settings: Any
) -> tuple[Engine, int, list[EpochReport]]:
    one = config(
        f"head={head}", f"training.metric={metric}", "training.learning_rate=0.05",
        *(f"training.{key}={value}" for key, value in settings.items()),
    )  # fmt: skip
    engine = Engine(*splits, EngineSettings(device="cpu", slots=2))
    slot = engine.replay(one).slot
    while not (history := engine.history(slot)) or not history[-1].finished:
        engine.run_epoch()
    return engine, slot, list(history)


@pytest.mark.parametrize(("head", "metric"), CASES)
def test_best_epoch_is_that_of_the_metric_and_its_metrics_are_those_of_the_exported_head(
    splits: tuple[Split, Split], head: str, metric: str
) -> None:
    engine, slot, history = trained(splits, head, metric, max_epochs=12)
    values = [report.value for report in history]
    assert history[-1].best_epoch == 1 + int(np.argmax(values))
    assert history[-1].best_value == max(values)
    found = engine.metrics(slot)
    predictor, valid = engine.predictor(slot), splits[1]
    of_head = predict(predictor, valid)
    expected = trial_metrics(of_head.targets, of_head.ranking[None], of_head.scores[None])
    expected = {name: float(values[0]) for name, values in expected.items()}
    if head == "retrieval":
        ranks = retrieval_ranks(predictor, valid)["visual_to_text"]
        expected["recall_at_10"] = recall_at(ranks, 10)
    assert found == pytest.approx(expected, abs=2e-4)
    assert found[metric] == pytest.approx(max(values), abs=1e-9)


def test_training_stops_early_by_the_metric(splits: tuple[Split, Split]) -> None:
    _, _, history = trained(
        splits, "linear", "balanced_accuracy", max_epochs=200, early_stopping_patience=3
    )
    assert len(history) < 200
    assert len(history) == history[-1].best_epoch + 3
    assert history[-1].metrics["val/balanced_accuracy"] == history[-1].value
