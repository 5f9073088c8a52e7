"""Reference rows of a leaderboard: scored, measured, compared with the best finalist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headsweep.config.inputs import input_names
from headsweep.config.schema import Config
from headsweep.data.dataset import Split
from headsweep.data.folds import Folds
from headsweep.data.prompts import prompts_for
from headsweep.evaluation.predictions import Predictions, predictions_on
from headsweep.evaluation.rules import Rules
from headsweep.evaluation.subgroups import Attributes, content_alone
from headsweep.evaluation.summaries import Thresholds, choose_thresholds
from headsweep.leaderboard.added_rows import compare_with_best
from headsweep.leaderboard.references.chosen import References
from headsweep.leaderboard.references.scores import (
    Probabilities,
    knn_scores,
    logistic_scores,
    prevalence_scores,
    zero_shot_scores,
)
from headsweep.leaderboard.results import FinalistResult, measure_seeds
from headsweep.metrics.ranking import Metric
from headsweep.progress import progress_bar

KNN = {"knn_5": 5, "knn_20": 20}
"""Number of neighbours by row."""

TITLES = {
    "prevalence": "prevalence (chance)",
    "logistic_regression": "logistic regression (C = 1)",
    "knn_5": "kNN (k = 5)",
    "knn_20": "kNN (k = 20)",
    "zero_shot": "zero-shot",
}


@dataclass(frozen=True, eq=False)
class ReferenceRow:
    """A reference: its scores and metrics by split, valid first, and macro values on resamples."""

    name: str
    features: str
    predictions: Mapping[str, Predictions]
    thresholds: Thresholds
    metrics: Mapping[str, Any]
    draws: Mapping[str, Mapping[str, Metric]]

    @property
    def title(self) -> str:
        """Name for people."""
        return TITLES.get(self.name, self.name)

    @property
    def folder(self) -> str:
        """The row's folder within the leaderboard's."""
        return f"references/{self.name}"


@dataclass(frozen=True, eq=False)
class ComparedReferences:
    """The references of a leaderboard, and by how much the best finalist is better than each."""

    rows: Sequence[ReferenceRow] = ()
    compared: Mapping[str, Any] = field(default_factory=dict)


def load_references(names: Sequence[str], config: Config, train: Split) -> References:
    """Read what the references need besides the splits.

    Args:
        names: of the references.
        config: names the file of prompts.
        train: training split.

    Returns:
        The references.

    Raises:
        FeatureError: the file of prompts cannot be used.
    """
    return References(tuple(names), prompts_for(config, train) if "zero_shot" in names else None)


def add_references(
    scores: Mapping[str, Sequence[Probabilities]],
    best: FinalistResult,
    splits: Sequence[Split],
    subgroups: Mapping[str, Attributes],
    rules: Rules,
) -> ComparedReferences:
    """Measure the references, and compare the best finalist with each.

    Args:
        scores: of each reference on each split, as `score_references` returns them.
        best: the best finalist on valid, whose input they read.
        splits: valid, then the tests.
        subgroups: of the rows, by split; references are measured on unseen content alone.
        rules: of the board.

    Returns:
        The rows; none without references.
    """
    config = best.finalist.config
    content = {name: content_alone(attributes) for name, attributes in subgroups.items()}
    rows = []
    with progress_bar("measuring references", len(scores), visible=bool(scores)) as bar:
        for name, by_split in scores.items():
            predictions = {
                split.name: predictions_on(split, values)
                for split, values in zip(splits, by_split, strict=True)
            }
            rows.append(measured(name, _input_name(name, config), predictions, content, rules))
            bar.advance()
    return ComparedReferences(rows, compare_with_best(best.metrics, best.draws, rows, rules))


def measured(
    name: str,
    features: str,
    predictions: Mapping[str, Predictions],
    subgroups: Mapping[str, Attributes],
    rules: Rules,
) -> ReferenceRow:
    """Measure one reference like a finalist with a single seed; thresholds are chosen on valid.

    Returns:
        The row.
    """
    thresholds = choose_thresholds(next(iter(predictions.values())), rules)
    metrics, draws = measure_seeds([predictions], [thresholds], [{}], subgroups, rules)
    return ReferenceRow(name, features, predictions, thresholds, metrics, draws)


def score_references(
    references: References,
    best: Config,
    train: Split,
    splits: Sequence[Split],
    folds: Folds | None = None,
) -> dict[str, list[Probabilities]]:
    """Score valid and tests with the references.

    Args:
        references: which ones.
        best: config of the best finalist on valid, whose input they read.
        train: training split.
        splits: the others, valid first.
        folds: of a study that has any; valid is then the rows of all of them, which are scored
            out-of-fold, and tests are scored by references that are fitted on all of them.

    Returns:
        The scores of each reference on each split.
    """
    if not references.names:
        return {}
    if folds is None:
        return _scores(references, best, train, splits)
    on_tests = _scores(references, best, folds.rows, splits[1:])
    by_fold = [
        _scores(references, best, folds.training(k), [folds.held_out(k)])
        for k in range(folds.count)
    ]
    return {
        name: [folds.pooled([fold[name][0] for fold in by_fold]), *scores]
        for name, scores in on_tests.items()
    }


def _scores(
    references: References, best: Config, train: Split, splits: Sequence[Split]
) -> dict[str, list[Probabilities]]:
    """Return the scores of each reference, fitted on train, on each split."""
    names, targets = references.names, train.targets
    matrices = [_joined(split, best) for split in splits]
    scores: dict[str, list[Probabilities]] = {}
    if "prevalence" in names:
        scores["prevalence"] = [prevalence_scores(targets, len(x)) for x in matrices]
    if "logistic_regression" in names:
        with progress_bar("logistic regression as a reference", None):
            scores["logistic_regression"] = logistic_scores(_joined(train, best), targets, matrices)
    if "knn" in names:
        with progress_bar("nearest neighbours as a reference", sum(map(len, matrices))) as bar:
            by_k = knn_scores(
                *(_joined(train, best), targets, matrices, tuple(KNN.values())),
                on_rows=bar.advance,
            )
        scores |= {name: by_k[k] for name, k in KNN.items()}
    if references.prompts is not None:
        prompts = references.prompts
        views = [split.features[best.data.zero_shot_input] for split in splits]
        scores["zero_shot"] = [zero_shot_scores(view, prompts) for view in views]
    return scores


def row_names(names: Sequence[str]) -> list[str]:
    """Return the names of the rows that references have, in their order."""
    return [row for name in names for row in (KNN if name == "knn" else (name,))]


def _input_name(name: str, best: Config) -> str:
    if name == "prevalence":
        return "none"
    return best.data.zero_shot_input if name == "zero_shot" else best.features.input


def _joined(split: Split, best: Config) -> NDArray[np.float32]:
    """Return the features that the best finalist reads, side by side: `(n, d)`."""
    names = input_names(best.features.input)
    return np.concatenate([split.features[name] for name in names], axis=1)
