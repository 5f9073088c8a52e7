"""Metrics of labels with blank rows equal those of the rows that have the label."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from headsweep.evaluation.predictions import Predictions
from headsweep.evaluation.split_metrics import report_of
from headsweep.evaluation.summaries import choose_thresholds, measure
from headsweep.metrics.bootstrap import (
    patient_resamples,
    rarer_class_patients,
    resampled_operating_points,
    resampled_ranking,
)
from headsweep.metrics.calibration import brier, expected_calibration_error
from headsweep.metrics.masking import BLANK, has_blanks, labelled, prevalence, wholly_blank
from headsweep.metrics.ranking import average_precision_and_auroc, macro, n_defined
from headsweep.metrics.thresholds import at_thresholds, f1_optimal, youden_optimal

N, ABSENT = 60, 2


@pytest.fixture(scope="module")
def masked() -> Predictions:
    """Three labels: one whole, one with blank rows, one that no row has."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (N, 3)).astype(np.uint8)
    targets[rng.random(N) < 0.4, 1] = BLANK
    targets[:, ABSENT] = BLANK
    scores = np.round(rng.random((N, 3)), 1)  # with ties
    patients = tuple(f"p{i // 2}" for i in range(N))
    volumes = tuple(f"v{i}" for i in range(N))
    return Predictions("cohort", volumes, patients, ("a", "b", "absent"), targets, scores)


def only(masked: Predictions, label: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets (n, 1) and scores (n, 1) of the rows that have a label, and which rows these are."""
    rows = np.flatnonzero(masked.targets[:, label] != BLANK)
    column = slice(label, label + 1)
    return masked.targets[rows, column], masked.scores[rows, column], rows


def test_prevalence_and_counts_leave_blank_rows_out(masked: Predictions) -> None:
    assert has_blanks(masked.targets)
    assert not has_blanks(masked.targets[:, :1])
    assert wholly_blank(masked.labels, masked.targets) == ["absent"]
    found = prevalence(masked.targets)
    assert found[:2].tolist() == [only(masked, j)[0].mean() for j in (0, 1)]
    assert np.isnan(found[ABSENT])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranking_with_blank_labels_equals_sklearn_on_the_other_rows(
    masked: Predictions, dtype: type
) -> None:
    scores = masked.scores.astype(dtype)
    auprc, auroc = average_precision_and_auroc(masked.targets, scores[None])
    for j in (0, 1):
        y, s, _ = only(masked, j)
        assert auprc[0, j] == pytest.approx(average_precision_score(y[:, 0], s[:, 0]), abs=1e-12)
        assert auroc[0, j] == pytest.approx(roc_auc_score(y[:, 0], s[:, 0]), abs=1e-12)
    assert np.isnan(auprc[0, ABSENT])
    assert n_defined(auprc)[0] == 2
    assert macro(auprc)[0] == pytest.approx(auprc[0, :2].mean())


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_rows_without_any_label_change_no_metric(data: st.DataObject) -> None:
    n, k = data.draw(st.integers(2, 30)), data.draw(st.integers(1, 10))
    seed = data.draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    targets = rng.choice(np.array([0, 1, BLANK], np.uint8), (n, 2))
    scores = np.round(rng.random((n + k, 2)), 1)
    at = np.sort(rng.choice(n + k, n, replace=False))
    more = np.full((n + k, 2), BLANK, np.uint8)
    more[at] = targets
    fewer = scores[at]
    for one, other in zip(
        average_precision_and_auroc(more, scores[None]),
        average_precision_and_auroc(targets, fewer[None]),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    for function in (brier, expected_calibration_error, f1_optimal, youden_optimal):
        np.testing.assert_allclose(function(more, scores), function(targets, fewer))


def test_thresholds_and_counts_with_blank_labels_equal_sklearn_on_the_other_rows(
    masked: Predictions,
) -> None:
    for choose in (f1_optimal, youden_optimal):
        thresholds = choose(masked.targets, masked.scores)
        assert np.isnan(thresholds[ABSENT])
        point = at_thresholds(masked.targets, masked.scores, thresholds)
        for j in (0, 1):
            y, s, _ = only(masked, j)
            assert thresholds[j] == choose(y, s)[0]
            called = s[:, 0] >= thresholds[j]
            assert point.f1[j] == pytest.approx(f1_score(y[:, 0], called))
            assert point.precision[j] == pytest.approx(precision_score(y[:, 0], called))
            assert point.sensitivity[j] == pytest.approx(recall_score(y[:, 0], called))
            assert point.specificity[j] == pytest.approx(recall_score(1 - y[:, 0], ~called))


def test_calibration_with_blank_labels_equals_that_of_the_other_rows(masked: Predictions) -> None:
    scores = brier(masked.targets, masked.scores)
    errors = expected_calibration_error(masked.targets, masked.scores)
    for j in (0, 1):
        y, s, _ = only(masked, j)
        assert scores[j] == pytest.approx(brier_score_loss(y[:, 0], s[:, 0]))
        assert errors[j] == pytest.approx(expected_calibration_error(y, s)[0])
    assert np.isnan([scores[ABSENT], errors[ABSENT]]).all()


def test_resampled_metrics_with_blank_labels_equal_those_of_the_other_rows(
    masked: Predictions,
) -> None:
    resamples = patient_resamples(masked.patients, 40, 0)
    ranking = masked.scores.astype(np.float32)[None]
    found = resampled_ranking(masked.targets, ranking, resamples)
    thresholds = f1_optimal(masked.targets, masked.scores)
    points = resampled_operating_points(
        masked.targets, masked.scores[None], thresholds[None], resamples
    )
    patients = rarer_class_patients(masked.targets, masked.patients)
    for j in (0, 1):
        y, s, rows = only(masked, j)
        expected = resampled_ranking(y, s.astype(np.float32)[None], resamples[:, rows])
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one[0, :, j], other[0, :, 0])
        point = resampled_operating_points(
            y, s[None], thresholds[None, j : j + 1], resamples[:, rows]
        )
        np.testing.assert_allclose(points.f1[0, :, j], point.f1[0, :, 0])
        np.testing.assert_allclose(points.specificity[0, :, j], point.specificity[0, :, 0])
        assert patients[j] == rarer_class_patients(y, [masked.patients[i] for i in rows])[0]
    assert np.isnan(found[0][:, :, ABSENT]).all()
    assert patients[ABSENT] == 0


def test_report_of_a_split_with_blank_labels_shows_the_rows_used(masked: Predictions) -> None:
    measured = measure([masked], [choose_thresholds(masked)], n_resamples=200)
    report = report_of(measured)
    assert report["n_labels_used"] == 2
    rows = [only(masked, j)[0] for j in (0, 1)]
    of_label = report["per_label"]
    assert "n_rows" not in of_label["a"]
    assert of_label["b"]["n_rows"] == len(rows[1])
    assert of_label["b"]["prevalence"] == pytest.approx(rows[1].mean())
    assert of_label["b"]["support"] == rows[1].sum()
    assert of_label["absent"]["n_rows"] == 0
    absent = {name for name, values in of_label["absent"].items() if isinstance(values, dict)}
    assert all(of_label["absent"][name]["mean"] is None for name in absent)
    y, s, kept = only(masked, 1)
    patients = tuple(masked.patients[i] for i in kept)
    volumes = tuple(masked.volumes[i] for i in kept)
    alone = Predictions("cohort", volumes, patients, ("b",), y, s)
    expected = report_of(measure([alone], [choose_thresholds(alone)]))["per_label"]["b"]
    for name in absent:
        assert of_label["b"][name]["mean"] == pytest.approx(expected[name]["mean"]), name
    for name in ("auprc", "auroc"):
        assert of_label["b"][name]["ci_low"] < of_label["b"][name]["mean"]
    macros = [of_label[label]["auprc"]["mean"] for label in ("a", "b")]
    assert report["auprc_macro"]["mean"] == pytest.approx(np.mean(macros))
    assert labelled(masked.targets).sum() == N + len(y)
