"""One study in its storage: created once, continued under the same spec, opened by name."""

from __future__ import annotations

import datetime
import json
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, select

from headsweep.config.files import write_config
from headsweep.config.schema import Config
from headsweep.errors import FeatureError, ManifestError, StorageError, StudyError
from headsweep.preflight import check_output
from headsweep.search.enqueued import complete_params
from headsweep.search.given_params import fits_space
from headsweep.search.objective import is_feasible, is_measured, none_feasible
from headsweep.search.space import distribution, lacks_params
from headsweep.search.spec import StudySpec, difference, spec_from_json, spec_to_json
from headsweep.storage.attributes import N_TRIALS, plain, typed
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.bulk_writes import upsert
from headsweep.storage.claims import count_states, database_now
from headsweep.storage.connections import open_database
from headsweep.storage.optuna_tables import STUDY_ATTRS
from headsweep.studies.adoption import check_adoptable, check_objective, missing_metric_names
from headsweep.studies.enqueue import FROM_FILE, enqueue, new_entries
from headsweep.studies.stopping import DEADLINE, seconds_left
from headsweep.studies.summary import Summary, summarize
from headsweep.studies.trials import trial_config

DEFINITION = "headsweep:definition"
"""Study attribute: the spec as JSON."""
FINGERPRINT = "headsweep:fingerprint"
ENQUEUED = "headsweep:enqueued"
"""Study attribute: the entries of `study.enqueue` that were enqueued."""
ENQUEUE_TOKEN = "headsweep:enqueue_token"
"""Study attribute: names the last call of `enqueue`, which may be repeated after an outage."""
FOLDER = "headsweep:folder"
"""Study attribute: the folder in which the study was created; relative paths refer to it."""
N_WORKERS = "headsweep:n_workers"
"""Study attribute: number of workers that have joined; each draws from its own random stream."""
DATA = "headsweep:data"
"""Study attribute: fingerprints of the manifests and features that the study is searched on."""

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


def study_names(storage: BatchedStorage) -> tuple[str, ...]:
    """Return the names of headsweep's studies in a storage."""
    return tuple(str(s.study_name) for s in storage.get_all_studies() if DEFINITION in s.user_attrs)


class StoredStudy:
    """A study in an open storage.

    Opened with a URL it owns its storage and `close` closes it; opened with a storage it leaves
    closing to the caller. It is a context manager that closes itself.

    Args:
        name: name of the study.
        study_id: its id in the storage.
        storage: an open storage.
        owns_storage: whether `close` closes the storage.
    """

    def __init__(
        self, name: str, study_id: int, storage: BatchedStorage, *, owns_storage: bool = False
    ) -> None:
        self.name = name
        self.study_id = study_id
        self.storage = storage
        self._owns_storage = owns_storage
        self._parsed: tuple[str, StudySpec] | None = None
        self._searched: tuple[StudySpec, dict[str, BaseDistribution]] | None = None
        storage.bind(study_id)

    @classmethod
    def open(cls, name: str, storage: BatchedStorage | str) -> Self:
        """Open an existing study.

        Args:
            name: name of the study.
            storage: an open storage, or the URL of one.

        Returns:
            The study.

        Raises:
            StudyError: the storage holds no study of headsweep's with this name.
            StorageError: the storage cannot be opened.
        """
        opened, owned = storage, isinstance(storage, str)
        if isinstance(opened, str):
            opened = open_storage(opened)
        try:
            study = cls(name, _study_id(name, opened), opened, owns_storage=owned)
            _ = study.spec  # refuses a study of stock Optuna
        except BaseException:
            if owned:
                opened.database.close()
            raise
        return study

    @classmethod
    def create(
        cls,
        spec: StudySpec,
        storage: BatchedStorage | str,
        *,
        check: Callable[[], None] | None = None,
    ) -> Self:
        """Create a study, or continue it with a budget that may have grown.

        Args:
            spec: what is searched and how.
            storage: an open storage, or the URL of one, which is created if it is a file.
            check: called when the storage is known to answer, before anything is written.

        Returns:
            The study.

        Raises:
            StudyError: a study of this name exists with another spec or a larger budget, or was
                created by another program and cannot be adopted.
            StorageError: the storage cannot be opened or created.
        """
        opened, owned = storage, isinstance(storage, str)
        check = check or (lambda: None)
        if isinstance(opened, str):
            opened = _open_after(check, opened)
        else:
            check()
        try:
            study_id = _define(spec, opened)
            opened.bind(study_id, writes=True)
        except BaseException:
            if owned:
                opened.database.close()
            raise
        return cls(spec.name, study_id, opened, owns_storage=owned)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the storage if this study opened it."""
        if self._owns_storage:
            self.storage.database.close()

    @property
    def spec(self) -> StudySpec:
        """The stored spec with the present budget; parsed again only when it changed."""
        return self._spec_of(self.attrs())

    @contextmanager
    def data_errors_explained(self) -> Iterator[None]:
        """Add to an error of the data which folder its relative paths refer to.

        Yields:
            Nothing.

        Raises:
            FeatureError: the block raised one; both folders are named if they differ.
            ManifestError: the same.
        """
        try:
            yield
        except (ManifestError, FeatureError) as error:
            created, here = self.attrs().get(FOLDER), str(Path.cwd())
            paths = self.spec.config.paths
            absolute = Path(paths.data_root).is_absolute(), Path(paths.manifest_dir).is_absolute()
            if created in (None, here) or all(absolute):
                raise
            raise type(error)(
                f"{error} (paths are relative to the current folder, {here}; "
                f"the study was created in {created})"
            ) from None

    def attrs(self) -> Mapping[str, Any]:
        """Return the study's user attributes.

        Raises:
            StudyDeletedError: the study was deleted.
        """
        return self.storage.get_study_user_attrs(self.study_id)

    def trials(
        self, states: Sequence[TrialState] | None = None, *, deepcopy: bool = False
    ) -> list[FrozenTrial]:
        """Return the study's trials in the order of their numbers.

        Args:
            states: only trials in one of these states; None is all.
            deepcopy: whether the trials are copies that the caller may change.
        """
        wanted = None if states is None else tuple(states)
        return self.storage.get_all_trials(self.study_id, deepcopy=deepcopy, states=wanted)

    def trial(self, number: int) -> FrozenTrial:
        """Return the trial with this number.

        Raises:
            StudyError: there is no such trial.
        """
        try:
            trial_id = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)
        except KeyError:
            raise StudyError(f"study {self.name!r} has no trial {number}") from None
        return self.storage.get_trial(trial_id)

    def fits(self, trial: FrozenTrial) -> bool:
        """Return whether a finished trial's params are complete and lie in the space.

        Those of another program may not. Nor does another program measure what the study's
        constraint bounds.
        """
        if self._searched is None:
            spec = self.spec
            self._searched = spec, {k: distribution(d) for k, d in spec.space.items()}
        spec, distributions = self._searched
        constraint = spec.objective.constraint
        if constraint and not is_measured(trial, constraint):
            return False
        fitting = fits_space(trial, distributions)
        return fitting and not lacks_params(trial, spec.space, spec.config)

    def best_trials(self, n: int) -> list[FrozenTrial]:
        """Return the `n` best COMPLETE trials, best first; the earlier of two equals comes first.

        Trials that do not meet the study's constraint, and those of other programs whose params do
        not fit the space, are left out.

        Raises:
            StudyError: no trial is COMPLETE, or none meets the constraint.
        """
        trials = [trial for trial in self.trials((TrialState.COMPLETE,)) if self.fits(trial)]
        if not trials:
            raise StudyError(f"study {self.name!r} has no complete trial yet")
        feasible = [trial for trial in trials if is_feasible(trial)]
        if not feasible:
            text = none_feasible(trials, self.spec.objective.constraint)
            raise StudyError(f"study {self.name!r}: {text}")
        return sorted(feasible, key=lambda trial: (-(trial.value or 0.0), trial.number))[:n]

    def config_of(self, trial: FrozenTrial) -> Config:
        """Return the config that a trial trains.

        Raises:
            ConfigError: the trial's params together break a constraint of the config.
        """
        return trial_config(self.spec, trial)

    def export(self, path: Path, number: int | None = None) -> FrozenTrial:
        """Write the config of a complete trial, which `headsweep train --config` trains again.

        Args:
            path: YAML file to write.
            number: number of the trial; None is the best one.

        Returns:
            The trial.

        Raises:
            StudyError: there is no such trial, or it has no value.
            OutputError: the file cannot be written.
        """
        trial = self.best_trials(1)[0] if number is None else self.trial(number)
        if trial.state != TrialState.COMPLETE or trial.value is None:
            raise StudyError(
                f"study {self.name!r}: only a complete trial can be exported, "
                f"trial {trial.number} is {trial.state.name}"
            )
        config = self.config_of(trial)
        write_config(config, path, study=self.name, trial=trial.number, value=trial.value)
        return trial

    def summary(self, *, lease_s: float = 60.0) -> Summary:
        """Return the progress of the study.

        Args:
            lease_s: a worker is live if it renewed a trial within this time.

        Raises:
            StudyDeletedError: the study was deleted.
        """
        attrs = self.attrs()
        return summarize(
            self._spec_of(attrs), attrs, self.study_id, self.storage, self.fits, lease_s=lease_s
        )

    def pin_data(self, fingerprints: Mapping[str, str]) -> None:
        """Bind the study to the data it is searched on: the first worker writes, others compare.

        Args:
            fingerprints: of every manifest and feature matrix, by name.

        Raises:
            StudyError: the data differ from the study's.
        """

        def pin(connection: Connection) -> None:
            pinned = _attrs(connection, self.study_id).get(DATA)
            if pinned is None:
                _write_attrs(connection, self.study_id, {DATA: dict(fingerprints)})
                return
            changed = [k for k in {*pinned, *fingerprints} if pinned.get(k) != fingerprints.get(k)]
            if changed:
                name = min(changed)
                raise StudyError(
                    f"{name}: the data changed since the study began: its fingerprint was "
                    f"{str(pinned.get(name))[:12]} and is {str(fingerprints.get(name))[:12]}"
                )

        self.storage.write(self.study_id, pin)

    def pinned_data(self) -> Mapping[str, str]:
        """Return the fingerprints of the study's data; empty before its first worker began."""
        data: Mapping[str, str] = self.attrs().get(DATA, {})
        return data

    def amend_attr(self, name: str, amend: Callable[[Any], Any]) -> Any:
        """Replace an attribute in one transaction that no other writer interrupts.

        Args:
            name: name of the attribute.
            amend: makes the new value of the old one, or of None; it may raise, and is called
                again after an outage.

        Returns:
            The new value.
        """

        def work(connection: Connection) -> Any:
            amended = amend(_attrs(connection, self.study_id).get(name))
            _write_attrs(connection, self.study_id, {name: amended})
            return amended

        return self.storage.write(self.study_id, work)

    def enqueue(self, params: Sequence[Mapping[str, Any]], *, by: str) -> list[int]:
        """Add trials that workers run before they suggest others, each exactly once.

        Args:
            params: of each trial; keys that are left out get the study's default value.
            by: who enqueues them; kept with the trials.

        Returns:
            Numbers of the trials.

        Raises:
            StudyError: a key is not searched, or a value is outside its range.
        """
        spec, token = self.spec, secrets.token_hex(8)
        complete = [complete_params(one, spec, where=f"enqueue {dict(one)}") for one in params]

        def write(connection: Connection) -> list[int]:
            last = _attrs(connection, self.study_id).get(ENQUEUE_TOKEN)
            if isinstance(last, list) and last[0] == token:  # written before the connection broke
                return list(last[1])
            numbers = enqueue(connection, self.study_id, complete, by=by)
            _write_attrs(connection, self.study_id, {ENQUEUE_TOKEN: [token, numbers]})
            return numbers

        return self.storage.write(self.study_id, write)

    def set_deadline(self, timeout_s: float | None) -> None:
        """Set when the search stops: no trial starts after it, running ones end at their next rung.

        Args:
            timeout_s: seconds from now by the database's clock; None removes the deadline.
        """

        def write(connection: Connection) -> None:
            if timeout_s is None:
                if DEADLINE not in _attrs(connection, self.study_id):
                    return
                deadline = None
            else:
                end = database_now(connection) + datetime.timedelta(seconds=timeout_s)
                deadline = end.isoformat()
            _write_attrs(connection, self.study_id, {DEADLINE: deadline})

        self.storage.write(self.study_id, write)

    def clear_past_deadline(self) -> None:
        """Remove a deadline that has passed, so that the search goes on; a coming one stays."""

        def write(connection: Connection) -> None:
            left_s = seconds_left(_attrs(connection, self.study_id), database_now(connection))
            if left_s is not None and left_s <= 0:
                _write_attrs(connection, self.study_id, {DEADLINE: None})

        self.storage.write(self.study_id, write)

    def next_worker_index(self) -> int:
        """Count a worker that joins.

        Returns:
            Number of workers that joined before.
        """

        def count(connection: Connection) -> int:
            index = typed(_attrs(connection, self.study_id), N_WORKERS, 0, where=self.name)
            _write_attrs(connection, self.study_id, {N_WORKERS: index + 1})
            return index

        return self.storage.write(self.study_id, count)

    def _spec_of(self, attrs: Mapping[str, Any]) -> StudySpec:
        text = attrs.get(DEFINITION)
        if text is None:
            raise StudyError(f"study {self.name!r} was not created by headsweep")
        if self._parsed is None or self._parsed[0] != text:
            self._parsed = (text, _parse(text, self.name))
        spec = self._parsed[1]
        n_trials = typed(attrs, N_TRIALS, spec.n_trials, where=self.name)
        return spec if n_trials == spec.n_trials else spec.model_copy(update={"n_trials": n_trials})


def _open_after(check: Callable[[], None], url: str) -> BatchedStorage:
    """Open a storage, and create its missing tables after the check; open the database only once.

    Returns:
        The storage.
    """
    file = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not file.exists():
        check_output(file.parent)
        check()
        return open_storage(url, create=True)
    database = open_database(url)
    try:
        check()
        return BatchedStorage(database, create=True)
    except BaseException:
        database.close()
        raise


def _study_id(name: str, storage: BatchedStorage) -> int:
    try:
        return storage.get_study_id_from_name(name)
    except KeyError:
        known = ", ".join(study_names(storage)) or "none"
        raise StudyError(
            f"{storage.database.shown}: no study named {name!r}; studies there: {known}"
        ) from None


def _define(spec: StudySpec, storage: BatchedStorage) -> int:
    """Write the spec of a new study, or compare it with the stored one.

    Returns:
        The study's id.
    """
    try:
        study_id = storage.create_new_study([StudyDirection.MAXIMIZE], spec.name)
    except optuna.exceptions.DuplicatedStudyError:
        study_id = storage.get_study_id_from_name(spec.name)
        check_objective(
            spec.name, storage.get_study_directions(study_id), spec.config.training.metric
        )
    system_attrs = storage.get_study_system_attrs(study_id)

    def define(connection: Connection) -> None:
        stored = _attrs(connection, study_id)
        if DEFINITION in stored:
            _check_same(spec, stored)
        else:
            check_adoptable(spec.name, system_attrs, count_states(connection, study_id))
        done = stored.get(ENQUEUED, [])
        new = new_entries(spec.name, spec.enqueue, done)
        if new:
            enqueue(connection, study_id, new, by=FROM_FILE)
        _write_attrs(
            connection,
            study_id,
            {
                ENQUEUED: [*done, *new],
                DEFINITION: spec_to_json(spec),
                FINGERPRINT: spec.fingerprint(),
                FOLDER: str(Path.cwd()),
                N_TRIALS: spec.n_trials,
            },
        )

    storage.write(study_id, define)
    metric = spec.config.training.metric
    for name, value in missing_metric_names(system_attrs, metric).items():
        storage.set_study_system_attr(study_id, name, value)
    return study_id


def _check_same(spec: StudySpec, stored: Mapping[str, Any]) -> None:
    if stored.get(FINGERPRINT) != spec.fingerprint():
        changed = difference(_parse(stored[DEFINITION], spec.name), spec)
        raise StudyError(
            f"study {spec.name!r} exists with another definition: {changed}. "
            "Give the changed study another name"
        )
    n_trials = typed(stored, N_TRIALS, spec.n_trials, where=spec.name)
    if spec.n_trials < n_trials:
        raise StudyError(
            f"study {spec.name!r}: study.n_trials may only grow from {n_trials}, "
            f"found {spec.n_trials}"
        )


def _parse(text: Any, name: str) -> StudySpec:
    spec = spec_from_json(text)
    if spec.name != name:
        raise StorageError(f"study {name!r} holds the definition of another study, {spec.name!r}")
    return spec


def _attrs(connection: Connection, study_id: int) -> dict[str, Any]:
    return read_study_attrs(connection, study_id, None)


def read_study_attrs(
    connection: Connection, study_id: int, names: Sequence[str] | None
) -> dict[str, Any]:
    """Read user attributes of a study.

    Args:
        connection: in a transaction.
        study_id: id of the study.
        names: of the attributes; None reads all.

    Returns:
        The attributes that exist.
    """
    query = select(STUDY_ATTRS.c.key, STUDY_ATTRS.c.value_json).where(
        STUDY_ATTRS.c.study_id == study_id
    )
    if names is not None:
        query = query.where(STUDY_ATTRS.c.key.in_(names))
    rows = connection.execute(query)
    return {name: plain(value, where=f"study {study_id}:{name}") for name, value in rows}


def _write_attrs(connection: Connection, study_id: int, attrs: Mapping[str, Any]) -> None:
    rows = [
        {"study_id": study_id, "key": name, "value_json": json.dumps(value)}
        for name, value in attrs.items()
    ]
    upsert(connection, {STUDY_ATTRS: rows})
