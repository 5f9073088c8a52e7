"""Metrics of one finalist on one split: mean and spread over seeds, intervals over patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headsweep.evaluation.areas import (
    class_patients,
)
from headsweep.evaluation.extremes import Ends, is_extreme
from headsweep.evaluation.predictions import Predictions
from headsweep.evaluation.rules import CURRENT, Rules
from headsweep.metrics.bootstrap import (
    Multiplicities,
    intervals,
    patient_resamples,
    patients_with,
    rarer_class_patients,
    resampled_operating_points,
    resampled_ranking,
)
from headsweep.metrics.calibration import brier, expected_calibration_error
from headsweep.metrics.masking import (
    has_blanks,
    labelled,
    prevalence,
)
from headsweep.metrics.ranking import (
    Metric,
    Scores,
    auprc_skill,
    average_precision_and_auroc,
    macro,
)
from headsweep.metrics.thresholds import (
    at_thresholds,
    f1_optimal,
    sensitivity_at_specificity,
    youden_optimal,
)

N_RESAMPLES = 2000
RESAMPLING_SEED = 0
CONFIDENCE = 0.95
AT_THRESHOLDS = ("f1", "precision", "sensitivity", "specificity")
MIN_PATIENTS = 10
"""Patients of the rarer class from which percentile intervals and p-values are given.

AUPRC and AUROC have intervals from fewer patients on (`areas.MIN_PATIENTS_OF_AREAS`).
"""

MAX_SHARED = 1 << 23
"""Largest resamples, in cells, that are cached for the next finalist: 32 MiB."""

Summary = dict[str, float | None]


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of one seed, chosen on valid and frozen, (c,) each; NaN where there is none."""

    f1: Metric
    youden: Metric
    on_logits: bool = False
    """Whether they are logits; otherwise probabilities."""


@dataclass(frozen=True, eq=False)
class Measured:
    """One finalist on one split.

    Metrics that are not resampled have no interval.
    """

    predictions: Predictions
    """Of the first seed."""
    values: Mapping[str, Metric]
    """Of each seed and label, (S, c), by metric."""
    draws: Mapping[str, Metric]
    """Values on resamples by label, averaged over seeds, (B, c)."""
    macro_draws: Mapping[str, Metric]
    """Values on resamples, averaged over the defined labels and then over seeds, (B,)."""
    called_patients: Mapping[str, Metric] = field(default_factory=dict)
    """Patients with a called row, (c,), fewest of the seeds, by kind of precision."""

    @cached_property
    def n_patients(self) -> int:
        """Patients of the split."""
        return len(set(self.predictions.patients))

    @cached_property
    def patients(self) -> Metric:
        """Patients of each label's rarer class, (c,)."""
        return rarer_class_patients(self.predictions.targets, self.predictions.patients)

    def patients_of(self, name: str, rules: Rules) -> Metric:
        """Return on how many patients a metric rests, (c,): for most, those of the rarer class."""
        if name == "brier" and rules.corrects_few_patients:  # has a term of every row
            return self.labelled_patients
        return self.patients

    @cached_property
    def labelled_patients(self) -> Metric:
        """Patients with a row in which each label is known, (c,)."""
        return patients_with(labelled(self.predictions.targets), self.predictions.patients)

    @cached_property
    def class_patients(self) -> tuple[Metric, Metric]:
        """Patients with a positive and with a negative row of each label, (c,) both."""
        return class_patients(self.predictions.targets, self.predictions.patients)


def shared_resamples(patients: tuple[str, ...], n_resamples: int = N_RESAMPLES) -> Multiplicities:
    """Return the resamples of a split's patients, drawn once for all finalists if they are small.

    Args:
        patients: patient of each row.
        n_resamples: number of resamples, B.

    Returns:
        (B, n): how often each row is drawn; not to be changed.
    """
    if len(patients) * n_resamples > MAX_SHARED:
        return patient_resamples(patients, n_resamples, RESAMPLING_SEED)
    return _shared_resamples(patients, n_resamples)


@lru_cache(maxsize=8)
def _shared_resamples(patients: tuple[str, ...], n_resamples: int) -> Multiplicities:
    resamples = patient_resamples(patients, n_resamples, RESAMPLING_SEED)
    resamples.setflags(write=False)
    return resamples


def choose_thresholds(valid: Predictions, rules: Rules = CURRENT) -> Thresholds:
    """Return both kinds of thresholds of every label, from predictions on valid.

    They are logits where the predictions have some: probabilities of logits above 36.7 are equal.
    """
    on_logits = rules.cuts_logits and valid.logits is not None
    scores = valid.ranking if on_logits else valid.scores
    return Thresholds(
        f1_optimal(valid.targets, scores), youden_optimal(valid.targets, scores), on_logits
    )


def measure(
    by_seed: Sequence[Predictions],
    thresholds: Sequence[Thresholds],
    *,
    n_resamples: int = N_RESAMPLES,
) -> Measured:
    """Compute every metric of every seed and label, on the split and on resamples of its patients.

    Args:
        by_seed: predictions of each seed on one split.
        thresholds: those of each seed.
        n_resamples: how many resamples of the patients.

    Returns:
        The metrics by name.
    """
    targets, patients = by_seed[0].targets, by_seed[0].patients
    scores = np.stack([predictions.scores for predictions in by_seed])
    ranking = np.stack([predictions.ranking for predictions in by_seed])
    cut = ranking if thresholds[0].on_logits else scores
    chosen = {
        "": np.stack([seed.f1 for seed in thresholds]),
        "_youden": np.stack([seed.youden for seed in thresholds]),
    }
    values = _values(targets, scores, ranking, cut, chosen)
    called_patients: dict[str, Metric] = {}
    for suffix, at in chosen.items():
        if is_extreme(values["precision" + suffix].mean(axis=0)).any():
            called = (cut >= at[:, None]) & labelled(targets)
            counts = [patients_with(rows, patients) for rows in called]
            called_patients["precision" + suffix] = np.min(counts, axis=0)

    resamples = shared_resamples(patients, n_resamples)
    draws: dict[str, Metric] = {}
    macro_draws: dict[str, Metric] = {}
    for name, drawn in _resampled(targets, scores, ranking, cut, chosen, resamples):
        draws[name] = drawn.mean(axis=0)
        macro_draws[name] = macro(drawn).mean(axis=0)
    return Measured(by_seed[0], values, draws, macro_draws, called_patients)


def _values(
    targets: NDArray[np.uint8],
    scores: Scores,
    ranking: Scores,
    cut: Scores,
    chosen: Mapping[str, Metric],
) -> dict[str, Metric]:
    """Return every metric of each seed and label, (S, c).

    Args:
        targets: (n, c).
        scores: probabilities (S, n, c).
        ranking: what ranks the rows.
        cut: what the thresholds are compared with.
        chosen: thresholds (S, c) by the suffix of their metrics.
    """
    auprc, auroc = average_precision_and_auroc(targets, ranking)
    values = {
        "auprc": auprc,
        "auroc": auroc,
        "auprc_skill": auprc_skill(auprc, prevalence(targets)),
        "sensitivity_at_90_specificity": sensitivity_at_specificity(targets, ranking, 0.9),
        "brier": np.stack([brier(targets, seed) for seed in scores]),
        "ece": np.stack([expected_calibration_error(targets, seed) for seed in scores]),
    }
    for suffix, thresholds in chosen.items():
        points = [at_thresholds(targets, *pair) for pair in zip(cut, thresholds, strict=True)]
        for name in AT_THRESHOLDS:
            values[name + suffix] = np.stack([getattr(point, name) for point in points])
    return values


def _resampled(
    targets: NDArray[np.uint8],
    scores: Scores,
    ranking: Scores,
    cut: Scores,
    chosen: Mapping[str, Metric],
    resamples: Multiplicities,
) -> Iterator[tuple[str, Metric]]:
    """Yield the metrics that have intervals on each resample, (S, B, c), one after another."""
    auprc, auroc = resampled_ranking(targets, ranking, resamples)
    positive, squared, rows = _resampled_terms(targets, scores, resamples)
    yield "auprc", auprc
    yield "auroc", auroc
    yield "auprc_skill", auprc_skill(auprc, positive / rows)
    yield "brier", squared / rows
    for suffix, thresholds in chosen.items():
        point = resampled_operating_points(targets, cut, thresholds, resamples)
        for name in AT_THRESHOLDS:
            yield name + suffix, getattr(point, name)


def _resampled_terms(
    targets: NDArray[np.uint8], scores: NDArray[np.floating[Any]], resamples: Multiplicities
) -> tuple[Metric, Metric, Metric]:
    """Return what prevalence and Brier score on resamples are made of.

    Returns:
        Positives (B, c), squared errors (S, B, c), and rows (B, 1) or, where labels are blank, the
        labelled rows (B, c), NaN for none.
    """
    squared = (scores.astype(np.float64) - targets) ** 2
    if not has_blanks(targets):
        rows = resamples.sum(axis=1, keepdims=True).astype(np.float64)
        positive = np.asarray(resamples @ targets.astype(np.float64), np.float64)
        return positive, resamples @ squared, rows
    known = labelled(targets).astype(np.float64)
    rows = np.asarray(resamples @ known)
    positive = resamples @ (targets == 1).astype(np.float64)
    return positive, resamples @ (squared * known), np.where(rows > 0, rows, np.nan)


def summarize(
    by_seed: Metric,
    draws: Metric | None,
    patients: float,
    rules: Rules = CURRENT,
    *,
    extremes: Ends | None = None,
    ends: Ends | None = None,
    least: int = MIN_PATIENTS,
) -> Summary:
    """Summarize a metric as mean and standard deviation over seeds, and interval over patients.

    Args:
        by_seed: (S,) values; undefined ones make the mean undefined.
        draws: (B,) values on resamples, averaged over seeds; None leaves the interval out.
        patients: on how many of them the values rest.
        rules: of the board.
        extremes: the interval, (1,) each end, if the mean is exactly 0 or 1; NaN where it is not.
        ends: the interval of other means, (1,) each end; None or NaN computes it from the draws.
        least: patients below which the interval is undefined.

    Returns:
        `mean`, `std`, `ci_low` and `ci_high`, each None where it is undefined.
    """
    columns = None if draws is None else draws[:, None]
    rest_on = np.array([float(patients)])
    (summary,) = summarize_labels(
        by_seed[:, None], columns, rest_on, rules, extremes=extremes, ends=ends, least=least
    )
    return summary


def summarize_labels(
    by_seed: Metric,
    draws: Metric | None,
    patients: Metric,
    rules: Rules = CURRENT,
    *,
    extremes: Ends | None = None,
    ends: Ends | None = None,
    least: int | Metric = MIN_PATIENTS,
) -> list[Summary]:
    """Summarize metrics of labels; as `summarize`, with another axis (c,) in the end.

    Args:
        by_seed: (S, c) values.
        draws: (B, c) values on resamples, averaged over seeds; None leaves the intervals out.
        patients: (c,) on how many of them each value rests.
        rules: of the board.
        extremes: both ends (c,) of intervals of means that are exactly 0 or 1; NaN elsewhere.
        ends: both ends (c,) of intervals of other means; None or NaN computes them from the draws.
        least: patients below which an interval is undefined, for all or (c,).

    Returns:
        A summary for each value.
    """
    by_label = np.ascontiguousarray(by_seed.T)  # seeds are added in the order of a single label's
    means = by_label.mean(axis=1)
    undefined = np.full(len(means), np.nan)
    spreads = by_label.std(axis=1, ddof=1) if len(by_seed) > 1 else undefined
    low = high = undefined
    if draws is not None:
        known = np.full((2, len(means)), np.nan) if ends is None else np.stack(ends)
        low, high = _interval_ends(means, draws, patients, rules, extremes, known, least)
    return [
        {"mean": finite(mean), "std": finite(std), "ci_low": finite(a), "ci_high": finite(b)}
        for mean, std, a, b in zip(means, spreads, low, high, strict=True)
    ]


def _interval_ends(
    means: Metric,
    draws: Metric,
    patients: Metric,
    rules: Rules,
    extremes: Ends | None,
    ends: Metric,
    least: int | Metric,
) -> Ends:
    """Return intervals; arguments as in `summarize_labels`, `ends` (2, c) are replaced.

    Returns:
        Both ends (c,), NaN where they are undefined.
    """
    enough = (patients >= least) | (not rules.corrects_few_patients)
    by_draws = np.isnan(ends[0]) & np.isfinite(means) & enough
    ends[:, by_draws] = intervals(
        means[by_draws], draws.T[by_draws].T, patients[by_draws], CONFIDENCE
    )
    if rules.corrects_few_patients and extremes is not None:
        np.copyto(ends, extremes, where=np.isfinite(extremes))
    ends[:, ~enough] = np.nan
    low, high = ends
    return low, high


def mean_patients(rarer: Metric) -> float:
    """Return on how many patients the labels of a macro mean rest on average.

    Labels without a patient of the rarer class are left out, as their metrics are undefined.
    """
    return float(rarer[rarer > 0].mean()) if rarer.any() else 0.0


def finite(value: float) -> float | None:
    """Return the value as plain data; None, which is JSON's null, where it is undefined."""
    return float(value) if np.isfinite(value) else None
