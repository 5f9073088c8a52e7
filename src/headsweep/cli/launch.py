"""Commands that start the workers of a study: on this machine, or as an array of Slurm tasks."""

from __future__ import annotations

from pathlib import Path

import click

from headsweep.cli import options
from headsweep.cli.command import Group
from headsweep.cli.paths import GivenPath

out = click.option(
    "--out",
    type=GivenPath(path_type=Path),
    metavar="DIR",
    help="Folder that gets the logs.  [default: outputs/<study>]",
)


@click.group(cls=Group)
def launch() -> None:
    """Start the workers of a study: on this machine, or on a cluster."""


@launch.command()
@options.study_name
@options.storage
@options.workers
@options.device
@options.slots
@out
@options.timeout
def local(
    study_name: str,
    storage_url: str,
    workers: int | None,
    device: str,
    slots: int | None,
    out: Path | None,
    timeout_s: float | None,
) -> None:
    """Keep workers running on this machine until the study's budget is spent.

    One worker for each GPU; a worker that crashes is started again. Ctrl-C makes all hand their
    trials back and end.
    """
    from headsweep.api import Study
    from headsweep.cli.tables import print_end

    with Study.open(study_name, storage=storage_url, out=out) as study:
        study.run(workers, device=device, slots=slots, timeout_s=timeout_s)
        print_end(study.status())


@launch.command()
@options.study_name
@options.storage
@click.option(
    "--workers",
    type=options.n_workers,
    required=True,
    metavar="N",
    help="Tasks of the array, one worker for each.",
)
@click.option("--partition", metavar="NAME", help="Partition to run in.")
@click.option("--gres", metavar="GRES", help="A worker's GPU, as in gpu:1.")
@click.option("--time", metavar="TIME", help="A worker's time limit, as in 04:00:00.")
@click.option("--mem", metavar="SIZE", help="A worker's memory, as in 16G.")
@click.option(
    "--cpus",
    type=click.IntRange(min=1, max=10_000),
    default=1,
    show_default=True,
    help="A worker's cores.",
)
@click.option(
    "--sbatch",
    "more",
    multiple=True,
    metavar="OPTION",
    help="One more option of sbatch, as in --sbatch=--account=NAME; may be repeated.",
)
@options.device
@options.slots
@out
@click.option("--dry-run", is_flag=True, help="Print the script; write and submit nothing.")
def slurm(
    study_name: str,
    storage_url: str,
    workers: int,
    partition: str | None,
    gres: str | None,
    time: str | None,
    mem: str | None,
    cpus: int,
    more: tuple[str, ...],
    device: str,
    slots: int | None,
    out: Path | None,
    dry_run: bool,
) -> None:
    """Submit an array of workers to Slurm.

    Create the study first with `headsweep create`, in a PostgreSQL that the nodes can reach; they
    need access to this folder. Tasks that are preempted or near their time limit hand their trials
    back and are queued again.
    """
    from headsweep.api import out_folder
    from headsweep.launching.slurm import Resources, array_paths, refuse_embedded, render, submit
    from headsweep.settings import EngineSettings
    from headsweep.studies.study import StoredStudy

    refuse_embedded(storage_url)
    with StoredStudy.open(study_name, storage_url) as study:
        spec = study.spec
    paths = array_paths(out_folder(spec, out))
    script = render(
        spec.name,
        EngineSettings(device=device, slots=slots),
        Resources(workers, cpus, partition, gres, time, mem, more),
        paths,
    )
    if dry_run:
        click.echo(script, nl=False)
        return
    job = submit(script, paths, storage_url)
    click.echo(f"job {job}: {workers} workers of {spec.name}; logs in {paths.logs}")
