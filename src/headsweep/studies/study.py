"""Studies in a store: created once, continued under the same definition, read by name."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.study import StudyDirection
from sqlalchemy import Connection, select

from headsweep.errors import StorageError, StudyError
from headsweep.search.spec import StudySpec, difference, spec_from_json, spec_to_json
from headsweep.storage.attributes import plain, typed
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.bulk_writes import upsert
from headsweep.storage.claims import N_TRIALS, count_states
from headsweep.storage.connections import open_database
from headsweep.storage.optuna_tables import STUDY_ATTRS
from headsweep.studies.adoption import check_adoptable, check_objective, missing_metric_names

DEFINITION = "headsweep:definition"
FINGERPRINT = "headsweep:fingerprint"
N_WORKERS = "headsweep:n_workers"
"""Study attribute: how many workers joined so far; each draws from a stream of its own."""
DATA = "headsweep:data"
"""Study attribute: fingerprints of the manifests and features that the study was searched on."""

optuna.logging.set_verbosity(optuna.logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)


def open_storage(
    url: str, *, create: bool = False, patience_s: float = 0.0, outage_s: float = 0.0
) -> BatchedStorage:
    """The Optuna storage at a URL.

    Args:
        url: `sqlite:///FILE` or `postgresql://…`.
        create: whether a SQLite file, its folder and the tables may be made.
        patience_s: how long to wait for a server that does not answer yet.
        outage_s: how long a transaction is tried again while the database cannot be reached.

    Raises:
        StorageError: the URL is of another kind, cannot be reached, or holds something else.
    """
    database = open_database(url, create=create, patience_s=patience_s, outage_s=outage_s)
    return BatchedStorage(database, create=create)


def create_or_continue(spec: StudySpec, storage: BatchedStorage) -> int:
    """Creates the study, or continues it with a budget that may have grown; its id.

    Raises:
        StudyError: a study of this name exists with another definition or a larger budget, or was
            created by another program and cannot be adopted.
    """
    try:
        study_id = storage.create_new_study([StudyDirection.MAXIMIZE], spec.name)
    except optuna.exceptions.DuplicatedStudyError:
        study_id = storage.get_study_id_from_name(spec.name)
        check_objective(spec.name, storage.get_study_directions(study_id))
    system_attrs = storage.get_study_system_attrs(study_id)

    def define(connection: Connection) -> None:
        stored = _attrs(connection, study_id)
        if DEFINITION in stored:
            _check_same(spec, stored)
        else:
            check_adoptable(spec.name, system_attrs, count_states(connection, study_id))
        _write_attrs(
            connection,
            study_id,
            {
                DEFINITION: spec_to_json(spec),
                FINGERPRINT: spec.fingerprint(),
                N_TRIALS: spec.n_trials,
            },
        )

    storage.database.write(define, study_id=study_id)
    for key, value in missing_metric_names(system_attrs).items():
        storage.set_study_system_attr(study_id, key, value)
    return study_id


def load_spec(name: str, storage: BatchedStorage) -> StudySpec:
    """The definition of a study, with its present budget.

    Raises:
        StudyError: no study of that name is in the store.
    """
    attrs = storage.get_study_user_attrs(study_id_of(name, storage))
    if DEFINITION not in attrs:
        raise StudyError(f"{name}: a study must have a definition of headsweep's, found none")
    spec = _definition(attrs[DEFINITION], name)
    return spec.model_copy(update={"n_trials": typed(attrs, N_TRIALS, spec.n_trials, where=name)})


def study_id_of(name: str, storage: BatchedStorage) -> int:
    """The id of a study.

    Raises:
        StudyError: no study of that name is in the store.
    """
    try:
        return storage.get_study_id_from_name(name)
    except KeyError:
        known = ", ".join(study_names(storage)) or "none"
        raise StudyError(
            f"{storage.database.shown}: the study must exist, found no {name!r} (there: {known})"
        ) from None


def study_names(storage: BatchedStorage) -> tuple[str, ...]:
    """Names of headsweep's studies in the store."""
    return tuple(str(s.study_name) for s in storage.get_all_studies() if DEFINITION in s.user_attrs)


def pin_data(study_id: int, fingerprints: Mapping[str, str], storage: BatchedStorage) -> None:
    """Binds a study to the data it is searched on; the first worker sets it, all others compare.

    Args:
        fingerprints: of every manifest and feature matrix, by name.

    Raises:
        StudyError: the data are not those of the study.
    """

    def pin(connection: Connection) -> None:
        pinned = _attrs(connection, study_id).get(DATA)
        if pinned is None:
            _write_attrs(connection, study_id, {DATA: dict(fingerprints)})
            return
        changed = [k for k in {*pinned, *fingerprints} if pinned.get(k) != fingerprints.get(k)]
        if changed:
            name = min(changed)
            raise StudyError(
                f"{name}: the data must be those the study was begun with (fingerprint "
                f"{str(pinned.get(name))[:12]}), found {str(fingerprints.get(name))[:12]}"
            )

    storage.database.write(pin, study_id=study_id)


def amend_study_attr(
    study_id: int, key: str, amend: Callable[[Any], Any], storage: BatchedStorage
) -> Any:
    """Replaces an attribute by what `amend` makes of it (of None where there is none); the new one.

    Nobody else writes in between. `amend` may raise, and may be called again after an outage.
    """

    def work(connection: Connection) -> Any:
        amended = amend(_attrs(connection, study_id).get(key))
        _write_attrs(connection, study_id, {key: amended})
        return amended

    return storage.database.write(work, study_id=study_id)


def next_worker_index(study_id: int, storage: BatchedStorage) -> int:
    """The number of workers that joined before."""

    def count(connection: Connection) -> int:
        index = typed(_attrs(connection, study_id), N_WORKERS, 0, where=f"study {study_id}")
        _write_attrs(connection, study_id, {N_WORKERS: index + 1})
        return index

    return storage.database.write(count, study_id=study_id)


def pinned_data(study_id: int, storage: BatchedStorage) -> Mapping[str, str]:
    """Fingerprints of the data a study is bound to; empty before its first worker began."""
    data: Mapping[str, str] = storage.get_study_user_attrs(study_id).get(DATA, {})
    return data


def _check_same(spec: StudySpec, stored: Mapping[str, Any]) -> None:
    if stored.get(FINGERPRINT) != spec.fingerprint():
        found = difference(_definition(stored[DEFINITION], spec.name), spec)
        raise StudyError(
            f"{spec.name}: a study that exists must keep its definition, found that {found}; "
            "give the changed study another name"
        )
    n_trials = typed(stored, N_TRIALS, spec.n_trials, where=spec.name)
    if spec.n_trials < n_trials:
        raise StudyError(
            f"{spec.name}: study.n_trials may only grow from {n_trials}, found {spec.n_trials}"
        )


def _definition(text: Any, name: str) -> StudySpec:
    """The definition that a study of this name was given."""
    spec = spec_from_json(text)
    if spec.name != name:
        raise StorageError(
            f"{name}: a study's definition must be its own, found one of {spec.name!r}"
        )
    return spec


def _attrs(connection: Connection, study_id: int) -> dict[str, Any]:
    query = select(STUDY_ATTRS.c.key, STUDY_ATTRS.c.value_json).where(
        STUDY_ATTRS.c.study_id == study_id
    )
    rows = connection.execute(query)
    return {key: plain(value, where=f"study {study_id}:{key}") for key, value in rows}


def _write_attrs(connection: Connection, study_id: int, attrs: Mapping[str, Any]) -> None:
    rows = [
        {"study_id": study_id, "key": key, "value_json": json.dumps(value)}
        for key, value in attrs.items()
    ]
    upsert(connection, {STUDY_ATTRS: rows})
