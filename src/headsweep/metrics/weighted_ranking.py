"""Average precision and ROC area of many rankings whose rows count several times.

The rows of a ranking are sorted once, into groups of equal scores. For all sets of counts, such as
resamples, sums then run from one group that holds a positive to the next. All rankings advance
together: the sums of each are those of the ranking alone, added in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from headsweep.metrics.masking import Targets, labelled
from headsweep.metrics.ranking import Metric, Scores

Counts = NDArray[np.float32]

_SCORES_AT_ONCE = 1 << 16
_GROUPS_PER_BLOCK = 1 << 22  # groups times sets of counts: limits memory
_SETS_PER_BLOCK = range(64, 513)  # sets of counts: the running sums stay in the cache


@dataclass(frozen=True)
class Rankings:
    """Groups of equal scores of P rankings of n rows, best first, as 0/1 matrices `(G, n)`.

    Only groups that hold a positive matter, and count. They are sorted by their number within the
    ranking, then by ranking: the rankings with the most groups come first.
    """

    order: NDArray[np.intp]
    """(P,) the rankings by their number of groups, most first."""
    widths: list[int]
    """How many rankings have a first group, a second, and so on."""
    called: csr_array
    """Rows of each group, and those between it and the group before."""
    positive: csr_array
    """Positive rows of each group."""
    with_ties: NDArray[np.intp]
    """The T groups that hold negatives."""
    tied: csr_array
    """(T, n) negative rows of those groups."""
    halves: csr_array
    """(P, T) 1/2 where a group belongs to a ranking, in `order`."""
    known: NDArray[np.float32]
    """(c, n) 1 where the label is not blank."""

    def block_size(self) -> int:
        """Return for how many sets of counts `weighted_areas` is best called at once."""
        fitting = _GROUPS_PER_BLOCK // max(sum(self.widths), 1)
        return min(max(fitting, _SETS_PER_BLOCK[0]), _SETS_PER_BLOCK[-1])


def slots_at_once(scores: Scores) -> int:
    """Return how many slots of the scores (K, n, c) `rank` is best called with at once."""
    _, n, c = scores.shape
    return max(1, int(_SCORES_AT_ONCE // max(n * c, 1)))


def rank(targets: Targets, scores: Scores) -> Rankings:
    """Sort the rows of each slot and label into groups of equal scores.

    Args:
        targets: (n, c), 0, 1 or `BLANK`; blank rows of a label do not count for it.
        scores: (K, n, c), finite.

    Returns:
        The K * c rankings, those of the first slot first.
    """
    slots, n, c = scores.shape
    known = labelled(targets).T
    ranking, row, ordered = _sorted_rows(np.tile(known, (slots, 1)), scores)
    positive = (targets == 1)[row, ranking % c]

    starts = np.ones(len(row), bool)
    starts[1:] = (ordered[1:] != ordered[:-1]) | (ranking[1:] != ranking[:-1])
    equal = np.cumsum(starts) - 1
    is_group = np.zeros(int(starts.sum()), bool)
    is_group[equal[positive]] = True
    group = (np.cumsum(is_group) - is_group)[equal]  # of the row, or the next
    ranking_of = ranking[starts][is_group]
    n_groups = np.bincount(ranking_of, minlength=slots * c)
    ends = np.cumsum(n_groups)

    order = np.argsort(-n_groups, kind="stable")
    step = np.arange(len(ranking_of)) - (ends - n_groups)[ranking_of]
    sorted_groups = np.lexsort((np.argsort(order)[ranking_of], step))
    place = np.argsort(sorted_groups)

    def members(rows: NDArray[np.bool_]) -> csr_array:
        ones = np.ones(int(rows.sum()), np.float32)
        return csr_array((ones, (place[group[rows]], row[rows])), shape=(len(place), n))

    tied = members(~positive & is_group[equal])
    with_ties = np.flatnonzero(np.diff(tied.indptr))
    owner = np.argsort(order)[ranking_of[sorted_groups]][with_ties]
    return Rankings(
        order=order,
        widths=np.bincount(step).tolist(),
        called=members(group < ends[ranking]),
        positive=members(positive),
        with_ties=with_ties,
        tied=tied[with_ties],
        halves=csr_array(
            (np.full(len(owner), 0.5), (owner, np.arange(len(owner)))),
            shape=(len(order), len(owner)),
        ),
        known=known.astype(np.float32),
    )


def weighted_areas(rankings: Rankings, counts: Counts) -> tuple[Metric, Metric]:
    """Compute average precision and ROC area of each ranking under each set of counts.

    The same sums over groups as in `ranking`, with each row counted as often as it is drawn.

    Args:
        rankings: P rankings of n rows.
        counts: (n, B), how often each row counts; sums of them are exact.

    Returns:
        Two (P, B) arrays; NaN where no positive or no negative of the label counts.
    """
    added, gained = rankings.called @ counts, rankings.positive @ counts
    shape = (len(rankings.order), counts.shape[1])
    true, precision, passed = (np.zeros(shape) for _ in range(3))
    called = np.full(shape, np.finfo(np.float64).tiny)  # 0 of 0 rows is 0
    positives, terms = np.empty(shape), np.empty(shape)
    start = 0
    for width in rankings.widths:
        groups = slice(start, start + width)
        positive, term = positives[:width], terms[:width]
        positive[:] = gained[groups]
        called[:width] += added[groups]
        true[:width] += positive
        np.divide(true[:width], called[:width], out=term)
        term *= positive
        precision[:width] += term
        np.subtract(called[:width], true[:width], out=term)
        term *= positive
        passed[:width] += term
        start += width
    if len(rankings.with_ties):
        ties = np.multiply(gained[rankings.with_ties], rankings.tied @ counts, dtype=np.float64)
        passed -= rankings.halves @ ties

    labels = rankings.order % len(rankings.known)
    negatives = (rankings.known @ counts)[labels] - true
    behind = true * negatives - passed
    defined = (true > 0) & (negatives > 0)
    areas = np.empty((2, *shape))
    areas[0, rankings.order] = np.where(defined, precision, np.nan) / np.maximum(true, 1)
    areas[1, rankings.order] = np.where(defined, behind, np.nan) / np.maximum(true * negatives, 1)
    return areas[0], areas[1]


def _sorted_rows(
    known: NDArray[np.bool_], scores: Scores
) -> tuple[NDArray[np.intp], NDArray[np.intp], Scores]:
    """Return ranking, row and score of the known rows (P, n), ranking by ranking, best first."""
    by_ranking = np.ascontiguousarray(scores.swapaxes(1, 2)).reshape(known.shape)
    rows = np.argsort(-by_ranking, axis=1, kind="stable")
    known = np.take_along_axis(known, rows, axis=1)
    ordered = np.take_along_axis(by_ranking, rows, axis=1)
    return np.nonzero(known)[0], rows[known], ordered[known]
