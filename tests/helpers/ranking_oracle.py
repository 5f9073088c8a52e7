"""Ranking metrics on resamples, one label after the other: the oracle of `resampled_ranking`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from headsweep.metrics.masking import Targets, labelled
from headsweep.metrics.ranking import Metric, Scores


def resampled_ranking_by_label(
    targets: Targets, scores: Scores, resamples: NDArray[np.int32]
) -> tuple[Metric, Metric]:
    """Return average precision and ROC area of each slot and label on each resample, (K, B, c)."""
    counts = np.ascontiguousarray(resamples.T, dtype=np.float32)
    areas = [
        [_weighted_areas(_rank(targets[:, j], slot[:, j]), counts) for j in range(slot.shape[1])]
        for slot in scores
    ]
    precision, area = np.array(areas).transpose(2, 0, 3, 1)
    return precision, area


@dataclass(frozen=True)
class _Ranked:
    """Rows of one label in groups of equal scores, best first, as 0/1 matrices `(g, n)`.

    Only groups that hold a positive matter, and count.
    """

    called: csr_array
    """The group's rows, and those between it and the group before."""
    positive: csr_array
    """The group's positive rows."""
    tied: csr_array
    """The group's negative rows."""
    rows: NDArray[np.intp] | None
    """Rows in which the label is not blank; None where none is."""


def _rank(targets: NDArray[np.uint8] | NDArray[np.bool_], scores: Scores) -> _Ranked:
    known = labelled(targets)
    rows_known = None if known.all() else np.flatnonzero(known)
    order = np.argsort(-scores, kind="stable")
    if rows_known is not None:
        order = order[known[order]]
    positive = targets[order].astype(bool)
    ties = np.cumsum(np.diff(scores[order], prepend=np.inf) != 0)
    groups = np.unique(ties[positive])
    group = np.searchsorted(groups, ties)
    tied = ~positive & np.isin(ties, groups)

    def members(rows: NDArray[np.bool_]) -> csr_array:
        ends = np.searchsorted(group[rows], np.arange(len(groups)), side="right")
        chosen = order[rows][: ends[-1] if len(ends) else 0]
        ones = np.ones(len(chosen), np.float32)
        return csr_array((ones, chosen, np.append(0, ends)), shape=(len(groups), len(targets)))

    all_known = np.ones_like(positive)
    return _Ranked(members(all_known), members(positive), members(tied), rows_known)


def _weighted_areas(ranked: _Ranked, counts: NDArray[np.float32]) -> tuple[Metric, Metric]:
    """Return average precision and ROC area of one label by resample, (n, B) → (B,), (B,).

    The same sums over groups as in `ranking`, with each row counted as often as it is drawn.
    """
    gained = ranked.positive @ counts
    true = np.zeros(counts.shape[1])
    called = np.full_like(true, np.finfo(np.float64).tiny)  # 0 of 0 rows is 0
    precision, passed = np.zeros_like(true), np.zeros_like(true)
    # Group by group on vectors of resamples: whole (g, B) arrays would leave the cache each time.
    for added, positive in zip(ranked.called @ counts, gained, strict=True):
        called += added
        true += positive
        precision += positive * (true / called)
        passed += positive * (called - true)
    passed -= np.einsum("gb,gb->b", gained, ranked.tied @ counts, dtype=np.float64) / 2

    of_label = counts if ranked.rows is None else counts[ranked.rows]
    negatives = of_label.sum(axis=0, dtype=np.float64) - true
    behind = true * negatives - passed
    defined = (true > 0) & (negatives > 0)
    precision = np.where(defined, precision, np.nan) / np.maximum(true, 1)
    return precision, np.where(defined, behind, np.nan) / np.maximum(true * negatives, 1)
