"""Metrics of one finalist on one split in the form of `metrics.json`, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headsweep.evaluation.areas import area_ends, macro_area_ends, min_patients
from headsweep.evaluation.extremes import Ends, extremes_of, macro_extremes_of
from headsweep.evaluation.rules import CURRENT, Rules
from headsweep.evaluation.summaries import (
    CONFIDENCE,
    MIN_PATIENTS,
    Measured,
    Summary,
    finite,
    mean_patients,
    summarize_labels,
)
from headsweep.metrics.masking import has_blanks, labelled_counts, positive_counts, prevalence
from headsweep.metrics.ranking import Metric, macro
from headsweep.metrics.retrieval import INSTANCE_RECALL, recall_at

RECALL_AT = (1, 5, 10, 50)


def report_of(measured: Measured, rules: Rules = CURRENT) -> dict[str, Any]:
    """Summarize the metrics of a split.

    Args:
        measured: a finalist on the split.
        rules: of the board.

    Returns:
        Plain data in the form of `metrics.json`.
    """
    targets, labels = measured.predictions.targets, measured.predictions.labels
    auprc = measured.values["auprc"].mean(axis=0)
    used = np.isfinite(auprc)
    summaries = _summaries(measured, rules)
    return {
        "n_rows": len(targets),
        "n_patients": measured.n_patients,
        "n_labels_used": int(used.sum()),
        **{f"{name}_macro": summaries[name][-1] for name in measured.values},
        "worst_label": labels[int(np.nanargmin(auprc))] if used.any() else None,
        "per_label": {
            label: {**support, **{name: summaries[name][j] for name in measured.values}}
            for j, (label, support) in enumerate(zip(labels, _supports(targets), strict=True))
        },
    }


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


def _summaries(measured: Measured, rules: Rules) -> dict[str, list[Summary]]:
    """Return summaries of every metric: of each label and, last, of the macro mean."""
    values = measured.values
    columns = {name: np.column_stack([values[name], macro(values[name])]) for name in values}
    resampled = list(measured.draws)
    patients, least, ends, extremes = zip(
        *(_interval_terms(measured, name, rules) for name in resampled), strict=True
    )
    found = summarize_labels(
        np.concatenate([columns[name] for name in resampled], axis=1),
        np.concatenate(
            [[*measured.draws[name].T, measured.macro_draws[name]] for name in resampled]
        ).T,
        np.concatenate(patients),
        rules,
        extremes=_joined(extremes),
        ends=_joined(ends),
        least=np.concatenate(least),
    )
    width = 1 + len(measured.predictions.labels)
    summaries = {name: found[i * width :][:width] for i, name in enumerate(resampled)}
    for name in columns.keys() - summaries.keys():
        summaries[name] = summarize_labels(columns[name], None, np.zeros(width), rules)
    return summaries


def _interval_terms(
    measured: Measured, name: str, rules: Rules
) -> tuple[Metric, Metric, Ends, Ends]:
    """Return what intervals of a metric depend on besides values and draws, (c + 1,) each.

    Returns:
        Patients, the fewest that have an interval, score intervals, and intervals of extremes; of
        the labels and, last, of the macro mean.
    """
    patients = measured.patients_of(name, rules)
    least = np.full(len(patients) + 1, min_patients(name, rules, MIN_PATIENTS))
    areas = measured.values[name], measured.draws[name], measured.class_patients, CONFIDENCE, rules
    ends = area_ends(name, *areas), macro_area_ends(name, *areas)
    extremes = (
        extremes_of(measured, name, CONFIDENCE, rules),
        macro_extremes_of(measured, name, CONFIDENCE, rules),
    )
    return np.append(patients, mean_patients(patients)), least, _joined(ends), _joined(extremes)


def _joined(ends: Sequence[Ends]) -> Ends:
    """Return ends of intervals one after another."""
    low, high = (np.concatenate(part) for part in zip(*ends, strict=True))
    return low, high


def _supports(targets: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Return positives and prevalence of each label `(n, c)`, and its rows if some are blank."""
    supports = [
        {"support": int(positives), "prevalence": finite(share)}
        for positives, share in zip(positive_counts(targets), prevalence(targets), strict=True)
    ]
    for j, (support, n_rows) in enumerate(zip(supports, labelled_counts(targets), strict=True)):
        if has_blanks(targets[:, j]):
            support["n_rows"] = int(n_rows)
    return supports
