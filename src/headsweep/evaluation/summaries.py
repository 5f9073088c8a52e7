"""Metrics of one finalist on one split: mean and spread over seeds, intervals over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headsweep.evaluation.areas import (
    AREAS,
    area_ends,
    class_patients,
    macro_area_ends,
    min_patients,
)
from headsweep.evaluation.extremes import Ends, extremes_of, is_extreme, macro_extremes_of
from headsweep.evaluation.predictions import Predictions
from headsweep.evaluation.rules import CURRENT, Rules
from headsweep.metrics.bootstrap import (
    Multiplicities,
    intervals,
    logit_intervals,
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
    labelled_counts,
    positive_counts,
    prevalence,
)
from headsweep.metrics.ranking import Metric, auprc_skill, average_precision_and_auroc, macro
from headsweep.metrics.retrieval import INSTANCE_RECALL, recall_at
from headsweep.metrics.thresholds import (
    OperatingPoint,
    at_thresholds,
    f1_optimal,
    sensitivity_at_specificity,
    youden_optimal,
)

N_RESAMPLES = 2000
RESAMPLING_SEED = 0
CONFIDENCE = 0.95
RECALL_AT = (1, 5, 10, 50)
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
    """One finalist on one split: values by metric (S, c), and on resamples (S, B, c).

    Metrics that are not resampled have no interval.
    """

    predictions: Predictions
    values: Mapping[str, Metric]
    resampled: Mapping[str, Metric]
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

    def ends_of(self, name: str, rules: Rules, *, of_macro: bool = False) -> Ends | None:
        """Return score intervals of the labels' metric or its macro mean; None for others."""
        if name not in AREAS:
            return None
        compute = macro_area_ends if of_macro else area_ends
        by_seed, draws = self.values[name], self.resampled[name]
        return compute(name, by_seed, draws, self.class_patients, CONFIDENCE, rules)

    @cached_property
    def macro_draws(self) -> Mapping[str, Metric]:
        """Each resampled metric, averaged over its defined labels and then over seeds, (B,)."""
        return {name: macro(draws).mean(axis=0) for name, draws in self.resampled.items()}


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
    targets = by_seed[0].targets
    scores = np.stack([predictions.scores for predictions in by_seed])
    ranking = np.stack([predictions.ranking for predictions in by_seed])
    resamples = shared_resamples(by_seed[0].patients, n_resamples)
    auprc, auroc = average_precision_and_auroc(targets, ranking)
    values = {
        "auprc": auprc,
        "auroc": auroc,
        "auprc_skill": auprc_skill(auprc, prevalence(targets)),
        "sensitivity_at_90_specificity": np.stack(
            [sensitivity_at_specificity(targets, seed, 0.9) for seed in ranking]
        ),
        "brier": np.stack([brier(targets, seed) for seed in scores]),
        "ece": np.stack([expected_calibration_error(targets, seed) for seed in scores]),
    }
    auprc, auroc = resampled_ranking(targets, ranking, resamples)
    positive, squared, rows = _resampled_terms(targets, scores, resamples)
    resampled = {"auprc": auprc, "auroc": auroc, "auprc_skill": auprc_skill(auprc, positive / rows)}
    resampled["brier"] = squared / rows

    called_patients: dict[str, Metric] = {}
    cut = ranking if thresholds[0].on_logits else scores
    for suffix, chosen in (
        ("", np.stack([seed.f1 for seed in thresholds])),
        ("_youden", np.stack([seed.youden for seed in thresholds])),
    ):
        points = [at_thresholds(targets, *pair) for pair in zip(cut, chosen, strict=True)]
        for name in ("f1", "precision", "sensitivity", "specificity"):
            values[name + suffix] = np.stack([getattr(point, name) for point in points])
        if is_extreme(values["precision" + suffix].mean(axis=0)).any():
            called = [
                patients_with((seed >= at) & labelled(targets), by_seed[0].patients)
                for seed, at in zip(cut, chosen, strict=True)
            ]
            called_patients["precision" + suffix] = np.min(called, axis=0)
        drawn = resampled_operating_points(targets, cut, chosen, resamples)
        resampled |= {name + suffix: ratio for name, ratio in _ratios(drawn).items()}
    return Measured(by_seed[0], values, resampled, called_patients)


def report_of(measured: Measured, rules: Rules = CURRENT) -> dict[str, Any]:
    """Summarize the metrics of a split.

    Args:
        measured: a finalist on the split.
        rules: of the board.

    Returns:
        Plain data in the form of `metrics.json`.
    """
    predictions = measured.predictions
    auprc = measured.values["auprc"].mean(axis=0)
    used = np.isfinite(auprc)

    by_label = {
        name: summarize_labels(
            values,
            _label_draws(measured.resampled.get(name)),
            measured.patients_of(name, rules),
            rules,
            area=name == "auroc",
            extremes=extremes_of(measured, name, CONFIDENCE, rules),
            ends=measured.ends_of(name, rules),
            least=min_patients(name, rules, MIN_PATIENTS),
        )
        for name, values in measured.values.items()
    }
    return {
        "n_rows": len(predictions.volumes),
        "n_patients": measured.n_patients,
        "n_labels_used": int(used.sum()),
        **{
            f"{name}_macro": summarize(
                macro(values),
                measured.macro_draws.get(name),
                mean_patients(measured.patients_of(name, rules)),
                rules,
                extremes=macro_extremes_of(measured, name, CONFIDENCE, rules),
                ends=measured.ends_of(name, rules, of_macro=True),
                least=min_patients(name, rules, MIN_PATIENTS),
            )
            for name, values in measured.values.items()
        },
        "worst_label": predictions.labels[int(np.nanargmin(auprc))] if used.any() else None,
        "per_label": {
            label: {
                **_support(predictions.targets[:, j : j + 1]),
                **{name: summaries[j] for name, summaries in by_label.items()},
            }
            for j, label in enumerate(predictions.labels)
        },
    }


def _support(targets: NDArray[np.uint8]) -> dict[str, Any]:
    """Return positives and prevalence of one label `(n, 1)`, and its rows if some are blank."""
    (positives,), (share,) = positive_counts(targets), prevalence(targets)
    support = {"support": int(positives), "prevalence": finite(share)}
    if has_blanks(targets):
        support["n_rows"] = int(labelled_counts(targets)[0])
    return support


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


def retrieval_report(by_seed: Sequence[Mapping[str, NDArray[np.int64]]]) -> dict[str, Any]:
    """Return instance recall by direction, visual → text first, as the mean over seeds."""

    def recalls(direction: str) -> dict[str, float]:
        return {
            f"recall_at_{k}": float(np.mean([recall_at(ranks[direction], k) for ranks in by_seed]))
            for k in RECALL_AT
        }

    return {
        "definition": INSTANCE_RECALL,
        **recalls("visual_to_text"),
        "text_to_visual": recalls("text_to_visual"),
    }


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
        ends: the interval of other means, (1,) each end; None computes it from the draws.
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
    area: bool = False,
    extremes: Ends | None = None,
    ends: Ends | None = None,
    least: int = MIN_PATIENTS,
) -> list[Summary]:
    """Summarize a metric of every label; as `summarize`, with another axis (c,) in the end.

    Args:
        by_seed: (S, c) values.
        draws: (B, c) values on resamples, averaged over seeds; None leaves the intervals out.
        patients: (c,) on how many of them each label's values rest.
        rules: of the board.
        area: whether the values are ROC areas, whose intervals are taken on the logit scale.
        extremes: both ends (c,) of intervals of means that are exactly 0 or 1; NaN elsewhere.
        ends: both ends (c,) of intervals of other means; None computes them from the draws.
        least: patients below which the intervals are undefined.

    Returns:
        A summary for each label.
    """
    by_label = np.ascontiguousarray(by_seed.T)  # seeds are added in the order of a single label's
    means = by_label.mean(axis=1)
    low = high = np.full(len(means), np.nan)
    if draws is not None:
        on_logits = area and rules.corrects_few_patients
        compute = logit_intervals if on_logits else intervals
        low, high = ends or compute(means, draws, patients, CONFIDENCE)
        if rules.corrects_few_patients:
            if extremes is not None:
                low, high = (
                    np.where(np.isfinite(own), own, end)
                    for own, end in zip(extremes, (low, high), strict=True)
                )
            enough = patients >= least
            low, high = np.where(enough, low, np.nan), np.where(enough, high, np.nan)
    spreads = by_label.std(axis=1, ddof=1) if len(by_seed) > 1 else np.full(len(means), np.nan)
    return [
        {"mean": finite(mean), "std": finite(std), "ci_low": finite(a), "ci_high": finite(b)}
        for mean, std, a, b in zip(means, spreads, low, high, strict=True)
    ]


def mean_patients(rarer: Metric) -> float:
    """Return on how many patients the labels of a macro mean rest on average.

    Labels without a patient of the rarer class are left out, as their metrics are undefined.
    """
    return float(rarer[rarer > 0].mean()) if rarer.any() else 0.0


def finite(value: float) -> float | None:
    """Return the value as plain data; None, which is JSON's null, where it is undefined."""
    return float(value) if np.isfinite(value) else None


def _ratios(point: OperatingPoint) -> dict[str, Metric]:
    names = ("f1", "precision", "sensitivity", "specificity")
    return {name: getattr(point, name) for name in names}


def _label_draws(by_seed: Metric | None) -> Metric | None:
    """Return draws (S, B, c), averaged over seeds."""
    return None if by_seed is None else np.asarray(by_seed.mean(axis=0))
