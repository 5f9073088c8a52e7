"""An Optuna storage that batches: reads from a cache, writes behind.

The contract is `optuna.storages.BaseStorage`. Trials that this process runs are written to memory
first and to the database when a trial's state changes, in one transaction for all trials. Inside
`with storage.tick():` nothing is read or written at all until `flush`, so that one tick of
hundreds of slots costs a few transactions. As with Optuna's own cached storage, what was not yet
flushed is lost when the process dies.
"""

# ruff: noqa: D102  (the methods of the contract are documented there)

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from headsweep.errors import StorageError
from headsweep.storage.bulk_writes import Changes, write_changes
from headsweep.storage.connections import Database, open_database
from headsweep.storage.optuna_tables import (
    FrozenStudy,
    altered,
    fetch_trials,
    stock_storage,
    to_local,
    trial_id,
    utc_now,
)
from headsweep.storage.trial_cache import TrialCache

T = TypeVar("T")


class BatchedStorage(BaseStorage):
    """Optuna's schema, read by increments and written in batches.

    Args:
        database: an open database.
        create: whether the tables may be made.
    """

    def __init__(self, database: Database, *, create: bool = True) -> None:
        self.database = database
        self._stock = stock_storage(database, create=create)
        self._caches: dict[int, TrialCache] = {}
        self._study_of: dict[int, int] = {}
        self._changes: dict[int, Changes] = {}
        self._known_distributions: dict[tuple[int, str], BaseDistribution] = {}
        self._ticking = False
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.database.public_url}  # a pickle carries no password

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(open_database(state["url"]), create=False)  # type: ignore[misc]

    # Studies: rare, so they go straight to the database.

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        return self._stock.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        with self._lock:
            self._stock.delete_study(study_id)
            self._caches.pop(study_id, None)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self.database.outlast(lambda: self._stock.set_study_user_attr(study_id, key, value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.database.outlast(lambda: self._stock.set_study_system_attr(study_id, key, value))

    def get_study_id_from_name(self, study_name: str) -> int:
        return self.database.outlast(lambda: self._stock.get_study_id_from_name(study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        return self.database.outlast(lambda: self._stock.get_study_name_from_id(study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self.read(lambda: self._stock.get_study_directions(study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self.read(lambda: self._stock.get_study_user_attrs(study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self.read(lambda: self._stock.get_study_system_attrs(study_id))

    def get_all_studies(self) -> list[FrozenStudy]:
        return self.read(lambda: self._stock.get_all_studies())

    # Trials.

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        with self._lock:
            trial = self._stock.create_trial(study_id, template_trial)
            self._put(study_id, trial, own=trial.state == TrialState.RUNNING)
            return trial_id(trial)

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        with self._lock:
            trial = self._own_trial(trial_id)
            if trial is None:
                self._stock.set_trial_param(
                    trial_id, param_name, param_value_internal, distribution
                )
                return
            known = self._known_distribution(trial_id, param_name)
            if known is not None:
                check_distribution_compatibility(known, distribution)
            self._known_distributions[self._study_of[trial_id], param_name] = distribution
            self._change(trial_id).params[param_name] = (param_value_internal, distribution)
            value = distribution.to_external_repr(param_value_internal)
            self._replace(
                trial,
                params={**trial.params, param_name: value},
                distributions={**trial.distributions, param_name: distribution},
            )

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        with self._lock:
            trial = self._own_trial(trial_id)
            if trial is None or not state.is_finished():
                return self._claim_or_write(trial_id, state, values)
            self._change(trial_id).end = (state, list(values or ()))
            if not self._ticking and trial_id in self.flush():
                raise UpdateFinishedTrialError(f"Trial {trial.number} was ended elsewhere.")
            if self._ticking:
                self._replace(trial, state=state, values=list(values) if values else None)
            return True

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        with self._lock:
            trial = self._own_trial(trial_id)
            if trial is None:
                self._stock.set_trial_intermediate_value(trial_id, step, intermediate_value)
                return
            intermediate_value = float(intermediate_value)
            self._change(trial_id).reports[step] = intermediate_value
            self._replace(
                trial, intermediate_values={**trial.intermediate_values, step: intermediate_value}
            )

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._lock:
            trial = self._own_trial(trial_id)
            if trial is None:
                self._stock.set_trial_user_attr(trial_id, key, value)
                return
            self._change(trial_id).user_attrs[key] = value
            self._replace(trial, user_attrs={**trial.user_attrs, key: value})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._lock:
            trial = self._own_trial(trial_id)
            if trial is None:
                self._stock.set_trial_system_attr(trial_id, key, value)
                return
            self._change(trial_id).system_attrs[key] = value
            self._replace(trial, system_attrs={**trial.system_attrs, key: value})

    def get_trial(self, trial_id: int) -> FrozenTrial:
        with self._lock:
            study_id = self._study_of.get(trial_id)
            cache = self._caches.get(study_id) if study_id is not None else None
            trial = cache.get(trial_id) if cache is not None else None
            if cache and trial and (self._ticking or trial_id in cache.own):
                return trial
        return self.read(lambda: self._stock.get_trial(trial_id))

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        call = self._stock.get_trial_id_from_study_id_trial_number
        return self.database.outlast(lambda: call(study_id, trial_number))

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
        """Within it, reads come from memory and writes wait for `flush`."""
        self._ticking = True
        try:
            yield
        finally:
            self._ticking = False

    def sync(self, study_id: int) -> TrialCache:
        """Brings the cache of a study up to date; `KeyError` when there is no such study."""
        with self._lock:
            cache = self.cache(study_id)
            self.read(lambda: self.database.read(cache.sync))
            return cache

    def current(self, study_id: int) -> TrialCache:
        """The cache: within a tick as it stands, otherwise brought up to date."""
        return self.cache(study_id) if self._ticking else self.sync(study_id)

    def cache(self, study_id: int) -> TrialCache:
        """The cache of a study as it stands."""
        if study_id not in self._caches:
            self.get_study_name_from_id(study_id)  # a KeyError when there is none
            self._caches[study_id] = TrialCache(study_id)
        return self._caches[study_id]

    def flush(self) -> frozenset[int]:
        """Writes all that waits; the ids of trials that another process had ended meanwhile."""
        with self._lock:
            changes = self.take_changes()
            lost: frozenset[int] = frozenset()
            for study_id in {self._study_of[key] for key in changes}:
                mine = {k: c for k, c in changes.items() if self._study_of[k] == study_id}
                lost |= self._write(study_id, mine)
            return lost

    def take_changes(self) -> dict[int, Changes]:
        """All that waits, which is now the caller's to write."""
        with self._lock:
            changes, self._changes = self._changes, {}
            return changes

    def adopt(self, study_id: int, trials: Sequence[FrozenTrial]) -> None:
        """Takes claimed trials as this process's own."""
        with self._lock:
            for trial in trials:
                self._put(study_id, trial, own=True)

    def disown(self, trial_ids: Sequence[int]) -> None:
        """Forgets what waits for trials that this process no longer runs."""
        with self._lock:
            for key in trial_ids:
                self._changes.pop(key, None)
                self._caches[self._study_of[key]].own.discard(key)

    def read(self, call: Callable[[], T]) -> T:
        """Reads rows that anyone may have written; `KeyError` is the contract's.

        Raises:
            StorageError: they are not such as Optuna writes.
        """
        try:
            return self.database.outlast(call)
        except KeyError:
            raise
        except (TypeError, ValueError, LookupError, RecursionError) as error:
            found = f"{type(error).__name__}: {error}".split("\n")[0][:120]
            raise StorageError(
                f"{self.database.shown}: the storage must hold what Optuna writes, found {found}"
            ) from None

    def _write(self, study_id: int, changes: dict[int, Changes]) -> frozenset[int]:
        cache, now = self._caches[study_id], utc_now()

        def work(connection: Connection) -> tuple[frozenset[int], list[FrozenTrial]]:
            lost = write_changes(connection, changes, now)
            return lost, fetch_trials(connection, lost)

        lost, trials = self.database.write(work, study_id=study_id)
        cache.replace(trials)
        for key, change in changes.items():
            if change.end is not None and key not in lost:
                cache.end(key, *change.end, to_local(now))
        return lost

    def _claim_or_write(self, key: int, state: TrialState, values: Sequence[float] | None) -> bool:
        """The rare transitions, of trials that are not ours: Optuna's own storage knows best."""
        done = self._stock.set_trial_state_values(key, state, values)
        if done and state == TrialState.RUNNING and key in self._study_of:
            self._put(self._study_of[key], self._stock.get_trial(key), own=True)
        return done

    def _own_trial(self, key: int) -> FrozenTrial | None:
        """The trial when this process runs it; None when others may."""
        study_id = self._study_of.get(key)
        cache = self._caches.get(study_id) if study_id is not None else None
        if cache is None or key not in cache.own:
            return None
        return cache.get(key)

    def _known_distribution(self, key: int, name: str) -> BaseDistribution | None:
        """The distribution that the study uses for a name already."""
        study_id = self._study_of[key]
        if (study_id, name) not in self._known_distributions:
            for trial in self.current(study_id).trials:
                if name in trial.distributions:
                    return trial.distributions[name]
        return self._known_distributions.get((study_id, name))

    def _change(self, key: int) -> Changes:
        return self._changes.setdefault(key, Changes())

    def _replace(self, trial: FrozenTrial, **fields: Any) -> None:
        self._caches[self._study_of[trial_id(trial)]].put(altered(trial, **fields))

    def _put(self, study_id: int, trial: FrozenTrial, *, own: bool) -> None:
        cache = self.cache(study_id)
        self._study_of[trial_id(trial)] = study_id
        if own:
            cache.own.add(trial_id(trial))
        cache.put(trial)
