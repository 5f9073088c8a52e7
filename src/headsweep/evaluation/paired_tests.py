"""Paired comparisons of finalists on one split, corrected for their number, and ranks with ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from headsweep.evaluation.predictions import Predictions
from headsweep.evaluation.rules import CURRENT, Rules
from headsweep.evaluation.summaries import CONFIDENCE, finite
from headsweep.metrics.delong import components, delong_p_value
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
    """All paired comparisons of the rows of a leaderboard, by split.

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
        for metric in COMPARED:
            values = [row[split][f"{metric}_macro"]["mean"] for row in metrics]
            resampled = [row[split][metric] for row in draws]
            compared[split][f"{metric}_macro"] = compare_macro(names, values, resampled)
        by_row = [[seed[split] for seed in seeds] for seeds in predictions]
        compared[split]["auroc_per_label"] = compare_auroc(names, by_row, rules)
        compared[split]["rank_with_ties"] = ranks_with_ties(names, compared[split]["auprc_macro"])
    return compared


def compare_macro(
    names: Sequence[str], values: Sequence[float | None], draws: Sequence[Metric]
) -> list[dict[str, Any]]:
    """Difference of every pair of rows in one macro metric, by the paired bootstrap.

    Args:
        names: of the rows.
        values: metric of each row, the mean over its seeds.
        draws: (B,) the same on resamples of the patients, the same resamples for every row.

    Returns:
        For each pair `a, b, difference` (a minus b), its percentile interval (what biases a
        metric biases both rows alike), a two-sided p-value, and that corrected by Holm and by
        Benjamini-Hochberg over all pairs.
    """
    pairs = []
    for i, j in combinations(range(len(names)), 2):
        difference = draws[i] - draws[j]
        difference = difference[np.isfinite(difference)]
        pair: dict[str, Any] = {"a": names[i], "b": names[j]}
        a, b = values[i], values[j]
        pair["difference"] = None if a is None or b is None else a - b
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(difference, [tail, 1 - tail]) if difference.size else (np.nan,) * 2
        pair |= {"ci_low": finite(low), "ci_high": finite(high), "p": _two_sided(difference)}
        pairs.append(pair)
    return corrected(pairs)


def compare_auroc(
    names: Sequence[str], by_row: Sequence[Sequence[Predictions]], rules: Rules = CURRENT
) -> list[dict[str, Any]]:
    """DeLong's test of every pair of rows on every label, corrected over pairs and labels.

    Args:
        names: of the rows.
        by_row: predictions of each seed of each row, all on the same split.
        rules: of the board.

    Returns:
        For each label and pair `label, a, b, difference` (a minus b) and its p-values.
    """
    first = by_row[0][0]
    pairs: list[dict[str, Any]] = []
    for j, label in enumerate(first.labels):
        positive = first.targets[:, j].astype(bool)
        if positive.all() or not positive.any():
            continue
        parts = [
            components(positive, np.stack([seed.ranking[:, j] for seed in seeds]))
            for seeds in by_row
        ]
        for a, b in combinations(range(len(names)), 2):
            p = delong_p_value(
                positive,
                first.patients,
                parts[a],
                parts[b],
                few_patients=rules.corrects_few_patients,
            )
            difference = parts[a].area - parts[b].area
            pairs.append({"label": label, "a": names[a], "b": names[b]})
            pairs[-1] |= {"difference": difference, "p": finite(p)}
    return corrected(pairs)


def ranks_with_ties(names: Sequence[str], pairs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Rank of each row: one more than the number of rows that are significantly better.

    Significant is a difference whose p-value, corrected by Holm, is at most 0.05.
    """
    ranks = dict.fromkeys(names, 1)
    for pair in pairs:
        if pair["p_holm"] is not None and pair["p_holm"] <= SIGNIFICANCE:
            ranks[pair["b"] if pair["difference"] > 0 else pair["a"]] += 1
    return ranks


def corrected(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pairs with `p_holm` and `p_bh` over all of them."""
    p = np.array([np.nan if pair["p"] is None else pair["p"] for pair in pairs])
    for pair, by_holm, by_bh in zip(pairs, holm(p), benjamini_hochberg(p), strict=True):
        pair |= {"p_holm": finite(by_holm), "p_bh": finite(by_bh)}
    return pairs


def _two_sided(difference: Metric) -> float | None:
    """Share of resamples on the far side of zero, doubled; never zero, as draws are finite."""
    if not difference.size:
        return None
    tail = min((difference <= 0).sum(), (difference >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (difference.size + 1)))
