"""A worker: a study, its data, an engine, and the loop that brings them together."""

from __future__ import annotations

import os
import uuid

from headsweep.config.schema import Modality
from headsweep.config.values import with_values
from headsweep.data.dataset import (
    load_search_splits,
    required_modalities,
    search_fingerprints,
)
from headsweep.engine.engine import Engine
from headsweep.search.spec import CategoricalDimension, StudySpec
from headsweep.settings import (
    WORKER_VARIABLE,
    EngineSettings,
    WorkerSettings,
    cache_dir,
    host_name,
)
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import WorkerSession
from headsweep.workers.loop import Loop
from headsweep.workers.signals import Stop


def work(
    study: StoredStudy,
    engine_settings: EngineSettings,
    stop: Stop,
    worker_settings: WorkerSettings | None = None,
) -> None:
    """Works on a study until its budget is spent and no trial is left that could come back.

    Returns early, with its trials handed back, when it is told to stop.

    Raises:
        InputError: the storage, the study or its data cannot be used.
        SearchError: too many trials of the study failed.
    """
    settings = worker_settings or WorkerSettings()
    with WorkerSession(study, settings, worker=worker_id()) as session:
        train, valid = load_search_splits(
            session.spec.config,
            cache_dir=cache_dir(),
            modalities=search_modalities(session.spec),
        )
        study.pin_data(search_fingerprints(train, valid))
        engine = Engine(train, valid, engine_settings)
        Loop(session, engine, settings, stop).run()


def worker_id() -> str:
    """`$HEADSWEEP_WORKER`, or an id that no other worker has and that tells where it runs."""
    given = os.environ.get(WORKER_VARIABLE)
    return given or f"{host_name()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def search_modalities(spec: StudySpec) -> tuple[Modality, ...]:
    """The modalities that some trial of the study may read."""
    dimension = spec.space.get("features.input")
    inputs = dimension.choices if isinstance(dimension, CategoricalDimension) else (None,)
    needed: set[Modality] = set()
    for value in inputs:
        values = {} if value is None else {"features.input": value}
        needed |= set(required_modalities(with_values(spec.config, values, where="space")))
    return tuple(sorted(needed, reverse=True))
