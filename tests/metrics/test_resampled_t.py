"""Nadeau and Bengio's interval equals the t-test without overlap, and is wider with overlap."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student_t
from scipy.stats import ttest_1samp

from headsweep.metrics.resampled_t import corrected_mean, seeds_averaged

differences = st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=2, max_size=12)


@given(values=differences.filter(lambda v: len(set(v)) > 1))
def test_corrected_mean_without_overlap_equals_paired_t_test(values):
    found, expected = corrected_mean(np.array(values), 0.0), ttest_1samp(values, 0)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert found.p == pytest.approx(expected.pvalue, abs=1e-12)


def test_corrected_mean_of_five_folds_equals_formula():
    """K = 5, n_test / n_train = 1/4: the variance is (1/5 + 1/4) s²."""
    values = np.array([0.02, 0.05, 0.01, 0.04, 0.03])
    found = corrected_mean(values, 0.25)
    reach = student_t.ppf(0.975, 4) * math.sqrt(0.45) * np.std(values, ddof=1)
    assert (found.mean, found.high) == pytest.approx((0.03, 0.03 + reach))
    assert found.p > ttest_1samp(values, 0).pvalue


def test_corrected_mean_of_constant_difference_or_single_fold_is_defined():
    assert corrected_mean(np.zeros(3), 0.5).p == 1
    assert corrected_mean(np.full(3, 0.5), 0.5).p == 0
    assert math.isnan(corrected_mean(np.array([0.5]), 0.5).p)


def test_corrected_mean_with_overlap_keeps_level_unlike_plain_t_test():
    """Fold values are correlated by n_test / (n_test + n_train), as in cross-validation."""
    rng = np.random.default_rng(0)
    folds, share = 5, 0.25
    correlation = share / (1 + share)
    shared = rng.normal(size=(4000, 1)) * math.sqrt(correlation)
    values = shared + rng.normal(size=(4000, folds)) * math.sqrt(1 - correlation)
    false_findings = np.mean([corrected_mean(v, share).p < 0.05 for v in values])
    assert false_findings == pytest.approx(0.05, abs=0.015)
    assert np.mean(ttest_1samp(values, 0, axis=1).pvalue < 0.05) > 0.1


def test_seeds_averaged_returns_mean_within_each_fold():
    values = np.arange(6.0).reshape(3, 2)
    assert seeds_averaged(values).tolist() == [0.5, 2.5, 4.5]
