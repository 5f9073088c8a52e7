"""Resampled metrics equal scikit-learn's with sample weights; resamples draw whole patients."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm
from scipy.stats import t as student_t
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from headsweep.metrics.bootstrap import (
    _quantiles,
    interval,
    patient_resamples,
    rarer_class_patients,
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
def test_resampled_ranking_equals_sklearn_with_sample_weights(problem):
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


def test_resampled_ranking_with_every_row_once_equals_plain_metrics():
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
def test_resampled_f1_equals_sklearn_with_sample_weights(problem):
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


def test_patient_resamples_draw_as_many_whole_patients_as_given():
    patients = ["b", "a", "b", "c", "a", "d"]
    resamples = patient_resamples(patients, 500, seed=0)
    np.testing.assert_array_equal(resamples[:, 0], resamples[:, 2])
    np.testing.assert_array_equal(resamples[:, 1], resamples[:, 4])
    np.testing.assert_array_equal(resamples[:, [0, 1, 3, 5]].sum(axis=1), 4)
    np.testing.assert_allclose(resamples.mean(axis=0), 1, atol=0.15)


def test_patient_resamples_do_not_depend_on_order_of_patients():
    patients = ["b", "a", "c", "d"]
    resamples = patient_resamples(patients, 20, seed=3)
    turned = patient_resamples(patients[::-1], 20, seed=3)
    np.testing.assert_array_equal(turned, resamples[:, ::-1])


def normal_draws(mean: float) -> np.ndarray:
    """Return quantiles of a normal distribution with standard deviation 1."""
    return norm.ppf((np.arange(20_000) + 0.5) / 20_000) + mean


def test_interval_of_draws_without_bias_equals_percentiles():
    found = interval(3.0, normal_draws(3.0), 10**9, 0.95)
    assert found == pytest.approx(norm.ppf([0.025, 0.975]) + 3, abs=1e-3)


def test_interval_of_biased_draws_corrects_the_bias():
    """If draws are centred at the estimate + 0.3, the interval is centred at the estimate - 0.3."""
    found = interval(3.0, normal_draws(3.3), 10**9, 0.95)
    assert found == pytest.approx(norm.ppf([0.025, 0.975]) + 2.7, abs=3e-3)


@pytest.mark.parametrize("patients", [5, 8, 40])
def test_interval_with_few_patients_equals_student_t_interval(patients):
    """Bootstrap draws of a mean use the variance over n; Student's interval uses n - 1."""
    found = interval(0.0, normal_draws(0.0), patients, 0.9)
    reach = student_t.ppf(0.95, patients - 1) * np.sqrt(patients / (patients - 1))
    assert found == pytest.approx([-reach, reach], abs=0.02)


def test_interval_of_constant_draws_has_no_width():
    assert interval(1.0, np.ones(50), 12, 0.95) == (1.0, 1.0)


def test_interval_of_undefined_value_is_nan():
    assert np.isnan(interval(np.nan, np.ones(3), 9, 0.95)).all()
    assert np.isnan(interval(1.0, np.full(3, np.nan), 9, 0.95)).all()


def test_rarer_class_patients_counts_patients():
    targets = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]], dtype=np.uint8)
    patients = ["a", "a", "b", "b"]
    assert rarer_class_patients(targets, patients).tolist() == [1, 1, 2]
    assert rarer_class_patients(targets[:2], patients[:2]).tolist() == [0, 0, 1]


def test_quantiles_of_rows_with_nan_equal_numpy_exactly():
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 50, 2000):
        values = np.round(rng.normal(size=(40, size)), 2)
        values[rng.random(values.shape) < 0.3] = np.nan
        values[:, 0] = 0.25
        n = np.isfinite(values).sum(axis=1)
        levels = np.stack([np.r_[0.0, 1.0, 0.5, rng.random(37)], rng.random(40)])
        expected = [
            [
                np.quantile(row[np.isfinite(row)], level)
                for row, level in zip(values, of_rows, strict=True)
            ]
            for of_rows in levels
        ]
        np.testing.assert_array_equal(_quantiles(values.copy(), n, levels), expected)
