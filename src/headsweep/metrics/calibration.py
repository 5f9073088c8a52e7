"""Calibration of probabilities: Brier score, calibration error, reliability curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headsweep.metrics.masking import Targets, has_blanks, labelled, labelled_counts
from headsweep.metrics.ranking import Metric, Scores
from headsweep.metrics.thresholds import ratio

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Bins of equal width over [0, 1]: rows, mean probability and share of positives, (bins,)."""

    rows: NDArray[np.int64]
    probability: Metric
    frequency: Metric


def brier(targets: Targets, probabilities: Scores) -> Metric:
    """Return the mean squared error of each label's probabilities, (n, c) → (c,) (Brier 1950)."""
    squared = (probabilities.astype(np.float64) - targets) ** 2
    if not has_blanks(targets):
        return np.asarray(squared.mean(axis=0))
    return ratio((squared * labelled(targets)).sum(axis=0), labelled_counts(targets))


def expected_calibration_error(targets: Targets, probabilities: Scores, bins: int = BINS) -> Metric:
    """Return the mean gap of frequency and probability over equal-width bins, by rows, (c,).

    The binary form of Naeini et al. 2015, on the probability of the positive class.
    """
    if not has_blanks(targets):
        return _error_of_all_labels(targets, probabilities, bins)
    errors = []
    for j in range(targets.shape[1]):
        curve = reliability(targets[:, j], probabilities[:, j], bins)
        gap = np.abs(curve.frequency - curve.probability)
        rows = curve.rows.sum()
        errors.append(np.nansum(gap * curve.rows) / rows if rows else np.nan)
    return np.array(errors)


def _error_of_all_labels(targets: Targets, probabilities: Scores, bins: int) -> Metric:
    """Return the same numbers for targets without blanks, with one count for all labels."""
    n, c = targets.shape
    exact = probabilities.astype(np.float64).T
    place = np.minimum((exact * bins).astype(np.int64), bins - 1)
    place = (place + bins * np.arange(c)[:, None]).ravel()
    rows, probability, positive = (
        np.bincount(place, weights, bins * c).reshape(c, bins)
        for weights in (None, exact.ravel(), targets.T.ravel())
    )
    gap = np.abs(ratio(positive, rows) - ratio(probability, rows))
    sums = np.array([np.nansum(label) for label in gap * rows])
    return np.asarray(sums / n)


def reliability(
    targets: NDArray[np.uint8] | NDArray[np.bool_], probabilities: Scores, bins: int = BINS
) -> Reliability:
    """Return the reliability curve of one label, (n,) → bins; NaN where a bin is empty.

    A probability on an edge falls into the upper bin, 1.0 into the last. Rows in which the label is
    blank are left out.
    """
    known = labelled(targets)
    if not known.all():
        targets, probabilities = targets[known], probabilities[known]
    exact = probabilities.astype(np.float64)
    place = np.minimum((exact * bins).astype(np.int64), bins - 1)
    rows = np.bincount(place, minlength=bins)
    return Reliability(
        rows,
        ratio(np.bincount(place, exact, bins), rows),
        ratio(np.bincount(place, targets, bins), rows),
    )
