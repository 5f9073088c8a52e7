"""Connections to PostgreSQL: few for each worker, so that many fit under its default 100."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from headsweep.studies.storage import BatchedStorage
from headsweep.studies.store import create_or_continue
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
    try:
        yield seen
    finally:
        over.set()
        looking.join()


def test_a_worker_holds_one_connection(
    tmp_path: Path, store_url: str, storage: BatchedStorage, start: Start
) -> None:
    """Its lease thread shares it: it renews four times a second."""
    study_id = create_or_continue(make_spec(tmp_path), storage)
    storage.database.close()
    with counted(store_url) as seen:
        workers = [start(slots=4, epoch_s=0.1, lease_s=1.0, retries=1000) for _ in range(2)]
        for worker in workers:
            worker.join()
    assert max(seen) == 2
    assert_exact(storage.get_all_trials(study_id), 40)
