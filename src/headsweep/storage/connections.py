"""Connections and transactions on the two databases a store may lie in: SQLite and PostgreSQL."""

from __future__ import annotations

import fcntl
import math
import os
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
from sqlalchemy import URL, Connection, Engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import NullPool, Pool, QueuePool

from headsweep.errors import StorageError

T = TypeVar("T")

BUSY_TIMEOUT_S = 60
CONNECT_TIMEOUT_S = 5
LONGEST_PAUSE_S = 5.0
# Namespace of our PostgreSQL advisory locks; the second key is the study, 0 the schema.
LOCK_NAMESPACE = 0x48535750
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "gpfs")
DEFERRED = "headsweep_deferred"
"""Execution option under which SQLite takes no lock before the first write."""
BEGIN = "headsweep_begin"
"""Execution option: the words that begin a transaction of PostgreSQL."""
READING = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
FROZEN_S = 30
"""A process that stands still for longer, with the lock of a study in hand, loses it."""
IDLE_S = 1.0
"""A connection of PostgreSQL that was used less long ago is trusted to be there still."""
# Faults that waiting does not mend, by what the drivers say.
_LASTING = (
    *("disk is full", "readonly", "unable to open", "disk I/O error"),
    *("no such", "has no column", "already exists", "syntax error"),  # another's tables
    *("authentication failed", "no password supplied", "does not exist", "translate host name"),
)


class Database:
    """One database, opened: whole transactions, run again after an outage.

    Args:
        url: a parsed URL; its password goes to the driver only.
        outage_s: how long a transaction is tried again while the database cannot be reached.

    `shown` is the URL for people; `public_url` opens the database again for those who have the
    password from elsewhere; `file` is SQLite's.
    """

    def __init__(self, url: URL, *, outage_s: float = 0.0) -> None:
        self.shown = shown_url(url)
        self.public_url = url._replace(password=None).render_as_string()
        self.dialect = url.get_backend_name()
        self.file = Path(str(url.database)) if self.dialect == "sqlite" else None
        self.outage_s = outage_s
        self._url = url
        self.engine = _sqlite_engine(url) if self.dialect == "sqlite" else _postgres_engine(url)
        weakref.finalize(self, self.engine.dispose)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` on one consistent snapshot.

        Raises:
            StorageError: the database cannot be reached, or does not hold what it should.
        """
        return self._run(work, {DEFERRED: True, BEGIN: READING})

    def write(self, work: Callable[[Connection], T], *, study_id: int | None) -> T:
        """Runs `work` in one transaction, under the lock of a study unless that is None.

        `work` may run twice when the connection broke: it must bear that its effects stand already.

        Raises:
            StorageError: the database cannot be reached, is full, or is read-only.
        """
        limit = f"SET LOCAL idle_in_transaction_session_timeout = '{FROZEN_S}s'"
        lock = f"SELECT pg_advisory_xact_lock({LOCK_NAMESPACE}, {study_id})"
        # In one trip, and before the snapshot is taken.
        return self._run(work, {} if study_id is None else {BEGIN: f"BEGIN; {limit}; {lock}"})

    def outlast(self, call: Callable[[], T]) -> T:
        """Calls something that speaks to the database by itself, again after an outage.

        Raises:
            StorageError: as `read` and `write` do.
        """
        deadline = time.monotonic() + self.outage_s
        pause = 0.05
        while True:
            try:
                return call()
            except (DBAPIError, PoolTimeoutError, StorageInternalError) as error:
                fault = error.__cause__ if isinstance(error, StorageInternalError) else error
                if not _may_pass(fault) or time.monotonic() + pause > deadline:
                    raise self.explain(fault or error) from None
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _run(self, work: Callable[[Connection], T], options: Mapping[str, Any]) -> T:
        def transaction() -> T:
            with self.engine.connect() as connection:
                connection.execution_options(**options)
                with connection.begin():
                    return work(connection)

        return self.outlast(transaction)

    def explain(self, error: BaseException) -> StorageError:
        """The one-line error for a fault of the database, without its password."""
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        found = " ".join(str(cause).split()) or type(cause).__name__
        if self._url.password:
            found = found.replace(self._url.password, "***")
        return StorageError(f"{self.shown}: the storage must answer, found: {found}")

    def secret_url(self) -> str:
        """Return the URL with its password: for the environment of a child process alone."""
        return self._url.render_as_string(hide_password=False)

    @contextmanager
    def schema_lock(self) -> Iterator[Engine]:
        """Lets one process at a time create the tables, on as many connections as that takes."""
        if self.dialect == "sqlite":
            with _directory_lock(Path(str(self._url.database)).parent):
                yield self.engine
            return
        apart = _postgres_engine(self._url, poolclass=NullPool)
        with apart.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_NAMESPACE}, 0)")
            yield apart

    def close(self) -> None:
        """Closes all connections."""
        self.engine.dispose()


def open_database(
    url: str, *, create: bool = False, patience_s: float = 0.0, outage_s: float = 0.0
) -> Database:
    """The database at a URL, known to answer.

    Args:
        url: `sqlite:///FILE`, `postgresql://…` or `postgresql+psycopg://…`.
        create: whether the folder of a SQLite file may be made.
        patience_s: how long to wait for a server that does not answer yet.
        outage_s: see `Database`.

    Raises:
        StorageError: the URL is of another kind, or the database cannot be reached.
    """
    parsed = _parsed_url(url)
    if parsed.get_backend_name() == "sqlite":
        _check_file(Path(str(parsed.database)), create=create)
    try:
        database = Database(parsed, outage_s=outage_s)
    except ImportError as error:
        raise StorageError(
            f"{shown_url(parsed)}: the extra headsweep[postgres] must be installed, found {error}"
        ) from None
    database.outage_s = patience_s
    database.read(lambda connection: connection.exec_driver_sql("SELECT 1"))
    database.outage_s = outage_s
    return database


def shown_url(url: URL | str) -> str:
    """A storage URL as it may be shown: without password or query."""
    try:
        parsed = _split(url)
    except (ArgumentError, ValueError):
        return "the storage URL"
    return parsed.set(query={}).render_as_string(hide_password=True)


def _split(url: URL | str) -> URL:
    """A URL in its parts; an `@` of a password that was not quoted belongs to the password.

    Raises:
        ArgumentError: no URL, or one whose password is cut where it should be quoted.
    """
    parsed = make_url(url)
    if parsed.host and "@" in (parsed.database or ""):
        raise ArgumentError("the password must be quoted")
    tail, at, host = (parsed.host or "").rpartition("@")
    return parsed.set(password=f"{parsed.password}@{tail}", host=host) if at else parsed


def _parsed_url(url: str) -> URL:
    try:
        parsed = _split(url)
        if "\0" in url:
            raise ValueError("no file's name holds this")
    except (ArgumentError, ValueError):
        # The text may hold a password, so it is not shown.
        raise StorageError(
            "a storage URL must read sqlite:///FILE or postgresql://…, found other text"
        ) from None
    if parsed.drivername in ("postgresql", "postgresql+psycopg"):
        query = dict(parsed.query)
        given = query.pop("password", parsed.password)
        password = given if isinstance(given, str) or given is None else given[-1]
        return parsed.set(drivername="postgresql+psycopg", query=query, password=password)
    in_a_file = parsed.database not in (None, "", ":memory:") and not parsed.query
    if parsed.drivername in ("sqlite", "sqlite+pysqlite") and in_a_file:
        return parsed
    raise StorageError(
        f"{shown_url(parsed)}: a storage must be sqlite:///FILE or postgresql://…, "
        f"found {parsed.drivername}"
    )


def _check_file(path: Path, *, create: bool) -> None:
    shown = f"sqlite:///{path}"
    if create:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{shown}: its folder must be writable, found {error.strerror}"
            ) from None
    elif not path.is_file():
        raise StorageError(f"{shown}: the storage must exist, found none")
    kind = _file_system(path.parent)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StorageError(f"{shown}: SQLite must lie on a local disk, found {kind}")


def _file_system(folder: Path) -> str:
    """Kind of the file system that holds a folder; empty where the kernel does not tell."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    resolved = folder.resolve()
    kinds = {line.split()[1]: line.split()[2] for line in mounts}
    return next((kinds[str(p)] for p in (resolved, *resolved.parents) if str(p) in kinds), "")


def _sqlite_engine(url: URL) -> Engine:
    engine = sqlalchemy.create_engine(
        url,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        pool_size=2,
        max_overflow=2,
    )

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we begin our transactions ourselves
        _enter_wal(connection)
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and then writes would lose a race for the write lock.
        deferred = connection.get_execution_options().get(DEFERRED, False)
        connection.exec_driver_sql("BEGIN" if deferred else "BEGIN IMMEDIATE")

    return engine


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switches a file to write-ahead logging, for which SQLite itself does not wait its turn."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.01, 0.05))


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
        isolation_level="AUTOCOMMIT",  # we begin our transactions ourselves
        poolclass=poolclass,
        **({"pool_size": 1, "max_overflow": 0} if poolclass is QueuePool else {}),
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get(BEGIN, "BEGIN"))

    @event.listens_for(engine, "do_execute")
    def _execute(cursor: Any, statement: str, *_: Any) -> bool:
        """Keeps psycopg from preparing what may be two statements; whether it was executed."""
        begins = statement.startswith("BEGIN")
        if begins:
            cursor.execute(statement, prepare=False)
        return begins

    @event.listens_for(engine, "checkin")
    def _note_use(_: Any, record: Any) -> None:
        record.info["used_at"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _ping(connection: Any, record: Any, _: Any) -> None:
        # What breaks while it is in use is repeated by `outlast`.
        if time.monotonic() - record.info.get("used_at", math.inf) <= IDLE_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError(str(error)) from None

    return engine


def _may_pass(error: BaseException | None) -> bool:
    """Whether waiting can mend a fault: an outage, a restart, a deadlock, a busy file."""
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    broken = isinstance(error, OperationalError) or error.connection_invalidated
    return broken and not any(text in str(error.orig) for text in _LASTING)


@contextmanager
def _directory_lock(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
