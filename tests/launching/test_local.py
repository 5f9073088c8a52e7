"""Local worker processes, started by the command line on a very small data set."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from headsweep.errors import SearchError, StorageError, WorkerError
from headsweep.launching.local import _workers, launch_local
from headsweep.launching.progress import line, saved
from headsweep.settings import EngineSettings, WorkerSettings
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.optuna_tables import trial_id
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from headsweep.studies.summary import Summary
from headsweep.studies.worker_session import join
from tests.helpers.command_line import Ended
from tests.helpers.data_sets import LABELS, write_split
from tests.helpers.study_specs import make_spec

pytestmark = pytest.mark.slow

BUDGET = 30
SLICES = ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb")


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BatchedStorage:
    """A storage with a study of 30 short trials on 60 training and 30 validation rows."""
    return make_storage(tmp_path, monkeypatch)


@pytest.fixture
def long_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BatchedStorage:
    """The same with longer trials, so that the launcher sees them running."""
    epochs = ("training.max_epochs=1500", "training.early_stopping_patience=1500")
    return make_storage(tmp_path, monkeypatch, *epochs)


def make_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> BatchedStorage:
    monkeypatch.setenv("HEADSWEEP_CACHE", str(tmp_path / "packed"))
    rng = np.random.default_rng(0)
    for name, n in (("train", 60), ("valid", 30)):
        targets = {f"{name}_{i}_a_1": rng.integers(0, 2, len(LABELS)) for i in range(n)}
        write_split(tmp_path, name, targets)
    data = (f"paths.data_root={tmp_path}/features", f"paths.manifest_dir={tmp_path}/manifests")
    storage = open_storage(f"sqlite:///{tmp_path}/studies.db", create=True)
    StoredStudy.create(make_spec(tmp_path, f"study.n_trials={BUDGET}", *data, *more), storage)
    return storage


def launch(
    storage: BatchedStorage, tmp_path: Path, show: Callable[[Summary], None], n_workers: int = 2
) -> Summary:
    return launch_local(
        StoredStudy.open("probe", storage),
        n_workers,
        EngineSettings(device="auto", slots=4),
        log_dir=tmp_path / "logs",
        show=show,
    )


def states(storage: BatchedStorage) -> Counter[str]:
    return Counter(trial.state.name for trial in storage.get_all_trials(1))


@dataclass(frozen=True)
class Running:
    """A process whose environment names a test's storage."""

    pid: int
    command: bytes
    environment: dict[str, str]


def processes_of(tmp_path: Path) -> list[Running]:
    """Return the other processes whose environment names the test's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(tmp_path).encode() in environ and int(process.name) != os.getpid():
            entries = environ.decode().split("\0")
            environment = dict(entry.split("=", 1) for entry in entries if "=" in entry)
            found.append(Running(int(process.name), command, environment))
    return found


def test_launch_local_when_a_worker_is_killed_restarts_it_and_meets_the_budget(
    tmp_path: Path, long_storage: BatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker is killed when it holds trials, and a new one replaces it.

    Each is given one of the two slices of a GPU that a scheduler chose.
    """
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(SLICES))
    given: dict[str, set[str]] = {}
    seen: list[Summary] = []
    commands: set[bytes] = set()
    killed: list[int] = []

    def show(summary: Summary) -> None:
        seen.append(summary)
        for worker in processes_of(tmp_path):
            environment = worker.environment
            gpus = given.setdefault(environment["HEADSWEEP_WORKER"], set())
            gpus.add(environment["CUDA_VISIBLE_DEVICES"])
            commands.add(worker.command)
            if len(given) == 2 and not killed:
                killed.append(worker.pid)
                os.kill(worker.pid, signal.SIGKILL)

    summary = launch(long_storage, tmp_path, show)
    assert killed
    assert summary.finished == BUDGET == seen[-1].finished
    assert states(long_storage)["RUNNING"] == states(long_storage)["WAITING"] == 0
    assert {trial.user_attrs["worker"] for trial in long_storage.get_all_trials(1)}
    assert commands
    assert not any(b"sqlite" in command for command in commands)
    # The worker that replaced the killed one has the same id and the same slice.
    assert sorted(given.values(), key=str) == [{SLICES[0]}, {SLICES[1]}]
    assert {t.user_attrs["worker"] for t in long_storage.get_all_trials(1)} <= set(given)
    assert f"{summary.states['COMPLETE']} complete" in line(summary)
    assert "of the epochs not trained" in saved(summary)
    assert processes_of(tmp_path) == []


def test_launch_local_after_interrupts_continues_to_the_budget(
    tmp_path: Path, long_storage: BatchedStorage
) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        interrupted = threading.Event()

        def interrupt(
            summary: Summary, number: int = number, interrupted: threading.Event = interrupted
        ) -> None:
            if summary.states["RUNNING"] and not interrupted.is_set():
                interrupted.set()
                os.kill(os.getpid(), number)

        with pytest.raises(KeyboardInterrupt):
            launch(long_storage, tmp_path, interrupt, n_workers=1)
        assert states(long_storage)["RUNNING"] == 0
        assert processes_of(tmp_path) == []
    assert launch(long_storage, tmp_path, lambda _: None, n_workers=1).finished == BUDGET


def test_launch_local_when_storage_is_away_and_a_log_cannot_be_written_continues(
    tmp_path: Path, storage: BatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher only shows progress, so an outage that workers survive must not end it."""
    (tmp_path / "logs" / "worker_0.log").mkdir(parents=True)
    summary, asked = StoredStudy.summary, []

    def away_at_first(study: StoredStudy, **options: float) -> Summary:
        asked.append(study)
        if len(asked) <= 2:
            raise StorageError("cannot connect")
        return summary(study, **options)

    monkeypatch.setattr(StoredStudy, "summary", away_at_first)
    assert launch(storage, tmp_path, lambda _: None, n_workers=1).finished == BUDGET
    assert len(asked) > 2


def test_launch_local_when_the_budget_is_spent_starts_no_worker(
    tmp_path: Path, storage: BatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with join("probe", storage.database.shown, WorkerSettings(), worker="one") as session:
        for trial in session.claim(BUDGET).trials:
            session.complete(trial_id(trial), 0.5, epochs=1)
        session.flush()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    seen: list[Summary] = []
    assert launch(storage, tmp_path, seen.append).finished == BUDGET
    assert [summary.finished for summary in seen] == [BUDGET]


def test_worker_does_not_import_files_of_the_current_folder(
    tmp_path: Path, storage: BatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the fix, a user's own `random.py` or `torch.py` there ended every worker."""
    study = StoredStudy.open("probe", storage)
    (worker,) = _workers(study, 1, EngineSettings(), tmp_path)
    (tmp_path / "click.py").write_text("raise RuntimeError('imported')")
    monkeypatch.chdir(tmp_path)
    program = worker.command[: worker.command.index("worker")]
    done = subprocess.run([*program, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_worker_in_another_folder_names_the_folder_of_relative_paths(
    tmp_path: Path,
    storage: BatchedStorage,
    monkeypatch: pytest.MonkeyPatch,
    headsweep: Callable[..., Ended],
) -> None:
    """The study is created in one folder with relative paths, and a worker starts in another."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    relative = ("paths.data_root=data/features", "paths.manifest_dir=data/manifests")
    monkeypatch.chdir(here)
    study = make_spec(tmp_path, *relative).model_copy(update={"name": "moved"})
    StoredStudy.create(study, storage)
    monkeypatch.chdir(there)
    ended = headsweep("worker", "moved", "--storage", storage.database.shown)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "data/manifests/train.csv" in ended.err
    assert f"relative to the current folder, {there}; the study was created in {here})" in ended.err


def test_launch_local_when_a_worker_exits_with_an_error_raises_its_message(
    tmp_path: Path, storage: BatchedStorage
) -> None:
    (tmp_path / "manifests" / "valid.csv").unlink()
    with pytest.raises(SearchError, match=r"^manifest not found: /\S*/valid\.csv"):
        launch(storage, tmp_path, lambda _: None, n_workers=1)


@pytest.mark.parametrize(
    ("program", "error", "message"),
    [
        (
            "exit 0",
            WorkerError,
            r"^study 'probe': the workers ended after 0 of 30 trials; see \S*/logs$",
        ),
        (
            "kill -9 $$",
            WorkerError,
            r"^a worker crashed 6 times in a row \(exit code -9\); see \S*/logs/worker_0\.log$",
        ),
        ("exit 2", SearchError, r"^see \S*/logs/worker_0\.log$"),
    ],
)
def test_launch_local_when_workers_do_not_work_raises(
    tmp_path: Path,
    storage: BatchedStorage,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    error: type[Exception],
    message: str,
) -> None:
    """A shell script replaces Python: it exits too early, crashes at once, or fails silently."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr("headsweep.launching.local.FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr("headsweep.launching.local.POLL_S", 0.01)
    with pytest.raises(error, match=message):
        launch(storage, tmp_path, lambda _: None, n_workers=1)


def test_launch_local_when_the_launcher_is_killed_drains_the_workers(
    tmp_path: Path, storage: BatchedStorage
) -> None:
    program = (
        "import sys; from pathlib import Path;"
        "from headsweep.launching.local import launch_local;"
        "from headsweep.settings import EngineSettings;"
        "from headsweep.studies.study import StoredStudy;"
        "launch_local(StoredStudy.open('probe', sys.argv[1]), 1,"
        " EngineSettings(device='cpu', slots=1),"
        " log_dir=Path(sys.argv[2]), show=lambda summary: None)"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", program, storage.database.shown, str(tmp_path / "logs")]
    )
    deadline = time.monotonic() + 300
    while not storage.get_all_trials(1, states=(TrialState.RUNNING,)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    launcher.kill()
    launcher.wait()
    while processes_of(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert states(storage)["RUNNING"] == 0
