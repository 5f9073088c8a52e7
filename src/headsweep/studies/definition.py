"""The definition of a study in its storage: written once, compared when the study is continued."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.exceptions import DuplicatedStudyError
from optuna.study import StudyDirection
from sqlalchemy import Connection

from headsweep.errors import StorageError, StudyError
from headsweep.search.spec import StudySpec, difference, spec_from_json, spec_to_json
from headsweep.storage.attributes import N_TRIALS, typed
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.claims import count_states
from headsweep.studies.adoption import check_adoptable, check_objective, missing_metric_names
from headsweep.studies.enqueue import ENQUEUED, FROM_FILE, enqueue, new_entries
from headsweep.studies.study_attributes import read_study_attrs, write_study_attrs

DEFINITION = "headsweep:definition"
"""Study attribute: the spec as JSON."""
FINGERPRINT = "headsweep:fingerprint"
FOLDER = "headsweep:folder"
"""Study attribute: the folder in which the study was created; relative paths refer to it."""


def define(spec: StudySpec, storage: BatchedStorage) -> int:
    """Write the spec of a new study, or compare it with the stored one.

    Args:
        spec: what is searched and how.
        storage: an open storage.

    Returns:
        The study's id.

    Raises:
        StudyError: a study of this name exists with another spec or a larger budget, or was
            created by another program and cannot be adopted.
    """
    try:
        study_id = storage.create_new_study([StudyDirection.MAXIMIZE], spec.name)
    except DuplicatedStudyError:
        study_id = storage.get_study_id_from_name(spec.name)
        check_objective(
            spec.name, storage.get_study_directions(study_id), spec.config.training.metric
        )
    system_attrs = storage.get_study_system_attrs(study_id)

    def write(connection: Connection) -> None:
        stored = read_study_attrs(connection, study_id)
        if DEFINITION in stored:
            _check_same(spec, stored)
        else:
            check_adoptable(spec.name, system_attrs, count_states(connection, study_id))
        done = stored.get(ENQUEUED, [])
        new = new_entries(spec.name, spec.enqueue, done)
        if new:
            enqueue(connection, study_id, new, by=FROM_FILE)
        write_study_attrs(
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

    storage.write(study_id, write)
    metric = spec.config.training.metric
    for name, value in missing_metric_names(system_attrs, metric).items():
        storage.set_study_system_attr(study_id, name, value)
    return study_id


def parse_definition(text: Any, name: str) -> StudySpec:
    """Parse the stored definition of a study.

    Args:
        text: as the database holds it.
        name: of the study.

    Returns:
        The spec.

    Raises:
        StorageError: it is no definition, or that of another study.
    """
    spec = spec_from_json(text)
    if spec.name != name:
        raise StorageError(f"study {name!r} holds the definition of another study, {spec.name!r}")
    return spec


def _check_same(spec: StudySpec, stored: Mapping[str, Any]) -> None:
    if stored.get(FINGERPRINT) != spec.fingerprint():
        changed = difference(parse_definition(stored[DEFINITION], spec.name), spec)
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
