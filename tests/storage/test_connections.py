"""Opening a database, and which of its errors are retried."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from headsweep.errors import StorageError, UnreachableStorageError
from headsweep.storage import connections
from headsweep.storage import sqlite_files as module
from headsweep.storage.connections import Database, open_database

BUSY = OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))
FULL = OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
NOT_UTF8 = "Could not decode to UTF-8 column 'text' with text '\xff'"
UNREADABLE = OperationalError("SELECT", {}, sqlite3.OperationalError(NOT_UTF8))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/studies.db", create=True, outage_s=60)
    yield database
    database.close()


def fail_once(error: Exception) -> Callable[[], str]:
    """Return a function that raises on its first call and returns "again" on its second."""
    errors = [error]

    def call() -> str:
        if errors:
            raise errors.pop()
        return "again"

    return call


def caused_by(cause: Exception) -> StorageInternalError:
    error = StorageInternalError("Optuna's words")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("error", [BUSY, PoolTimeoutError("no connection"), caused_by(BUSY)])
def test_outlast_with_a_temporary_error_retries(database: Database, error: Exception) -> None:
    assert database.outlast(fail_once(error)) == "again"


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (FULL, "database or disk is full"),
        (caused_by(FULL), "database or disk is full"),
        (UNREADABLE, NOT_UTF8),
        (caused_by(KeyError("x")), "'x'"),
        (StorageInternalError("of Optuna's own"), "of Optuna's own"),
    ],
)
def test_outlast_with_a_permanent_error_raises_at_once(
    database: Database, error: Exception, found: str
) -> None:
    with pytest.raises(StorageError) as told:
        database.outlast(fail_once(error))
    assert str(told.value) == f"cannot use {database.shown}: {found}"


def test_explain_when_no_connection_is_free_does_not_say_unreachable(database: Database) -> None:
    told = str(database.explain(PoolTimeoutError("QueuePool limit of size 1 reached")))
    assert told.startswith(f"{database.shown} is busy: ")


def test_enter_wal_when_the_database_is_locked_waits(tmp_path: Path) -> None:
    """SQLite does not wait by itself when a file is switched to write-ahead logging."""
    holder = sqlite3.connect(tmp_path / "a.db", isolation_level=None, check_same_thread=False)
    holder.execute("CREATE TABLE a (x)")
    holder.execute("BEGIN EXCLUSIVE")
    waiting = sqlite3.connect(tmp_path / "a.db", timeout=0)
    release = threading.Timer(0.2, holder.execute, ("COMMIT",))
    release.start()
    module._enter_wal(waiting)
    release.join()
    assert waiting.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    for connection in (waiting, holder):
        connection.close()


def test_open_database_on_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module._file_system(Path("/proc/self")) == "proc"
    monkeypatch.setattr(module, "_file_system", lambda folder: "nfs4")
    with pytest.raises(StorageError, match=r"a\.db: SQLite needs a local disk, but this is nfs4$"):
        open_database(f"sqlite:///{tmp_path}/a.db", create=True)
    assert not (tmp_path / "a.db").exists()


def test_open_database_when_its_folder_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot create its folder: Not a directory$"):
        open_database(f"sqlite:///{tmp_path}/file/in/a.db", create=True)


def test_open_database_on_a_folder_says_that_it_is_no_file(tmp_path: Path) -> None:
    for create in (False, True):
        with pytest.raises(StorageError, match=r"^sqlite:///.*: not a file, so it cannot be"):
            open_database(f"sqlite:///{tmp_path}", create=create)


@pytest.mark.parametrize(("free", "shown"), [(4096, True), (10**9, False)])
def test_explain_of_an_io_error_tells_whether_the_disk_is_full(
    database: Database, monkeypatch: pytest.MonkeyPatch, free: int, shown: bool
) -> None:
    """On a full disk SQLite cannot make the file that its connections share: `disk I/O error`."""
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    error = OperationalError("", {}, sqlite3.OperationalError("disk I/O error"))
    told = str(database.explain(error))
    assert told.startswith(f"cannot use {database.shown}: disk I/O error")
    assert (f"; the disk of {database.file.parent} is full (4096 bytes free)" in told) == shown


def test_open_database_without_the_postgres_driver_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StorageError) as refused:
        open_database("postgresql://me:secret@host/studies")
    assert "install the extra headsweep[postgres] (" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_write_while_another_process_holds_a_transaction_says_that_it_is_locked(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(connections, "LOCK_TIMEOUT_S", 0.2)
    hung = open_database(store_url, create=True)
    waiting = open_database(store_url, outage_s=0.5)

    def hold(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT 1")
        with pytest.raises(UnreachableStorageError) as refused:
            waiting.write(lambda other: None, study_id=1)
        assert f"{waiting.shown} is locked: another process does not end its" in str(refused.value)

    hung.write(hold, study_id=1)
    waiting.write(lambda connection: None, study_id=1)
    hung.close()
    waiting.close()
