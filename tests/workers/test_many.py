"""64 worker processes on one PostgreSQL server with its default limit of 100 connections.

Each process joins the study, loads the data, builds an engine and trains. All are forked from a
process that has imported the libraries, because 64 imports of torch would take minutes.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import psycopg
import pytest

from headsweep.settings import EngineSettings, WorkerSettings
from headsweep.storage.attributes import WORKER
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import WorkerSession, join
from headsweep.workers.lease import Lease
from tests.helpers.data_sets import LABELS, write_split
from tests.helpers.exact_budget import assert_exact
from tests.helpers.postgres import Server, other_clients
from tests.helpers.study_specs import make_spec

WORKERS = 64
BUDGET = 4 * WORKERS

pytestmark = [pytest.mark.slow]


def work_as_process(study: str, url: str) -> None:
    """Do what `headsweep worker` does; errors give a nonzero exit code."""
    from headsweep.workers.signals import stop_on_signals
    from headsweep.workers.worker import work

    with stop_on_signals(WorkerSettings.grace_s) as stop:
        work(
            StoredStudy.open(study, url),
            EngineSettings(device="cpu", slots=4),
            stop,
        )


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Overrides that name a data set with 60 training and 30 validation rows."""
    monkeypatch.setenv("HEADSWEEP_CACHE", str(tmp_path / "packed"))
    rng = np.random.default_rng(0)
    for name, n in (("train", 60), ("valid", 30)):
        targets = {f"{name}_{i}_a_1": rng.integers(0, 2, len(LABELS)) for i in range(n)}
        write_split(tmp_path, name, targets)
    return (f"paths.data_root={tmp_path}/features", f"paths.manifest_dir={tmp_path}/manifests")


@pytest.fixture
def processes() -> Iterator[list[BaseProcess]]:
    """A list for worker processes, which are killed at the end."""
    started: list[BaseProcess] = []
    yield started
    for process in started:
        process.kill()
        process.join()


class Watch:
    """Records the largest number of simultaneous connections to a database."""

    def __init__(self, url: str) -> None:
        self.most = 0
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._over.wait(0.1):
                self.most = max(self.most, other_clients(connection))


def test_workers_when_64_share_one_server_meet_the_budget_without_errors(
    tmp_path: Path, postgres: Server, data: tuple[str, ...], processes: list[BaseProcess]
) -> None:
    url = postgres.url(postgres.new_database())
    with psycopg.connect(url) as connection:
        assert connection.execute("SHOW max_connections").fetchall() == [("100",)]
    storage = open_storage(url, create=True)
    study_id = StoredStudy.create(make_spec(tmp_path, "study.n_trials=1", *data), storage).study_id
    refused = (postgres.folder / "log").read_text(errors="replace").count("FATAL")

    # The fork server of earlier tests has not imported torch; each of the 64 would import it.
    forkserver._forkserver._stop()
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(
        ["headsweep.workers.worker", "tests.helpers.fork_server", "tests.workers.test_many"]
    )
    with Watch(url) as watch, join("probe", url, WorkerSettings(), worker="witness") as witness:
        # The witness holds the only trial, so that all other workers join and wait.
        assert len(witness.claim(1).trials) == 1
        with Lease(witness.renew, WorkerSettings.lease_s) as lease:
            lease.set_trials(witness.running)
            for _ in range(WORKERS):
                process = forks.Process(target=work_as_process, args=("probe", url))
                process.start()
                processes.append(process)
            while joined(witness) < WORKERS + 1:
                assert all(process.exitcode is None for process in processes)
                time.sleep(0.1)
            StoredStudy.create(make_spec(tmp_path, f"study.n_trials={BUDGET}", *data), storage)
            witness.hand_back(crashed=False)
        for process in processes:
            process.join(timeout=120)

    assert [process.exitcode for process in processes] == [0] * WORKERS
    trials = storage.get_all_trials(study_id)
    assert_exact(trials, BUDGET)
    ran = Counter(trial.user_attrs[WORKER] for trial in trials)
    assert len(ran) > WORKERS // 2
    # One each, the witness's, this test's own, and sometimes one that is just being closed.
    assert WORKERS <= watch.most <= WORKERS + 10
    assert (postgres.folder / "log").read_text(errors="replace").count("FATAL") == refused
    storage.database.close()


def joined(session: WorkerSession) -> int:
    """Return how many workers ever joined the session's study."""
    return int(session.storage.get_study_user_attrs(session.study_id)["headsweep:n_workers"])
