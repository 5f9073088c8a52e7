"""The main job: search with local workers, then the leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from headsweep.cli.progress import is_interactive
from headsweep.cli.steps import check_storage, default_out, load_spec_file
from headsweep.cli.tables import print_leaderboard
from headsweep.data.dataset import load_search_splits
from headsweep.data.manifest_headers import check_test_headers
from headsweep.launching import progress
from headsweep.launching.devices import default_workers
from headsweep.launching.local import launch_local
from headsweep.preflight import check_manifests, check_output
from headsweep.settings import EngineSettings, cache_dir
from headsweep.studies.study import StoredStudy
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
    n_workers = n_workers or default_workers(engine.device)
    with StoredStudy.create(spec, storage_url) as study:
        with progress.shown() as show:
            summary = launch_local(study, n_workers, engine, log_dir=out / "logs", show=show)
        click.echo(progress.saved(summary))
        finalize_study(study, engine=engine, out=out, reopen=reopen)


def finalize_study(
    study: StoredStudy, *, engine: EngineSettings, out: Path | None, reopen: str | None
) -> None:
    """Confirm the finalists, open test once, write the leaderboard and print it.

    Raises:
        InputError: the storage, the data or the folder cannot be used, or test was opened before
            for other finalists and `reopen` does not say why to open it again.
        WorkError: no trial is complete, or a finalist diverged.
    """
    # The plots' libraries load for seconds; bad input is told before that.
    from headsweep.leaderboard.finalize import finalize
    from headsweep.leaderboard.report.dashboard_notes import attach_board

    folder = finalize(study, out, engine, reopen=reopen)
    attach_board(study, folder)
    print_leaderboard(folder)
    click.echo(f"report: {folder / 'report.html'}")
