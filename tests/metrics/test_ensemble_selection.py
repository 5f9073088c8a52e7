"""Ensemble selection against a plain loop with scikit-learn's average precision."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.ensemble_oracle import macro_ap, plain_selection

from headsweep.metrics.ensemble_selection import Selection, select_weights, weighted_mean


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    n_members=st.integers(1, 6),
    n_rows=st.integers(6, 40),
    n_labels=st.integers(1, 3),
    asked=st.builds(
        Selection,
        n_bags=st.integers(1, 4),
        share=st.floats(0.1, 1),
        n_rounds=st.integers(1, 5),
        seed=st.integers(0, 3),
    ),
    ties=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_select_weights_equals_a_plain_loop(seed, n_members, n_rows, n_labels, asked, ties, dtype):
    rng = np.random.default_rng(seed)
    targets = (rng.random((n_rows, n_labels)) < 0.4).astype(np.uint8)
    targets[0], targets[1] = 0, 1
    members = rng.normal(size=(n_members, n_rows, n_labels)) + 0.7 * targets
    members = (members.round() if ties else members).astype(dtype)
    found = select_weights(targets, members, asked)
    np.testing.assert_allclose(
        found, plain_selection(targets, members, **asdict(asked)), atol=1e-12
    )
    assert found.sum() == pytest.approx(1)


def test_select_weights_of_one_bag_of_all_is_at_least_as_good_as_the_best_member():
    rng = np.random.default_rng(0)
    targets = (rng.random((80, 4)) < 0.3).astype(np.uint8)
    members = rng.normal(size=(8, 80, 4)) + targets
    weights = select_weights(targets, members, Selection(n_bags=1, share=1.0))
    mean = weighted_mean(list(members), list(weights))
    assert macro_ap(targets, mean) > max(macro_ap(targets, one) for one in members) + 0.01


def test_select_weights_drops_members_of_pure_noise():
    rng = np.random.default_rng(0)
    targets = (rng.random((400, 3)) < 0.3).astype(np.uint8)
    members = rng.normal(size=(6, 400, 3))
    members[:4] += 2 * targets
    weights = select_weights(targets, members, Selection())
    assert weights[4:].sum() < 0.02 < weights[:4].min()


def test_select_weights_without_a_label_with_both_classes_is_refused():
    with pytest.raises(ValueError, match="no label has both classes"):
        select_weights(np.ones((5, 2), np.uint8), np.zeros((2, 5, 2)), Selection())
