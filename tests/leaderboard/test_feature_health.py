"""Health of the features on a board: the numbers and warnings of `headsweep data check`."""

import json
from dataclasses import replace

import numpy as np
import pytest

from headsweep.data.dataset import Dataset
from headsweep.data.health import feature_health
from headsweep.data.validation import check
from headsweep.leaderboard.feature_health import health_of, health_table
from tests.helpers.splits import make_split


def sick_split():
    """A split of rank 2 with an offset, an outlier, a constant column and copied rows."""
    split, rng = make_split("valid", 200, seed=0), np.random.default_rng(1)
    x = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 24)) + 30
    x[7] *= 50
    x[:, 3] = 1
    x[20:40] = x[60:80]
    return replace(split, features={"visual": x.astype(np.float32)})


def test_health_of_healthy_features_raises_no_warning():
    split = make_split("train", 300, seed=2)
    split = replace(split, features={"visual": split.features["visual"]})
    found = health_of([split])["train"]["visual"]
    assert found["warnings"] == []
    expected = feature_health(split.features["visual"], split.patients)
    assert found["effective_rank"] == expected.effective_rank
    assert found["mean_cosine"] == expected.mean_cosine
    assert (found["n_rows"], found["width"], found["possible_rank"]) == (300, 24, 24)
    assert abs(found["mean_cosine"]) < 0.05
    assert found["effective_rank"] > 20


def test_health_of_planted_faults_names_each_with_its_number():
    found = health_of([sick_split()])["valid"]["visual"]
    assert found["effective_rank"] < 3
    assert found["mean_cosine"] > 0.8
    assert found["n_norm_outliers"] == found["n_distance_outliers"] == 1
    assert found["n_constant_columns"] == 1
    assert found["near_duplicates"] >= 0.2
    text = " | ".join(found["warnings"])
    for part in (
        "effective rank of",
        "mean cosine of",
        "nearly equal",
        "valid_7_a_1",
        "1 of 24 col",
    ):
        assert part in text
    card = health_table({"valid": {"visual": found}})
    assert card.rows[0][-1].heat is not None


def test_health_of_single_row_is_left_out():
    split = make_split("train", 1, seed=0)
    assert health_of([split]) == {"train": {}}


def test_board_shows_health_with_the_warnings_of_data_check(study, finished):
    recorded = json.loads((finished / "feature_health.json").read_text())
    train, _ = Dataset.from_config(study.spec.config).search_splits()
    expected = feature_health(train.features["visual"], train.patients)
    assert recorded["train"]["visual"]["effective_rank"] == pytest.approx(expected.effective_rank)
    assert "Health of the features" in (finished / "report.html").read_text()
    faults = [fault.message for fault in check(study.spec.config) if "features" in fault.message]
    visual = [message for message in faults if message.startswith("visual features have")]
    shown = [m for by_split in recorded.values() for m in by_split["visual"]["warnings"]]
    assert [m for m in shown if m.startswith("visual features have")] == visual
