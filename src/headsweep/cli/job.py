"""The main job and its three steps: create the study, work on it, finalize it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from optuna.trial import TrialState

from headsweep.cli.preflight import check_manifests, check_output, check_test_headers
from headsweep.cli.progress import is_interactive
from headsweep.cli.tables import print_leaderboard
from headsweep.data.dataset import load_search_splits
from headsweep.errors import StudyError
from headsweep.launching import progress
from headsweep.launching.local import launch_local
from headsweep.leaderboard.export import write_config
from headsweep.leaderboard.finalize import finalize
from headsweep.settings import EngineSettings, cache_dir
from headsweep.studies.database import open_database, shown_url
from headsweep.studies.definition import StudySpec
from headsweep.studies.spec import load_study_file
from headsweep.studies.store import create_or_continue, load_spec, open_storage
from headsweep.studies.trials import best_trials, trial_by_number, trial_config
from headsweep.workers.worker import search_modalities


def run_study(
    study_file: Path,
    overrides: Sequence[str],
    *,
    storage_url: str,
    engine: EngineSettings,
    n_workers: int | None,
    n_trials: int | None,
    out: Path | None,
    reopen: str | None,
) -> None:
    """Create or continue the study, search, confirm the finalists, write the leaderboard.

    Raises:
        InputError: something given cannot be used; nothing was written.
        WorkError: the search or the confirmation failed.
    """
    spec = load_spec_file(study_file, overrides, n_trials)
    out = out or default_out(spec)
    check_output(out)
    check_manifests(spec.config)
    check_storage(storage_url)
    modalities = search_modalities(spec)
    train, _ = load_search_splits(
        spec.config, cache_dir=cache_dir(), modalities=modalities, progress=is_interactive()
    )
    check_test_headers(spec.config, train.labels, modalities)
    define(spec, storage_url)
    n_workers = n_workers or default_workers(engine.device)
    with progress.shown() as show:
        summary = launch_local(
            spec.name, storage_url, n_workers, engine, log_dir=out / "logs", show=show
        )
    click.echo(progress.saved(summary))
    finalize_study(spec.name, storage_url=storage_url, engine=engine, out=out, reopen=reopen)


def load_spec_file(study_file: Path, overrides: Sequence[str], n_trials: int | None) -> StudySpec:
    """The study that a file describes, with another budget when one is given."""
    spec = load_study_file(study_file, overrides)
    return spec if n_trials is None else spec.model_copy(update={"n_trials": n_trials})


def default_workers(device: str) -> int:
    """One worker a GPU; on a CPU two, or one where there is a single core."""
    if device in ("auto", "cuda") and torch.cuda.device_count():
        return torch.cuda.device_count()
    return min(2, len(os.sched_getaffinity(0))) if device in ("auto", "cpu") else 1


def default_out(spec: StudySpec) -> Path:
    """Where the leaderboard of a study lies unless told otherwise: `outputs/<study>`."""
    return Path(spec.config.paths.output_dir) / spec.name


def check_storage(url: str) -> None:
    """Refuse a storage that does not answer; a SQLite file that is yet to be made passes.

    Raises:
        StorageError: the URL is of another kind, or the storage cannot be reached.
        OutputError: the SQLite file could not be made.
    """
    file = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not file.exists():
        check_output(file.parent)
    else:
        open_database(url).close()


def create_study(
    study_file: Path, overrides: Sequence[str], *, storage_url: str, n_trials: int | None
) -> None:
    """Create the study, or grow its budget.

    Raises:
        InputError: the file or the storage cannot be used, or the stored study is another one.
    """
    spec = load_spec_file(study_file, overrides, n_trials)
    check_storage(storage_url)
    define(spec, storage_url)
    click.echo(f"study {spec.name}: {spec.n_trials} trials in {shown_url(storage_url)}")


def define(spec: StudySpec, storage_url: str) -> None:
    """Write the definition to the storage, which is made when it is a file that is not there."""
    storage = open_storage(storage_url, create=True)
    try:
        create_or_continue(spec, storage)
    finally:
        storage.database.close()


def finalize_study(
    study_name: str,
    *,
    storage_url: str,
    engine: EngineSettings,
    out: Path | None,
    reopen: str | None,
) -> None:
    """Confirm the finalists, open test once, write the leaderboard and print it.

    Raises:
        InputError: the storage, the data or the folder cannot be used, or test was opened before
            for other finalists and `reopen` does not say why to open it again.
        WorkError: no trial is complete, or a finalist diverged.
    """
    folder = finalize(study_name, storage_url, out, engine, reopen=reopen)
    print_leaderboard(folder)
    click.echo(f"report: {folder / 'report.html'}")


def export_trial(study_name: str, *, storage_url: str, trial: int | None, output: Path) -> None:
    """Write the config of a complete trial, of the best one when `trial` is None.

    Raises:
        StudyError: there is no such study, or no such trial with a value.
        OutputError: the file cannot be written.
    """
    storage = open_storage(storage_url)
    spec = load_spec(study_name, storage)
    if trial is None:
        (found,) = best_trials(study_name, storage, 1)
    else:
        found = trial_by_number(study_name, storage, trial)
    if found.state != TrialState.COMPLETE or found.value is None:
        raise StudyError(
            f"{study_name}: only a complete trial has a value to give again, "
            f"found trial {found.number} {found.state.name}"
        )
    config = trial_config(spec, found)
    write_config(config, output, study=study_name, trial=found.number, value=found.value)
    click.echo(f"trial {found.number}, val/auprc_macro {found.value!r}: {output}")
