"""A worker: a study, its data, an engine, and the loop that brings them together."""

from __future__ import annotations

import os
import socket
import uuid

from headsweep.config import Modality, with_values
from headsweep.data.dataset import (
    load_search_splits,
    required_modalities,
    search_fingerprints,
)
from headsweep.engine.engine import Engine
from headsweep.settings import EngineSettings, WorkerSettings, cache_dir
from headsweep.studies.definition import CategoricalDimension, StudySpec
from headsweep.studies.session import join
from headsweep.studies.store import pin_data
from headsweep.workers.loop import Loop
from headsweep.workers.stopping import stop_on_signals


def work(
    study_name: str,
    storage_url: str,
    engine_settings: EngineSettings,
    worker_settings: WorkerSettings | None = None,
) -> None:
    """Works on a study until its budget is spent and no trial is left that could come back.

    Returns early, with its trials handed back, after SIGINT, SIGTERM or SIGUSR1.

    Raises:
        InputError: the storage, the study or its data cannot be used.
        SearchError: too many trials of the study failed.
    """
    settings = worker_settings or WorkerSettings()
    with stop_on_signals(settings.grace_s) as stop:
        session = join(study_name, storage_url, settings, worker=worker_name())
        with session:
            train, valid = load_search_splits(
                session.spec.config,
                cache_dir=cache_dir(),
                modalities=search_modalities(session.spec),
            )
            pin_data(session.study_id, search_fingerprints(train, valid), session.storage)
            engine = Engine(train, valid, engine_settings)
            Loop(session, engine, settings, stop).run()


def worker_name() -> str:
    """A name that no other worker has, and that tells people where it runs."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def search_modalities(spec: StudySpec) -> tuple[Modality, ...]:
    """The modalities that some trial of the study may read."""
    dimension = spec.space.get("features.input")
    inputs = dimension.choices if isinstance(dimension, CategoricalDimension) else (None,)
    needed: set[Modality] = set()
    for value in inputs:
        values = {} if value is None else {"features.input": value}
        needed |= set(required_modalities(with_values(spec.config, values, where="space")))
    return tuple(sorted(needed, reverse=True))
