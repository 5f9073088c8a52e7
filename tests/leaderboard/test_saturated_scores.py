"""Heads whose probabilities round to 1 are ranked by logits, in training and on the board."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score

from headsweep.config.values import with_values
from headsweep.data.dataset import Dataset
from headsweep.engine.train_configs import train_to_end
from headsweep.evaluation.predictions import predict, read_predictions, write_predictions
from headsweep.evaluation.rules import CURRENT, RULES
from headsweep.evaluation.split_metrics import report_of
from headsweep.evaluation.summaries import choose_thresholds, measure
from headsweep.leaderboard.finalists import Finalist, confirm
from tests.leaderboard.conftest import SETTINGS


@pytest.fixture(scope="module")
def data_set() -> Dataset:
    """Labels that a linear head separates well, so that its logits become large."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((900, 12))
    targets = (x[:, :3] * 4 + rng.standard_normal((900, 3)) > 0).astype(int)
    return Dataset.from_arrays({"visual": x * 20}, targets, labels=["a", "b", "c"])


@pytest.fixture(scope="module")
def config(data_set):
    values = {
        "features.normalization": "none",
        "training.learning_rate": 1.0,
        "training.max_epochs": 8,
        "training.early_stopping_patience": None,
    }
    return with_values(data_set.config, values, where="test")


def macro_ap(targets: np.ndarray, scores: np.ndarray) -> float:
    return float(
        np.mean([average_precision_score(*pair) for pair in zip(targets.T, scores.T, strict=True)])
    )


@pytest.mark.parametrize("version", [1, 2])
def test_confirm_ranks_by_the_rules_of_the_board(data_set, config, version) -> None:
    train, valid = data_set.search_splits(config)
    rules = RULES[version]
    (run,) = train_to_end([config], train, valid, SETTINGS, ranks_logits=rules.ranks_logits)
    logits = run.predictor.decision_function({"visual": valid.features["visual"]})
    rounded = expit(logits)
    assert rounded.dtype == np.float32
    assert (rounded == 1).mean() > 0.1
    by_logits, by_probability = macro_ap(valid.targets, logits), macro_ap(valid.targets, rounded)
    assert by_logits > by_probability + 0.001
    expected = by_logits if rules.ranks_logits else by_probability
    assert run.best_value == pytest.approx(expected, abs=1e-6)
    seed = config.training.seed
    (one,) = confirm([Finalist(0, 0.5, config)], [seed], train, valid, SETTINGS, rules=rules)
    assert one.val_mean == pytest.approx(expected, abs=1e-6)


def test_metrics_of_stored_predictions_rank_logits(data_set, config, tmp_path) -> None:
    train, valid = data_set.search_splits(config)
    (run,) = train_to_end([config], train, valid, SETTINGS)
    predictions = predict(run.predictor, valid)
    write_predictions(predictions, tmp_path / "valid.parquet")
    stored = read_predictions(tmp_path / "valid.parquet")
    assert stored.scores.dtype == np.float64
    for one in (predictions, stored):
        measured = measure([one], [choose_thresholds(one)], n_resamples=50)
        found = report_of(measured, CURRENT)["auprc_macro"]["mean"]
        logits = run.predictor.decision_function({"visual": valid.features["visual"]})
        assert found == pytest.approx(macro_ap(valid.targets, logits), abs=1e-12)
