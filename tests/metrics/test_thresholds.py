"""Thresholds are optimal on the split that selected them; ratios equal scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import f1_score, precision_score, recall_score, roc_curve

from headsweep.metrics.masking import BLANK
from headsweep.metrics.thresholds import (
    at_thresholds,
    f1_optimal,
    operating_curve,
    sensitivity_at_specificity,
    youden_optimal,
)


@st.composite
def labels_with_both_classes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(2, 15))
    targets = draw(hnp.arrays(np.uint8, (n, 1), elements=st.integers(0, 1)))
    targets[0], targets[1] = 0, 1
    levels = draw(hnp.arrays(np.int64, (n, 1), elements=st.integers(0, 5)))
    return targets, (levels / 5).astype(np.float32)


def exhaustive(targets: np.ndarray, scores: np.ndarray, criterion) -> float:
    """Return the best value of a criterion over all thresholds."""
    return max(criterion(targets[:, 0], (scores[:, 0] >= t).astype(int)) for t in scores[:, 0])


def youden(y: np.ndarray, called: np.ndarray) -> float:
    return recall_score(y, called) + recall_score(1 - y, 1 - called) - 1


@given(labels_with_both_classes())
def test_f1_optimal_has_largest_f1_of_all_thresholds(problem):
    targets, scores = problem
    chosen = at_thresholds(targets, scores, f1_optimal(targets, scores))
    assert chosen.f1[0] == pytest.approx(exhaustive(targets, scores, f1_score))


@given(labels_with_both_classes())
def test_youden_optimal_has_largest_index_of_all_thresholds(problem):
    targets, scores = problem
    chosen = at_thresholds(targets, scores, youden_optimal(targets, scores))
    reached = chosen.sensitivity[0] + chosen.specificity[0] - 1
    assert reached == pytest.approx(exhaustive(targets, scores, youden))


def test_at_thresholds_equals_sklearn():
    rng = np.random.default_rng(0)
    targets = (rng.random((300, 5)) < 0.3).astype(np.uint8)
    scores = (0.4 * targets + 0.6 * rng.random((300, 5))).astype(np.float32)
    thresholds = np.array([0.2, 0.4, 0.5, 0.6, 0.7])
    point = at_thresholds(targets, scores, thresholds)
    for j, threshold in enumerate(thresholds):
        y, called = targets[:, j], scores[:, j] >= threshold
        assert point.f1[j] == pytest.approx(f1_score(y, called), abs=1e-12)
        assert point.precision[j] == pytest.approx(precision_score(y, called), abs=1e-12)
        assert point.sensitivity[j] == pytest.approx(recall_score(y, called), abs=1e-12)
        assert point.specificity[j] == pytest.approx(recall_score(1 - y, ~called), abs=1e-12)


@given(labels_with_both_classes(), st.sampled_from([0.5, 0.9, 1.0]))
def test_sensitivity_at_specificity_equals_roc_curve(problem, asked):
    targets, scores = problem
    false_rate, true_rate, _ = roc_curve(targets[:, 0], scores[:, 0], drop_intermediate=False)
    expected = true_rate[1 - false_rate >= asked].max()
    assert sensitivity_at_specificity(targets, scores, asked)[0] == pytest.approx(expected)


def test_thresholds_of_all_slots_and_labels_equal_those_of_each_label_on_its_known_rows():
    rng = np.random.default_rng(0)
    targets = rng.choice(np.array([0, 1, BLANK], np.uint8), (40, 4), p=[0.5, 0.3, 0.2])
    targets[:, 2], targets[targets[:, 3] == 1, 3] = BLANK, 0
    scores = np.round(rng.normal(size=(3, 40, 4)), 1).astype(np.float32)
    together = sensitivity_at_specificity(targets, scores, 0.8)
    for slot, own in zip(scores, together, strict=True):
        for j in range(4):
            known = targets[:, j] != BLANK
            y, s = targets[known, j : j + 1], slot[known, j : j + 1]
            if not known.any():
                assert np.isnan([own[j], f1_optimal(targets, slot)[j]]).all()
                assert operating_curve(targets[:, j], slot[:, j])[0].size == 0
                continue
            assert own[j : j + 1] == pytest.approx(
                sensitivity_at_specificity(y, s, 0.8), abs=0, nan_ok=True
            )
            for optimal in (f1_optimal, youden_optimal):
                np.testing.assert_array_equal(optimal(targets, slot)[j : j + 1], optimal(y, s))
            thresholds, curve = operating_curve(targets[:, j], slot[:, j])
            np.testing.assert_array_equal(thresholds, np.unique(s)[::-1])
            called = y[:, 0][:, None] * (s >= thresholds)
            np.testing.assert_array_equal(curve.true_positives, called.sum(axis=0))


def test_threshold_metrics_without_both_classes_are_nan():
    targets = np.array([[0, 1], [0, 1]], dtype=np.uint8)
    scores = np.array([[0.2, 0.9], [0.4, 0.8]], dtype=np.float32)
    assert np.isnan(f1_optimal(targets, scores)[0])
    assert np.isnan(youden_optimal(targets, scores)).all()
    assert np.isnan(sensitivity_at_specificity(targets, scores, 0.9)).all()
    point = at_thresholds(targets, scores, np.array([0.5, np.nan]))
    assert np.isnan([point.f1[0], point.precision[0], point.f1[1], point.sensitivity[1]]).all()
    assert point.specificity[0] == 1


def test_youden_optimal_with_equal_thresholds_takes_highest():
    targets = np.array([[1], [0], [1]], dtype=np.uint8)
    scores = np.array([[0.9], [0.5], [0.1]], dtype=np.float32)
    assert youden_optimal(targets, scores)[0] == np.float32(0.9)
