"""Resampled metrics equal scikit-learn's with sample weights; resamples draw whole patients."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from headsweep.metrics.bootstrap import (
    patient_resamples,
    resampled_operating_points,
    resampled_ranking,
)
from headsweep.metrics.ranking import average_precision_and_auroc


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, c, slots, draws = (draw(st.integers(1, high)) for high in (10, 3, 2, 3))
    targets = draw(hnp.arrays(np.uint8, (n, c), elements=st.integers(0, 1)))
    levels = draw(hnp.arrays(np.int64, (slots, n, c), elements=st.integers(0, 4)))
    resamples = draw(hnp.arrays(np.int32, (draws, n), elements=st.integers(0, 3)))
    return targets, (levels / 4).astype(np.float32), resamples


@given(problems())
def test_equal_to_sklearn_with_weights_ties_and_undefined_labels(problem):
    targets, scores, resamples = problem
    precision, area = resampled_ranking(targets, scores, resamples)
    for k, b, j in np.ndindex(precision.shape):
        y, weight = targets[:, j], resamples[b]
        if weight[y == 1].sum() and weight[y == 0].sum():
            arguments = {"y_true": y, "y_score": scores[k, :, j], "sample_weight": weight}
            assert precision[k, b, j] == pytest.approx(average_precision_score(**arguments))
            assert area[k, b, j] == pytest.approx(roc_auc_score(**arguments))
        else:
            assert np.isnan([precision[k, b, j], area[k, b, j]]).all()


def test_every_row_once_gives_the_metrics_themselves():
    rng = np.random.default_rng(0)
    targets = (rng.random((400, 6)) < 0.3).astype(np.uint8)
    scores = np.round(rng.random((2, 400, 6)), 2).astype(np.float32)
    once = np.ones((70, 400), dtype=np.int32)
    for found, expected in zip(
        resampled_ranking(targets, scores, once),
        average_precision_and_auroc(targets, scores),
        strict=True,
    ):
        np.testing.assert_allclose(found, np.repeat(expected[:, None], 70, axis=1), atol=1e-12)


@given(problems())
def test_resampled_f1_equals_sklearn_with_weights(problem):
    targets, scores, resamples = problem
    thresholds = np.full((len(scores), targets.shape[1]), 0.5)
    f1 = resampled_operating_points(targets, scores, thresholds, resamples).f1
    for k, b, j in np.ndindex(f1.shape):
        y, weight = targets[:, j], resamples[b]
        if weight[y == 1].sum():
            called = scores[k, :, j] >= 0.5
            assert f1[k, b, j] == pytest.approx(f1_score(y, called, sample_weight=weight))
        else:
            assert np.isnan(f1[k, b, j])


def test_whole_patients_are_drawn_as_many_as_there_are():
    patients = ["b", "a", "b", "c", "a", "d"]
    resamples = patient_resamples(patients, 500, seed=0)
    np.testing.assert_array_equal(resamples[:, 0], resamples[:, 2])
    np.testing.assert_array_equal(resamples[:, 1], resamples[:, 4])
    np.testing.assert_array_equal(resamples[:, [0, 1, 3, 5]].sum(axis=1), 4)
    np.testing.assert_allclose(resamples.mean(axis=0), 1, atol=0.15)


def test_the_same_patients_meet_the_same_resamples_in_any_order():
    patients = ["b", "a", "c", "d"]
    resamples = patient_resamples(patients, 20, seed=3)
    turned = patient_resamples(patients[::-1], 20, seed=3)
    np.testing.assert_array_equal(turned, resamples[:, ::-1])
