"""AUPRC and AUROC of all slots and labels equal scikit-learn's and have their known properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score

from headsweep.metrics.ranking import (
    auroc,
    average_precision,
    average_precision_and_auroc,
    descending_keys,
    macro,
    n_defined,
)

EXACT = {"rtol": 0, "atol": 1e-9}
# Few distinct scores, so that ties, both zeros and adjacent floats are common.
ALPHABET = np.array(
    [0.0, -0.0, 0.25, 0.5, 1.0, -1.0, -0.25, 1e-45, -1e-45, 3e38, np.nextafter(0.5, 1)],
    dtype=np.float32,
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n, c, slots = draw(st.integers(1, 12)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    targets = draw(hnp.arrays(np.uint8, (n, c), elements=st.integers(0, 1)))
    size = draw(st.integers(1, len(ALPHABET)))
    picks = draw(hnp.arrays(np.intp, (slots, n, c), elements=st.integers(0, size - 1)))
    return targets, ALPHABET[picks]


def by_sklearn(targets: np.ndarray, scores: np.ndarray, metric: object) -> np.ndarray:
    values = np.full((len(scores), targets.shape[1]), np.nan)
    for j in range(targets.shape[1]):
        if 0 < targets[:, j].sum() < len(targets):
            values[:, j] = [metric(targets[:, j], slot[:, j]) for slot in scores]
    return values


@given(problems())
def test_ranking_metrics_with_ties_and_undefined_labels_equal_sklearn(problem):
    targets, scores = problem
    ap, roc = average_precision_and_auroc(targets, scores)
    np.testing.assert_allclose(ap, by_sklearn(targets, scores, average_precision_score), **EXACT)
    np.testing.assert_allclose(roc, by_sklearn(targets, scores, roc_auc_score), **EXACT)


@pytest.mark.parametrize(
    ("shift", "smallest", "bits"),
    [(0.0, 1.0, 32), (-0.5, 1.0, 32), (-0.5, 1e-44, 64)],
    ids=["positive", "both signs", "all magnitudes"],
)
@pytest.mark.parametrize("decimals", [2, 7], ids=["many ties", "few ties"])
def test_ranking_metrics_over_several_blocks_equal_sklearn(shift, smallest, bits, decimals):
    rng = np.random.default_rng(0)
    targets = (rng.random((3039, 18)) < 0.2).astype(np.uint8)
    scores = np.round(rng.random((3, 3039, 18)) + 0.2 * targets, decimals) + shift
    scores[:, 7] *= smallest
    scores = (8 * scores).astype(np.float32)
    keys = descending_keys(scores[0].T, np.ascontiguousarray(targets.T))
    assert keys.dtype.itemsize * 8 == bits
    ap, roc = average_precision_and_auroc(targets, scores)
    np.testing.assert_allclose(ap, by_sklearn(targets, scores, average_precision_score), **EXACT)
    np.testing.assert_allclose(roc, by_sklearn(targets, scores, roc_auc_score), **EXACT)


@given(problems())
def test_auroc_of_negated_scores_is_one_minus_auroc(problem):
    targets, scores = problem
    both = auroc(targets, scores) + auroc(targets, -scores)
    np.testing.assert_allclose(both[np.isfinite(both)], 1.0)


@given(problems(), st.randoms(use_true_random=False))
def test_average_precision_does_not_depend_on_row_order(problem, random):
    targets, scores = problem
    order = random.sample(range(len(targets)), len(targets))
    shuffled = average_precision(targets[order], scores[:, order])
    np.testing.assert_array_equal(shuffled, average_precision(targets, scores))


@given(problems())
def test_ranking_metrics_of_equal_scores_equal_chance(problem):
    targets, scores = problem
    prevalence = targets.mean(axis=0)
    undefined = (prevalence == 0) | (prevalence == 1)
    ap, roc = average_precision_and_auroc(targets, np.zeros_like(scores))
    np.testing.assert_allclose(ap[0], np.where(undefined, np.nan, prevalence))
    np.testing.assert_allclose(roc[0], np.where(undefined, np.nan, 0.5))


def test_average_precision_of_slot_alone_equals_that_among_others():
    rng = np.random.default_rng(1)
    targets = (rng.random((500, 6)) < 0.3).astype(np.uint8)
    scores = rng.random((9, 500, 6), dtype=np.float32)
    together = average_precision(targets, scores)
    for k in range(len(scores)):
        np.testing.assert_array_equal(average_precision(targets, scores[k : k + 1])[0], together[k])


@pytest.mark.parametrize("layout", ["rows", "columns", "repeated", "with blanks"])
def test_macro_of_any_layout_is_the_sum_of_defined_labels_to_the_bit(layout):
    values = np.random.default_rng(0).random((3, 500, 18))
    if layout == "columns":
        values = np.ascontiguousarray(values.swapaxes(1, 2)).swapaxes(1, 2)
    if layout == "repeated":
        values = np.broadcast_to(values[0], values.shape)
    if layout == "with blanks":
        values[:, ::7, 4] = np.nan
    expected = np.nansum(values, axis=-1) / np.isfinite(values).sum(axis=-1)
    np.testing.assert_array_equal(macro(values), expected)


def test_macro_leaves_out_undefined_labels():
    per_label = np.array([[0.2, np.nan, 0.6], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(macro(per_label), [0.4, np.nan])
    np.testing.assert_array_equal(n_defined(per_label), [2, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_average_precision_with_non_finite_score_raises_with_position(bad):
    scores = np.zeros((2, 3, 4), dtype=np.float32)
    scores[1, 2, 3] = bad
    with pytest.raises(ValueError, match="slot 1, row 2, label 3"):
        average_precision(np.zeros((3, 4), dtype=np.uint8), scores)


def test_average_precision_of_float64_scores_is_ranked_exactly():
    """Rounded to float32, all of these scores are 1."""
    rng = np.random.default_rng(0)
    targets = (rng.random((200, 3)) < 0.3).astype(np.uint8)
    scores = 1 - 1e-12 * (1 + np.round(rng.random((2, 200, 3)) * 1000 - 300.0 * targets))
    assert len(np.unique(scores.astype(np.float32))) == 1
    precision, area = average_precision_and_auroc(targets, scores)
    for k in range(2):
        for j in range(3):
            y, score = targets[:, j], scores[k, :, j]
            assert precision[k, j] == pytest.approx(average_precision_score(y, score), abs=1e-12)
            assert area[k, j] == pytest.approx(roc_auc_score(y, score), abs=1e-12)


def test_auroc_with_bad_shape_or_dtype_raises():
    targets = np.zeros((3, 4), dtype=np.uint8)
    with pytest.raises(ValueError, match="must agree"):
        auroc(targets, np.zeros((2, 4, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="must be floats, found complex128"):
        auroc(targets, np.zeros((2, 3, 4), dtype=np.complex128))
