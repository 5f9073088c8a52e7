"""A worker: opens a study and its data, builds an engine, and runs the loop."""

from __future__ import annotations

import os
import uuid

from headsweep.data.dataset import Dataset, search_fingerprints
from headsweep.data.prompts import prompts_for
from headsweep.engine.engine import Engine, FoldedEngine
from headsweep.settings import (
    WORKER_VARIABLE,
    EngineSettings,
    WorkerSettings,
    host_name,
)
from headsweep.studies.folds import FOLDS, folds_of
from headsweep.studies.references import with_references
from headsweep.studies.study import StoredStudy
from headsweep.studies.trials import searched_inputs
from headsweep.studies.worker_session import WorkerSession
from headsweep.workers.loop import Loop
from headsweep.workers.signals import Stop


def work(
    study: StoredStudy,
    engine_settings: EngineSettings,
    stop: Stop,
    worker_settings: WorkerSettings | None = None,
    *,
    data: Dataset | None = None,
) -> None:
    """Work on a study until its budget is spent and no running trial could still be retried.

    A worker that is asked to stop hands its trials back and returns early.

    Args:
        study: an open study, whose storage is used by this worker alone.
        engine_settings: settings of the engine that trains the trials.
        stop: whether the worker was asked to stop.
        worker_settings: leases and limits; None uses the defaults.
        data: the data to search on; None loads the data that the study's config names.

    Raises:
        InputError: the storage, the study or its data cannot be used.
        SearchError: too many trials of the study failed.
    """
    settings = worker_settings or WorkerSettings()
    with WorkerSession(study, settings, worker=worker_id()) as session:
        config = session.spec.config
        inputs = searched_inputs(session.spec)
        with study.data_errors_explained():
            source = data or Dataset.from_config(config)
            train, valid = source.search_splits(config, inputs=inputs)
            if "zero_shot" in session.spec.references:
                all_read = with_references(session.spec, inputs)
                prompts_for(config, source.search_splits(config, inputs=all_read)[0])
        folds = folds_of(session.spec.objective, session.spec.seed, train, valid)
        pinned = {} if folds is None else {FOLDS: folds.fingerprint}
        study.pin_data(search_fingerprints(train, valid) | pinned)
        engine = (
            Engine(train, valid, engine_settings)
            if folds is None
            else FoldedEngine(folds, engine_settings)
        )
        Loop(session, engine, settings, stop).run()


def worker_id() -> str:
    """Return `$HEADSWEEP_WORKER`, or a unique id that names host and process."""
    given = os.environ.get(WORKER_VARIABLE)
    return given or f"{host_name()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
