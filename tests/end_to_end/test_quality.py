"""On real reports, the shipped studies are as good as scikit-learn on the same features."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from tests.end_to_end.conftest import Job, Studies

pytestmark = [pytest.mark.slow]

N_TRIALS = 30
"""Fewer trials than in the shipped studies, to save time; enough for the expected values."""

LOGISTIC_REGRESSION = {"visual": 0.665, "text": 0.668, "both": 0.771}
"""Macro AUPRC on valid of scikit-learn's logistic regression, best C (README of the data)."""


@pytest.fixture(scope="module")
def linear(studies: Studies) -> dict[str, Job]:
    """A linear study for each input."""
    return {
        "visual": studies.searched("linear_visual", "linear-visual", n_trials=N_TRIALS),
        "text": studies.searched("linear_text", "linear-text", n_trials=N_TRIALS),
        "both": studies.finished(
            "linear_visual", "linear-both", "features=both", n_trials=N_TRIALS
        ),
    }


@pytest.fixture(scope="module")
def retrieval(studies: Studies) -> Job:
    return studies.finished("retrieval", "retrieval", n_trials=N_TRIALS)


def best_value(study: Job) -> float:
    value = study.summary().best_value
    assert value is not None
    return value


@pytest.mark.parametrize("features", LOGISTIC_REGRESSION)
def test_linear_study_with_any_input_reaches_logistic_regression(linear, features):
    assert best_value(linear[features]) >= LOGISTIC_REGRESSION[features] - 0.01


def test_mlp_fusion_study_is_no_worse_than_the_linear_study(linear, studies):
    fusion = studies.searched("mlp_fusion", "mlp-fusion", n_trials=N_TRIALS)
    assert best_value(fusion) >= best_value(linear["both"]) - 0.01


def test_retrieval_study_on_test_beats_raw_nearest_neighbours(retrieval):
    """Predicting labels from the 30 nearest neighbours of raw image features reaches 0.59."""
    best = retrieval.rows()[0]
    assert float(best["test_manual_all/auprc_macro"]) >= 0.60


def test_retrieval_head_with_only_the_instance_loss_pairs_both_modalities(
    headsweep, studies, tmp_path
):
    """Recall@10 is 0.165 on raw features, 0.35 after centering and 0.05 by chance."""
    place = f"paths.checkpoint_dir={tmp_path}"
    head = ("head=retrieval", "head.label_weight=0")
    assert headsweep("train", *head, *studies.data, place).code == 0
    assert headsweep("align", "--checkpoint", tmp_path).code == 0
    results = json.loads((tmp_path / "alignment" / "alignment.json").read_text())
    for direction in ("visual_to_text", "text_to_visual"):
        assert recall_at_10(results, direction) >= 0.42


def test_align_on_raw_features_gives_the_documented_recall(headsweep, studies, tmp_path):
    assert headsweep("align", *studies.data, "--out", tmp_path).code == 0
    results = json.loads((tmp_path / "alignment.json").read_text())
    assert recall_at_10(results, "visual_to_text") == pytest.approx(0.165)


def recall_at_10(results, direction):
    return results["test_manual_all"]["protocols"]["same_scan/1"][direction]["recall@10"]["mean"]


def test_metrics_of_a_finalist_equal_those_of_sklearn(linear):
    """Values in `metrics.json` are means over seeds, for each label."""
    folder = linear["both"].board / "finalists" / "1"
    metrics = json.loads((folder / "metrics.json").read_text())
    for stem in ("test_manual_all", "test_manual_train", "test_manual_valid"):
        files = sorted(folder.glob(f"seed_*/predictions/{stem}.parquet"))
        tables = [pq.read_table(file) for file in files]
        assert len(tables) == 2
        for label, recorded in metrics[stem]["per_label"].items():
            truth = tables[0][f"y_true:{label}"].to_numpy()
            scores = [table[f"y_score:{label}"].to_numpy() for table in tables]
            if not 0 < truth.sum() < len(truth):
                assert recorded["auprc"]["mean"] is None
                continue
            for name, metric in (("auprc", average_precision_score), ("auroc", roc_auc_score)):
                mean = sum(metric(truth, score) for score in scores) / len(scores)
                assert recorded[name]["mean"] == pytest.approx(mean, abs=1e-6)
