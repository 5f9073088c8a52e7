"""Commands on studies: run, create, worker, finalize, status, export, dashboard, studies."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headsweep.cli import options
from headsweep.cli.command import Command
from headsweep.cli.paths import GivenPath

if TYPE_CHECKING:
    from headsweep.api import Study


@click.command(cls=Command)
@options.study_file
@options.overrides
@options.storage
@options.workers
@options.device
@options.slots
@options.n_trials
@options.out
@options.timeout
@options.reopen
def run(
    study_file: Path,
    overrides: tuple[str, ...],
    storage_url: str,
    workers: int | None,
    device: str,
    slots: int | None,
    n_trials: int | None,
    out: Path | None,
    timeout_s: float | None,
    reopen: str | None,
) -> None:
    """Search, confirm, open test once, write the leaderboard.

    An interrupted run continues where it stopped when the same command is given again.
    """
    from headsweep.api import Study
    from headsweep.cli.tables import print_end

    with Study.create(
        study_file, overrides=overrides, storage=storage_url, out=out, n_trials=n_trials
    ) as study:
        study.run(workers, device=device, slots=slots, timeout_s=timeout_s)
        print_end(study.status())
        _finalize(study, device=device, slots=slots, reopen=reopen)


@click.command(cls=Command)
@options.study_file
@options.overrides
@options.storage
@options.n_trials
def create(
    study_file: Path, overrides: tuple[str, ...], storage_url: str, n_trials: int | None
) -> None:
    """Create a study, or grow its budget; start no worker.

    A time limit of an earlier search that has passed is removed.
    """
    from headsweep.api import load_spec
    from headsweep.studies.study import StoredStudy

    with StoredStudy.create(load_spec(study_file, overrides, n_trials), storage_url) as study:
        study.clear_past_deadline()
        n_trials, shown = study.spec.n_trials, study.storage.database.shown
    click.echo(f"study {study.name}: {n_trials} trials in {shown}")


@click.command(cls=Command)
@options.study_name
@options.storage
@options.device
@options.slots
@click.option(
    "--requeue",
    is_flag=True,
    help="Under Slurm: queue the task again when its time limit or a preemption ends the worker.",
)
def worker(
    study_name: str, storage_url: str, device: str, slots: int | None, requeue: bool
) -> None:
    """Pull trials of a study until its budget is spent.

    Start one for each GPU, on any machine that can reach the storage. A time limit of an earlier
    search is removed if it has passed, and applies otherwise. At SIGINT, SIGTERM or SIGUSR1 the
    worker hands its trials back and ends; at a second signal it ends at once.
    """
    from headsweep.settings import LAUNCHER_VARIABLE, EngineSettings, WorkerSettings
    from headsweep.workers.signals import stop_on_signals

    # Loading takes seconds, during which signals must be handled too.
    with stop_on_signals(WorkerSettings.grace_s) as stop:
        from headsweep.studies.study import StoredStudy
        from headsweep.workers.worker import work

        with StoredStudy.open(study_name, storage_url) as study:
            if LAUNCHER_VARIABLE not in os.environ:  # else the launcher set the deadline
                study.clear_past_deadline()
            work(study, EngineSettings(device=device, slots=slots), stop)
    if requeue:
        from headsweep.launching.slurm import queue_again

        queue_again(stop.signal_number)


@click.command(cls=Command)
@options.study_name
@options.storage
@options.out
@options.reopen
def finalize(study_name: str, storage_url: str, out: Path | None, reopen: str | None) -> None:
    """Confirm finalists, open test once, write the leaderboard."""
    from headsweep.api import Study

    with Study.open(study_name, storage=storage_url, out=out) as study:
        _finalize(study, reopen=reopen)


@click.command(cls=Command)
@click.argument("study_name", metavar="[STUDY_NAME]", required=False)
@options.storage
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def status(study_name: str | None, storage_url: str, as_json: bool) -> None:
    """Show trials by state, best value, speed, live workers."""
    from headsweep.cli.tables import print_status
    from headsweep.studies.storages import open_storage, study_names
    from headsweep.studies.study import StoredStudy

    storage = open_storage(storage_url)
    try:
        names = study_names(storage) if study_name is None else (study_name,)
        summaries = [StoredStudy.open(name, storage).summary() for name in names]
    finally:
        storage.database.close()
    if as_json:
        plain = [summary.to_dict() for summary in summaries]
        click.echo(json.dumps(plain if study_name is None else plain[0], indent=2))
    else:
        print_status(summaries)


@click.command(cls=Command)
@options.study_name
@options.storage
@click.option(
    "--trial",
    default="best",
    show_default=True,
    metavar="best|N",
    callback=lambda ctx, param, value: _trial(value),
    help="Number of the trial.",
)
@click.option(
    "-o",
    "--output",
    type=GivenPath(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE.yaml",
    help="File to write.",
)
def export(study_name: str, storage_url: str, trial: int | None, output: Path) -> None:
    """Write a trial's config for `headsweep train --config`."""
    from headsweep.studies.study import StoredStudy

    with StoredStudy.open(study_name, storage_url) as study:
        exported, metric = study.export(output, trial), study.spec.config.training.metric
    click.echo(f"trial {exported.number}, val/{metric} {exported.value!r}: {output}")


@click.command(cls=Command)
@options.study_name
@options.overrides
@options.storage
@click.option("--from-study", metavar="NAME", help="Enqueue the best trials of another study.")
@click.option(
    "--top",
    type=click.IntRange(min=1, max=10_000),
    default=10,
    show_default=True,
    metavar="N",
    help="How many of them.",
)
def enqueue(
    study_name: str,
    overrides: tuple[str, ...],
    storage_url: str,
    from_study: str | None,
    top: int,
) -> None:
    """Add a trial with given params, or another study's best, to be run before others.

    Params that are left out get the study's default value. With --from-study, trials whose params
    do not fit the space are left out.

    Raises:
        click.UsageError: neither or both kinds of trials are given.
    """
    from headsweep.api import Study
    from headsweep.config.overrides import override_value

    if (from_study is None) == (not overrides):
        raise click.UsageError("give either key=value params or --from-study NAME")
    with Study.open(study_name, storage=storage_url) as study:
        if from_study is not None:
            numbers = study.enqueue_from(from_study, top=top)
        else:
            params = dict(override_value(text, where="command line") for text in overrides)
            numbers = study.enqueue(params)
        waiting, left = study.status().states["WAITING"], study.status().n_left
    click.echo(f"enqueued: trials {', '.join(map(str, numbers)) or 'none'}")
    if waiting > left:
        click.echo(
            f"{waiting} trials wait but the budget allows {left} more: "
            "`headsweep create` with a larger --n-trials lets them run",
            err=True,
        )


@click.command(cls=Command)
@options.storage
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True)
@click.option("--writable", is_flag=True, help="Let it change and delete studies: no password!")
@click.option(
    "--all-points",
    is_flag=True,
    help="Show all trials and learning curves of large studies, which may keep the browser busy.",
)
def dashboard(storage_url: str, port: int, writable: bool, all_points: bool) -> None:
    """Open optuna-dashboard on the storage, at 127.0.0.1 only and read-only.

    Of a study with more than 5,000 trials, the page shows some 5,000 of them, and of more than
    1,000 no learning curves. Its title then says so.
    """
    from headsweep.cli.dashboard import REQUEST_OUTAGE_S, serve
    from headsweep.studies.storages import open_storage

    storage = open_storage(storage_url, outage_s=REQUEST_OUTAGE_S)
    serve(storage, port=port, writable=writable, all_points=all_points)


@click.command(cls=Command)
@click.argument("name", required=False)
def studies(name: str | None) -> None:
    """List the study files that come with headsweep, or print one of them.

    `run`, `create` and `scaling` take such a name in place of a file.

    Raises:
        click.BadParameter: there is no study file of this name.
    """
    from headsweep.package_info import shipped_studies

    shipped = shipped_studies()
    if name is None:
        for known, file in shipped.items():
            first = file.read_text(encoding="utf-8").partition("\n")[0]
            click.echo(f"{known:24}{first.removeprefix('# ')}")
        return
    if name not in shipped:
        raise click.BadParameter(f"must be one of {', '.join(shipped)}, found {name!r}")
    click.echo(shipped[name].read_text(encoding="utf-8"), nl=False)


def _finalize(study: Study, *, reopen: str | None, **engine: Any) -> None:
    """Write a study's leaderboard and print it."""
    from headsweep.cli.tables import print_leaderboard

    folder = study.finalize(reopen=reopen, **engine).folder
    print_leaderboard(folder)
    click.echo(f"report: {folder / 'report.html'}")


def _trial(value: str) -> int | None:
    """Return the number of the requested trial; None is the best one.

    Raises:
        click.BadParameter: the text is neither `best` nor a number.
    """
    if value == "best":
        return None
    if re.fullmatch("[0-9]{1,9}", value):
        return int(value)
    raise click.BadParameter(f"must be best or the number of a trial, found {value!r}")
