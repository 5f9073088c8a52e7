"""An Optuna storage that reads only new rows into a cache and writes in batches.

The interface is `optuna.storages.BaseStorage`. Changes of trials that this process runs are
buffered in memory and written when a trial's state changes, in one transaction for all trials.
Inside `with storage.tick():` nothing is read or written before `flush`, so that an epoch of
hundreds of slots needs only a few transactions. As with Optuna's own cached storage, changes that
were not flushed are lost if the process crashes.
"""

# ruff: noqa: D102  (Optuna documents the methods of `BaseStorage`)

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from headsweep.storage.attributes import WORKER
from headsweep.storage.bulk_writes import Changes, study_attr_rows, upsert, write_changes
from headsweep.storage.connections import Database, open_database
from headsweep.storage.open_studies import OpenStudies, OpenStudy
from headsweep.storage.optuna_tables import (
    STUDY_ATTRS,
    STUDY_SYSTEM_ATTRS,
    FrozenStudy,
    altered,
    stock_storage,
    study_attrs,
    to_local,
    trial_id,
    utc_now,
)
from headsweep.storage.trial_cache import TrialCache
from headsweep.storage.trial_rows import fetch_trials

T = TypeVar("T")


class BatchedStorage(BaseStorage):
    """A storage with Optuna's tables that reads only new rows and writes in batches.

    Args:
        database: an open database.
        create: whether the tables may be created.
    """

    def __init__(self, database: Database, *, create: bool = True) -> None:
        self.database = database
        self._stock = stock_storage(database, create=create)
        self._ticking = False
        self._lock = threading.RLock()
        self._studies = OpenStudies(database, self._lock)

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.database.public_url}  # a pickle carries no password

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(open_database(state["url"]), create=False)  # type: ignore[misc]

    # Studies.

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        return self._outlast(lambda: self._stock.create_new_study(directions, study_name))

    def delete_study(self, study_id: int) -> None:
        with self._lock:
            self._outlast(lambda: self._stock.delete_study(study_id))
            self._studies.delete(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        rows = study_attr_rows(study_id, {key: value})
        self.write(study_id, lambda connection: upsert(connection, {STUDY_ATTRS: rows}))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        rows = study_attr_rows(study_id, {key: value})
        self.write(study_id, lambda connection: upsert(connection, {STUDY_SYSTEM_ATTRS: rows}))

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._outlast(lambda: self._stock.get_study_id_from_name(study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._studies.read(study_id, lambda _: self._studies.get(study_id).identity.name)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self.read(lambda: self._stock.get_study_directions(study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._studies.read(study_id, lambda c: study_attrs(c, STUDY_ATTRS, study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._studies.read(study_id, lambda c: study_attrs(c, STUDY_SYSTEM_ATTRS, study_id))

    def get_all_studies(self) -> list[FrozenStudy]:
        return self.read(lambda: self._stock.get_all_studies())

    # Trials.

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        with self._lock:
            self._studies.read(study_id, lambda _: None)
            trial = self._outlast(lambda: self._stock.create_trial(study_id, template_trial))
            self._studies.get(study_id).put(trial, own=trial.state == TrialState.RUNNING)
            return trial_id(trial)

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        with self._lock:
            study, trial = self._own_trial(trial_id)
            if study is None or trial is None:
                self._outlast(
                    lambda: self._stock.set_trial_param(
                        trial_id, param_name, param_value_internal, distribution
                    )
                )
                return
            known = self._known_distribution(study, param_name)
            if known is not None:
                check_distribution_compatibility(known, distribution)
            study.distributions[param_name] = distribution
            study.change(trial_id).params[param_name] = (param_value_internal, distribution)
            value = distribution.to_external_repr(param_value_internal)
            changed = altered(
                trial,
                params={**trial.params, param_name: value},
                distributions={**trial.distributions, param_name: distribution},
            )
            study.cache.put(changed)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        with self._lock:
            study, trial = self._own_trial(trial_id)
            if study is None or trial is None or not state.is_finished():
                return self._claim_or_write(trial_id, state, values)
            study.change(trial_id).end = (state, list(values or ()))
            if not self._ticking and trial_id in self.flush():
                raise UpdateFinishedTrialError(f"Trial {trial.number} was ended elsewhere.")
            if self._ticking:
                study.cache.put(altered(trial, state=state, values=list(values or ()) or None))
            return True

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        with self._lock:
            study, trial = self._own_trial(trial_id)
            if study is None or trial is None:
                call = self._stock.set_trial_intermediate_value
                self._outlast(lambda: call(trial_id, step, intermediate_value))
                return
            value = float(intermediate_value)
            study.change(trial_id).reports[step] = value
            reports = {**trial.intermediate_values, step: value}
            study.cache.put(altered(trial, intermediate_values=reports))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._lock:
            study, trial = self._own_trial(trial_id)
            if study is None or trial is None:
                self._outlast(lambda: self._stock.set_trial_user_attr(trial_id, key, value))
                return
            study.change(trial_id).user_attrs[key] = value
            study.cache.put(altered(trial, user_attrs={**trial.user_attrs, key: value}))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._lock:
            study, trial = self._own_trial(trial_id)
            if study is None or trial is None:
                self._outlast(lambda: self._stock.set_trial_system_attr(trial_id, key, value))
                return
            study.change(trial_id).system_attrs[key] = value
            study.cache.put(altered(trial, system_attrs={**trial.system_attrs, key: value}))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        with self._lock:
            if self._ticking:
                known = (study.cache.get(trial_id) for study in self._studies)
                if (trial := next(filter(None, known), None)) is not None:
                    return trial
            study, _ = self._own_trial(trial_id)
            if study is not None:  # another process may have ended it
                self.sync(study.identity.study_id)
                _, trial = self._own_trial(trial_id)
                if trial is not None:
                    return trial
        return self._fetched(trial_id)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        call = self._stock.get_trial_id_from_study_id_trial_number
        return self._outlast(lambda: call(study_id, trial_number))

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        with self._lock:
            trials = self.current(study_id).trials
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def remove_session(self) -> None:
        self._stock.remove_session()

    # Batches.

    @contextmanager
    def tick(self) -> Iterator[None]:
        """Read from memory and buffer writes until `flush`, inside of the context."""
        self._ticking = True
        try:
            yield
        finally:
            self._ticking = False

    def bind(self, study_id: int, *, writes: bool = False) -> None:
        """Use this id for the present study only: a later study with the same id is not changed.

        Args:
            study_id: id of the study.
            writes: whether to give the study a token, if it has none yet.

        Raises:
            KeyError: there is no such study.
            StudyDeletedError: the id was bound to a study that is no longer there.
        """
        self._studies.bind(study_id, writes=writes)

    def declare_distributions(
        self, study_id: int, distributions: Mapping[str, BaseDistribution]
    ) -> None:
        """Set the distributions of a study's params, whatever other programs wrote to its trials.

        Args:
            study_id: id of the study.
            distributions: the distributions of its space, by name.
        """
        study = self._studies.get(study_id)
        study.distributions.update(distributions)
        study.cache.declare_distributions(distributions)

    def sync(self, study_id: int) -> TrialCache:
        """Read what other processes wrote to a study since the last call.

        Returns:
            The cache of the study.

        Raises:
            KeyError: there is no such study.
            StudyDeletedError: the study that the id is bound to is no longer there.
        """
        with self._lock:
            self._studies.read(study_id, lambda c: self._sync(c, study_id))
            return self._studies.get(study_id).cache

    def current(self, study_id: int) -> TrialCache:
        """Return the cache of a study: after a `sync`, or within a tick without one."""
        return self.cache(study_id) if self._ticking else self.sync(study_id)

    def cache(self, study_id: int) -> TrialCache:
        """Return the cache of a study without a `sync`."""
        return self._studies.get(study_id).cache

    def write(self, study_id: int, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction under the study's lock, if the study is still there.

        Args:
            study_id: id of the study.
            work: must be idempotent: it is retried after an outage, possibly after the commit.

        Returns:
            What `work` returns.

        Raises:
            KeyError: there never was such a study.
            StudyDeletedError: the study was deleted, or replaced by another one.
            StorageError: the database cannot be written.
        """
        return self._studies.write(study_id, work, locked=True)

    def write_unlocked(self, study_id: int, work: Callable[[Connection], T]) -> T:
        """Run `work` as `write` does, but without waiting for the study's lock.

        Returns:
            What `work` returns.
        """
        return self._studies.write(study_id, work, locked=False)

    def flush(self) -> frozenset[int]:
        """Write all pending changes.

        Returns:
            Ids of the trials that another process has ended or taken over, or that were deleted.
        """
        with self._lock:
            lost: frozenset[int] = frozenset()
            for study in self._studies:
                if changes := self.take_changes(study.identity.study_id):
                    lost |= self._write_changes(study, changes)
            return lost

    def take_changes(self, study_id: int) -> dict[int, Changes]:
        """Return the pending changes of a study, by trial id; the caller writes them."""
        with self._lock:
            study = self._studies.get(study_id)
            changes, study.changes = study.changes, {}
            return changes

    def adopt(self, study_id: int, trials: Sequence[FrozenTrial]) -> None:
        """Add claimed trials to those that only this process writes."""
        with self._lock:
            study = self._studies.get(study_id)
            for trial in trials:
                study.put(trial, own=True)

    def disown(self, study_id: int, trial_ids: Sequence[int]) -> None:
        """Drop the pending changes of trials that this process no longer runs."""
        with self._lock:
            study = self._studies.get(study_id)
            for key in trial_ids:
                study.disown(key)

    def read(self, call: Callable[[], T]) -> T:
        """Read rows that other programs may have written.

        Args:
            call: reads; it is retried after an outage.

        Returns:
            What `call` returns.

        Raises:
            KeyError: `call` raised it, as Optuna's storages do for what does not exist.
            StorageError: the rows are not such as Optuna writes.
        """
        return self._studies.read_rows(call)

    def _sync(self, connection: Connection, study_id: int) -> None:
        """Update a cache; within a tick, the trials of this process are left to `flush`."""
        study = self._studies.get(study_id)
        study.cache.sync(connection, own=not self._ticking)
        if not self._ticking:
            study.changes = {k: c for k, c in study.changes.items() if k in study.cache.own}

    def _write_changes(self, study: OpenStudy, changes: dict[int, Changes]) -> frozenset[int]:
        cache, now = study.cache, utc_now()
        workers = {key: self._recorded_worker(study, key, changes[key]) for key in changes}

        def work(connection: Connection) -> tuple[frozenset[int], list[FrozenTrial]]:
            lost = write_changes(connection, study.identity.study_id, changes, workers, now)
            return lost, fetch_trials(connection, lost)

        lost, trials = self.write(study.identity.study_id, work)
        cache.replace(trials)
        cache.remove(lost - {trial_id(trial) for trial in trials})
        for key, change in changes.items():
            if change.end is not None and key not in lost:
                cache.end(key, *change.end, to_local(now))
        return lost

    def _recorded_worker(self, study: OpenStudy, key: int, change: Changes) -> str | None:
        """Return the worker that the database names for a trial; None if it names none yet."""
        trial = study.cache.get(key)
        if trial is None or WORKER in change.user_attrs:
            return None
        return trial.user_attrs.get(WORKER)

    def _claim_or_write(self, key: int, state: TrialState, values: Sequence[float] | None) -> bool:
        """Change the state of a trial of another process through Optuna's own storage.

        Returns:
            Whether the state was changed.
        """
        done = self._outlast(lambda: self._stock.set_trial_state_values(key, state, values))
        if done and state == TrialState.RUNNING:
            for study in self._studies:
                if study.cache.get(key) is not None:
                    study.put(self._fetched(key), own=True)
        return done

    def _fetched(self, key: int) -> FrozenTrial:
        """Return a trial as the database holds it.

        Raises:
            KeyError: there is no such trial.
        """
        trials = self.read(lambda: self.database.read(lambda c: fetch_trials(c, [key])))
        if not trials:
            raise KeyError(f"no trial has the id {key}")
        return trials[0]

    def _own_trial(self, key: int) -> tuple[OpenStudy | None, FrozenTrial | None]:
        """Return the study and the trial if only this process writes it; None otherwise."""
        for study in self._studies:
            if key in study.cache.own:
                return study, study.cache.get(key)
        return None, None

    def _known_distribution(self, study: OpenStudy, name: str) -> BaseDistribution | None:
        """Return the distribution that the study uses for a name already."""
        if name not in study.distributions:
            for trial in self.current(study.identity.study_id).trials:
                if name in trial.distributions:
                    return trial.distributions[name]
        return study.distributions.get(name)

    def _outlast(self, call: Callable[[], T]) -> T:
        return self.database.outlast(call)
