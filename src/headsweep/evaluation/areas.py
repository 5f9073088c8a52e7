"""Intervals of AUROC and AUPRC, of labels and of their macro means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headsweep.evaluation.extremes import Ends
from headsweep.evaluation.rules import Rules
from headsweep.metrics.bootstrap import logit_intervals, patients_with
from headsweep.metrics.macro_intervals import macro_auroc_interval
from headsweep.metrics.ranking import Metric
from headsweep.metrics.score_intervals import (
    auprc_intervals,
    auroc_intervals,
    macro_auprc_interval,
)

MIN_PATIENTS_OF_AREAS = 5
"""Patients of the rarer class from which AUPRC and AUROC have intervals; of a macro mean, the mean
over labels. In simulations with normal scores they then cover the true value in 93 to 98 of 100
data sets whose number of patients with the label is random; `docs/benchmarks/intervals.md` has
other designs, among them those that are covered less often."""

AREAS = ("auprc", "auroc")
STUDENT_FACTS = {"quantiles_of_areas": "Student's t", "interval_of_macro_auroc": "score"}


def class_patients(targets: NDArray[np.uint8], patients: Sequence[str]) -> tuple[Metric, Metric]:
    """Return how many patients have a positive and a negative row of each label, (c,) both."""
    positives, negatives = (patients_with(targets == one, patients) for one in (1, 0))
    return positives, negatives


def area_ends(
    name: str,
    by_seed: Metric,
    draws: Metric,
    classes: tuple[Metric, Metric],
    confidence: float,
    rules: Rules,
) -> Ends:
    """Compute the intervals of an area of every label that are not percentiles.

    Args:
        name: of the metric.
        by_seed: (S, c) its values.
        draws: (B, c) the same on resamples, averaged over seeds.
        classes: patients with a positive and a negative row of each label, (c,) both.
        confidence: of the intervals, such as 0.95.
        rules: of the board.

    Returns:
        Lower and upper ends (c,); NaN where percentiles are the interval.
    """
    if name in AREAS and rules.scores_areas:
        compute = auprc_intervals if name == "auprc" else auroc_intervals
        means, student = by_seed.mean(axis=0), rules.student_areas
        return compute(means, draws, *classes, confidence, student=student)
    if name == "auroc" and rules.corrects_few_patients:
        means = np.ascontiguousarray(by_seed.T).mean(axis=1)
        return logit_intervals(means, draws, np.minimum(*classes), confidence)
    low, high = np.full((2, by_seed.shape[1]), np.nan)
    return low, high


def macro_area_ends(
    name: str,
    by_seed: Metric,
    draws: Metric,
    classes: tuple[Metric, Metric],
    confidence: float,
    rules: Rules,
) -> Ends:
    """Compute the interval of a macro mean; as `area_ends`, with ends of shape (1,).

    Returns:
        Both ends; NaN where percentiles of the macro mean are the interval.
    """
    scored = {"auprc": rules.scores_areas, "auroc": rules.student_areas}
    if not scored.get(name):
        return np.full(1, np.nan), np.full(1, np.nan)
    compute = macro_auprc_interval if name == "auprc" else macro_auroc_interval
    low, high = compute(by_seed.mean(axis=0), draws, *classes, confidence)
    return np.array([low]), np.array([high])


def min_patients(name: str, rules: Rules, otherwise: int) -> int:
    """Return from how many patients on a metric has an interval."""
    return MIN_PATIENTS_OF_AREAS if name in AREAS and rules.scores_areas else otherwise


def area_interval_facts(rules: Rules) -> dict[str, str | int]:
    """Return how intervals of AUPRC and AUROC were computed, for `provenance.json`."""
    if not rules.scores_areas:
        return {"interval_of_auroc_per_label": "Student's t on the logit scale"}
    return {
        "interval_of_auroc_per_label": "score",
        "interval_of_auprc_per_label": "score",
        "interval_of_macro_auprc": "sum of the labels' score variances",
        **(STUDENT_FACTS if rules.student_areas else {}),
        "min_patients_of_areas": MIN_PATIENTS_OF_AREAS,
    }
