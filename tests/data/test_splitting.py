import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headsweep.data.splitting import group_folds, linked_groups, split_by_group, stratified_parts
from headsweep.errors import ManifestError


@st.composite
def grouped_rows(draw):
    """Rows in groups of 1 to 4, with labels that mostly agree within a group, as for a patient."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = rng.integers(1, 5, draw(st.integers(60, 200)))
    groups = np.repeat(np.arange(len(sizes)), sizes)
    prevalences = rng.uniform(0.05, 0.6, draw(st.integers(1, 6)))
    of_group = rng.random((len(sizes), len(prevalences))) < prevalences
    flipped = rng.random((len(groups), len(prevalences))) < 0.1
    return groups, (of_group[groups] ^ flipped).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(rows=grouped_rows(), folds=st.integers(2, 5), seed=st.integers(0, 100))
def test_group_folds_keeps_groups_together_and_balances_parts(rows, folds, seed):
    groups, targets = rows
    parts = group_folds(groups.tolist(), targets, folds, seed)
    assert set(parts) == set(range(folds))
    for group in np.unique(groups):
        assert len(set(parts[groups == group])) == 1
    for part in range(folds):
        mine = parts == part
        # Within a few rows, since groups are not divided.
        assert abs(mine.sum() - len(groups) / folds) <= 6
        excess = targets[mine].sum(axis=0) - targets.sum(axis=0) / folds
        assert np.abs(excess).max() <= 6


@settings(max_examples=30, deadline=None)
@given(rows=grouped_rows(), seed=st.integers(0, 100))
def test_split_by_group_with_same_seed_repeats(rows, seed):
    groups, targets = rows
    one, again, other = (split_by_group(groups, targets, 0.3, s) for s in (seed, seed, seed + 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_group_folds_balances_labels_better_than_random():
    """The spread of prevalences between folds is compared with that of random folds."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(500), rng.integers(1, 4, 500))
    targets = (rng.random((500, 18)) < np.linspace(0.02, 0.4, 18))[groups].astype(np.uint8)

    def spread(parts):
        return np.std([targets[parts == k].mean(axis=0) for k in range(5)], axis=0).mean()

    drawn = np.mean([spread(rng.integers(0, 5, 500)[groups]) for _ in range(20)])
    assert spread(group_folds(groups, targets, 5, seed=0)) < drawn / 4


def test_group_folds_with_rare_label_puts_one_group_in_every_part():
    targets = np.zeros((40, 1), np.uint8)
    targets[[3, 11, 17, 39]] = 1
    parts = group_folds(np.arange(40), targets, 4, seed=5)
    assert sorted(parts[targets[:, 0] == 1]) == [0, 1, 2, 3]


def test_stratified_parts_with_unequal_shares_has_those_sizes():
    parts = stratified_parts(np.arange(1000), np.zeros((1000, 2), np.uint8), (0.7, 0.2, 0.1), 0)
    np.testing.assert_array_equal(np.bincount(parts), [700, 200, 100])


def test_split_by_group_leaves_no_empty_part_or_raises():
    targets = np.zeros((3, 1), np.uint8)
    assert split_by_group(["a", "a", "b"], targets, 0.01, 0).sum() in (1, 2)
    with pytest.raises(ManifestError, match="as many patients, found 1"):
        split_by_group(["a", "a", "a"], targets, 0.5, 0)


def test_linked_groups_with_shared_values_joins_chains_of_groups():
    groups = ["p", "q", "r", "s", "p"]
    reports = ["x", "y", None, None, "z"]
    features = [1, 2, 2, 3, 4]
    assert linked_groups(groups, reports, features).tolist() == [0, 1, 1, 2, 0]
    assert linked_groups(groups, reports, [1, 2, 2, 4, 4]).tolist() == [0, 1, 1, 0, 0]
    assert linked_groups(groups).tolist() == [0, 1, 2, 3, 0]
