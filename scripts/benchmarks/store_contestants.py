"""A worker's share in a study, by headsweep and by stock Optuna over each of its storages."""

# ruff: noqa: D102  (the methods of a contestant are documented in its protocol)

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import optuna
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from headsweep.search.space import suggest
from headsweep.search.spec import StudySpec
from headsweep.settings import WorkerSettings
from headsweep.storage.optuna_tables import trial_id
from headsweep.studies.worker_session import join

RUNGS = (1, 3, 9, 27, 81)
NAME = "benchmark"


class Contestant(Protocol):
    """A worker's share in a study; trials go by any key."""

    def claim(self, n: int) -> dict[int, float]:
        """Start up to `n` trials; return their learning rates by key."""

    def tick(self, reports: dict[int, tuple[int, float]], last: set[int]) -> None:
        """Report (epoch, value) of each trial, ask for verdicts, finish the trials in `last`."""


class Ours:
    """headsweep's worker session."""

    def __init__(self, url: str, spec: StudySpec) -> None:
        self.session = join(NAME, url, WorkerSettings(), worker=str(random.random())).__enter__()

    def claim(self, n: int) -> dict[int, float]:
        trials = self.session.claim(n).trials
        return {trial_id(trial): trial.params["training.learning_rate"] for trial in trials}

    def tick(self, reports: dict[int, tuple[int, float]], last: set[int]) -> None:
        for key, (epoch, reached) in reports.items():
            self.session.report(key, epoch, reached)
        pruned = self.session.trials_to_prune(list(reports))
        for key in last:
            if key in pruned:
                self.session.prune(key, epochs=RUNGS[-1])
            else:
                self.session.complete(key, reports[key][1], epochs=RUNGS[-1])
        assert not self.session.flush()


class Stock(ABC):
    """Stock Optuna over one of its storages."""

    def __init__(self, url: str, spec: StudySpec) -> None:
        sampler = {"random": RandomSampler, "tpe": TPESampler}[spec.sampler.name]
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
        self.spec = spec
        self.study = optuna.load_study(
            study_name=NAME,
            storage=self.open(url),
            sampler=sampler(**spec.sampler.kwargs),
            pruner=pruner,
        )
        self.trials: dict[int, optuna.Trial] = {}

    @abstractmethod
    def open(self, url: str) -> BaseStorage | str: ...

    def claim(self, n: int) -> dict[int, float]:
        rates = {}
        for _ in range(n):
            trial = self.study.ask()
            params = suggest(trial, self.spec.space, self.spec.config)
            self.trials[trial.number] = trial
            rates[trial.number] = params["training.learning_rate"]
        return rates

    def tick(self, reports: dict[int, tuple[int, float]], last: set[int]) -> None:
        for number, (epoch, reached) in reports.items():
            trial = self.trials[number]
            trial.report(reached, epoch)
            pruned = trial.should_prune()
            if number in last and pruned:
                self.study.tell(trial, state=TrialState.PRUNED)
            elif number in last:
                self.study.tell(trial, reached)


class Rdb(Stock):
    """Optuna's RDB storage on the database itself."""

    def open(self, url: str) -> BaseStorage | str:
        return stock_url(url)


class Grpc(Stock):
    """Optuna's gRPC proxy: one process holds the RDB storage for all."""

    def open(self, url: str) -> BaseStorage | str:
        host, port = url.removeprefix("grpc://").split(":")
        return GrpcStorageProxy(host=host, port=int(port))


class Journal(Stock):
    """Optuna's journal in a file."""

    def open(self, url: str) -> BaseStorage | str:
        return journal(url)


CONTESTANTS: dict[str, Callable[[str, StudySpec], Contestant]] = {
    "headsweep": Ours,
    "rdb": Rdb,
    "grpc": Grpc,
    "journal": Journal,
}


def stock_url(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


def journal(url: str) -> JournalStorage:
    return JournalStorage(JournalFileBackend(url.removeprefix("journal://")))
