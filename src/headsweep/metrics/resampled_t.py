"""Means and paired tests over folds whose training sets overlap (Nadeau & Bengio 2003)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from headsweep.metrics.ranking import Metric

CONFIDENCE = 0.95


@dataclass(frozen=True)
class FoldMean:
    """A mean over folds, its confidence interval, and the two-sided p-value of being zero."""

    mean: float
    low: float
    high: float
    p: float


def corrected_mean(by_fold: Metric, test_share: float) -> FoldMean:
    """Compute the corrected resampled 95 % t-interval of a mean over folds.

    Folds share training rows, so the variance of their mean is not s²/K: it is taken as
    (1/K + n_test/n_train) · s², with K - 1 degrees of freedom.

    Args:
        by_fold: (K,) values, seeds averaged within a fold; for a paired test, differences.
        test_share: n_test / n_train of one fold.

    Returns:
        NaN for interval and p-value with fewer than two folds.
    """
    folds = len(by_fold)
    mean = float(by_fold.mean())
    if folds < 2:
        return FoldMean(mean, math.nan, math.nan, math.nan)
    error = math.sqrt((1 / folds + test_share) * float(by_fold.var(ddof=1)))
    reach = float(stdtrit(folds - 1, (1 + CONFIDENCE) / 2)) * error
    if error == 0:
        return FoldMean(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    p = float(2 * stdtr(folds - 1, -abs(mean) / error))
    return FoldMean(mean, mean - reach, mean + reach, p)


def seeds_averaged(values: Metric) -> Metric:
    """Return values (..., folds, seeds) as (..., folds): a seed is no independent sample."""
    return np.asarray(values.mean(axis=-1))
