"""The metrics that are recorded for every trial equal scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    roc_auc_score,
    roc_curve,
)

from headsweep.metrics.calibration import BINS
from headsweep.metrics.ranking import balanced_accuracy, ranking_metrics
from headsweep.metrics.trial_metrics import trial_metrics


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Targets (n, c) and scores (K, n, c) with many ties."""
    n, c, slots = draw(st.integers(1, 12)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    targets = draw(hnp.arrays(np.uint8, (n, c), elements=st.integers(0, 1)))
    steps = draw(hnp.arrays(np.int8, (slots, n, c), elements=st.integers(-3, 3)))
    return targets, steps.astype(np.float32) / 2


def separated(targets: np.ndarray, scores: np.ndarray) -> float:
    """The largest balanced accuracy of the thresholds that occur, and of calling nothing."""
    calls = [scores >= threshold for threshold in (*np.unique(scores), np.inf)]
    return max(balanced_accuracy_score(targets, call) for call in calls)


@given(problems())
def test_balanced_accuracy_equals_the_best_of_all_thresholds(
    problem: tuple[np.ndarray, np.ndarray],
) -> None:
    targets, scores = problem
    found = balanced_accuracy(targets, scores)
    np.testing.assert_array_equal(found, ranking_metrics(targets, scores)[2])
    for k in range(len(scores)):
        for j, column in enumerate(targets.T):
            if 0 < column.sum() < len(column):
                assert found[k, j] == pytest.approx(separated(column, scores[k, :, j]))
            else:
                assert np.isnan(found[k, j])


def calibration_error(targets: np.ndarray, likely: np.ndarray) -> float:
    frequency, probability = calibration_curve(targets, likely, n_bins=BINS, strategy="uniform")
    rows = np.histogram(likely, bins=BINS, range=(0, 1))[0]
    return float(np.abs(frequency - probability) @ rows[rows > 0] / len(targets))


def test_trial_metrics_equal_those_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((400, 5)) < [0.05, 0.2, 0.5, 0.8, 0.0]).astype(np.uint8)
    logits = rng.normal(size=(3, 400, 5)) + targets
    likely = 1 / (1 + np.exp(-logits))
    found = trial_metrics(targets, logits, likely)
    for k in range(3):
        columns = [(targets[:, j], logits[k, :, j], likely[k, :, j]) for j in range(5)]
        usable = [(y, score) for y, score, _ in columns if y.any()]  # the last label has no row
        auprc = [average_precision_score(y, score) for y, score in usable]
        shares = [y.mean() for y, _ in usable]
        skill = [(a - share) / (1 - share) for a, share in zip(auprc, shares, strict=True)]
        rates = [roc_curve(y, score)[:2] for y, score in usable]
        expected = {
            "auprc_macro": np.mean(auprc),
            "auroc_macro": np.mean([roc_auc_score(y, score) for y, score in usable]),
            "auprc_skill": np.mean(skill),
            "balanced_accuracy": np.mean([((1 + tpr - fpr) / 2).max() for fpr, tpr in rates]),
            "ece": np.mean([calibration_error(y, p) for y, _, p in columns]),
            "brier": np.mean([brier_score_loss(y, p, pos_label=1) for y, _, p in columns]),
        }
        assert {name: values[k] for name, values in found.items()} == pytest.approx(expected)
