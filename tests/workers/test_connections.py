"""Connections to PostgreSQL: few for each worker, so that 64 workers fit under its default 100."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from headsweep.settings import WorkerSettings
from headsweep.studies.session import join
from headsweep.studies.storage import BatchedStorage
from headsweep.studies.store import create_or_continue
from headsweep.workers.lease import Lease
from tests.postgres import Server
from tests.studies.builders import make_spec
from tests.workers.conftest import Start
from tests.workers.test_worker import assert_exact


@pytest.fixture
def store_url(postgres: Server) -> str:
    return postgres.url(postgres.new_database())


@contextmanager
def counted(url: str) -> Iterator[list[int]]:
    """How many connections to a database there were, looked at all the time."""
    seen: list[int] = []
    over = threading.Event()
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"

    def look() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not over.wait(0.005):
                ((n,),) = connection.execute(query).fetchall()
                seen.append(n - 1)

    looking = threading.Thread(target=look)
    looking.start()
    yield seen
    over.set()
    looking.join()


def test_a_worker_holds_two_connections_at_most(
    tmp_path: Path, store_url: str, storage: BatchedStorage, start: Start
) -> None:
    """Its lease thread works meanwhile: it renews four times a second."""
    study_id = create_or_continue(make_spec(tmp_path), storage)
    storage.database.close()
    with counted(store_url) as seen:
        workers = [start(slots=4, epoch_s=0.1, lease_s=1.0, retries=1000) for _ in range(2)]
        for worker in workers:
            worker.join()
    assert 2 <= max(seen) <= 4
    assert_exact(storage.get_all_trials(study_id), 40)


def test_64_workers_fit_under_the_default_limit(
    tmp_path: Path, store_url: str, storage: BatchedStorage
) -> None:
    """At rest each holds one connection. Whoever finds none left for a second one tries again."""
    study_id = create_or_continue(make_spec(tmp_path, "study.n_trials=64"), storage)
    storage.database.close()
    at_rest, on = (threading.Barrier(64 + 1, timeout=300) for _ in range(2))
    settings = WorkerSettings()

    def work(number: int) -> None:
        with join("probe", store_url, settings, worker=f"{number}") as session:
            session.claim(1)
            at_rest.wait()
            on.wait()
            with Lease(session.renew, lease_s=8.0) as lease:
                lease.hold(session.held)
                (trial,) = session.held
                for epoch in range(1, 6):
                    session.report(trial, epoch, 0.5)
                    session.flush()
                session.complete(trial, 0.5, epochs=5)
                session.flush()

    with counted(store_url) as seen, ThreadPoolExecutor(64) as pool:
        done = pool.map(work, range(64))
        at_rest.wait()
        while seen[-1] != 64:  # the server lets go of closed connections in its own time
            time.sleep(0.01)
        on.wait()
        list(done)
    assert_exact(storage.get_all_trials(study_id), 64)
