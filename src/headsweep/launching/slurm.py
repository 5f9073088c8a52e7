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
"""Seconds before the time limit at which a worker is signalled to hand its trials back."""
SCRIPT = "workers.sbatch"
SECRETS = "storage.env"
SECRET_VARIABLES = (STORAGE_URL_VARIABLE, "PGPASSWORD")


@dataclass(frozen=True)
class Resources:
    """Resources requested from Slurm; every worker is one task of an array.

    `gres`, `time` and `mem` are values of sbatch's options, for each worker; None is the
    partition's default. `more` holds further options of sbatch, such as `--account=NAME`.
    """

    workers: int
    cpus: int = 1
    partition: str | None = None
    gres: str | None = None
    time: str | None = None
    mem: str | None = None
    more: Sequence[str] = ()


@dataclass(frozen=True)
class ArrayPaths:
    """Paths of the array, absolute and visible to every node.

    `folder` holds the script and the file of secrets, `logs` one log for each worker. Workers run
    in `directory`, to which a study's relative paths refer, with the interpreter `python`.
    """

    folder: Path
    logs: Path
    directory: Path
    python: Path


def array_paths(out: Path) -> ArrayPaths:
    """Return the paths for a study's folder, for workers that run as this process does."""
    # Links are not resolved: the path of the interpreter identifies its virtual environment.
    return ArrayPaths(
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


def render(study_name: str, engine: EngineSettings, resources: Resources, paths: ArrayPaths) -> str:
    """Return the script for sbatch.

    Raises:
        LaunchError: a further option is not one line that begins with `--`.
    """
    directives = "\n".join(f"#SBATCH {option}" for option in _options(study_name, resources, paths))
    worker = shlex.join(
        [
            # With -P, a file `random.py` in the current folder is not imported as a module.
            *(str(paths.python), "-P", "-m", "headsweep", "worker", study_name),
            *engine.options(),
            "--requeue",
        ]
    )
    return f"""\
#!/bin/bash
# Workers of the study {study_name}, one an array task: sbatch starts them, scancel ends them.
{directives}
set -euo pipefail
# The storage's URL may contain a password: it is in a file that only its owner can read.
set -a
source {shlex.quote(str(paths.folder / SECRETS))}
set +a
# A task that Slurm starts again is the same worker.
export {WORKER_VARIABLE}="slurm:$SLURM_CLUSTER_NAME:${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
export OMP_NUM_THREADS={engine.threads}
exec srun --ntasks=1 --cpus-per-task={resources.cpus} {worker}
"""


def submit(script: str, paths: ArrayPaths, storage_url: str) -> str:
    """Write the script and the secrets, and submit the script with sbatch.

    Returns:
        Id of the job.

    Raises:
        LaunchError: there is no sbatch, or it refuses the job.
        OutputError: a folder cannot be written.
    """
    if shutil.which("sbatch") is None:
        raise LaunchError("sbatch not found: Slurm is not installed on this machine")
    try:
        paths.folder.mkdir(parents=True, exist_ok=True)
        paths.logs.mkdir(parents=True, exist_ok=True)
        write_text(paths.folder / SCRIPT, script)
        _write_secrets(paths.folder / SECRETS, storage_url)
    except OSError as error:
        raise OutputError(
            f"{error.filename}: cannot write to the folder: {error.strerror}"
        ) from None
    ours = {*SECRET_VARIABLES, LAUNCHER_VARIABLE, WORKER_VARIABLE}
    ended = subprocess.run(
        ["sbatch", "--parsable", str(paths.folder / SCRIPT)],
        # sbatch gives the job this environment, and Slurm stores it, so it must contain no secret.
        env={name: value for name, value in os.environ.items() if name not in ours},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise LaunchError(f"sbatch refused the job: {_last_line(ended.stderr)}")
    return ended.stdout.strip().partition(";")[0]


def queue_again(received: int | None) -> bool:
    """Queue the Slurm task of this process once more, if it was ended early.

    A task is queued again when its time limit was near (SIGUSR1) or when a job of higher priority
    preempts it, because Slurm does not queue a task that ends by itself within its grace time. A
    task is not queued after scancel, nor if Slurm queues it by itself.

    Args:
        received: the signal that ended the worker, if any.

    Returns:
        Whether the task was queued again.

    Raises:
        WorkerError: Slurm does not answer, or does not queue the task.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or received not in (signal.SIGUSR1, signal.SIGTERM):
        return False
    if received == signal.SIGTERM and not _is_preempted(
        _scontrol("show", "job", "--oneliner", job), job
    ):
        return False
    _scontrol("requeue", job)
    return True


def _options(study_name: str, resources: Resources, paths: ArrayPaths) -> Iterator[str]:
    options = {
        "job-name": f"headsweep-{study_name}",
        "array": f"0-{resources.workers - 1}",
        "ntasks": "1",
        "cpus-per-task": str(resources.cpus),
        "partition": resources.partition,
        "gres": resources.gres,
        "time": resources.time,
        "mem": resources.mem,
    }
    for name, value in options.items():
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
    yield f"--chdir={shlex.quote(str(paths.directory))}"
    yield f"--output={shlex.quote(str(paths.logs / 'slurm_%A_%a.log'))}"


def _write_secrets(path: Path, storage_url: str) -> None:
    """Write the file so that it is never readable by others, not even for a moment."""
    secrets = {STORAGE_URL_VARIABLE: storage_url}
    secrets |= {name: os.environ[name] for name in SECRET_VARIABLES[1:] if name in os.environ}
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in secrets.items()]
    write_text(path, "".join(lines), mode=0o600)


def _is_preempted(shown: str, job: str) -> bool:
    """Return whether `scontrol show job` reports that a running job is being preempted."""
    # The first task has the array's job id, for which scontrol shows all tasks.
    line = next((line for line in shown.splitlines() if line.startswith(f"JobId={job} ")), "")
    facts = dict(word.split("=", 1) for word in line.split() if "=" in word)
    return facts.get("JobState") == "RUNNING" and facts.get("PreemptTime", "None") != "None"


def _scontrol(*arguments: str) -> str:
    try:
        ended = subprocess.run(
            ["scontrol", *arguments], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise WorkerError(f"cannot run scontrol: {error.strerror}") from None
    if ended.returncode != 0:
        raise WorkerError(f"scontrol {' '.join(arguments)} failed: {_last_line(ended.stderr)}")
    return ended.stdout


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
