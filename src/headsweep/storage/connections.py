"""Connections to SQLite and PostgreSQL, and transactions on them.

All reads and writes follow the same rules: opening waits `OPENING_S` for a server that does not
answer; later transactions are retried for `OUTAGE_S` while the server cannot be reached. The first
failure is logged. Errors that waiting does not fix are raised immediately.
"""

from __future__ import annotations

import logging
import math
import random
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import NullPool, Pool, QueuePool

from headsweep.errors import StorageError, StudyDeletedError, UnreachableStorageError
from headsweep.storage.sqlite_files import (
    DEFERRED,
    check_file,
    file_id,
    folder_lock,
    full_disk,
    is_read_only,
    sqlite_engine,
)
from headsweep.storage.urls import parse_url
from headsweep.storage.urls import shown_url as shown_url

T = TypeVar("T")

OPENING_S = 10.0
"""How long opening waits for a server that does not answer, in seconds."""
OUTAGE_S = 600.0
"""How long transactions are retried while a server that answered before cannot be reached."""
CONNECT_TIMEOUT_S = 5
LONGEST_PAUSE_S = 5.0
SILENT_S = 1.0
"""A shorter outage is not logged."""
# Namespace of our PostgreSQL advisory locks; the second key is the study, 0 the schema.
LOCK_NAMESPACE = 0x48535750
BEGIN = "headsweep_begin"
"""Execution option: the statements that begin a transaction of PostgreSQL."""
READING = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
FROZEN_S = 30
"""A transaction that holds a study's lock and is idle for longer, in seconds, is aborted."""
LOCK_TIMEOUT_S = 60
"""A PostgreSQL transaction that waits longer for a lock, in seconds, is aborted and retried."""
IDLE_S = 1.0
"""A PostgreSQL connection that was idle for longer is tested before it is used again."""
# Texts of SQLite's operational errors that waiting may fix: every other one lasts.
_SQLITE_TEMPORARY = ("locked", "busy", "locking protocol")
_LOCKED = ("database is locked", "due to lock timeout")
# Texts of PostgreSQL's operational errors that waiting does not fix.
_POSTGRES_LASTING = (
    *("disk is full", "already exists", "syntax error"),
    *("authentication failed", "no password supplied", "does not exist", "translate host name"),
)

_logger = logging.getLogger(__name__)


class Database:
    """An open database, whose transactions are retried during an outage.

    `shown` is the URL for messages; `public_url` is the URL without password, with which the
    database can be opened again if the password is configured elsewhere; `file` is the SQLite file.

    Args:
        url: a parsed URL; its password is given to the driver only.
        outage_s: how long a transaction is retried while the database cannot be reached.
    """

    def __init__(self, url: URL, *, outage_s: float | None = None) -> None:
        self.shown = shown_url(url)
        self.public_url = url._replace(password=None).render_as_string()
        self.dialect = url.get_backend_name()
        self.file = Path(str(url.database)) if self.dialect == "sqlite" else None
        self.read_only = self.file is not None and is_read_only(self.file)
        self.file_id = ""
        """Identifies the SQLite file that was opened; empty for PostgreSQL."""
        self.outage_s = OUTAGE_S if outage_s is None else outage_s
        self._url = url
        if self.dialect == "sqlite":
            self.engine = sqlite_engine(url, read_only=self.read_only)
        else:
            self.engine = _postgres_engine(url)
        weakref.finalize(self, self.engine.dispose)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one consistent snapshot.

        Args:
            work: only reads; it is called again after an outage.

        Returns:
            What `work` returns.

        Raises:
            StorageError: the database cannot be reached, or its content cannot be read.
        """
        return self._run(work, {DEFERRED: True, BEGIN: READING})

    def write(self, work: Callable[[Connection], T], *, study_id: int | None) -> T:
        """Run `work` in one transaction, under the lock of a study, if one is given.

        Args:
            work: must be idempotent: it is called again if the connection breaks, possibly after
                the commit.
            study_id: the study whose lock is taken; None takes no lock.

        Returns:
            What `work` returns.

        Raises:
            StorageError: the database cannot be reached, is full, or is read-only.
        """
        if self.read_only:
            raise self._read_only_error()
        limit = f"SET LOCAL idle_in_transaction_session_timeout = '{FROZEN_S}s'"
        limit += f"; SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"
        lock = f"SELECT pg_advisory_xact_lock({LOCK_NAMESPACE}, {study_id})"
        # One round trip, and the lock is taken before the snapshot.
        return self._run(work, {} if study_id is None else {BEGIN: f"BEGIN; {limit}; {lock}"})

    def outlast(self, call: Callable[[], T]) -> T:
        """Call a function that uses the database, and retry it during an outage.

        Args:
            call: must be idempotent.

        Returns:
            What `call` returns.

        Raises:
            UnreachableStorageError: the database could not be reached for longer than `outage_s`.
            StorageError: an error that waiting does not fix.
        """
        begun = time.monotonic()
        logged = False
        pause = 0.05
        while True:
            self._follow_file()
            try:
                return call()
            except (DBAPIError, PoolTimeoutError, StorageInternalError) as error:
                cause = error.__cause__ if isinstance(error, StorageInternalError) else error
                waited = time.monotonic() - begun
                if not _may_pass(cause) or waited + pause > self.outage_s:
                    raise self.explain(cause or error) from None
                if waited > SILENT_S and not logged:
                    logged = True
                    _logger.warning(
                        "Notice: %s; trying again for %g s",
                        self.explain(cause or error),
                        self.outage_s,
                    )
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def explain(self, error: BaseException) -> StorageError:
        """Return a one-line error for an error of the database, without its password."""
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        found = " ".join(str(cause).split()) or type(cause).__name__
        if self._url.password:
            found = found.replace(self._url.password, "***")
        if "readonly database" in found:
            return self._read_only_error()
        if any(text in found for text in _LOCKED):
            return UnreachableStorageError(
                f"{self.shown} is locked: another process does not end its transaction ({found})"
            )
        if isinstance(error, PoolTimeoutError):
            return UnreachableStorageError(
                f"{self.shown} is busy: another thread of this process uses the only connection"
            )
        if _may_pass(error):
            return UnreachableStorageError(f"cannot reach {self.shown}: {found}")
        full = full_disk(self.file) if self.file is not None and "disk" in found else ""
        return StorageError("; ".join(filter(None, (f"cannot use {self.shown}: {found}", full))))

    def _read_only_error(self) -> StorageError:
        return StorageError(
            f"{self.shown} is read-only: this user cannot write to the file or its folder"
        )

    def secret_url(self) -> str:
        """Return the URL with its password; use it only for the environment of a child process."""
        return self._url.render_as_string(hide_password=False)

    @contextmanager
    def schema_lock(self) -> Iterator[Engine]:
        """Lock the creation of tables, so that only one process at a time creates them.

        Yields:
            An engine without a limit on connections.
        """
        if self.file is not None:
            with folder_lock(self.file.parent):
                yield self.engine
            return
        apart = _postgres_engine(self._url, poolclass=NullPool)
        with apart.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_NAMESPACE}, 0)")
            yield apart

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def remember_file(self) -> None:
        """Record which SQLite file is used, so that its replacement is noticed."""
        self.file_id = file_id(self.file) if self.file is not None else ""

    def _follow_file(self) -> None:
        """Close the connections to a SQLite file that was replaced.

        Raises:
            StudyDeletedError: the file was deleted.
        """
        if self.file is None or not self.file_id:
            return
        found = file_id(self.file)
        if not found:
            raise StudyDeletedError(f"{self.shown} was deleted while this process used it")
        if found != self.file_id:
            self.engine.dispose()
            self.file_id = found

    def _run(self, work: Callable[[Connection], T], options: Mapping[str, Any]) -> T:
        def transaction() -> T:
            with self.engine.connect() as connection:
                connection.execution_options(**options)
                with connection.begin():
                    return work(connection)

        return self.outlast(transaction)


def open_database(url: str, *, create: bool = False, outage_s: float | None = None) -> Database:
    """Open a database and check that it answers, for which it has `OPENING_S`.

    Args:
        url: `sqlite:///FILE`, `postgresql://…` or `postgresql+psycopg://…`.
        create: whether the folder of a SQLite file may be created.
        outage_s: how long to retry during an outage; None uses `OUTAGE_S`.

    Returns:
        The database.

    Raises:
        StorageError: the URL is of another kind, or the database cannot be reached.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        check_file(Path(str(parsed.database)), create=create)
    try:
        database = Database(parsed, outage_s=OPENING_S)
    except ImportError as error:
        raise StorageError(
            f"{shown_url(parsed)}: install the extra headsweep[postgres] ({error})"
        ) from None
    database.read(lambda connection: connection.exec_driver_sql("SELECT 1"))
    database.remember_file()
    database.outage_s = OUTAGE_S if outage_s is None else outage_s
    return database


def _postgres_engine(url: URL, poolclass: type[Pool] = QueuePool) -> Engine:
    query = dict(url.query)
    options = f"{query.pop('options', '')} -c timezone=UTC".strip()
    engine = sqlalchemy.create_engine(
        url.set(query=query),
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "options": options,
        },
        isolation_level="AUTOCOMMIT",  # transactions are begun explicitly
        poolclass=poolclass,
        **({"pool_size": 1, "max_overflow": 0} if poolclass is QueuePool else {}),
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get(BEGIN, "BEGIN"))

    @event.listens_for(engine, "do_execute")
    def _execute(cursor: Any, statement: str, *_: Any) -> bool:
        """Execute BEGIN statements unprepared, since psycopg cannot prepare two statements in one.

        Returns:
            Whether the statement was executed here.
        """
        begins = statement.startswith("BEGIN")
        if begins:
            cursor.execute(statement, prepare=False)
        return begins

    @event.listens_for(engine, "checkin")
    def _note_use(_: Any, record: Any) -> None:
        record.info["used_at"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _ping(connection: Any, record: Any, _: Any) -> None:
        # A connection that breaks while it is in use is handled by `outlast`.
        if time.monotonic() - record.info.get("used_at", math.inf) <= IDLE_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError(str(error)) from None

    return engine


def _may_pass(error: BaseException | None) -> bool:
    """Return whether an error is temporary: an outage, a restart, a deadlock, a busy file."""
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    text = str(error.orig)
    if isinstance(error.orig, sqlite3.Error):
        return isinstance(error, OperationalError) and any(t in text for t in _SQLITE_TEMPORARY)
    broken = isinstance(error, OperationalError) or error.connection_invalidated
    return broken and not any(t in text for t in _POSTGRES_LASTING)
