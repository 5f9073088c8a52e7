"""Slurm: submit a plain array of workers; a worker that was ended early is queued again."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from headsweep.atomic_files import write_text
from headsweep.errors import LaunchError, OutputError, StorageError, WorkerError
from headsweep.settings import (
    LAUNCHER_VARIABLE,
    STORAGE_URL_VARIABLE,
    WORKER_VARIABLE,
    EngineSettings,
)
from headsweep.storage.connections import shown_url

DRAIN_NOTICE_S = 120
"""How long before its time limit a worker is asked to hand its trials back."""
SCRIPT = "workers.sbatch"
SECRETS = "storage.env"
SECRET_VARIABLES = (STORAGE_URL_VARIABLE, "PGPASSWORD")


@dataclass(frozen=True)
class Resources:
    """Resources requested from Slurm; every worker is one task of an array.

    `gres`, `time` and `mem` are in Slurm's words, a worker each; None leaves the partition's
    default. `more` are further options of sbatch, such as `--account=NAME`.
    """

    workers: int
    cpus: int = 1
    partition: str | None = None
    gres: str | None = None
    time: str | None = None
    mem: str | None = None
    more: Sequence[str] = ()


@dataclass(frozen=True)
class Places:
    """Paths of the array, absolute and visible to every node.

    `folder` holds the script and the file of secrets, `logs` a log a worker; workers run in
    `directory`, to which a study's relative paths refer, with the interpreter `python`.
    """

    folder: Path
    logs: Path
    directory: Path
    python: Path


def places_of(out: Path) -> Places:
    """Return the paths for a study's folder, for workers that run as this process does."""
    # The interpreter's own path, not where it links to: a virtual environment is known by it.
    return Places(
        folder=out.absolute() / "slurm",
        logs=out.absolute() / "logs",
        directory=Path.cwd(),
        python=Path(sys.executable),
    )


def refuse_embedded(storage_url: str) -> None:
    """Refuse SQLite, which only one machine can use.

    Raises:
        StorageError: the URL is one of SQLite.
    """
    if storage_url.startswith("sqlite"):
        raise StorageError(
            f"{shown_url(storage_url)}: workers on several machines cannot share SQLite; "
            "use a postgresql://… storage"
        )


def render(study_name: str, engine: EngineSettings, resources: Resources, places: Places) -> str:
    """Return the script for sbatch.

    Raises:
        LaunchError: a further option is not one line that begins with `--`.
    """
    directives = "\n".join(
        f"#SBATCH {option}" for option in _options(study_name, resources, places)
    )
    worker = shlex.join(
        [
            *(str(places.python), "-m", "headsweep", "worker", study_name),
            *("--device", engine.device, "--slots", str(engine.slots), "--requeue"),
        ]
    )
    return f"""\
#!/bin/bash
# Workers of the study {study_name}, one an array task: sbatch starts them, scancel ends them.
{directives}
set -euo pipefail
# The storage's URL may hold a password: it lies in a file that its owner alone can read.
set -a
source {shlex.quote(str(places.folder / SECRETS))}
set +a
# A task that Slurm starts again is the same worker again.
export {WORKER_VARIABLE}="slurm:$SLURM_CLUSTER_NAME:${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
export OMP_NUM_THREADS={engine.threads}
exec srun --ntasks=1 --cpus-per-task={resources.cpus} {worker}
"""


def submit(script: str, places: Places, storage_url: str) -> str:
    """Write the script and the secrets, and submit the script with sbatch.

    Returns:
        Id of the job.

    Raises:
        LaunchError: there is no sbatch, or it refuses the job.
        OutputError: a folder cannot be written.
    """
    if shutil.which("sbatch") is None:
        raise LaunchError("sbatch: Slurm must be installed on this machine, found no such program")
    try:
        places.folder.mkdir(parents=True, exist_ok=True)
        places.logs.mkdir(parents=True, exist_ok=True)
        write_text(places.folder / SCRIPT, script)
        _write_secrets(places.folder / SECRETS, storage_url)
    except OSError as error:
        raise OutputError(
            f"{error.filename}: the folder must be writable, found {error.strerror}"
        ) from None
    ours = {*SECRET_VARIABLES, LAUNCHER_VARIABLE, WORKER_VARIABLE}
    ended = subprocess.run(
        ["sbatch", "--parsable", str(places.folder / SCRIPT)],
        # sbatch hands the job its own environment, which Slurm keeps: no secret may be in it.
        env={name: value for name, value in os.environ.items() if name not in ours},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise LaunchError(f"sbatch must take the job, found: {_last_line(ended.stderr)}")
    return ended.stdout.strip().partition(";")[0]


def queue_again(told_by: int | None) -> bool:
    """Queue the Slurm task of this process once more, if it was ended early.

    It is due when the time limit was near (SIGUSR1) or when a job of higher priority needed the
    place, since Slurm does not run again what ends by itself within its grace time. It is not due
    after scancel, nor where Slurm itself queues the task again.

    Returns:
        Whether the task was queued again.

    Raises:
        WorkerError: Slurm does not answer, or does not queue the task.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or told_by not in (signal.SIGUSR1, signal.SIGTERM):
        return False
    if told_by == signal.SIGTERM and not _is_preempted(
        _scontrol("show", "job", "--oneliner", job), job
    ):
        return False
    _scontrol("requeue", job)
    return True


def _options(study_name: str, resources: Resources, places: Places) -> Iterator[str]:
    asked = {
        "job-name": f"headsweep-{study_name}",
        "array": f"0-{resources.workers - 1}",
        "ntasks": "1",
        "cpus-per-task": str(resources.cpus),
        "partition": resources.partition,
        "gres": resources.gres,
        "time": resources.time,
        "mem": resources.mem,
    }
    for name, value in asked.items():
        if value is not None:
            yield f"--{name}={shlex.quote(value)}"
    for option in resources.more:
        if not re.fullmatch(r"--[a-z][^\n]*", option):
            raise LaunchError(
                f"--sbatch must be one option such as --account=NAME, found {option!r}"
            )
        yield option
    yield "--requeue"
    yield f"--signal=USR1@{DRAIN_NOTICE_S}"
    yield "--open-mode=append"
    yield f"--chdir={shlex.quote(str(places.directory))}"
    yield f"--output={shlex.quote(str(places.logs / 'slurm_%A_%a.log'))}"


def _write_secrets(path: Path, storage_url: str) -> None:
    """Write the file so that it is never readable by others, not even for a moment."""
    secrets = {STORAGE_URL_VARIABLE: storage_url}
    secrets |= {name: os.environ[name] for name in SECRET_VARIABLES[1:] if name in os.environ}
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in secrets.items()]
    write_text(path, "".join(lines), mode=0o600)


def _is_preempted(shown: str, job: str) -> bool:
    """Return whether `scontrol show job` reports that a running job is being preempted."""
    # The first task of an array bears the array's number, under which all tasks are shown.
    line = next((line for line in shown.splitlines() if line.startswith(f"JobId={job} ")), "")
    facts = dict(word.split("=", 1) for word in line.split() if "=" in word)
    return facts.get("JobState") == "RUNNING" and facts.get("PreemptTime", "None") != "None"


def _scontrol(*arguments: str) -> str:
    try:
        ended = subprocess.run(
            ["scontrol", *arguments], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise WorkerError(f"scontrol must run, found {error.strerror}") from None
    if ended.returncode != 0:
        raise WorkerError(
            f"scontrol {' '.join(arguments)} must succeed, found: {_last_line(ended.stderr)}"
        )
    return ended.stdout


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
