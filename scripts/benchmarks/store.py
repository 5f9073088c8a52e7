"""Measure whole trial cycles in the storage: claim, 6 params, 5 rung reports, verdicts, finish.

Nothing is trained: the rest of a worker's work is timed. headsweep takes turns with stock Optuna's
RDB storage, its gRPC proxy in front of that, and its journal in a file. All run the same cycles: at
each tick a fifth of the slots is claimed again, every slot reports and is judged, and trials at the
last rung are finished. Verdicts are computed but ignored, so every trial reports five times. Only
whole rounds of ticks count, after a first one in which the slots fill.

PostgreSQL is started from the binaries that the tests use. The whole plan takes hours; each
dimension is an option:

    python scripts/benchmarks/store.py --databases sqlite --finished 1000 --slots 32 --workers 1
"""

# ruff: noqa: D102  (the methods of a contestant are documented in its protocol)

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import random
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
import warnings
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
import psycopg
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import (
    BaseStorage,
    GrpcStorageProxy,
    JournalStorage,
    RDBStorage,
    run_grpc_proxy_server,
)
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Connection

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.helpers.postgres import Server, new_server  # noqa: E402

from headsweep.search.space import distribution, suggest  # noqa: E402
from headsweep.search.spec import StudySpec  # noqa: E402
from headsweep.search.study_file import load_study_file  # noqa: E402
from headsweep.settings import WorkerSettings  # noqa: E402
from headsweep.storage.bulk_writes import (  # noqa: E402
    Changes,
    detail_rows,
    end_rows,
    heartbeat_rows,
    insert_trials,
    upsert,
)
from headsweep.storage.optuna_tables import HEARTBEATS, trial_id, utc_now  # noqa: E402
from headsweep.studies.storages import open_storage  # noqa: E402
from headsweep.studies.study import StoredStudy  # noqa: E402
from headsweep.studies.worker_session import join  # noqa: E402

RUNGS = (1, 3, 9, 27, 81)
NAME = "benchmark"
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
PROCESSES = multiprocessing.get_context("spawn")


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


@dataclass(frozen=True)
class Turn:
    """Work of one worker in whole rounds, without the database server's CPU time."""

    trials: int
    wall_s: float
    processor_s: float


@dataclass(frozen=True)
class Cost:
    """Cost of a trial: milliseconds of wall and CPU time of a worker; the rate of all workers."""

    ms: float
    processor_ms: float
    trials_per_s: float


def work(name: str, url: str, spec: StudySpec, slots: int, seconds: float) -> Turn:
    """Run one worker's trial cycles.

    Returns:
        Their cost.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    contestant = CONTESTANTS[name](url, spec)
    rates: dict[int, float] = {}
    rung: dict[int, int] = {}
    a_tick = math.ceil(slots / len(RUNGS))

    def play_round() -> int:
        n_told = 0
        for _ in RUNGS:
            claimed = contestant.claim(min(a_tick, slots - len(rates)))
            rates.update(claimed)
            rung.update(dict.fromkeys(claimed, 0))
            epochs = {key: RUNGS[rung[key]] for key in rates}
            reports = {key: (epochs[key], value(rate, epochs[key])) for key, rate in rates.items()}
            last = {key for key in rates if epochs[key] == RUNGS[-1]}
            contestant.tick(reports, last)
            for key in rates:
                rung[key] += 1
            for key in last:
                del rates[key], rung[key]
            n_told += len(last)
        return n_told

    play_round()
    START.wait()
    n, begun, used = 0, time.perf_counter(), time.process_time()
    while (wall := time.perf_counter() - begun) < seconds or not n:
        n += play_round()
    return Turn(n, wall, time.process_time() - used)


def share_start(barrier: Any) -> None:
    """Give a worker process the barrier at which all wait until all are ready."""
    global START
    START = barrier


def compete(
    name: str, url: str, spec: StudySpec, cell: Cell, seconds: float, patience_s: float
) -> Cost | None:
    """Return the mean cost of a trial over the workers; None when it is too slow."""
    barrier = PROCESSES.Barrier(cell.workers)
    with PROCESSES.Pool(cell.workers, share_start, (barrier,)) as pool:
        job = [(name, url, spec, cell.slots, seconds)] * cell.workers
        try:
            results = pool.starmap_async(work, job, chunksize=1).get(patience_s)
        except multiprocessing.TimeoutError:
            return None
    return Cost(
        ms=1000 * statistics.mean(turn.wall_s / turn.trials for turn in results),
        processor_ms=1000 * statistics.mean(turn.processor_s / turn.trials for turn in results),
        trials_per_s=sum(turn.trials / turn.wall_s for turn in results),
    )


# Studies to begin from: filled once, then copied for every turn.


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


@contextmanager
def proxy(name: str, url: str) -> Iterator[str]:
    """Give a contestant its URL; for gRPC that of a server in front of the database."""
    if name != "grpc":
        yield url
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = PROCESSES.Process(target=serve_grpc, args=(stock_url(url), port), daemon=True)
    server.start()
    GrpcStorageProxy(host="127.0.0.1", port=port).wait_server_ready(timeout=60)
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.kill()
        server.join()


def serve_grpc(url: str, port: int) -> None:
    warnings.simplefilter("ignore")
    run_grpc_proxy_server(RDBStorage(url), host="127.0.0.1", port=port)


def seconds_to_open(url: str) -> float:
    begun = time.perf_counter()
    storage = open_storage(url)
    storage.sync(1)
    taken = time.perf_counter() - begun
    storage.database.close()
    return taken


def turns(databases: Sequence[str], contestants: Sequence[str]) -> list[tuple[str, str]]:
    """Return the contestants of each database; the journal works on files only."""
    return [
        (kind, name)
        for kind, name in itertools.product(databases, contestants)
        if (kind == "file") == (name == "journal")
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    kinds = ["sqlite", "postgresql", "file"]
    samplers = ["random", "tpe"]
    parser.add_argument("--databases", nargs="+", choices=kinds, default=kinds)
    parser.add_argument(
        "--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS)
    )
    parser.add_argument("--samplers", nargs="+", choices=samplers, default=samplers)
    parser.add_argument("--finished", nargs="+", type=int, default=[100, 1000, 10000])
    parser.add_argument("--running", nargs="+", type=int, default=[0], help="of another worker")
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 32, 256])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=1, help="turns of each contestant")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn, at least")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds of a turn, at most")
    return parser.parse_args()


def main() -> None:
    args = parse()
    warnings.simplefilter("ignore")
    server = new_server(Path("/tmp")) if "postgresql" in args.databases else None
    cells = itertools.product(args.finished, args.running, args.slots, args.workers, args.samplers)
    rows = []
    print(
        "finished running slots workers sampler database   contestant "
        "ms/trial   cpu_ms trials/s opened_s"
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            stores = Stores(Path(folder), server)
            for cell in (Cell(*combination) for combination in cells):
                for row in run_cell(cell, stores, args):
                    rows.append(row)
                    show(row)
    finally:
        if server is not None:
            server.stop(signal.SIGQUIT)
            shutil.rmtree(server.folder)
    print(json.dumps(rows))


def run_cell(cell: Cell, stores: Stores, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Collect the medians of each contestant over rounds in which they take turns."""
    spec = define(stores.folder, cell.sampler)
    taken: defaultdict[tuple[str, str], list[Cost | None]] = defaultdict(list)
    opened: defaultdict[str, list[float]] = defaultdict(list)
    for _, (kind, name) in itertools.product(
        range(args.rounds), turns(args.databases, args.contestants)
    ):
        url = stores.copy(kind, spec, cell)
        if name == "headsweep":
            opened[kind].append(seconds_to_open(url))
        with proxy(name, url) as reached:
            result = compete(name, reached, spec, cell, args.seconds, args.patience)
        taken[kind, name].append(result)
    for (kind, name), results in taken.items():
        in_time = [result for result in results if result is not None]
        whole = len(in_time) == len(results)
        yield asdict(cell) | {
            "database": kind,
            "contestant": name,
            "ms_per_trial": statistics.median(c.ms for c in in_time) if whole else None,
            "processor_ms": statistics.median(c.processor_ms for c in in_time) if whole else None,
            "trials_per_s": statistics.median(c.trials_per_s for c in in_time) if whole else None,
            "opened_s": statistics.median(opened[kind]) if name == "headsweep" else None,
        }


def show(row: dict[str, Any]) -> None:
    numbers = " ".join(
        f"{'-' if row[key] is None else format(row[key], '.2f'):>8}"
        for key in ("ms_per_trial", "processor_ms", "trials_per_s", "opened_s")
    )
    print(
        f"{row['finished']:8} {row['running']:7} {row['slots']:5} {row['workers']:7} "
        f"{row['sampler']:7} {row['database']:10} {row['contestant']:10} {numbers}",
        flush=True,
    )


if __name__ == "__main__":
    main()
