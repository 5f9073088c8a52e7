"""Rankings that advance together give the numbers of each ranking alone, to the bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.helpers.ranking_oracle import resampled_ranking_by_label

from headsweep.metrics import weighted_ranking
from headsweep.metrics.bootstrap import patient_resamples, resampled_ranking
from headsweep.metrics.masking import BLANK

Problem = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Draw few rows with ties, blank labels, and labels without a class."""
    n, c, slots, draws = (draw(st.integers(1, high)) for high in (12, 4, 3, 3))
    targets = draw(hnp.arrays(np.uint8, (n, c), elements=st.sampled_from([0, 1, BLANK])))
    levels = draw(hnp.arrays(np.int64, (slots, n, c), elements=st.integers(-4, 4)))
    resamples = draw(hnp.arrays(np.int32, (draws, n), elements=st.integers(0, 3)))
    return targets, (levels / 3).astype(np.float32), resamples


def random_problem(n: int, n_resamples: int, decimals: int) -> Problem:
    """Return rows of 2 scans a patient, with some blank labels and one label without positives."""
    rng = np.random.default_rng(n)
    targets = (rng.random((n, 6)) < [0, 0.02, 0.1, 0.2, 0.5, 0.9]).astype(np.uint8)
    scores = np.round(rng.normal(size=(3, n, 6)) + targets, decimals)
    targets[rng.random(targets.shape) < 0.1] = BLANK
    resamples = patient_resamples([str(i // 2) for i in range(n)], n_resamples, seed=0)
    return targets, scores, resamples


def assert_equal_to_rankings_alone(problem: Problem) -> None:
    expected = resampled_ranking_by_label(*problem)
    for values, own in zip(resampled_ranking(*problem), expected, strict=True):
        np.testing.assert_array_equal(values, own)


@given(problems())
def test_resampled_ranking_equals_rankings_alone_exactly(problem):
    assert_equal_to_rankings_alone(problem)


@pytest.mark.parametrize("decimals", [1, 9])
def test_resampled_ranking_of_several_blocks_equals_rankings_alone_exactly(decimals):
    assert_equal_to_rankings_alone(random_problem(150, 1100, decimals))


def test_resampled_ranking_of_one_slot_at_once_equals_rankings_alone_exactly(monkeypatch):
    monkeypatch.setattr(weighted_ranking, "_SCORES_AT_ONCE", 1)
    monkeypatch.setattr(weighted_ranking, "_GROUPS_PER_BLOCK", 1)
    problem = random_problem(150, 200, 2)
    assert weighted_ranking.slots_at_once(problem[1]) == 1
    assert weighted_ranking.rank(*problem[:2]).block_size() == 64
    assert_equal_to_rankings_alone(problem)


def test_resampled_ranking_of_equal_scores_equals_rankings_alone_exactly():
    targets, scores, resamples = random_problem(80, 40, 0)
    assert_equal_to_rankings_alone((targets, np.zeros_like(scores), resamples))


def test_resampled_ranking_without_rows_is_nan():
    empty = np.zeros((0, 2), np.uint8), np.zeros((2, 0, 2), np.float32), np.zeros((4, 0), np.int32)
    for values in resampled_ranking(*empty):
        assert values.shape == (2, 4, 2)
        assert np.isnan(values).all()
