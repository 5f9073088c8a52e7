"""Studies with many trials to begin from: filled once, then copied for every turn."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import psycopg
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Connection
from store_contestants import NAME, RUNGS, journal

from headsweep.search.space import distribution
from headsweep.search.spec import StudySpec
from headsweep.search.study_file import load_study_file
from headsweep.storage.bulk_writes import (
    Changes,
    detail_rows,
    end_rows,
    heartbeat_rows,
    insert_trials,
    upsert,
)
from headsweep.storage.optuna_tables import HEARTBEATS, utc_now
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy

if TYPE_CHECKING:
    from tests.helpers.postgres import Server

STUDY = """
study: {{name: benchmark, n_trials: 1000000, seed: 1}}
base: [head=mlp, training.max_epochs=81]
space:
  training.learning_rate: {{type: float, low: 1.0e-5, high: 1.0e-1, log: true}}
  training.weight_decay: {{type: float, low: 1.0e-6, high: 1.0, log: true}}
  training.batch_size: {{type: categorical, choices: [64, 256, 1024]}}
  head.dropout: {{type: float, low: 0.0, high: 0.7}}
  head.width: {{type: int, low: 64, high: 1024, log: true}}
  head.activation: {{type: categorical, choices: [relu, gelu, silu]}}
sampler: {{name: {sampler}}}
pruner: {{name: successive_halving, min_resource: 1, reduction_factor: 3}}
"""


@dataclass(frozen=True)
class Cell:
    """One combination of the plan; `running` trials belong to another worker."""

    finished: int
    running: int
    slots: int
    workers: int
    sampler: str


def value(rate: float, epoch: int) -> float:
    return 1 - abs(rate - 0.01) - 1 / (1 + epoch) + random.gauss(0, 0.01)


def define(folder: Path, sampler: str) -> StudySpec:
    path = folder / f"{sampler}.yaml"
    path.write_text(STUDY.format(sampler=sampler))
    return load_study_file(path, [])


def past_trials(spec: StudySpec, cell: Cell) -> Iterator[FrozenTrial]:
    """Finished trials as successive halving leaves them, then running ones at the second rung."""
    distributions = {key: distribution(dimension) for key, dimension in spec.space.items()}
    memory = optuna.create_study(sampler=RandomSampler(seed=1))
    for i in range(cell.finished + cell.running):
        params = memory.ask(distributions).params
        depth = 1 + min(len(RUNGS) - 1, int(random.expovariate(1.0)))
        running = i >= cell.finished
        steps = RUNGS[:2] if running else RUNGS[:depth]
        reports = {step: value(params["training.learning_rate"], step) for step in steps}
        ended = TrialState.COMPLETE if steps == RUNGS else TrialState.PRUNED
        yield create_trial(
            state=TrialState.RUNNING if running else ended,
            params=params,
            distributions=distributions,
            value=None if running else reports[steps[-1]],
            intermediate_values=reports,
            system_attrs={f"completed_rung_{i}": reports[s] for i, s in enumerate(steps)},
        )


def fill_database(spec: StudySpec, url: str, cell: Cell) -> None:
    """Write all trials in one transaction; running ones get a heartbeat one day in the future."""
    storage = open_storage(url, create=True)
    study_id = StoredStudy.create(spec, storage).study_id
    trials = list(past_trials(spec, cell))

    def write(connection: Connection) -> None:
        now = utc_now()
        n = len(trials)
        keys = insert_trials(connection, study_id, n, 0, TrialState.RUNNING, now)
        changes = {
            key: Changes(
                params={
                    name: (d.to_internal_repr(trial.params[name]), d)
                    for name, d in trial.distributions.items()
                },
                reports=trial.intermediate_values,
                system_attrs=trial.system_attrs,
            )
            for key, trial in zip(keys, trials, strict=True)
        }
        by_key = dict(zip(keys, trials, strict=True))
        ended = {k: (t.state, t.values) for k, t in by_key.items() if t.state.is_finished()}
        beats = heartbeat_rows(by_key.keys() - ended.keys(), now.replace(year=now.year + 1))
        ends = end_rows(ended, now)
        upsert(connection, {**detail_rows(changes), **ends, HEARTBEATS: beats})

    # Without the lock: its holder may not be idle for 30 s, and 80,000 rows take longer to build.
    storage.database.write(write, study_id=None)
    storage.database.close()


def fill_journal(spec: StudySpec, path: Path, cell: Cell) -> None:
    study = optuna.create_study(study_name=NAME, storage=journal(str(path)), direction="maximize")
    study.add_trials(list(past_trials(spec, cell)))


class Stores:
    """Copies of filled studies, in every kind of database."""

    def __init__(self, folder: Path, server: Server | None) -> None:
        self.folder = folder
        self.server = server
        self.filled: dict[tuple[str, int, int, str], str] = {}
        self.counter = itertools.count()

    def copy(self, kind: str, spec: StudySpec, cell: Cell) -> str:
        """Return the URL of a new copy of the filled study of a cell."""
        key = (kind, cell.finished, cell.running, cell.sampler)
        if key not in self.filled:
            self.filled[key] = self._fill(kind, spec, cell)
        filled = self.filled[key]
        if self.server is not None and kind == "postgresql":
            copied = f"copy_{next(self.counter)}"
            with psycopg.connect(self.server.url("postgres"), autocommit=True) as connection:
                connection.execute(f'CREATE DATABASE "{copied}" TEMPLATE "{filled}"')
            return self.server.url(copied)
        path = self.folder / f"{next(self.counter)}"
        shutil.copyfile(filled, path)
        return f"{'sqlite:///' if kind == 'sqlite' else 'journal://'}{path}"

    def _fill(self, kind: str, spec: StudySpec, cell: Cell) -> str:
        path = self.folder / f"{next(self.counter)}"
        if kind == "file":
            fill_journal(spec, path, cell)
        elif kind == "sqlite":
            fill_database(spec, f"sqlite:///{path}", cell)
        else:
            assert self.server is not None
            database = self.server.new_database()
            fill_database(spec, self.server.url(database), cell)
            return database
        return str(path)
