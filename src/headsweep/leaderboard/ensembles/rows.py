"""Rows of a leaderboard that average heads: the mean of seeds, and a selected ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headsweep.evaluation.ensembles import averaged_scores, mean_predictions
from headsweep.evaluation.predictions import Predictions
from headsweep.evaluation.rules import CURRENT, Rules
from headsweep.evaluation.subgroups import Attributes
from headsweep.evaluation.summaries import Thresholds, choose_thresholds
from headsweep.leaderboard.added_rows import compare_with_best
from headsweep.leaderboard.results import measure_seeds
from headsweep.metrics.ensemble_selection import Selection, select_weights
from headsweep.metrics.ranking import Metric, average_precision, macro
from headsweep.progress import progress_bar

ENSEMBLE, MEAN_OF_SEEDS = "ensemble", "mean_of_seeds_"
"""Name of the selected ensemble; prefix of the names of means, before the finalist."""


Best = tuple[Mapping[str, Any], Mapping[str, Mapping[str, Metric]]]
"""Metrics of the best finalist by split, and its macro values on the resamples."""


@dataclass(frozen=True, eq=False)
class Heads:
    """The trained heads of one finalist, and their predictions by split, valid first."""

    finalist: str
    """Its rank; with several studies, study and rank."""
    seeds: tuple[int, ...]
    predictions: Sequence[Mapping[str, Predictions]]


@dataclass(frozen=True)
class Member:
    """One head of an ensemble."""

    finalist: str
    seed: int
    weight: float


@dataclass(frozen=True, eq=False)
class EnsembleRow:
    """A mean of heads: its members, predictions and metrics by split, and values on resamples."""

    name: str
    members: tuple[Member, ...]
    predictions: Mapping[str, Predictions]
    thresholds: Thresholds
    metrics: Mapping[str, Any]
    draws: Mapping[str, Mapping[str, Metric]]

    @property
    def folder(self) -> str:
        """The row's folder within the leaderboard's."""
        return f"ensembles/{self.name}"


@dataclass(frozen=True, eq=False)
class Ensembles:
    """The averaging rows of a leaderboard, and each compared with the best finalist."""

    rows: Sequence[EnsembleRow] = ()
    compared: Mapping[str, Any] | None = None
    """By split and metric, for each row the difference to the best finalist."""
    left_out: tuple[str, ...] = ()
    """Finalists without logits, which cannot be averaged with the others."""


def build_ensembles(
    finalists: Sequence[Heads],
    best: Best,
    selection: Selection | None,
    rules: Rules = CURRENT,
    *,
    subgroups: Mapping[str, Attributes] | None = None,
    means_of: Sequence[str] | None = None,
) -> Ensembles:
    """Average the seeds of each finalist, select an ensemble on valid, and measure both.

    Retrieval heads have probabilities but no logits. If all heads are such, probabilities are
    averaged; if some are, they are left out of the ensemble.

    Args:
        finalists: the trained heads, best first.
        best: metrics of the best finalist, and its macro values on the resamples.
        selection: how the ensemble is selected; None makes no rows at all.
        rules: of the board.
        subgroups: of the rows, by split, where there are any.
        means_of: finalists that get a row with the mean of their seeds; None is all.

    Returns:
        The rows: means of seeds in the order of the finalists, then the ensemble.
    """
    if selection is None:
        return Ensembles()
    wanted = [
        one
        for one in finalists
        if len(one.seeds) > 1 and (means_of is None or one.finalist in means_of)
    ]
    chosen, left_out = _with_logits(finalists)
    weights = _selected(chosen, selection)
    with progress_bar("measuring ensembles", len(wanted) + (weights is not None)) as bar:
        rows = []
        for one in wanted:
            mean = [1 / len(one.seeds)] * len(one.seeds)
            rows.append(_row(f"{MEAN_OF_SEEDS}{one.finalist}", [one], mean, subgroups, rules))
            bar.advance()
        if weights is not None:
            rows.append(_row(ENSEMBLE, chosen, weights, subgroups, rules))
            bar.advance()
    return Ensembles(rows, _rows_minus_best(best, rows, rules), left_out)


def _rows_minus_best(best: Best, rows: Sequence[EnsembleRow], rules: Rules) -> dict[str, Any]:
    """Return the comparison of every row with the best finalist, by split and metric."""
    compared = compare_with_best(*best, rows, rules)
    return {
        split: {name: [_row_minus_best(pair) for pair in pairs] for name, pairs in found.items()}
        for split, found in compared.items()
    }


def _row_minus_best(pair: Mapping[str, Any]) -> dict[str, Any]:
    """Return a comparison of the best finalist with a row, turned around."""
    turned = {"difference": "difference", "ci_low": "ci_high", "ci_high": "ci_low"}
    signed = {new: None if pair[old] is None else 0.0 - pair[old] for new, old in turned.items()}
    return {"row": pair["b"], **signed, **{name: pair[name] for name in ("p", "p_holm", "p_bh")}}


def _with_logits(finalists: Sequence[Heads]) -> tuple[Sequence[Heads], tuple[str, ...]]:
    """Return the finalists whose scores may be averaged, and the names of the others."""
    having = [one for one in finalists if _on_valid(one)[0].logits is not None]
    if not having:
        return finalists, ()
    return having, tuple(one.finalist for one in finalists if one not in having)


def _on_valid(heads: Heads) -> list[Predictions]:
    return [next(iter(by_split.values())) for by_split in heads.predictions]


def _selected(finalists: Sequence[Heads], selection: Selection) -> list[float] | None:
    """Return the weight of every head; None where no label of valid has both classes."""
    valid = [predictions for one in finalists for predictions in _on_valid(one)]
    scores = averaged_scores(valid)
    if not np.isfinite(macro(average_precision(valid[0].targets, scores[:1]))[0]):
        return None
    return [float(weight) for weight in select_weights(valid[0].targets, scores, selection)]


def _row(
    name: str,
    finalists: Sequence[Heads],
    weights: Sequence[float],
    subgroups: Mapping[str, Attributes] | None,
    rules: Rules,
) -> EnsembleRow:
    """Return the average of heads, measured like a finalist with one seed."""
    heads = [
        (one.finalist, seed, by_split)
        for one in finalists
        for seed, by_split in zip(one.seeds, one.predictions, strict=True)
    ]
    used = [(*head, w) for head, w in zip(heads, weights, strict=True) if w > 0]
    predictions = {
        split: mean_predictions([by_split[split] for _, _, by_split, _ in used], _weights(used))
        for split in used[0][2]
    }
    thresholds = choose_thresholds(next(iter(predictions.values())), rules)
    metrics, draws = measure_seeds([predictions], [thresholds], [{}], subgroups or {}, rules)
    members = tuple(Member(finalist, seed, weight) for finalist, seed, _, weight in used)
    return EnsembleRow(name, members, predictions, thresholds, metrics, draws)


def _weights(used: Sequence[tuple[str, int, Mapping[str, Predictions], float]]) -> list[float]:
    return [weight for *_, weight in used]
