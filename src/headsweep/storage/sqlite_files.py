"""SQLite files: checks of their location, how they are opened, and detection of replacement."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.pool import NullPool

from headsweep.errors import StorageError

BUSY_TIMEOUT_S = 60
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "gpfs")
FULL_BYTES = 1 << 20
"""A disk with less free space counts as full."""
DEFERRED = "headsweep_deferred"
"""Execution option with which SQLite takes no lock before the first write."""


def check_file(path: Path, *, create: bool) -> None:
    """Check that a SQLite file exists or can be created, on a local disk.

    Args:
        path: the file.
        create: whether the file may be missing and its folder may be created.

    Raises:
        StorageError: it is missing, or on a network file system.
    """
    shown = f"sqlite:///{path}"
    if create:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{shown}: cannot create its folder: {error.strerror}") from None
    elif not path.exists():
        raise StorageError(f"{shown}: no such file")
    if path.exists() and not path.is_file():
        raise StorageError(f"{shown}: not a file, so it cannot be a SQLite database")
    kind = _file_system(path.parent)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StorageError(f"{shown}: SQLite needs a local disk, but this is {kind}")


def is_read_only(path: Path) -> bool:
    """Return whether this user can only read a SQLite file: it or its folder is not writable."""
    if not path.exists():
        return False
    log = _log_of(path)
    return not os.access(path, os.W_OK) or not (
        os.access(path.parent, os.W_OK) or (log.exists() and os.access(log, os.W_OK))
    )


def full_disk(path: Path) -> str:
    """Return a sentence if the disk of a SQLite file is full, which SQLite may call an I/O error.

    Returns:
        The sentence; empty if there is space, or if that cannot be found out.
    """
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return ""
    if free >= FULL_BYTES:
        return ""
    return f"the disk of {path.parent} is full ({free} bytes free)"


def file_id(path: Path) -> str:
    """Return an id that changes when the file is replaced; empty if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_dev}:{status.st_ino}"


def sqlite_engine(url: URL, *, read_only: bool) -> Engine:
    """Create the engine of a SQLite file.

    Args:
        url: its parsed URL.
        read_only: whether it must not be written to.

    Returns:
        The engine.
    """
    if read_only:
        path = Path(str(url.database))
        # Each connection is new, since a write-ahead log may appear or disappear.
        engine = sqlalchemy.create_engine(
            url, creator=lambda: _open_read_only(path), poolclass=NullPool
        )
    else:
        engine = sqlalchemy.create_engine(
            url,
            connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
            pool_size=2,
            max_overflow=2,
        )

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun explicitly
        if not read_only:
            _enter_wal(connection)
            connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads before it writes could fail to get the write lock.
        deferred = read_only or connection.get_execution_options().get(DEFERRED, False)
        connection.exec_driver_sql("BEGIN" if deferred else "BEGIN IMMEDIATE")

    return engine


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock a folder, so that only one process at a time is inside the context."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _open_read_only(path: Path) -> sqlite3.Connection:
    """Open a file for reading, without the lock files that SQLite would create beside it.

    Returns:
        The connection.

    Raises:
        StorageError: its write-ahead log has changes that only a writer can apply.
    """
    log = _log_of(path)
    at_rest = not log.exists() or log.stat().st_size == 0
    if not at_rest and not path.with_name(f"{path.name}-shm").exists():
        raise StorageError(
            f"sqlite:///{path} cannot be read: its folder is read-only, and {log.name} holds "
            "changes that only a writer can apply. Open it once where it is writable"
        )
    options = "mode=ro&immutable=1" if at_rest else "mode=ro"
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?{options}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        check_same_thread=False,
    )


def _file_system(folder: Path) -> str:
    """Return the kind of the file system that holds a folder; empty if the kernel does not say."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    resolved = folder.resolve()
    kinds = {line.split()[1]: line.split()[2] for line in mounts}
    return next((kinds[str(p)] for p in (resolved, *resolved.parents) if str(p) in kinds), "")


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch a file to write-ahead logging; SQLite itself does not wait for the lock here.

    Raises:
        sqlite3.OperationalError: the file cannot be switched, or stays locked.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.01, 0.05))
