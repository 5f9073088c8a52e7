"""Interval of the mean ROC area of several labels, some of which few patients have.

The variance of the mean is the sum of the labels' variances and covariances. The bootstrap gives
covariances, but too small a variance of a label that one to three patients have: a single patient
of a class is drawn or not, and never replaced by another. So the variance of each label is that of
a score interval (`score_intervals`), with two estimates pooled over the labels, which share the
patients: the area that labels with few patients are shrunk to, and the ratio of the bootstrap's
variance to the formula's. `scripts/benchmarks/coverage.py --rare` simulates coverage.
"""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

from headsweep.metrics.ranking import Metric
from headsweep.metrics.score_intervals import PRIOR_PATIENTS, auroc_variance, variance_of_draws


def macro_auroc_interval(
    estimates: Metric, draws: Metric, positives: Metric, negatives: Metric, confidence: float
) -> tuple[float, float]:
    """Compute the score interval of the mean ROC area of several labels.

    It holds the means t from which the estimate is at most q standard errors away, where the
    variance of t is that of the estimate times t (1 - t), scaled to equal it at the estimate. The
    quantile q is Student's, with Satterthwaite's (1946) degrees of freedom of a sum of variances.

    Args:
        estimates: (c,) ROC areas; undefined ones are left out.
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
    own, drawn = estimates[used], draws[:, used]
    size = np.minimum(positives[used], negatives[used])
    # Half a patient of either outcome is added to all labels together, then one to each label.
    centre = (own.mean() * size.sum() + 0.5) / (size.sum() + 1)
    areas = (own * size + centre) / (size + 1)
    formula = auroc_variance(areas, positives[used], negatives[used])
    spread = variance_of_draws(drawn)
    # Resamples of m patients vary by (m - 1) / m of what they should, on m - 1 degrees of freedom.
    added = PRIOR_PATIENTS * formula.mean()
    ratio = (added + np.sum(size * spread)) / (added + np.sum((size - 1) * formula))
    freedom = PRIOR_PATIENTS + size - 1
    variances = (PRIOR_PATIENTS * ratio * formula + size * spread) / freedom

    total = variances.sum()
    variance = (total + _covariances(drawn, spread, variances)) / len(own) ** 2
    reach = stdtrit(total**2 / np.sum(variances**2 / freedom), (1 + confidence) / 2)
    return _invert(own.mean(), reach**2 * variance / (areas.mean() * (1 - areas.mean())))


def _covariances(draws: Metric, spread: Metric, variances: Metric) -> float:
    """Return the sum of the bootstrap's covariances between different labels.

    A label's draws are scaled down to `variances` (c,) where these are smaller than their own
    variance, `spread` (c,): with the variances on its diagonal, the matrix stays positive.
    """
    finite = np.isfinite(draws)
    mean = np.where(finite, draws, 0.0).sum(axis=0) / np.maximum(finite.sum(axis=0), 1)
    factor = np.sqrt(variances / np.maximum(spread, variances))
    deviations = np.where(finite, draws - mean, 0.0) * factor
    return float(deviations.sum(axis=1).var() - deviations.var(axis=0).sum())


def _invert(estimate: float, scale: float) -> tuple[float, float]:
    """Return both t with (estimate - t)² = scale * t (1 - t); they are not beyond 0 and 1."""
    middle, width = estimate + scale / 2, np.sqrt(scale**2 / 4 + scale * estimate * (1 - estimate))
    low, high = (middle - width) / (1 + scale), (middle + width) / (1 + scale)
    return max(float(low), 0.0), min(float(high), 1.0)
