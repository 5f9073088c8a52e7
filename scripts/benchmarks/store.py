"""Cost of a trial cycle in the store: claim, 6 params, 5 rung reports, verdicts, tell.

    python scripts/benchmarks/store.py [--database sqlite|postgresql] [--finished 100 1000 10000]
        [--slots 1 32 256] [--workers 1 4] [--samplers random tpe] [--stock] [--seconds 10]

Training is left out: what is timed is all that a worker does besides. PostgreSQL is started from
the binaries that the tests use. Contestants are run in turn, so that a busy machine slows all.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.trial import TrialState, create_trial

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from headsweep.settings import WorkerSettings  # noqa: E402
from headsweep.studies.definition import StudySpec  # noqa: E402
from headsweep.studies.policy import build_sampler  # noqa: E402
from headsweep.studies.schema import trial_id  # noqa: E402
from headsweep.studies.session import join  # noqa: E402
from headsweep.studies.space import distribution, suggest  # noqa: E402
from headsweep.studies.spec import load_study_file  # noqa: E402
from headsweep.studies.store import create_or_continue, open_storage  # noqa: E402

RUNGS = (1, 3, 9, 27, 81)
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


def define(folder: Path, sampler: str) -> StudySpec:
    path = folder / f"{sampler}.yaml"
    path.write_text(STUDY.format(sampler=sampler))
    return load_study_file(path, [])


def value(rate: float, epoch: int) -> float:
    return 1 - abs(rate - 0.01) - 1 / (1 + epoch) + random.gauss(0, 0.01)


def fill(spec: StudySpec, url: str, n_finished: int) -> None:
    """Gives a new study `n_finished` finished trials, by stock Optuna's own bulk path."""
    storage = open_storage(url, create=True)
    study_id = create_or_continue(spec, storage)
    distributions = {key: distribution(dimension) for key, dimension in spec.space.items()}
    memory = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    rows = []
    for _ in range(n_finished):
        params = memory.ask(distributions).params
        rate = params["training.learning_rate"]
        steps = RUNGS[: 1 + min(len(RUNGS) - 1, int(random.expovariate(1.0)))]
        reports = {step: value(rate, step) for step in steps}
        rows.append(
            create_trial(
                state=TrialState.COMPLETE if steps == RUNGS else TrialState.PRUNED,
                params=params,
                distributions=distributions,
                value=reports[steps[-1]],
                intermediate_values=reports,
                system_attrs={f"completed_rung_{i}": reports[s] for i, s in enumerate(steps)},
            )
        )
    insert(storage, study_id, rows)
    storage.database.close()


def insert(storage, study_id: int, trials: list[optuna.trial.FrozenTrial]) -> None:
    """Writes finished trials in one transaction."""
    from headsweep.studies.batch import Changes, end_trials, write_details
    from headsweep.studies.ledger import insert_trials

    def work(connection) -> None:
        now = time_now()
        keys = insert_trials(connection, study_id, len(trials), 0, TrialState.RUNNING, now)
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
        write_details(connection, changes)
        ends = {key: (t.state, t.values) for key, t in zip(keys, trials, strict=True)}
        end_trials(connection, ends)

    storage.database.write(work, study_id=study_id)


def time_now():
    from headsweep.studies.schema import utc_now

    return utc_now()


def ours(url: str, slots: int, seconds: float) -> tuple[int, float]:
    """Trials finished by one worker of ours, and the time that took."""
    running: dict[int, tuple[float, int]] = {}
    n = 0
    with join("benchmark", url, WorkerSettings(), worker=str(random.random())) as session:
        session.claim(0)
        session.storage.sync(session.study_id)
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            for trial in session.claim(slots - len(running)).trials:
                running[trial_id(trial)] = (trial.params["training.learning_rate"], 0)
            reported = []
            for key, (rate, rung) in running.items():
                session.report(key, RUNGS[rung], value(rate, RUNGS[rung]))
                reported.append(key)
            pruned = session.verdicts(reported)
            for key in reported:
                rate, rung = running[key]
                running[key] = (rate, rung + 1)
                if rung + 1 == len(RUNGS):
                    session.complete(key, value(rate, 81), epochs=81)
                elif key in pruned:
                    session.prune(key, epochs=RUNGS[rung])
            session.flush()
            n += len(running.keys() - session.held)
            running = {key: state for key, state in running.items() if key in session.held}
        wall = time.perf_counter() - begun
        session.hand_back(crashed=False)
    return n, wall


def stock(url: str, slots: int, seconds: float) -> tuple[int, float]:
    """The same with stock Optuna's storage, sampler and pruner."""
    storage = open_storage(url)
    from headsweep.studies.store import load_spec

    spec = load_spec("benchmark", storage)
    storage.database.close()
    theirs = optuna.storages.get_storage(stock_url(url))
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    study = optuna.Study("benchmark", theirs, build_sampler(spec, 0), pruner)
    running: dict[int, tuple[optuna.Trial, float, int]] = {}
    n = 0
    study.get_trials(deepcopy=False)
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        while len(running) < slots:
            trial = study.ask()
            params = suggest(trial, spec.space, spec.config)
            running[trial.number] = (trial, params["training.learning_rate"], 0)
        for number, (trial, rate, rung) in list(running.items()):
            trial.report(value(rate, RUNGS[rung]), RUNGS[rung])
            running[number] = (trial, rate, rung + 1)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
            elif rung + 1 == len(RUNGS):
                study.tell(trial, value(rate, 81))
            else:
                continue
            del running[number]
            n += 1
    return n, time.perf_counter() - begun


def stock_url(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


CONTESTANTS = {"ours": ours, "stock": stock}


def contest(name: str, url: str, slots: int, seconds: float) -> tuple[int, float]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    return CONTESTANTS[name](url, slots, seconds)


@contextmanager
def databases(kinds: list[str], folder: Path) -> Iterator[dict[str, object]]:
    """Makers of empty stores."""
    from tests.postgres import new_server

    server = new_server(Path("/tmp")) if "postgresql" in kinds else None
    counter = itertools.count()
    makers = {
        "sqlite": lambda: f"sqlite:///{folder}/{next(counter)}.db",
        "postgresql": lambda: server.url(server.new_database()),
    }
    try:
        yield {kind: makers[kind] for kind in kinds}
    finally:
        if server is not None:
            server.stop(signal.SIGQUIT)
            shutil.rmtree(server.folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--finished", nargs="+", type=int, default=[100, 1000])
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--workers", nargs="+", type=int, default=[1])
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--contestants", nargs="+", default=["ours", "stock"])
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    print("database finished slots workers sampler contestant ms/trial trials/s open_s", flush=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        databases(args.database, Path(folder)) as makers,
    ):
        for kind, finished, slots, workers, sampler, name in itertools.product(
            args.database, args.finished, args.slots, args.workers, args.samplers, args.contestants
        ):
            url = makers[kind]()
            fill(define(Path(folder), sampler), url, finished)
            begun = time.perf_counter()
            storage = open_storage(url)
            storage.sync(1)
            opened_s = time.perf_counter() - begun
            storage.database.close()
            with multiprocessing.get_context("spawn").Pool(workers) as pool:
                results = pool.starmap(contest, [(name, url, slots, args.seconds)] * workers)
            n = sum(count for count, _ in results)
            wall = max(wall for _, wall in results)
            cost = 1000 * wall * workers / n if n else float("inf")
            print(
                f"{kind:10} {finished:6} {slots:4} {workers:2} {sampler:6} {name:5} "
                f"{cost:8.2f} {n / wall:8.1f} {opened_s:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
