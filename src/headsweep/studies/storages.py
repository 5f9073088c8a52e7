"""Open storages, and find headsweep's studies in them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import optuna

from headsweep.errors import StudyError
from headsweep.preflight import check_output
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.connections import open_database
from headsweep.storage.urls import parse_url
from headsweep.studies.definition import DEFINITION

optuna.logging.set_verbosity(optuna.logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)


def open_storage(
    url: str, *, create: bool = False, outage_s: float | None = None
) -> BatchedStorage:
    """Open the Optuna storage at a URL.

    Args:
        url: `sqlite:///FILE` or `postgresql://…`.
        create: whether a SQLite file, its folder and the tables may be created.
        outage_s: how long everything is retried while the database cannot be reached; None is
            headsweep's usual 10 minutes.

    Returns:
        The open storage; close it with `storage.database.close()`.

    Raises:
        StorageError: the URL is of another kind, cannot be reached, or holds something else.
    """
    database = open_database(url, create=create, outage_s=outage_s)
    return BatchedStorage(database, create=create)


def open_storage_after(check: Callable[[], None], url: str) -> BatchedStorage:
    """Open a storage, and create its missing tables after a check; open the database only once.

    Args:
        check: called when the storage is known to answer, before anything is written.
        url: `sqlite:///FILE` or `postgresql://…`.

    Returns:
        The storage.

    Raises:
        StorageError: the storage cannot be opened or created.
    """
    parsed = parse_url(url)
    file = Path(str(parsed.database))
    if parsed.get_backend_name() == "sqlite" and not file.exists():
        check_output(file.parent, what="the folder of the storage")
        check()
        return open_storage(url, create=True)
    database = open_database(url)
    try:
        check()
        return BatchedStorage(database, create=True)
    except BaseException:
        database.close()
        raise


def study_names(storage: BatchedStorage) -> tuple[str, ...]:
    """Return the names of headsweep's studies in a storage."""
    return tuple(str(s.study_name) for s in storage.get_all_studies() if DEFINITION in s.user_attrs)


def study_id(name: str, storage: BatchedStorage) -> int:
    """Return the id of a study.

    Raises:
        StudyError: the storage holds no study with this name.
    """
    try:
        return storage.get_study_id_from_name(name)
    except KeyError:
        known = ", ".join(study_names(storage)) or "none"
        raise StudyError(
            f"{storage.database.shown}: no study named {name!r}; studies there: {known}"
        ) from None
