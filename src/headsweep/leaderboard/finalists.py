"""Finalists: the best trials of a study, trained again with several seeds and ranked on valid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.dataset import Split
from headsweep.engine.slots import EpochReport
from headsweep.engine.train_configs import train_to_end
from headsweep.errors import SearchError
from headsweep.evaluation.predictions import Predictions, predict, retrieval_ranks
from headsweep.evaluation.rules import CURRENT, Rules
from headsweep.heads.predictor import Predictor
from headsweep.metrics.ranking import average_precision, macro
from headsweep.metrics.retrieval import recall_at
from headsweep.metrics.trial_metrics import trial_metrics
from headsweep.search.objective import is_feasible
from headsweep.settings import EngineSettings


@dataclass(frozen=True)
class Finalist:
    """A trial among the best: its number, the value it was chosen for, and its config."""

    trial: int
    value: float
    config: Config


@dataclass(frozen=True, eq=False)
class Confirmed:
    """A finalist after training with every seed; tuples are in the order of `seeds`.

    Attributes:
        finalist: the trial.
        seeds: with which it was trained.
        predictors: its heads.
        valid: their predictions on valid; out-of-fold in a study with folds.
        recalls: recall@10 on valid; empty where it is not the objective.
        valid_ranks: ranks of a retrieval head on valid, where they are not those of its predictor.
    """

    finalist: Finalist
    seeds: tuple[int, ...]
    predictors: tuple[Predictor, ...]
    valid: tuple[Predictions, ...]
    recalls: tuple[float, ...] = ()
    valid_ranks: tuple[Mapping[str, NDArray[np.int64]], ...] = ()

    @property
    def val_mean(self) -> float:
        """Mean over seeds of the objective's metric of the predictions on valid."""
        metric = self.finalist.config.training.metric
        ranking = np.stack([predictions.ranking for predictions in self.valid])
        if metric == "auprc_macro":
            return float(macro(average_precision(self.valid[0].targets, ranking)).mean())
        if metric == "recall_at_10":
            return float(np.mean(self.recalls))
        scores = np.stack([predictions.scores for predictions in self.valid])
        return float(trial_metrics(self.valid[0].targets, ranking, scores)[metric].mean())


def choose_finalists(
    trials: Sequence[FrozenTrial], config_of: Callable[[FrozenTrial], Config], top_k: int
) -> list[Finalist]:
    """Choose the `top_k` complete trials with the highest values; of equal values the earlier one.

    Trials that do not meet the study's constraint are left out. Trials that differ in nothing but
    where they entered the tape are one finalist.

    Returns:
        The finalists, best first.

    Raises:
        SearchError: no trial is complete.
    """
    complete = [t for t in trials if t.state == TrialState.COMPLETE and is_feasible(t)]
    if not complete:
        raise SearchError(
            f"none of the {len(trials)} trials is complete; a leaderboard needs at least one"
        )
    chosen: dict[str, Finalist] = {}
    for trial in sorted(complete, key=lambda trial: (-_value(trial), trial.number)):
        config = config_of(trial)
        finalist = Finalist(trial.number, _value(trial), config)
        chosen.setdefault(with_seed(config, 0).fingerprint(), finalist)
        if len(chosen) == top_k:
            break
    return list(chosen.values())


def confirm(
    finalists: Sequence[Finalist],
    seeds: Sequence[int],
    train: Split,
    valid: Split,
    settings: EngineSettings,
    *,
    rules: Rules = CURRENT,
    on_epoch: Callable[[Sequence[EpochReport]], None] | None = None,
) -> list[Confirmed]:
    """Train every finalist with every seed in one fused run.

    Args:
        finalists: in any order.
        seeds: in the order in which results are kept.
        train: training split.
        valid: validation split, on which each head's best epoch is chosen.
        settings: of the engine.
        rules: of the board.
        on_epoch: called with the reports of every epoch; `slot` counts seeds within finalists.

    Returns:
        The trained finalists, in the order given.

    Raises:
        TrialError: a head diverged.
    """
    trained = train_to_end(
        seeded(finalists, seeds),
        train,
        valid,
        settings,
        ranks_logits=rules.ranks_logits,
        on_epoch=on_epoch,
    )
    predictors = [one.predictor for one in trained]
    on_valid = [predict(predictor, valid, rules) for predictor in predictors]
    return [
        replace(one, recalls=_recalls(one.finalist.config, one.predictors, valid))
        for one in collected(finalists, seeds, predictors, on_valid)
    ]


def seeded(finalists: Sequence[Finalist], seeds: Sequence[int]) -> list[Config]:
    """Return the configs to train, seeds within finalists.

    Finalists are in the order of their trials, so that the same heads get the same slots when they
    are trained again.
    """
    by_trial = sorted(finalists, key=lambda finalist: finalist.trial)
    return [with_seed(finalist.config, seed) for finalist in by_trial for seed in seeds]


def collected(
    finalists: Sequence[Finalist],
    seeds: Sequence[int],
    predictors: Sequence[Predictor],
    on_valid: Sequence[Predictions],
) -> list[Confirmed]:
    """Give each finalist its heads.

    Args:
        finalists: in any order.
        seeds: of each finalist.
        predictors: of the configs that `seeded` returned, in their order.
        on_valid: predictions of each predictor on valid.

    Returns:
        The finalists, in the order given.
    """
    trials = sorted(finalist.trial for finalist in finalists)
    confirmed = []
    for finalist in finalists:
        first = trials.index(finalist.trial) * len(seeds)
        own = slice(first, first + len(seeds))
        heads = tuple(predictors[own]), tuple(on_valid[own])
        confirmed.append(Confirmed(finalist, tuple(seeds), *heads))
    return confirmed


def ranked(confirmed: Sequence[Confirmed]) -> list[Confirmed]:
    """Return the finalists by mean on valid, best first; of equal means the earlier trial."""
    return sorted(confirmed, key=lambda one: (-one.val_mean, one.finalist.trial))


def with_seed(config: Config, seed: int) -> Config:
    """Return the config with which a finalist is trained: this seed, from the start of the tape."""
    values = {"training.seed": seed, "training.tape_position": 0}
    return with_values(config, values, where="finalist")


def _recalls(config: Config, predictors: Sequence[Predictor], valid: Split) -> tuple[float, ...]:
    if config.training.metric != "recall_at_10":
        return ()
    ranks = (retrieval_ranks(predictor, valid)["visual_to_text"] for predictor in predictors)
    return tuple(recall_at(one, 10) for one in ranks)


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value
