"""The studies that this process works on, and transactions that check which study an id means."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial
from sqlalchemy import Connection

from headsweep.errors import StorageError, StudyDeletedError
from headsweep.storage.bulk_writes import Changes
from headsweep.storage.connections import Database
from headsweep.storage.optuna_tables import trial_id
from headsweep.storage.study_identity import (
    StudyIdentity,
    check_identity,
    ensure_token,
    fetch_identity,
)
from headsweep.storage.trial_cache import TrialCache

T = TypeVar("T")


@dataclass
class OpenStudy:
    """The data of one study in this process, and its changes that are not written yet."""

    identity: StudyIdentity
    cache: TrialCache
    changes: dict[int, Changes] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    """By param: the distribution of the study's space, or of the first trial with the param."""

    def change(self, key: int) -> Changes:
        """Return the pending changes of a trial, to be added to."""
        return self.changes.setdefault(key, Changes())

    def put(self, trial: FrozenTrial, *, own: bool) -> None:
        """Add a trial to the cache, or replace it.

        Args:
            trial: the trial.
            own: whether only this process writes it.
        """
        if own:
            self.cache.own.add(trial_id(trial))
        self.cache.put(trial)

    def disown(self, key: int) -> None:
        """Drop the pending changes of a trial that this process no longer runs."""
        self.changes.pop(key, None)
        self.cache.own.discard(key)


class OpenStudies:
    """The open studies of a storage by id, with the transactions that read and write them.

    Args:
        database: an open database.
        lock: guards the studies' data; held by a thread that reads or changes them.
    """

    def __init__(self, database: Database, lock: threading.RLock) -> None:
        self._database = database
        self._lock = lock
        self._studies: dict[int, OpenStudy] = {}
        self._bound: dict[int, StudyIdentity] = {}

    def __iter__(self) -> Iterator[OpenStudy]:
        return iter(list(self._studies.values()))

    def get(self, study_id: int) -> OpenStudy:
        """Return the data of a study, opened if it is not.

        Raises:
            KeyError: there is no such study.
        """
        if (study := self._studies.get(study_id)) is not None:
            return study
        with self._lock:
            identity = self._bound.get(study_id) or self.read_rows(
                lambda: self._database.read(lambda c: self._identity(c, study_id))
            )
            if identity is None:
                raise KeyError(f"no study has the id {study_id}")
            return self._studies.setdefault(study_id, OpenStudy(identity, TrialCache(study_id)))

    def bind(self, study_id: int, *, writes: bool = False) -> None:
        """Use this id for the present study only: a later study with the same id is not changed.

        Args:
            study_id: id of the study.
            writes: whether to give the study a token, if it has none yet.

        Raises:
            KeyError: there is no such study.
            StudyDeletedError: the id was bound to a study that is no longer there.
        """
        with self._lock:
            self.read(study_id, lambda _: None)
            study = self._studies[study_id]
            if writes:
                study.identity = self.write(
                    study_id, lambda c: ensure_token(c, study.identity), locked=True
                )
            self._bound[study_id] = study.identity

    def read(self, study_id: int, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that reads.

        If the id now belongs to another study, the data of the earlier one is dropped first, unless
        the id is bound to the earlier one.

        Args:
            study_id: id of the study.
            work: reads; it is retried after an outage.

        Returns:
            What `work` returns.

        Raises:
            KeyError: there is no such study.
            StudyDeletedError: the study that the id is bound to is no longer there.
            StorageError: the rows are not such as Optuna writes.
        """
        with self._lock:
            study = self.get(study_id)

            def checked(connection: Connection) -> tuple[StudyIdentity, T]:
                found = check_identity(study.identity, self._identity(connection, study_id))
                return found, work(connection)

            try:
                study.identity, result = self.read_rows(lambda: self._database.read(checked))
                return result
            except StudyDeletedError:
                if study_id in self._bound:
                    raise
            self.drop(study_id)
            return self.read(study_id, work)

    def write(self, study_id: int, work: Callable[[Connection], T], *, locked: bool) -> T:
        """Run `work` in one transaction, if the study is still there.

        Args:
            study_id: id of the study.
            work: must be idempotent: it is retried after an outage, possibly after the commit.
            locked: whether the transaction holds the study's lock.

        Returns:
            What `work` returns.

        Raises:
            KeyError: there never was such a study.
            StudyDeletedError: the study was deleted, or replaced by another one.
            StorageError: the database cannot be written.
        """
        study = self.get(study_id)

        def checked(connection: Connection) -> T:
            check_identity(study.identity, self._identity(connection, study_id))
            return work(connection)

        try:
            return self._database.write(checked, study_id=study_id if locked else None)
        except StudyDeletedError:
            if study_id not in self._bound:  # a bound id must keep its trials apart from later ones
                self.drop(study_id)
            raise

    def drop(self, study_id: int) -> None:
        """Drop all data of a study, including changes not written, since its ids are reused."""
        with self._lock:
            self._studies.pop(study_id, None)

    def delete(self, study_id: int) -> None:
        """Drop all data of a study that this process deleted; the next one may have its id."""
        with self._lock:
            self.drop(study_id)
            self._bound.pop(study_id, None)

    def read_rows(self, call: Callable[[], T]) -> T:
        """Read rows that other programs may have written.

        Args:
            call: reads; it is retried after an outage.

        Returns:
            What `call` returns.

        Raises:
            KeyError: `call` raised it, as Optuna's storages do for what does not exist.
            StorageError: the rows are not such as Optuna writes.
        """
        try:
            return self._database.outlast(call)
        except KeyError:
            raise
        except (TypeError, ValueError, LookupError) as error:
            found = f"{type(error).__name__}: {error}".split("\n")[0][:120]
            raise StorageError(
                f"{self._database.shown}: the storage has rows that Optuna did not write: {found}"
            ) from None

    def _identity(self, connection: Connection, study_id: int) -> StudyIdentity | None:
        return fetch_identity(connection, study_id, self._database.file_id)
