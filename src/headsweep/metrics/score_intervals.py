"""Score intervals of AUROC and average precision, for few patients of a class.

As in Wilson's interval of a proportion, an interval holds the areas t from which the estimate is at
most q standard errors away, where the standard error is the one that the area t would have. So
intervals stay within 0 and 1, and keep a width near both. The standard error is a formula's for
patients who count once each, times a factor by which the bootstrap differs from the formula. The
bootstrap of few patients says little, so the formula weighs as much as `PRIOR_PATIENTS` patients of
the rarer class do. As the variance is an estimate, q is Student's quantile, with the degrees of
freedom of both: `PRIOR_PATIENTS` + m - 1 for m patients. `scripts/benchmarks/coverage.py --rare`
simulates coverage.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit, ndtri, stdtrit

from headsweep.metrics.ranking import Metric

PRIOR_PATIENTS = 12
"""How many patients of the rarer class the variance by formula counts for."""

AP_BIAS = 0.35
"""Average precision on P patients with the label is `AP_BIAS * (1 - t) / P` above the true t.

A positive row counts among the rows at or above itself; the factor is fitted to simulations."""

Ends = tuple[Metric, Metric]
Formula = Callable[[Metric, Metric, Metric], Metric]
_GRID = np.concatenate([[0.0], expit(np.linspace(-9, 9, 361)), [1.0]])
_HALVINGS = 40


def auroc_variance(areas: Metric, positives: Metric, negatives: Metric) -> Metric:
    """Return the variance of ROC areas by Hanley and McNeil (1982), the mean over both classes."""

    def one_class(area: Metric) -> Metric:
        above = (positives - 1) * (area / (2 - area) - area**2)
        below = (negatives - 1) * (2 * area**2 / (1 + area) - area**2)
        return np.asarray((area * (1 - area) + above + below) / (positives * negatives))

    return (one_class(areas) + one_class(1 - areas)) / 2


def auprc_variance(areas: Metric, positives: Metric, negatives: Metric) -> Metric:
    """Return the variance of average precisions, about that of a share of the positives.

    The factors are fitted to simulated variances with a random number of positives: 0.9, and less
    for rankings whose distance from 1 is below 0.35 of that of a random ranking.
    """
    left = (1 - areas) / (0.35 * negatives / (positives + negatives))
    return np.asarray(0.9 * areas * (1 - areas) / positives * np.minimum(left, 1) ** 0.3)


def auroc_intervals(
    estimates: Metric,
    draws: Metric,
    positives: Metric,
    negatives: Metric,
    confidence: float,
    *,
    student: bool = True,
) -> Ends:
    """Compute score intervals of ROC areas.

    Args:
        estimates: (c,) areas on the sample.
        draws: (B, c) areas on resamples of patients; values that are not finite are left out.
        positives: (c,) patients with a positive row of each label.
        negatives: (c,) patients with a negative row.
        confidence: of the intervals, such as 0.95.
        student: use Student's quantiles, as the variance is an estimate; False is the normal
            ones, as on boards of `figures_version` 4.

    Returns:
        Lower and upper ends (c,), NaN where an area is undefined.
    """
    size = np.minimum(positives, negatives)
    variance, no_bias = _Variance(auroc_variance, positives, negatives), np.zeros_like(positives)
    factor = variance.factor(_shrunk(estimates, size), draws)
    reach = variance.quantile(confidence, student=student)
    return _invert(estimates, variance, factor, no_bias, reach)


def auprc_intervals(
    estimates: Metric,
    draws: Metric,
    positives: Metric,
    negatives: Metric,
    confidence: float,
    *,
    student: bool = True,
) -> Ends:
    """Compute score intervals of average precisions; as `auroc_intervals`, less the mean bias.

    Returns:
        Lower and upper ends (c,), NaN where a value is undefined.
    """
    variance = _Variance(auprc_variance, positives, negatives)
    factor = variance.factor(_shrunk(estimates, positives), draws)
    bias = AP_BIAS / np.maximum(positives, 1)
    reach = variance.quantile(confidence, student=student)
    return _invert(estimates, variance, factor, bias, reach)


def macro_auprc_interval(
    estimates: Metric, draws: Metric, positives: Metric, negatives: Metric, confidence: float
) -> tuple[float, float]:
    """Compute the interval of the mean average precision of several labels.

    Labels that few patients have bias the mean, and the bootstrap gives them too small a variance,
    or none. Here each label has its bias taken off and the variance of its own interval; the
    bootstrap tells by how much the labels' covariances raise the variance of the mean.

    Args:
        estimates: (c,) average precisions; undefined ones are left out.
        draws: (B, c) on resamples of patients.
        positives: (c,) patients with a positive row of each label.
        negatives: (c,) patients with a negative row.
        confidence: of the interval, such as 0.95.

    Returns:
        Lower and upper end; NaN, NaN if no label is defined.
    """
    used = np.isfinite(estimates)
    if not used.any():
        return np.nan, np.nan
    own, drawn, bias = estimates[used], draws[:, used], AP_BIAS / positives[used]
    variance = _Variance(auprc_variance, positives[used], negatives[used])
    at = _shrunk(own, positives[used])
    mean_square = np.sum(variance.at(at) * variance.factor(at, drawn))
    spread = variance_of_draws(drawn)
    defined = np.isfinite(drawn).any(axis=1)
    joint = np.nanmean(drawn[defined], axis=1).var() if defined.any() else 0.0
    covariance = joint * len(own) ** 2 / spread.sum() if spread.sum() > 0 else 1.0
    reach = ndtri((1 + confidence) / 2) * np.sqrt(mean_square * covariance) / len(own)
    mean, middle = own.mean(), np.mean((own - bias) / (1 - bias))
    low, high = min(middle - reach, mean), max(middle + reach, mean)
    return float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))


class _Variance:
    """A formula's variance for so many patients of each class."""

    def __init__(self, formula: Formula, positives: Metric, negatives: Metric) -> None:
        self.formula = formula
        self.positives, self.negatives = np.maximum(positives, 1), np.maximum(negatives, 1)

    def at(self, areas: Metric) -> Metric:
        """Return the variance of areas (c,) or (g, c)."""
        return np.maximum(self.formula(areas, self.positives, self.negatives), 0)

    def factor(self, areas: Metric, draws: Metric) -> Metric:
        """Return by how much variances (c,) at `areas` differ from the formula's.

        Resamples of m patients vary by (m - 1) / m of what they should. Their variance has m - 1
        degrees of freedom; the formula counts as `PRIOR_PATIENTS` more.
        """
        m = np.minimum(self.positives, self.negatives)
        ratio = m * variance_of_draws(draws) / self.at(areas)
        return np.asarray((PRIOR_PATIENTS + ratio) / (PRIOR_PATIENTS + m - 1))

    def quantile(self, confidence: float, *, student: bool) -> Metric:
        """Return how many standard errors (c,) an interval reaches."""
        freedom = PRIOR_PATIENTS + np.minimum(self.positives, self.negatives) - 1
        level = (1 + confidence) / 2
        return np.asarray(
            stdtrit(freedom, level) if student else np.full_like(freedom, ndtri(level))
        )


def _shrunk(areas: Metric, size: Metric) -> Metric:
    """Return areas with half a patient of either outcome added, which are not 0 or 1."""
    return (areas * size + 0.5) / (size + 1)


def variance_of_draws(draws: Metric) -> Metric:
    """Return variances of the finite draws of each column, 0 for none, (B, c) → (c,)."""
    finite = np.isfinite(draws)
    count = np.maximum(finite.sum(axis=0), 1)
    mean = np.where(finite, draws, 0.0).sum(axis=0) / count
    return np.asarray((np.where(finite, draws - mean, 0.0) ** 2).sum(axis=0) / count)


def _invert(
    estimates: Metric, variance: _Variance, factor: Metric, bias: Metric, reach: Metric
) -> Ends:
    """Return the smallest and largest areas from which the estimates are not too far, (c,)."""

    def holds(areas: Metric) -> Metric:
        distance = np.abs(estimates - areas - bias * (1 - areas))
        return np.asarray(distance <= reach * np.sqrt(variance.at(areas) * factor))

    inside = holds(np.repeat(_GRID[:, None], len(estimates), axis=1))
    first, last = inside.argmax(axis=0), len(_GRID) - 1 - inside[::-1].argmax(axis=0)

    inner = _GRID[np.stack([first, last])]
    outer = _GRID[np.stack([np.maximum(first - 1, 0), np.minimum(last + 1, len(_GRID) - 1)])]
    for _ in range(_HALVINGS):
        middle = (inner + outer) / 2
        inner, outer = np.where(holds(middle), (middle, outer), (inner, middle))
    low, high = inner
    # An estimate far below the mean bias is not near any area.
    nowhere = ~inside.any(axis=0)
    low = np.minimum(np.where(nowhere, 0.0, low), estimates)
    high = np.maximum(np.where(nowhere, 0.0, high), estimates)
    return low, high
