"""Trials enqueued by other programs: only bad ones fail, and each good one is run once."""

from __future__ import annotations

import math
import multiprocessing
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from headsweep.settings import WorkerSettings
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.optuna_tables import trial_id
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import WorkerSession, join
from tests.helpers.study_specs import make_spec

RATE, SIZE = "training.learning_rate", "training.batch_size"
SAMPLERS = ("random", "tpe")


@contextmanager
def stock_study(url: str) -> Iterator[optuna.Study]:
    """The study `probe` as stock Optuna opens it."""
    storage = RDBStorage(url.replace("postgresql://", "postgresql+psycopg://"))
    yield optuna.load_study(study_name="probe", storage=storage)
    storage.remove_session()
    storage.engine.dispose()


def trials_of(url: str) -> list[FrozenTrial]:
    with closing(open_storage(url).database) as database:
        storage = BatchedStorage(database, create=False)
        return storage.get_all_trials(storage.get_study_id_from_name("probe"))


def create(tmp_path: Path, url: str, *overrides: str, **sections: Any) -> None:
    StoredStudy.create(make_spec(tmp_path, *overrides, **sections), url).close()


def complete_all(session: WorkerSession, n: int) -> list[FrozenTrial]:
    """Run trials `n` at a time until there is nothing left to claim."""
    done = []
    while not (batch := session.claim(n)).over:
        for trial in batch.trials:
            session.complete(trial_id(trial), 0.5, epochs=1)
        session.flush()
        done += batch.trials
    return done


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another choice": ({SIZE: 96}, "must be one of 64, 256, found 96"),
    "choice as text": ({SIZE: "64"}, "must be one of 64, 256, found '64'"),
    "out of bounds": ({RATE: 5.0}, "must be from 1e-05 to 0.1, found 5.0"),
    "not a number": ({RATE: math.nan}, "found nan"),
    "infinite": ({RATE: math.inf}, "found inf"),
    "huge": ({RATE: 10**400}, "found 1000"),
    "text": ({RATE: "fast"}, "found 'fast'"),
    "nothing": ({RATE: None}, "found None"),
    "list": ({SIZE: [64]}, r"found \[64\]"),
    "mapping": ({RATE: {"a": 1}}, "found {'a': 1}"),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.filterwarnings("ignore:.*is not in the persistent storage:UserWarning")
@pytest.mark.filterwarnings("ignore:.*ixed parameter:UserWarning")
def test_claim_when_enqueued_params_are_bad_fails_those_trials_alone(
    tmp_path: Path, store_url: str, sampler: str, capsys: pytest.CaptureFixture[str]
) -> None:
    create(tmp_path, store_url, "study.n_trials=6", sampler={"name": sampler})
    good = [{SIZE: 64}, {SIZE: 256, RATE: 0.01}, {}]
    with stock_study(store_url) as study:
        study.enqueue_trial(good[0])
        for params, _ in BAD.values():
            study.enqueue_trial(params)
        for params in good[1:]:
            study.enqueue_trial(params)
        study.enqueue_trial({RATE: 0.02, "head.colour": "red"})
    with join("probe", store_url, WorkerSettings(max_failures=0), worker="one") as session:
        done = complete_all(session, 30)
    trials = trials_of(store_url)
    states = Counter(trial.state for trial in trials)
    assert states == {TrialState.COMPLETE: 6, TrialState.FAIL: len(BAD)}
    for trial, (_, reason) in zip(trials[1 : 1 + len(BAD)], BAD.values(), strict=True):
        assert trial.state == TrialState.FAIL
        assert re.search(reason, trial.user_attrs["failure"]), trial.user_attrs["failure"]
    enqueued = [t for t in trials if t.state == TrialState.COMPLETE and t.number < 14]
    assert [t.params[SIZE] for t in enqueued[:2]] == [64, 256]
    assert enqueued[1].params[RATE] == 0.01
    assert enqueued[3].params[RATE] == 0.02
    assert "head.colour" not in enqueued[3].params
    assert len(done) == 6
    said = capsys.readouterr().err
    assert (
        "trial 1 failed, it was enqueued with params that do not fit: training.batch_size" in said
    )
    assert "trial 13 was enqueued with params the space lacks: 'head.colour'" in said


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("state", [TrialState.WAITING, TrialState.COMPLETE])
@pytest.mark.parametrize(
    "distribution",
    [FloatDistribution(0.0, 1.0), CategoricalDistribution(("slow", "fast"))],
    ids=["not logarithmic", "categorical"],
)
def test_claim_when_a_trial_has_a_foreign_distribution_goes_on(
    tmp_path: Path, store_url: str, sampler: str, state: TrialState, distribution: Any
) -> None:
    """Another program uses a known param name. Later suggestions ignore this trial."""
    create(tmp_path, store_url, "study.n_trials=14", sampler={"name": sampler})
    value = "fast" if isinstance(distribution, CategoricalDistribution) else 0.05
    with stock_study(store_url) as study:
        study.add_trial(
            create_trial(
                state=state,
                value=0.9 if state == TrialState.COMPLETE else None,
                params={RATE: value},
                distributions={RATE: distribution},
            )
        )
    for worker in ("one", "two"):
        with join("probe", store_url, WorkerSettings(max_failures=0), worker=worker) as session:
            for _ in range(3):
                for trial in session.claim(2).trials:
                    assert 1e-5 <= trial.params[RATE] <= 0.1
                    session.complete(trial_id(trial), 0.5, epochs=1)
                session.flush()
    first, *others = trials_of(store_url)
    assert first.state == (TrialState.FAIL if state == TrialState.WAITING else state)
    assert {trial.state for trial in others} == {TrialState.COMPLETE}
    assert len(others) >= 11


def test_claim_when_a_waiting_trial_has_params_of_another_space_fails_it(
    tmp_path: Path, store_url: str
) -> None:
    create(tmp_path, store_url, "study.n_trials=2")
    with stock_study(store_url) as study:
        study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                params={"training.max_epochs": 99},
                distributions={"training.max_epochs": FloatDistribution(1, 100)},
            )
        )
    with join("probe", store_url, WorkerSettings(max_failures=0), worker="one") as session:
        assert len(complete_all(session, 2)) == 2
    assert (
        trials_of(store_url)[0]
        .user_attrs["failure"]
        .endswith("'training.max_epochs' is not in the study's space")
    )


def test_retry_of_a_trial_keeps_its_params(tmp_path: Path, store_url: str) -> None:
    """A retry is a WAITING trial with params, like an enqueued one."""
    create(tmp_path, store_url, "study.n_trials=2")
    with join("probe", store_url, WorkerSettings(), worker="one") as session:
        params = [trial.params for trial in session.claim(2).trials]
        session.hand_back(crashed=True)
        assert [trial.params for trial in session.claim(2).trials] == params


# Tests with many workers.

WORKERS, ENQUEUED, BUDGET = 6, 20, 30


def work_as_process(url: str, worker: str) -> None:
    """Claim two trials at a time, as a small worker does, until nothing is left."""
    with join("probe", url, WorkerSettings(), worker=worker) as session:
        while not (batch := session.claim(2)).over:
            for trial in batch.trials:
                session.complete(trial_id(trial), 0.5, epochs=1)
            session.flush()


def test_trials_enqueued_while_workers_run_are_claimed_once_each(
    tmp_path: Path, store_url: str
) -> None:
    """Stock Optuna enqueues them, half before the workers join.

    `scripts/benchmarks/enqueue.py` checks it at full size.
    """
    create(tmp_path, store_url, f"study.n_trials={BUDGET}")
    rates = [1e-5 * (1 + i) for i in range(ENQUEUED)]
    processes = multiprocessing.get_context("forkserver")
    with stock_study(store_url) as study:
        for rate in rates[: ENQUEUED // 2]:
            study.enqueue_trial({RATE: rate})
        workers = [
            processes.Process(target=work_as_process, args=(store_url, str(i)))
            for i in range(WORKERS)
        ]
        for worker in workers:
            worker.start()
        for rate in rates[ENQUEUED // 2 :]:
            study.enqueue_trial({RATE: rate})
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * WORKERS
    # Trials enqueued after the budget was spent wait for a larger budget.
    create(tmp_path, store_url, f"study.n_trials={BUDGET + ENQUEUED}")
    work_as_process(store_url, "last")
    trials = trials_of(store_url)
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len(trials) == BUDGET + ENQUEUED
    ran = Counter(trial.params[RATE] for trial in trials)
    assert [ran[rate] for rate in rates] == [1] * ENQUEUED
    first = [t for t in trials if t.params[RATE] in rates[: ENQUEUED // 2]]
    assert max(trial.number for trial in first) < ENQUEUED
