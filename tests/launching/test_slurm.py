"""Slurm: the batch script, the stored password, and a study with preempted and killed workers.

Slurm, PostgreSQL and the workers are real. This process is a witness: it holds one trial until
all faults have happened, so that no worker can end before, even on a fast machine.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState

from headsweep.data.dataset import Dataset
from headsweep.data.synthetic.generate import synthesize
from headsweep.engine.train_configs import train_to_end
from headsweep.errors import LaunchError, WorkerError
from headsweep.launching.slurm import ArrayPaths, Resources, queue_again, render
from headsweep.leaderboard.finalists import choose_finalists
from headsweep.settings import EngineSettings, WorkerSettings
from headsweep.storage.attributes import HOST, LOST, WORKER
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from headsweep.studies.trials import trial_config
from headsweep.studies.worker_session import WorkerSession, join
from headsweep.workers.lease import Lease
from tests.helpers.command_line import Ended
from tests.helpers.exact_budget import assert_exact
from tests.helpers.postgres import PASSWORD, Server
from tests.helpers.slurm import PREEMPTED_PARTITION, PREEMPTING_PARTITION, Slurm

pytestmark = [pytest.mark.slow]

GOLDEN = Path(__file__).parent / "golden"
STUDY = "array"
FIRST_BUDGET, MORE = 8, 4
PATIENCE_S = 100

T = TypeVar("T")


def script_of(*more: str) -> str:
    paths = ArrayPaths(
        folder=Path("/home/ada/ct rate/outputs/linear-visual/slurm"),
        logs=Path("/home/ada/ct rate/outputs/linear-visual/logs"),
        directory=Path("/home/ada/ct rate"),
        python=Path("/home/ada/ct rate/.venv/bin/python"),
    )
    asked = {"partition": "gpu", "gres": "gpu:1", "time": "04:00:00", "mem": "16G"}
    resources = Resources(workers=8, cpus=2, **asked, more=more)
    return render("linear-visual", EngineSettings(), resources, paths)


def test_render_equals_the_golden_script():
    assert script_of("--account=lung") == (GOLDEN / "workers.sbatch").read_text()


@pytest.mark.parametrize("option", ["account=lung", "--x\nrm -rf ~", "-A lung"])
def test_render_with_a_bad_further_option_is_refused(option):
    with pytest.raises(LaunchError, match="--sbatch must be one option"):
        script_of(option)


def test_queue_again_outside_slurm_does_nothing(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert not queue_again(signal.SIGUSR1)


def test_queue_again_when_slurm_does_not_answer_raises(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not queue_again(signal.SIGINT)
    assert not queue_again(None)
    with pytest.raises(WorkerError, match="cannot run scontrol"):
        queue_again(signal.SIGUSR1)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho first >&2\necho no controller >&2\nexit 1\n")
    scontrol.chmod(0o755)
    with pytest.raises(WorkerError, match="scontrol requeue 7 failed: no controller"):
        queue_again(signal.SIGUSR1)


def test_launch_slurm_with_sqlite_is_refused(headsweep, tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    ended = headsweep("launch", "slurm", STUDY, "--workers", 2, "--storage", url)
    assert ended.code == 2
    assert "postgresql://" in ended.err


def test_launch_slurm_without_sbatch_is_refused_in_one_line(
    headsweep, array, monkeypatch, tmp_path
):
    monkeypatch.setenv("PATH", str(tmp_path))
    ended = headsweep("launch", "slurm", STUDY, "--workers", 2, "--storage", array.url)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "sbatch not found: Slurm is not installed" in ended.err


@dataclass
class Array:
    """The study and the job array of its workers, with methods to watch and disturb them."""

    folder: Path
    url: str
    slurm: Slurm
    headsweep: Callable[..., Ended]
    storage: BatchedStorage
    job: str = ""
    budget: int = FIRST_BUDGET

    @property
    def study_id(self) -> int:
        return StoredStudy.open(STUDY, self.storage).study_id

    def call(self, *args: object) -> str:
        """Run a command, check that it succeeds, and return its output."""
        ended = self.headsweep(*args, "--storage", self.url)
        assert ended.code == 0, ended.err
        return ended.out

    def grow(self) -> None:
        self.budget += MORE
        self.call("create", self.folder / "study.yaml", "--n-trials", self.budget)

    def worker(self, task: int) -> str:
        return f"slurm:headsweep:{self.job}_{task}"

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.storage.get_all_trials(self.study_id, states=states or None)

    def running(self, task: int) -> set[int]:
        """Return the numbers of the trials that the worker of a task runs."""
        trials = self.trials(TrialState.RUNNING)
        return {t.number for t in trials if t.user_attrs.get(WORKER) == self.worker(task)}

    def wait_for_trials(self, *tasks: int) -> list[set[int]]:
        """Wait until all these tasks run trials, and return them; a spent budget is enlarged."""

        def all_run() -> list[set[int]] | None:
            found = [self.running(task) for task in tasks]
            if all(found):
                return found
            self.hurry()
            busy = [t for t in self.trials() if t.state != TrialState.FAIL]
            if len(busy) >= self.budget:
                self.grow()
            return None

        return self.until(all_run, f"tasks {tasks} run trials")

    def until(self, holds: Callable[[], T | None], what: str) -> T:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := holds()):
            assert time.monotonic() < deadline, f"{what}: {self.slurm.tell('squeue')}{self.logs()}"
            time.sleep(0.2)
        return found

    def logs(self) -> str:
        files = sorted((self.folder / "out" / "logs").glob("*"))
        return "\n".join(f"{file.name}: {file.read_text()[-1500:]}" for file in files)

    def state(self, task: int) -> str:
        """Return Slurm's state of a task, or an empty string if Slurm no longer lists it."""
        job = f"{self.job}_{task}"
        return self.slurm.tell("squeue", "--noheader", "--format=%T", "--jobs", job).strip()

    def restart_count(self, task: int) -> int:
        shown = self.slurm.tell("scontrol", "show", "job", "--oneliner", f"{self.job}_{task}")
        return int(dict(word.split("=", 1) for word in shown.split() if "=" in word)["Restarts"])

    def wait_for_requeue(self, task: int) -> None:
        self.until(lambda: self.state(task) == "PENDING", f"task {task} is queued again")

    def hurry(self) -> None:
        """Start requeued tasks at once, without Slurm's delay of two minutes.

        A task that is started while its previous run is still ending on the node fails to launch,
        and Slurm then holds it until it is released by hand.
        """
        for task in range(3):
            if self.state(task) == "PENDING":
                job = f"{self.job}_{task}"
                reason = self.slurm.tell("squeue", "--noheader", "--format=%r", "--jobs", job)
                if "held" in reason:
                    self.slurm.tell("scontrol", "release", job)
                self.slurm.tell("scontrol", "update", f"jobid={job}", "StartTime=now")

    def process_of(self, task: int) -> int:
        """Return the process id of the worker itself, not of the batch script or srun."""
        mark = f"HEADSWEEP_WORKER={self.worker(task)}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if b"headsweep\0worker" not in (process / "cmdline").read_bytes():
                    continue
                program = (process / "exe").resolve().name
                if program.startswith("python") and mark in (process / "environ").read_bytes():
                    return int(process.name)
            except OSError:
                continue
        raise AssertionError(f"no process of {self.worker(task)}")


STUDY_FILE = {
    "study": {"name": STUDY, "n_trials": FIRST_BUDGET, "seed": 3},
    "base": [
        "head=linear",
        "features=visual",
        "training.target_labels=[Lung nodule,Emphysema,Atelectasis]",
        "training.max_epochs=1000",
        "training.early_stopping_patience=null",
        "training.schedule=constant",
    ],
    "space": {
        "training.learning_rate": {"type": "float", "low": 1e-4, "high": 3e-2, "log": True},
        "training.weight_decay": {"type": "float", "low": 1e-6, "high": 1e-2, "log": True},
    },
    "sampler": {"name": "random"},
    "finalists": {"top_k": 2, "seeds": [0, 1]},
}


@pytest.fixture
def array(
    tmp_path: Path,
    postgres: Server,
    slurm: Slurm,
    headsweep: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Array]:
    """A study in an empty database. The name of its folder contains a space."""
    folder = tmp_path / "ct rate"
    sizes = {"patients_train": 120, "patients_valid": 60, "patients_test": 60}
    synthesize(folder / "data", **sizes, width=96, seed=0, progress=False)
    places = {"data_root": "data/features", "manifest_dir": "data/manifests", "output_dir": "out"}
    document = dict(STUDY_FILE)
    document["base"] = [*STUDY_FILE["base"], *(f"paths.{k}={v}" for k, v in places.items())]
    (folder / "study.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SLURM_CONF", str(slurm.configuration))
    monkeypatch.setenv("HEADSWEEP_CACHE", str(folder / "packed"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    url = postgres.url(postgres.new_database())
    assert headsweep("create", "study.yaml", "--storage", url).code == 0
    storage = open_storage(url)
    yield Array(folder, url, slurm, headsweep, storage)
    storage.database.close()


@pytest.fixture
def witness(array: Array) -> Iterator[WorkerSession]:
    """A worker that holds one trial, so that the other workers do not end."""
    settings = WorkerSettings()
    with join(STUDY, array.url, settings, worker="witness") as session:
        (trial,) = session.claim(1).trials
        with Lease(session.renew, settings.lease_s) as lease:
            lease.set_trials(session.running)
            assert trial.number == 0
            yield session


@pytest.mark.filterwarnings(
    "ignore:.*hold 0 and 1 but are not used:headsweep.errors.HeadsweepWarning"
)
def test_launch_slurm_when_tasks_are_preempted_and_killed_meets_the_budget(
    array: Array, witness: WorkerSession
) -> None:
    """Of three workers one is killed, one preempted, one requeued; the controller crashes once."""
    slurm = array.slurm
    asked = ("--workers", 3, "--device", "cpu", "--slots", 2, "--out", "out")
    asked += ("--partition", PREEMPTED_PARTITION)
    assert array.call("launch", "slurm", STUDY, *asked, "--dry-run").startswith("#!/bin/bash\n")
    assert not (array.folder / "out").exists()

    printed = array.call("launch", "slurm", STUDY, *asked)
    array.job = printed.split()[1].rstrip(":")
    array.wait_for_trials(0, 1, 2)
    assert_the_secret_is_kept(array)
    host = socket.gethostname()

    def all_are_counted() -> bool:
        """A worker is not counted in the moment between two trials."""
        array.wait_for_trials(0, 1, 2)
        counted = json.loads(array.call("status", STUDY, "--json"))["workers_by_host"]
        table = array.call("status", STUDY)
        return counted == {host: 4} and bool(re.search(rf"array +{host} +4", table))

    array.until(all_are_counted, "status counts four workers")

    killed = kill(array, task=2)
    array.until(lambda: array.state(2) == "", "the killed task ends")

    held = array.wait_for_trials(0, 1)
    preempting = ("sbatch", "--wait", "--output=/dev/null", "--ntasks=2", "--wrap", "true")
    slurm.tell(*preempting, f"--partition={PREEMPTING_PARTITION}")
    (preempted,) = (task for task in (0, 1) if array.state(task) != "RUNNING")
    array.wait_for_requeue(preempted)
    assert not held[preempted] & array.running(preempted)

    requeued = 1 - preempted
    array.wait_for_trials(requeued)
    slurm.tell("scontrol", "requeue", f"{array.job}_{requeued}")
    array.wait_for_requeue(requeued)
    assert not array.running(requeued)
    array.wait_for_trials(0, 1)

    slurm.kill_controller()
    slurm.start_controller()
    array.wait_for_trials(0, 1)
    assert len(workers_of(array.trials())) == 4

    # A task cancelled by hand stays ended; a task near its time limit requeues itself.
    slurm.tell("scancel", f"{array.job}_{requeued}")
    slurm.tell("scancel", "--signal=USR1", f"{array.job}_{preempted}")
    array.wait_for_requeue(preempted)
    array.until(lambda: array.state(requeued) == "", "the cancelled task ends")
    assert not array.running(requeued) | array.running(preempted)
    array.wait_for_trials(preempted)

    witness.hand_back(crashed=False)
    array.until(lambda: not slurm.tell("squeue", "--noheader"), "the array ends")
    trials = array.trials()
    assert_exact(trials, array.budget)
    assert {trials[number].user_attrs[LOST] for number in killed} == {"its lease ran out"}
    lost = {trial.user_attrs[LOST] for trial in trials if LOST in trial.user_attrs}
    assert lost == {"its lease ran out", "its worker was told to stop"}
    assert workers_of(trials) == {"witness", *(array.worker(task) for task in range(3))}
    assert {trial.user_attrs[HOST] for trial in trials if HOST in trial.user_attrs} == {
        socket.gethostname()
    }
    assert_the_leaderboard_is_that_of_one_worker(array)


def kill(array: Array, task: int) -> set[int]:
    """Kill a worker while it holds trials, by stopping it first, and return their numbers."""
    process = array.process_of(task)

    def hold() -> set[int]:
        os.kill(process, signal.SIGSTOP)
        time.sleep(0.5)  # statements sent before have then been executed
        if not (held := array.running(task)):
            os.kill(process, signal.SIGCONT)
            array.wait_for_trials(task)
        return held

    held = array.until(hold, "the worker holds trials")
    os.kill(process, signal.SIGKILL)
    return held


def workers_of(trials: list[FrozenTrial]) -> set[str]:
    return {trial.user_attrs[WORKER] for trial in trials if WORKER in trial.user_attrs}


def assert_the_secret_is_kept(array: Array) -> None:
    """Check that the password is only in one file that its owner alone can read."""
    secrets = (PASSWORD.encode(), array.url.rpartition("@")[0].rpartition(":")[2].encode())
    folder = array.folder / "out" / "slurm"
    assert stat.S_IMODE((folder / "storage.env").stat().st_mode) == 0o600
    kept = [path for path in array.slurm.folder.rglob("*") if path.is_file()]
    assert any(path.name == "environment" for path in kept)
    commands = [p / "cmdline" for p in Path("/proc").glob("[0-9]*") if int(p.name) != os.getpid()]
    for path in (folder / "workers.sbatch", *kept, *commands):
        try:
            text = path.read_bytes()
        except OSError:
            continue
        assert not any(secret in text for secret in secrets), path


def assert_the_leaderboard_is_that_of_one_worker(array: Array) -> None:
    """Check that one process gives every trial the same value and chooses the same finalists."""
    spec = StoredStudy.open(STUDY, array.storage).spec
    trials = array.trials(TrialState.COMPLETE)
    splits = Dataset.from_config(spec.config).search_splits(inputs=("visual",))
    configs = [trial_config(spec, trial) for trial in trials]
    again = train_to_end(configs, *splits, EngineSettings(device="cpu", slots=2))
    assert [run.best_value for run in again] == [trial.value for trial in trials]

    array.call("finalize", STUDY, "--out", "out")
    provenance = json.loads((array.folder / "out" / "provenance.json").read_text())
    chosen = choose_finalists(trials, lambda t: trial_config(spec, t), spec.finalists.top_k)
    recorded = {finalist["trial"] for finalist in provenance["finalists"]}
    assert recorded == {finalist.trial for finalist in chosen}
    verified = array.headsweep("leaderboard", "verify", "out")
    assert verified.code == 0, verified.err
