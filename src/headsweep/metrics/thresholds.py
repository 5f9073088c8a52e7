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
    """Return the largest sensitivity of thresholds with at least this specificity, (c,).

    Read off the ROC curve of the very split: it describes the ranking, not a frozen threshold.
    """
    best = np.full(targets.shape[1], np.nan)
    for j in range(targets.shape[1]):
        _, curve = operating_curve(targets[:, j], scores[:, j])
        if curve.positives.any() and curve.negatives.any():
            # Calling nothing has sensitivity 0 and specificity 1.
            allowed = curve.specificity >= specificity
            best[j] = curve.sensitivity[allowed].max(initial=0.0)
    return best


def operating_curve(
    targets: NDArray[np.uint8] | NDArray[np.bool_], scores: Scores
) -> tuple[Metric, OperatingPoint]:
    """Return every threshold of one label, descending, and its operating point, (n,) → (t,).

    Rows in which the label is blank are left out.
    """
    known = labelled(targets)
    if not known.all():
        targets, scores = targets[known], scores[known]
    order = np.argsort(-scores, kind="stable")
    ranked, positive = scores[order], targets[order].astype(bool)
    ends = np.flatnonzero(np.diff(ranked, append=-np.inf))
    true = np.cumsum(positive)[ends].astype(np.float64)
    total = np.full(len(ends), float(positive.sum()))
    point = OperatingPoint(true, ends + 1 - true, total, len(positive) - total)
    return ranked[ends].astype(np.float64), point


def ratio(numerator: Counts, denominator: Counts) -> Metric:
    """Return the quotient, NaN where the denominator is zero or unknown."""
    quotient = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _best_threshold(
    targets: Targets, scores: Scores, criterion: Callable[[OperatingPoint], Metric]
) -> Metric:
    best = np.full(targets.shape[1], np.nan)
    for j in range(targets.shape[1]):
        thresholds, curve = operating_curve(targets[:, j], scores[:, j])
        value = criterion(curve)
        if value.size and np.isfinite(value).all():
            best[j] = thresholds[np.argmax(value)]
    return best
