"""What touches the store alone: create a study, export a trial; no tensor library is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from headsweep.errors import StorageError
from headsweep.preflight import check_output
from headsweep.search.spec import StudySpec
from headsweep.search.study_file import load_study_file
from headsweep.storage.connections import open_database, shown_url
from headsweep.studies.study import StoredStudy


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


def load_spec_file(study_file: Path, overrides: Sequence[str], n_trials: int | None) -> StudySpec:
    """The study that a file describes, with another budget when one is given."""
    spec = load_study_file(study_file, overrides)
    return spec if n_trials is None else spec.model_copy(update={"n_trials": n_trials})


def default_out(spec: StudySpec) -> Path:
    """Where the leaderboard of a study lies unless told otherwise: `outputs/<study>`."""
    return Path(spec.config.paths.output_dir) / spec.name


def define(spec: StudySpec, storage_url: str) -> None:
    """Write the definition to the storage, which is made when it is a file that is not there."""
    StoredStudy.create(spec, storage_url).close()


def stored_spec(study_name: str, storage_url: str) -> StudySpec:
    """The definition of a study in the storage.

    Raises:
        InputError: the storage does not answer, or there is no such study.
    """
    with StoredStudy.open(study_name, storage_url) as study:
        return study.spec


def refuse_embedded(storage_url: str) -> None:
    """Refuse the storage that one machine alone can use.

    Raises:
        StorageError: the URL is one of SQLite.
    """
    if storage_url.startswith("sqlite"):
        raise StorageError(
            f"{shown_url(storage_url)}: workers of several machines must share a "
            "postgresql://… storage, found SQLite, which wants a local disk"
        )


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


def export_trial(study_name: str, *, storage_url: str, trial: int | None, output: Path) -> None:
    """Write the config of a complete trial, of the best one when `trial` is None.

    Raises:
        StudyError: there is no such study, or no such trial with a value.
        OutputError: the file cannot be written.
    """
    with StoredStudy.open(study_name, storage_url) as study:
        exported = study.export(output, trial)
    click.echo(f"trial {exported.number}, val/auprc_macro {exported.value!r}: {output}")
