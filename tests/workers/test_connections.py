"""Connections to PostgreSQL: one per worker, because the default limit is 100."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection

from headsweep.errors import StorageError
from headsweep.storage import connections as database
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.connections import open_database
from headsweep.studies.study import StoredStudy
from tests.helpers.exact_budget import assert_exact
from tests.helpers.polling import polling
from tests.helpers.postgres import Server, other_clients
from tests.helpers.study_specs import make_spec
from tests.workers.conftest import Start


@pytest.fixture
def store_url(postgres: Server) -> str:
    return postgres.url(postgres.new_database())


@contextmanager
def counted(url: str) -> Iterator[list[int]]:
    """Collect the number of connections to a database while the body runs."""
    seen: list[int] = []
    with (
        psycopg.connect(url, autocommit=True) as connection,
        polling(lambda: seen.append(other_clients(connection)), every_s=0.005),
    ):
        yield seen


def test_worker_with_a_lease_thread_uses_one_connection(
    tmp_path: Path, store_url: str, storage: BatchedStorage, start: Start
) -> None:
    """Its lease thread shares it: it renews four times a second."""
    study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
    storage.database.close()
    with counted(store_url) as seen:
        workers = [start(slots=4, epoch_s=0.1, lease_s=1.0, retries=1000) for _ in range(2)]
        for worker in workers:
            worker.join()
    assert max(seen) == 2
    assert_exact(storage.get_all_trials(study_id), 40)


def test_write_when_its_transaction_hangs_is_aborted_and_blocks_no_other(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "FROZEN_S", 1)
    frozen = open_database(store_url, outage_s=0.0)
    other = open_database(f"{store_url}?options=-c%20statement_timeout%3D20s")

    def stand_still(connection: Connection) -> None:
        other.write(lambda c: c.exec_driver_sql("SELECT 1"), study_id=1)
        connection.exec_driver_sql("SELECT 1")

    with pytest.raises(StorageError, match="idle-in-transaction timeout"):
        frozen.write(stand_still, study_id=1)
    for opened in (frozen, other):
        opened.close()


def test_read_when_an_idle_connection_broke_reconnects(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_database(store_url, outage_s=0.0)

    def read() -> int:
        return opened.read(lambda c: c.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())

    for idle_s in (60.0, 0.0):
        before = read()
        with psycopg.connect(store_url, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 10000)", (before,))
        monkeypatch.setattr(database, "IDLE_S", idle_s)
        if idle_s:
            with pytest.raises(StorageError, match="terminating connection"):
                read()
        assert read() != before
    opened.close()
