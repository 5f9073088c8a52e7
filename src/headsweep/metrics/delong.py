"""DeLong's test of two correlated ROC areas, with patients as clusters.

DeLong et al. 1988 in the form of Obuchowski 1997, which sums the structural components of a
patient's rows before it takes their variance. With one row a patient it is DeLong's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from headsweep.metrics.ranking import Metric, Scores

MIN_PATIENTS = 5
"""Patients of each class from which a p-value is given.

In simulations of equal models with 15 to 150 patients, the test at 5 % rejects 2.7 to 5.8 % of
the time where each class has at least this many (`scripts/benchmarks/delong.py`).
"""


@dataclass(frozen=True, eq=False)
class Components:
    """Structural components of an ROC area: how each row ranks among those of the other class.

    A positive's component is the share of negatives that it outranks, a negative's the share of
    positives that outrank it (ties count one half); the area is the mean of either.
    """

    area: float
    of_row: Metric


def components(positive: NDArray[np.bool_], scores: Scores) -> Components:
    """Return the components of one label; scores (S, n) are averaged over seeds."""
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    overall, of_row = _average_ranks(scores), np.empty(scores.shape)
    above = overall[:, positive] - _average_ranks(scores[:, positive])
    below = overall[:, ~positive] - _average_ranks(scores[:, ~positive])
    of_row[:, positive] = above / n_negative
    of_row[:, ~positive] = 1 - below / n_positive
    mean = of_row.mean(axis=0)
    return Components(float(mean[positive].mean()), mean)


def delong_p_value(
    positive: NDArray[np.bool_],
    patients: Sequence[str] | NDArray[np.integer],
    one: Components,
    other: Components,
    *,
    few_patients: bool = True,
) -> float:
    """Test whether two models have the same ROC area on these rows.

    A variance from few patients is itself uncertain: with the normal distribution the test rejects
    equal models too often. Student's distribution is used, with Satterthwaite's (1946) degrees of
    freedom for the sum of the two classes' variances; those of one class are Bell and McCaffrey's
    (2002), which are fewer where some patients have many more rows than others.

    Args:
        positive: (n,) which rows are positive.
        patients: patient of each row.
        one: components of one model.
        other: components of the other model on the same rows.
        few_patients: use Student's distribution; False is the normal one, as on boards of earlier
            versions.

    Returns:
        Two-sided p-value; NaN when the variance of the difference is zero, or a class has fewer
        than `MIN_PATIENTS` patients.
    """
    keys, patient = np.unique(patients, return_inverse=True)
    difference = one.area - other.area
    # Each row's share in the difference, less its expectation; then one sum a patient and class.
    share = one.of_row - other.of_row - difference
    sums, scaled, freedom = [], [], []
    for members in (positive, ~positive):
        by_patient = np.bincount(patient[members], share[members], len(keys)) / members.sum()
        rows = np.bincount(patient[members], minlength=len(keys))
        n_patients = int((rows > 0).sum())
        if n_patients < (MIN_PATIENTS if few_patients else 2):
            return math.nan
        sums.append(by_patient)
        scaled.append(float(by_patient @ by_patient) * n_patients / (n_patients - 1))
        freedom.append(_degrees_of_freedom(rows[rows > 0].astype(np.float64)))
    both = sums[0] @ sums[1] * len(keys) / (len(keys) - 1)
    variance = scaled[0] + scaled[1] + 2 * both
    if variance <= 0:
        return math.nan
    if not few_patients:
        return math.erfc(abs(difference) / math.sqrt(2 * variance))
    squares = sum(part**2 / degrees for part, degrees in zip(scaled, freedom, strict=True))
    return float(
        2 * stdtr((scaled[0] + scaled[1]) ** 2 / squares, -abs(difference) / math.sqrt(variance))
    )


def _average_ranks(scores: Scores) -> Metric:
    """Return ranks from 1 within each row (S, n), as `scipy.stats.rankdata`.

    Equal scores share the mean of their ranks.
    """
    order = np.argsort(scores, axis=1)
    ordered = np.take_along_axis(scores, order, axis=1)
    place, n = np.arange(scores.shape[1]), scores.shape[1]
    starts, ends = np.ones((2, *scores.shape), bool)
    starts[:, 1:] = ends[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(starts, place, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, place, n)[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(scores.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=1)
    return ranks


def _degrees_of_freedom(rows: Metric) -> float:
    """Return the degrees of freedom of a variance between patients with so many rows each, (n,).

    Bell and McCaffrey (2002): trace(A)² / trace(A²) of the quadratic form A that gives the variance
    of a mean over rows, when patients' means vary alike. With equal counts it is n - 1.
    """
    share, squared = rows / rows.sum(), rows**2
    total, cross, power = squared.sum(), squared @ share, share @ share
    trace = total - 2 * cross + total * power
    product = 2 * (squared**2 @ share) - total * (squared @ share**2)
    added = 2 * cross**2 + 2 * (squared @ squared) * power - 4 * total * cross * power
    of_square = squared @ squared - 2 * product + added + (total * power) ** 2
    return float(trace**2 / of_square)
