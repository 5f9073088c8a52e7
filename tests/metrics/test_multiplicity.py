"""Corrections of p-values equal SciPy's and a published example."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from headsweep.metrics.multiplicity import benjamini_hochberg, holm

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12).map(np.array)


@given(p_values)
def test_benjamini_hochberg_equals_scipy(p):
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p, method="bh"))


def test_holm_of_published_example_equals_it():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])


@given(p_values)
def test_holm_rejects_same_hypotheses_as_definition(p):
    order = np.argsort(p, kind="stable")
    rejected = set()
    for step, index in enumerate(order):
        if p[index] > 0.05 / (len(p) - step):
            break
        rejected.add(int(index))
    adjusted = holm(p)
    clear = np.abs(adjusted - 0.05) > 1e-12
    assert set(np.flatnonzero(clear & (adjusted <= 0.05))) <= rejected
    assert rejected <= set(np.flatnonzero(~clear | (adjusted <= 0.05)))


def test_corrections_keep_nan_and_do_not_count_it():
    p = np.array([0.01, np.nan, 0.03])
    np.testing.assert_allclose(holm(p), [0.02, np.nan, 0.03])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.02, np.nan, 0.03])
