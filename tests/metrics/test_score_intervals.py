"""Score intervals equal those of plain root finding and hold for areas of exactly 0 and 1."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.helpers import leaderboard_oracle as oracle

from headsweep.metrics.macro_intervals import macro_auroc_interval
from headsweep.metrics.score_intervals import (
    auprc_intervals,
    auprc_variance,
    auroc_intervals,
    auroc_variance,
    macro_auprc_interval,
)

COMPUTE = {"auprc": auprc_intervals, "auroc": auroc_intervals}
MACROS = {
    "auprc": (macro_auprc_interval, oracle.macro_auprc_interval),
    "auroc": (macro_auroc_interval, oracle.macro_auroc_interval),
}
CLASSES = [(5.0, 45.0), (60.0, 7.0), (20.0, 20.0)]


def draws_around(estimates: np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(200, len(estimates)))
    return np.clip(estimates + 0.08 * noise, 0, 1)


@pytest.mark.parametrize("name", COMPUTE)
def test_score_intervals_of_labels_equal_those_of_root_finding(name):
    estimates = np.array([0.62, 0.88, 0.79])
    draws = draws_around(estimates)
    draws[::7, 0] = np.nan
    ends = COMPUTE[name](estimates, draws, *np.array(CLASSES).T, 0.95)
    for j, classes in enumerate(CLASSES):
        expected = oracle.score_interval(name, estimates[j], draws[:, j], classes)
        assert (ends[0][j], ends[1][j]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", MACROS)
def test_macro_interval_equals_that_of_a_plain_loop(name):
    estimates = np.array([0.4, np.nan, 0.9, 0.55])
    classes = [(5.0, 45.0), (0.0, 50.0), (1.0, 49.0), (20.0, 30.0)]
    draws = draws_around(np.nan_to_num(estimates))
    draws[:, 1] = np.nan
    draws[::3, 2] = np.nan
    compute, expected = MACROS[name]
    found = compute(estimates, draws, *np.array(classes).T, 0.95)
    assert found == pytest.approx(expected(estimates, draws, classes), abs=1e-12)


@pytest.mark.parametrize("name", MACROS)
def test_macro_interval_without_a_defined_label_is_undefined(name):
    undefined = np.full(2, np.nan)
    found = MACROS[name][0](undefined, np.full((9, 2), np.nan), *np.ones((2, 2)), 0.95)
    assert np.isnan(found).all()


def test_macro_auroc_interval_of_constant_draws_has_the_width_of_the_formula():
    """A label that one patient has varies little in the bootstrap, but not in other samples."""
    estimates, sizes = np.full(4, 0.8), np.array([1.0, 1.0, 2.0, 30.0])
    constant = np.repeat(estimates[None], 50, axis=0)
    low, high = macro_auroc_interval(estimates, constant, sizes, 100 - sizes, 0.95)
    deviation = np.sqrt(auroc_variance(estimates, sizes, 100 - sizes).sum()) / 4
    # The bootstrap's variance of 0 counts as 30 patients, the formula as 12.
    assert 2 * deviation < high - low < 4 * deviation


@given(
    estimates=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    sizes=st.lists(st.integers(1, 40), min_size=6, max_size=6),
    spread=st.floats(0, 0.3),
    shared=st.floats(-1, 1),
)
@example(estimates=[1.0], sizes=[2, 1, 1, 1, 1, 1], spread=0.125, shared=0.0)  # above 1 by rounding
@example(estimates=[1e-141], sizes=[1, 1, 1, 1, 1, 1], spread=0.0, shared=0.0)  # tiny variance
@settings(max_examples=50, deadline=None)
def test_macro_auroc_interval_lies_within_0_and_1_around_the_mean(estimates, sizes, spread, shared):
    own, size = np.array(estimates), np.array(sizes[: len(estimates)], dtype=np.float64)
    noise = np.random.default_rng(0).normal(size=(30, len(own)))
    noise += shared * noise[:, :1]
    draws = np.clip(own + spread * noise, 0, 1)
    order = np.arange(len(own))[::-1]
    for confidence in (0.5, 0.95):
        low, high = macro_auroc_interval(own, draws, size, 50 - size, confidence)
        assert 0 <= low <= own.mean() + 1e-12
        assert own.mean() - 1e-12 <= high <= 1
        assert high - low > 1e-4
        reversed_classes = macro_auroc_interval(1 - own, 1 - draws, 50 - size, size, confidence)
        assert reversed_classes == pytest.approx((1 - high, 1 - low), abs=1e-9)
        reordered = (own[order], draws[:, order], size[order], 50 - size[order])
        assert macro_auroc_interval(*reordered, confidence) == pytest.approx((low, high), abs=1e-9)


@given(
    estimate=st.floats(0.05, 1),
    positives=st.integers(5, 60),
    negatives=st.integers(5, 60),
    spread=st.floats(0, 0.2),
)
@settings(max_examples=30, deadline=None)
def test_score_intervals_lie_within_0_and_1_around_the_estimate(
    estimate, positives, negatives, spread
):
    draws = np.clip(estimate + spread * np.linspace(-1, 1, 21), 0, 1)[:, None]
    own = np.array([estimate]), draws, np.array([float(positives)]), np.array([float(negatives)])
    for compute in COMPUTE.values():
        (low,), (high,) = compute(*own, 0.95)
        assert 0 <= low <= estimate <= high <= 1
        assert high - low > 0.001
        wider = compute(*own, 0.99)
        assert wider[0][0] <= low + 1e-9
        assert wider[1][0] >= high - 1e-9


def test_score_intervals_of_undefined_estimates_are_undefined():
    for compute in COMPUTE.values():
        ends = compute(
            np.array([np.nan]), np.full((9, 1), np.nan), np.zeros(1), np.array([40.0]), 0.95
        )
        assert np.isnan(ends).all()


def test_variance_formulas_agree_with_simulated_variances():
    """Normal scores of 200 data sets; the number of positives is random, as in test sets."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(1500):
        positive = rng.random(100) < 0.2
        order = np.argsort(-(1.2 * positive + rng.normal(size=100)))
        hits = positive[order]
        found.append(
            (
                np.mean((np.cumsum(hits) / np.arange(1, 101))[hits]),
                1 - np.cumsum(~hits)[hits].mean() / (~hits).sum(),
            )
        )
    for formula, area, simulated in zip(
        (auprc_variance, auroc_variance), np.mean(found, axis=0), np.var(found, axis=0), strict=True
    ):
        assert formula(area, np.array(20.0), np.array(80.0)) == pytest.approx(simulated, rel=0.3)
