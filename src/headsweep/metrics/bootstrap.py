"""AUPRC, AUROC and F1 on bootstrap resamples of patients, all at once, and their intervals.

A resample is how often each row is drawn. The rows of a label are sorted once; the counts of every
resample are then accumulated in that order, which gives the same values as sorting each resample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from headsweep.metrics.ranking import Metric, Scores, Targets
from headsweep.metrics.thresholds import OperatingPoint

Multiplicities = NDArray[np.int32]

# The counts of one label then stay in a core's second-level cache.
_CELLS_PER_BLOCK = 1 << 17


def patient_resamples(patients: Sequence[str], n_resamples: int, seed: int) -> Multiplicities:
    """Patients drawn with replacement, as many as there are; all rows of a patient go together.

    Resamples depend on the set of patients and the seed alone, so that models compared on one
    manifest meet the same ones.

    Args:
        patients: patient key of each row, length n.
        n_resamples: number of resamples, B.
        seed: of the draws.

    Returns:
        (B, n): how often each row is drawn.
    """
    keys, patient_of_row = np.unique(np.asarray(patients), return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(keys), np.full(len(keys), 1 / len(keys)), size=n_resamples)
    return drawn.astype(np.int32).take(patient_of_row, axis=1)


def resampled_ranking(
    targets: Targets, scores: Scores, resamples: Multiplicities
) -> tuple[Metric, Metric]:
    """Average precision and ROC area of each slot and label on each resample.

    Args:
        targets: (n, c), 0 or 1.
        scores: (K, n, c) finite float32.
        resamples: (B, n), how often each row counts.

    Returns:
        Two (K, B, c) arrays; NaN where the resample holds no positive or no negative of the label.
    """
    slots, _, c = scores.shape
    orders = [[_order(targets[:, j], scores[k, :, j]) for j in range(c)] for k in range(slots)]
    precision = np.empty((slots, len(resamples), c))
    area = np.empty_like(precision)
    step = max(1, _CELLS_PER_BLOCK // len(targets))
    for start in range(0, len(resamples), step):
        block = slice(start, start + step)
        for k in range(slots):
            for j in range(c):
                areas = _weighted_areas(orders[k][j], resamples[block])
                precision[k, block, j], area[k, block, j] = areas
    return precision, area


def resampled_operating_points(
    targets: Targets, scores: Scores, thresholds: Metric, resamples: Multiplicities
) -> OperatingPoint:
    """What frozen thresholds give on each resample; every count is (K, B, c).

    Args:
        targets: (n, c), 0 or 1.
        scores: (K, n, c).
        thresholds: (K, c); NaN where there is none.
        resamples: (B, n), how often each row counts.
    """
    weights = resamples.astype(np.float32)  # sums of small integers stay exact
    positive = targets.astype(bool)
    called = scores >= thresholds[:, None, :]
    known = np.isfinite(thresholds)[:, None, :]

    def count(rows: NDArray[np.bool_]) -> Metric:
        return np.asarray(weights @ rows.astype(np.float32), dtype=np.float64)

    shape = (len(scores), len(resamples), targets.shape[1])
    return OperatingPoint(
        np.where(known, count(called & positive), np.nan),
        np.where(known, count(called & ~positive), np.nan),
        np.broadcast_to(count(positive), shape),
        np.broadcast_to(count(~positive), shape),
    )


def rarer_class_patients(targets: Targets, patients: Sequence[str]) -> Metric:
    """How many patients have a row of each label's rarer class, (n, c) → (c,).

    So many independent values a ranking metric of that label rests on.
    """
    patient = np.unique(np.asarray(patients), return_inverse=True)[1]
    positive = targets.astype(bool)
    held = [
        [len(np.unique(patient[rows])) for rows in members.T] for members in (positive, ~positive)
    ]
    return np.asarray(np.min(held, axis=0), dtype=np.float64)


def interval(
    estimate: float, draws: Metric, patients: float, confidence: float
) -> tuple[float, float]:
    """The bias-corrected percentile interval (Efron 1981), expanded for few patients.

    Average precision is higher on a sample than in the population, and higher again on resamples,
    which repeat rows; the percentiles are shifted by as much the other way. Resamples of m
    patients vary by (m - 1) / m of what they should, and normal quantiles are too close for a
    variance so estimated: both are mended as Hesterberg (2015, expanded percentiles) does.

    Args:
        estimate: the metric on the sample.
        draws: (B,) the metric on resamples; NaN is left out.
        patients: m, on how many independent values the metric rests.
        confidence: of the interval, such as 0.95.

    Returns:
        NaN, NaN where the metric is undefined.
    """
    drawn = draws[np.isfinite(draws)]
    if not drawn.size or not math.isfinite(estimate):
        return math.nan, math.nan
    m = max(patients, 2)
    below = (drawn < estimate).sum() + (drawn == estimate).sum() / 2
    shift = 2 * ndtri((below + 0.5) / (drawn.size + 1))
    reach = stdtrit(m - 1, (1 + confidence) / 2) * math.sqrt(m / (m - 1))
    low, high = np.quantile(drawn, ndtr([shift - reach, shift + reach]))
    return float(low), float(high)


@dataclass(frozen=True)
class _Order:
    """Rows of one label by descending score, best first, and where its groups end.

    A group is a set of equal scores; only groups that hold a positive matter.
    """

    rows: NDArray[np.intp]
    """All rows."""
    ends: NDArray[np.intp]
    """Where in `rows` each group ends."""
    positives: NDArray[np.intp]
    """Positive rows."""
    positive_ends: NDArray[np.intp]
    """Where in `positives` each group ends."""
    tied: NDArray[np.intp]
    """Negative rows that are tied with a positive."""
    group_of_tied: NDArray[np.intp]


def _order(targets: NDArray[np.uint8] | NDArray[np.bool_], scores: Scores) -> _Order:
    order = np.argsort(-scores, kind="stable")
    positive = targets[order].astype(bool)
    group = np.cumsum(np.diff(scores[order], prepend=np.inf) != 0)
    with_positive = np.unique(group[positive])
    tied = ~positive & np.isin(group, with_positive)
    return _Order(
        rows=order,
        ends=np.searchsorted(group, with_positive, side="right") - 1,
        positives=order[positive],
        positive_ends=np.searchsorted(group[positive], with_positive, side="right") - 1,
        tied=order[tied],
        group_of_tied=np.searchsorted(with_positive, group[tied]),
    )


def _weighted_areas(order: _Order, counts: Multiplicities) -> tuple[Metric, Metric]:
    """Average precision and ROC area of one label on each resample, (B, n) → (B,), (B,).

    The sums over groups of `ranking`, with the rows of a resample counted as often as drawn.
    """
    if not order.positives.size or len(order.positives) == len(order.rows):
        undefined = np.full(len(counts), np.nan)
        return undefined, undefined
    called = _running(counts, order.rows, order.ends)
    true = _running(counts, order.positives, order.positive_ends)
    gained = np.diff(true, axis=1, prepend=0)
    positives = true[:, -1]
    negatives = counts.sum(axis=1, dtype=np.float64) - positives

    precision = np.einsum("bg,bg->b", gained, true / np.maximum(called, 1))
    passed = called - true
    if order.tied.size:
        halves = counts[:, order.tied] / 2
        np.subtract.at(passed.T, order.group_of_tied, halves.T)
    behind = positives * negatives - np.einsum("bg,bg->b", gained, passed)
    defined = (positives > 0) & (negatives > 0)
    precision = np.where(defined, precision, np.nan) / np.maximum(positives, 1)
    return precision, np.where(defined, behind, np.nan) / np.maximum(positives * negatives, 1)


def _running(counts: Multiplicities, rows: NDArray[np.intp], ends: NDArray[np.intp]) -> Metric:
    """Counts of `rows` accumulated up to each of `ends`, (B, n) → (B, g)."""
    total = np.cumsum(counts.take(rows, axis=1), axis=1, dtype=np.int32)
    return total.take(ends, axis=1).astype(np.float64)
