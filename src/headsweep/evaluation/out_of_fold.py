"""Predictions of cross-validated heads: every row is scored by the head that left it out."""

from __future__ import annotations

from headsweep.data.folds import Folds
from headsweep.evaluation.predictions import Predictions, predict
from headsweep.evaluation.rules import CURRENT, Rules
from headsweep.heads.ensemble import EnsembleHead
from headsweep.heads.predictor import Predictor


def out_of_fold(predictor: Predictor, folds: Folds, rules: Rules = CURRENT) -> Predictions:
    """Score every row by the head that did not train on it.

    Args:
        predictor: the mean of a head for each fold, in their order.
        folds: the rows.
        rules: of the board that the scores are for.

    Returns:
        Predictions in the order of the rows.
    """
    parts = [predict(m, folds.held_out(k), rules) for k, m in enumerate(fold_members(predictor))]
    scores = folds.pooled([part.scores for part in parts])
    defined = [part.logits for part in parts if part.logits is not None]
    logits = folds.pooled(defined) if defined else None
    rows = folds.rows
    return Predictions(
        rows.name, rows.volumes, rows.patients, rows.labels, rows.targets, scores, logits
    )


def fold_members(predictor: Predictor) -> tuple[Predictor, ...]:
    """Return the heads of the folds, whose mean a predictor is."""
    assert isinstance(predictor.head, EnsembleHead)
    return tuple(predictor.head.predictors)
