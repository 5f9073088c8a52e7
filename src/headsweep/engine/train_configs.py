"""Trains a fixed list of configs to the end: finalists, replays and single runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from headsweep.config.schema import Config
from headsweep.data.dataset import Split
from headsweep.engine.engine import Engine
from headsweep.engine.slots import EpochReport
from headsweep.errors import TrialError
from headsweep.heads.predictor import Predictor
from headsweep.settings import EngineSettings


@dataclass(frozen=True)
class Trained:
    """A head trained to the end, with the weights of its best epoch."""

    config: Config
    predictor: Predictor
    best_value: float
    best_epoch: int
    history: tuple[EpochReport, ...]


def train_to_end(
    configs: Sequence[Config],
    train: Split,
    valid: Split,
    settings: EngineSettings,
    *,
    ranks_logits: bool = True,
    on_epoch: Callable[[Sequence[EpochReport]], None] | None = None,
) -> list[Trained]:
    """Train every config from its own `training.tape_position` to the end.

    Args:
        configs: one for each head; those that fit together are trained together.
        train: training split.
        valid: validation split.
        settings: `slots` bounds how many configs are trained at once.
        ranks_logits: choose the best epoch by logits; False chooses it by float32 probabilities, as
            earlier versions did.
        on_epoch: called with the reports of every epoch; a report's `slot` is then the position
            of its config in `configs`.

    Returns:
        The trained heads, in the order of `configs`.

    Raises:
        TrialError: a head diverged.
        ConfigError: a head does not fit the features.
    """
    engine = Engine(train, valid, settings, ranks_logits=ranks_logits)
    return train_in(engine, configs, on_epoch)


def train_in(
    engine: Engine,
    configs: Sequence[Config],
    on_epoch: Callable[[Sequence[EpochReport]], None] | None = None,
) -> list[Trained]:
    """Train every config to the end in an engine whose slots are all free; see `train_to_end`.

    Returns:
        The trained heads, in the order of `configs`.

    Raises:
        TrialError: a head diverged.
        ConfigError: a head does not fit the features.
    """
    waiting = list(enumerate(configs))[::-1]
    index_of: dict[int, int] = {}
    trained: dict[int, Trained] = {}
    while waiting or index_of:
        while waiting and engine.free:
            index, config = waiting.pop()
            index_of[engine.replay(config).slot] = index
        reports = engine.run_epoch()
        if on_epoch:
            on_epoch([replace(report, slot=index_of[report.slot]) for report in reports])
        for report in reports:
            if report.failure is not None:
                raise TrialError(f"config {index_of[report.slot]}: {report.failure}")
            if report.finished:
                index = index_of.pop(report.slot)
                trained[index] = Trained(
                    configs[index],
                    engine.predictor(report.slot),
                    report.best_value,
                    report.best_epoch,
                    engine.history(report.slot),
                )
                engine.evict(report.slot)
    return [trained[index] for index in range(len(configs))]


def train_for(
    configs: Sequence[Config],
    epochs: Sequence[int],
    rows: Split,
    settings: EngineSettings,
) -> list[Predictor]:
    """Train every config on all rows for a given number of epochs, without validation.

    Learning rates follow each config's own schedule, whose length is `training.max_epochs`; the
    weights are those after the last epoch.

    Args:
        configs: one for each head.
        epochs: of each config, at most its `training.max_epochs`.
        rows: training rows.
        settings: `slots` bounds how many configs are trained at once.

    Returns:
        The trained heads, in the order of `configs`.

    Raises:
        TrialError: a head diverged.
    """
    engine = Engine(rows, rows, settings)
    waiting = list(enumerate(configs))[::-1]
    index_of: dict[int, int] = {}
    trained: dict[int, Predictor] = {}
    while waiting or index_of:
        while waiting and engine.free:
            index, config = waiting.pop()
            index_of[engine.replay(config).slot] = index
        for report in engine.run_epoch():
            index = index_of[report.slot]
            if report.failure is not None:
                raise TrialError(f"config {index}: {report.failure}")
            if report.epoch == epochs[index]:
                trained[index] = engine.present_predictor(report.slot)
                engine.evict(report.slot)
                del index_of[report.slot]
    return [trained[index] for index in range(len(configs))]
