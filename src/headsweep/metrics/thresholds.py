"""Thresholds chosen on one split and frozen, and the metrics of scores at a threshold.

A score is called positive when it is at or above the threshold. Every array has one entry a label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headsweep.metrics.masking import Targets, labelled
from headsweep.metrics.ranking import Metric, Scores

Counts = Metric | NDArray[np.signedinteger]


@dataclass(frozen=True)
class OperatingPoint:
    """Counts of each label at its threshold, (c,), and the ratios drawn from them.

    A ratio is NaN where it is undefined: without positives (sensitivity, F1), without negatives
    (specificity), without calls (precision), or without a threshold.
    """

    true_positives: Metric
    false_positives: Metric
    positives: Metric
    negatives: Metric

    @property
    def sensitivity(self) -> Metric:
        """Share of the positives that are called; also named recall."""
        return ratio(self.true_positives, self.positives)

    @property
    def specificity(self) -> Metric:
        """Share of the negatives that are not called."""
        return 1 - ratio(self.false_positives, self.negatives)

    @property
    def precision(self) -> Metric:
        """Share of the calls that are positive."""
        return ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def f1(self) -> Metric:
        """F1 of the positive class, 2 TP / (TP + FP + P)."""
        calls = self.true_positives + self.false_positives
        f1 = ratio(2 * self.true_positives, calls + self.positives)
        return np.where(self.positives > 0, f1, np.nan)


def f1_optimal(targets: Targets, scores: Scores) -> Metric:
    """Return the threshold of the largest F1 of each label, the highest of equals, (n, c) → (c,).

    NaN where a label has no positive.
    """
    return _best_threshold(targets, scores, lambda point: point.f1)


def youden_optimal(targets: Targets, scores: Scores) -> Metric:
    """Return the threshold of the largest sensitivity + specificity - 1 (Youden), (n, c) → (c,).

    The highest of equals; NaN where a label lacks positives or negatives.
    """
    return _best_threshold(targets, scores, lambda point: point.sensitivity + point.specificity)


def at_thresholds(targets: Targets, scores: Scores, thresholds: Metric) -> OperatingPoint:
    """Return the counts of frozen thresholds (c,) on targets and scores (n, c)."""
    positive, negative = targets == 1, targets == 0
    called = scores >= thresholds
    known = np.isfinite(thresholds)
    return OperatingPoint(
        np.where(known, (called & positive).sum(axis=0), np.nan),
        np.where(known, (called & negative).sum(axis=0), np.nan),
        positive.sum(axis=0).astype(np.float64),
        negative.sum(axis=0).astype(np.float64),
    )


def sensitivity_at_specificity(targets: Targets, scores: Scores, specificity: float) -> Metric:
    """Return the largest sensitivity of thresholds with at least this specificity.

    Read off the ROC curve of the very split: it describes the ranking, not a frozen threshold.

    Args:
        targets: (n, c).
        scores: (..., n, c).
        specificity: between 0 and 1.

    Returns:
        (..., c), NaN where a label lacks positives or negatives.
    """
    curves = operating_curves(targets, scores)
    point = curves.point
    # Calling nothing has sensitivity 0 and specificity 1.
    allowed = curves.ends & (point.specificity >= specificity)
    best = np.where(allowed, point.sensitivity, 0.0).max(axis=-2)
    defined = (point.positives > 0) & (point.negatives > 0)
    return np.where(defined[..., 0, :], best, np.nan)


@dataclass(frozen=True, eq=False)
class Curves:
    """Operating points of each label with a threshold at each row, best first, (..., n, c).

    Blank rows come last, and do not count.
    """

    thresholds: Metric
    point: OperatingPoint
    ends: NDArray[np.bool_]
    """Rows that no row of equal score follows; other rows are no thresholds of their own."""


def operating_curves(targets: Targets, scores: Scores) -> Curves:
    """Return every threshold of each label, descending, and its operating point.

    Args:
        targets: (n, c), 0, 1 or `BLANK`.
        scores: (..., n, c).
    """
    known, positive = (
        np.broadcast_to(rows, scores.shape) for rows in (labelled(targets), targets == 1)
    )
    order = np.argsort(np.where(known, -scores, np.inf), axis=-2, kind="stable")
    ranked, known, positive = (
        np.take_along_axis(rows, order, axis=-2) for rows in (scores, known, positive)
    )
    last = np.ones_like(known)
    last[..., :-1, :] = (ranked[..., 1:, :] != ranked[..., :-1, :]) | ~known[..., 1:, :]
    true, false = (
        np.cumsum(rows, axis=-2).astype(np.float64) for rows in (positive, known & ~positive)
    )
    total = [np.broadcast_to(count[..., -1:, :], count.shape) for count in (true, false)]
    return Curves(ranked.astype(np.float64), OperatingPoint(true, false, *total), known & last)


def operating_curve(
    targets: NDArray[np.uint8] | NDArray[np.bool_], scores: Scores
) -> tuple[Metric, OperatingPoint]:
    """Return every threshold of one label, descending, and its operating point, (n,) → (t,).

    Rows in which the label is blank are left out.
    """
    curves = operating_curves(targets[:, None], scores[:, None])
    point, ends = curves.point, curves.ends
    counts = (point.true_positives, point.false_positives, point.positives, point.negatives)
    return curves.thresholds[ends], OperatingPoint(*(count[ends] for count in counts))


def ratio(numerator: Counts, denominator: Counts) -> Metric:
    """Return the quotient, NaN where the denominator is zero or unknown."""
    quotient = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _best_threshold(
    targets: Targets, scores: Scores, criterion: Callable[[OperatingPoint], Metric]
) -> Metric:
    """Return the threshold of the largest criterion of each label, the highest of equals, (c,)."""
    curves = operating_curves(targets, scores)
    values = criterion(curves.point)
    best = np.where(curves.ends, values, -np.inf).argmax(axis=0)
    defined = np.isfinite(values).all(axis=0)
    return np.where(defined, curves.thresholds[best, np.arange(len(best))], np.nan)
