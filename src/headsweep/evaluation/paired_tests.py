"""Paired comparisons of finalists on one split, corrected for their number, and ranks with ties."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from headsweep.evaluation.predictions import Predictions
from headsweep.evaluation.rules import CURRENT, Rules
from headsweep.evaluation.summaries import CONFIDENCE, MIN_PATIENTS, finite, mean_patients
from headsweep.metrics.bootstrap import rarer_class_patients
from headsweep.metrics.delong import components, delong_p_value
from headsweep.metrics.masking import labelled
from headsweep.metrics.multiplicity import benjamini_hochberg, holm
from headsweep.metrics.ranking import Metric

SIGNIFICANCE = 1 - CONFIDENCE


COMPARED = ("auprc", "auroc")


def compare_rows(
    names: Sequence[str],
    predictions: Sequence[Sequence[Mapping[str, Predictions]]],
    metrics: Sequence[Mapping[str, Any]],
    draws: Sequence[Mapping[str, Mapping[str, Metric]]],
    rules: Rules = CURRENT,
) -> dict[str, Any]:
    """Compare all pairs of rows of a leaderboard, by split.

    Args:
        names: of the rows.
        predictions: of each seed of each row, by split.
        metrics: of each row, in the form of `metrics.json`.
        draws: macro metrics of each row on the resamples, by split.
        rules: of the board.

    Returns:
        By split: pairs by metric, and `rank_with_ties`, as `comparisons.json` holds them.
    """
    compared: dict[str, Any] = {}
    for split in metrics[0]:
        compared[split] = {}
        first = predictions[0][0][split]
        patients = mean_patients(rarer_class_patients(first.targets, first.patients))
        for metric in COMPARED:
            values = [row[split][f"{metric}_macro"]["mean"] for row in metrics]
            resampled = [row[split][metric] for row in draws]
            pairs = compare_macro(names, values, resampled, patients, rules)
            compared[split][f"{metric}_macro"] = pairs
        by_row = [[seed[split] for seed in seeds] for seeds in predictions]
        compared[split]["auroc_per_label"] = compare_auroc(names, by_row, rules)
        compared[split]["rank_with_ties"] = ranks_with_ties(names, compared[split]["auprc_macro"])
    return compared


def compare_macro(
    names: Sequence[str],
    values: Sequence[float | None],
    draws: Sequence[Metric],
    patients: float,
    rules: Rules = CURRENT,
) -> list[dict[str, Any]]:
    """Compare every pair of rows in one macro metric, by the paired bootstrap.

    What biases a metric biases both rows alike, so that the interval is one of percentiles. For few
    patients it is expanded as `metrics.bootstrap.interval` does, and the p-value is that of the
    interval which ends at zero.

    Args:
        names: of the rows.
        values: metric of each row, the mean over its seeds.
        draws: (B,) the same on resamples of the patients, the same resamples for every row.
        patients: on how many of them the metric rests.
        rules: of the board.

    Returns:
        For each pair `a, b, difference` (a minus b), its interval, a two-sided p-value, and that
        corrected by Holm and by Benjamini-Hochberg over all pairs. Interval and p-value are None
        with fewer than `MIN_PATIENTS` patients.
    """
    pairs = combinations(range(len(names)), 2)
    return _compared(pairs, names, values, draws, patients, rules)


def compare_first(
    names: Sequence[str],
    values: Sequence[float | None],
    draws: Sequence[Metric],
    patients: float,
    rules: Rules = CURRENT,
) -> list[dict[str, Any]]:
    """Compare the first row with every other one; as `compare_macro`, which compares all pairs.

    Returns:
        A pair for each other row; `a` is the first row. P-values are corrected over these pairs.
    """
    pairs = ((0, j) for j in range(1, len(names)))
    return _compared(pairs, names, values, draws, patients, rules)


def _compared(
    pairs: Iterable[tuple[int, int]],
    names: Sequence[str],
    values: Sequence[float | None],
    draws: Sequence[Metric],
    patients: float,
    rules: Rules,
) -> list[dict[str, Any]]:
    compared = []
    for i, j in pairs:
        a, b = values[i], values[j]
        drawn = draws[i] - draws[j]
        drawn = drawn[np.isfinite(drawn)]
        low, high, p = _percentiles(drawn, patients, rules)
        pair: dict[str, Any] = {"a": names[i], "b": names[j]}
        pair["difference"] = None if a is None or b is None else a - b
        pair |= {"ci_low": finite(low), "ci_high": finite(high), "p": finite(p)}
        compared.append(pair)
    return corrected(compared)


def _percentiles(drawn: Metric, patients: float, rules: Rules) -> tuple[float, float, float]:
    """Return interval and p-value of a difference; NaN where they are undefined."""
    if not drawn.size or (rules.corrects_few_patients and patients < MIN_PATIENTS):
        return (np.nan,) * 3
    p = _two_sided(drawn)
    tail = (1 - CONFIDENCE) / 2
    if rules.corrects_few_patients:
        freedom, expansion = patients - 1, math.sqrt(patients / (patients - 1))
        tail = float(ndtr(stdtrit(freedom, tail) * expansion))
        p = float(2 * stdtr(freedom, float(ndtri(p / 2)) / expansion))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high), p


def compare_auroc(
    names: Sequence[str], by_row: Sequence[Sequence[Predictions]], rules: Rules = CURRENT
) -> list[dict[str, Any]]:
    """Compare every pair of rows on every label by DeLong's test, corrected over both.

    Args:
        names: of the rows.
        by_row: predictions of each seed of each row, all on the same split.
        rules: of the board.

    Returns:
        For each label and pair `label, a, b, difference` (a minus b) and its p-values.
    """
    first = by_row[0][0]
    patients = np.unique(first.patients, return_inverse=True)[1]
    pairs: list[dict[str, Any]] = []
    for j, label in enumerate(first.labels):
        known = labelled(first.targets[:, j])
        positive = first.targets[known, j].astype(bool)
        if positive.all() or not positive.any():
            continue
        parts = [
            components(positive, np.stack([seed.ranking[known, j] for seed in seeds]))
            for seeds in by_row
        ]
        for a, b in combinations(range(len(names)), 2):
            p = delong_p_value(
                positive,
                patients[known],
                parts[a],
                parts[b],
                few_patients=rules.corrects_few_patients,
            )
            difference = parts[a].area - parts[b].area
            pairs.append({"label": label, "a": names[a], "b": names[b]})
            pairs[-1] |= {"difference": difference, "p": finite(p)}
    return corrected(pairs)


def ranks_with_ties(names: Sequence[str], pairs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Rank each row: one more than the number of rows that are significantly better.

    A difference is significant if its p-value, corrected by Holm, is at most 0.05.

    Returns:
        Rank by name.
    """
    ranks = dict.fromkeys(names, 1)
    for pair in pairs:
        if pair["p_holm"] is not None and pair["p_holm"] <= SIGNIFICANCE:
            ranks[pair["b"] if pair["difference"] > 0 else pair["a"]] += 1
    return ranks


def corrected(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add `p_holm` and `p_bh` over all pairs to each.

    Returns:
        The pairs.
    """
    p = np.array([np.nan if pair["p"] is None else pair["p"] for pair in pairs])
    for pair, by_holm, by_bh in zip(pairs, holm(p), benjamini_hochberg(p), strict=True):
        pair |= {"p_holm": finite(by_holm), "p_bh": finite(by_bh)}
    return pairs


def _two_sided(drawn: Metric) -> float:
    """Return twice the share of resamples on the far side of zero, which is never zero."""
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (drawn.size + 1)))
