"""Intervals of metrics that are exactly 0 or 1, which the bootstrap gives no width."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headsweep.evaluation.rules import Rules
from headsweep.metrics.bootstrap import bound_of_perfect, patients_with
from headsweep.metrics.masking import prevalence
from headsweep.metrics.ranking import Metric, macro

if TYPE_CHECKING:
    from headsweep.evaluation.summaries import Measured

Ends = tuple[Metric, Metric]
"""Lower and upper ends of intervals."""

RANKINGS = ("auprc", "auroc")
SKILL = "auprc_skill"
RATIOS = tuple(
    name + suffix
    for name in ("f1", "precision", "sensitivity", "specificity")
    for suffix in ("", "_youden")
)


def is_extreme(means: Metric) -> NDArray[np.bool_]:
    """Return which metrics are exactly 0 or 1."""
    return np.asarray((means == 0) | (means == 1))


def extremes_of(measured: Measured, name: str, confidence: float, rules: Rules) -> Ends:
    """Compute intervals of the labels whose metric is exactly 0 or 1.

    Returns:
        Lower and upper ends (c,), NaN for the other labels.
    """
    means = measured.values[name].mean(axis=0)
    if not is_extreme(means).any():
        return np.full(len(means), np.nan), np.full(len(means), np.nan)
    shares = prevalence(measured.predictions.targets)
    patients = _patients(measured, name)
    return bound_of_extremes(name, means, patients, confidence, rules, shares=shares)


def macro_extremes_of(measured: Measured, name: str, confidence: float, rules: Rules) -> Ends:
    """Compute the interval of a macro mean that is exactly 0 or 1.

    Returns:
        Lower and upper end (1,), NaN for another mean.
    """
    values = measured.values[name]
    used = np.isfinite(values).all(axis=0)
    mean = macro(values).mean(keepdims=True)
    if not is_extreme(mean).any():
        return np.full(1, np.nan), np.full(1, np.nan)
    patients = _patients(measured, name)[used].mean(keepdims=True)
    shares = prevalence(measured.predictions.targets)[used].mean(keepdims=True)
    return bound_of_extremes(name, mean, patients, confidence, rules, shares=shares)


def bound_of_extremes(
    name: str,
    means: Metric,
    patients: Metric,
    confidence: float,
    rules: Rules,
    *,
    shares: Metric | None = None,
) -> Ends:
    """Compute one-sided intervals of metrics that are exactly 0 or 1.

    All rows of m patients are right (or wrong), so the share of patients of whom this is true is
    at least `(1 - confidence)^(1 / m)`; see `bound_of_perfect`.

    Args:
        name: of the metric.
        means: (c,) its values.
        patients: (c,) m: for AUPRC and AUROC, patients of the rarer class; for sensitivity and F1,
            patients with a positive row; for specificity, with a negative one; for precision, with
            a row that is called positive.
        confidence: of the intervals, such as 0.95.
        rules: of the board.
        shares: (c,) prevalence of the labels, which AUPRC skill needs.

    Returns:
        Lower and upper ends (c,), NaN where the bootstrap's interval stays.
    """
    unbounded = np.full(len(means), np.nan)
    if name in RANKINGS and rules.corrects_few_patients:
        return bound_of_perfect(means, patients, confidence)
    if not rules.bounds_ratios or (name not in RATIOS and name != SKILL):
        return unbounded, unbounded
    low, high = bound_of_perfect(means, patients, confidence)
    if name == SKILL:
        if shares is None:
            return unbounded, unbounded
        perfect = means == 1
        low = np.where(perfect, (low - shares) / (1 - shares), np.nan)
        return low, np.where(perfect, high, np.nan)
    if name.startswith("f1"):
        # With recall r and no false positive, F1 is 2r / (1 + r).
        high = np.where(means == 0, 2 * high / (1 + high), high)
    return low, high


def _patients(measured: Measured, name: str) -> Metric:
    """Return how many patients could have counted against a metric of exactly 0 or 1, (c,)."""
    predictions = measured.predictions
    if name in measured.called_patients:
        return measured.called_patients[name]
    if name.startswith(("sensitivity", "f1")):
        return patients_with(predictions.targets == 1, predictions.patients)
    if name.startswith("specificity"):
        return patients_with(predictions.targets == 0, predictions.patients)
    return measured.patients
