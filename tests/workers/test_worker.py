"""The worker's loop with simulated learning curves: budget, failures, signals, crashes."""

import os
import signal
import socket
import sqlite3
import time
from collections import Counter
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState

from headsweep.engine.slots import EpochReport
from headsweep.errors import SearchError
from headsweep.settings import WorkerSettings
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.studies.study import StoredStudy
from headsweep.studies.trials import trial_config
from headsweep.studies.worker_session import WorkerSession
from tests.helpers.curves import CurveEngine, quality, value_after, work_here, work_through
from tests.helpers.exact_budget import assert_exact
from tests.helpers.study_specs import make_spec
from tests.workers.conftest import Start


def test_loop_works_through_a_study(
    tmp_path: Path, store_url: str, storage: BatchedStorage
) -> None:
    spec = make_spec(tmp_path)
    study_id = StoredStudy.create(spec, storage).study_id
    engine = CurveEngine(slots=8)
    work_here(store_url, engine)
    trials = storage.get_all_trials(study_id)
    assert_exact(trials, 40)
    assert engine.most_used == 8
    for trial in trials:
        config = trial_config(spec, trial)
        assert config.training.tape_position == trial.user_attrs["tape_position"]
        assert trial.user_attrs["epochs_trained"] == trial.last_step
        assert trial.last_step is not None
        assert trial.intermediate_values == {
            epoch: value_after(config, epoch) for epoch in range(1, trial.last_step + 1)
        }
        if trial.state == TrialState.COMPLETE:
            assert trial.last_step == 9
            assert trial.value == pytest.approx(quality(config) * (1 - 2.718281828459045**-3))
    summary = StoredStudy.open("probe", storage).summary()
    assert summary.finished == 40
    assert summary.best_value == max(t.value or 0 for t in trials if t.state.name == "COMPLETE")
    assert summary.epochs_planned == 40 * 9
    assert 0.2 < summary.share_not_trained < 0.8
    assert summary.effort.slot_steps == sum(t.user_attrs["epochs_trained"] for t in trials)
    assert summary.effort.used_places == summary.effort.slot_steps
    assert summary.effort.places == 8 * summary.effort.fused_steps
    assert summary.effort.slots_per_step == pytest.approx(
        summary.effort.slot_steps / summary.effort.fused_steps
    )
    assert summary.effort.us_per_slot_step == pytest.approx(
        1e6 * summary.effort.training_s / summary.effort.slot_steps
    )
    assert sum(summary.effort.shares.values()) == pytest.approx(1)
    assert [t.number for t in StoredStudy.open("probe", storage).best_trials(1)] == [
        summary.best_trial
    ]


def test_loop_with_failing_trials_spends_no_budget_and_stops(
    tmp_path: Path, store_url: str, storage: BatchedStorage
) -> None:
    study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
    with pytest.raises(SearchError, match="more than 10; the last is trial 11: its scores must be"):
        work_here(store_url, CurveEngine(slots=4, diverging=True), max_failures=10)
    failed = storage.get_all_trials(study_id)
    assert {trial.state for trial in failed} == {TrialState.FAIL}
    assert all(trial.values is None for trial in failed)
    work_here(store_url, CurveEngine(slots=4))
    assert_exact(storage.get_all_trials(study_id), 40)
    assert StoredStudy.open("probe", storage).summary().states["FAIL"] == 12


def test_loop_with_a_grown_budget_adds_exactly_the_difference(
    tmp_path: Path, store_url: str, storage: BatchedStorage
) -> None:
    for n_trials in (5, 5, 12):
        study_id = StoredStudy.create(
            make_spec(tmp_path, f"study.n_trials={n_trials}"), storage
        ).study_id
        work_here(store_url, CurveEngine(slots=4))
        assert_exact(storage.get_all_trials(study_id), n_trials)


def test_workers_racing_for_trials_meet_the_budget_exactly(
    tmp_path: Path, store_url: str, storage: BatchedStorage, start: Start
) -> None:
    study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
    workers = [start(slots=7) for _ in range(4)]
    assert [exit_code(worker) for worker in workers] == [0, 0, 0, 0]
    trials = storage.get_all_trials(study_id)
    assert_exact(trials, 40)
    rates = [trial.params["training.learning_rate"] for trial in trials]
    assert len(set(rates)) == 40


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_worker_on_a_signal_hands_its_trials_back(
    tmp_path: Path, store_url: str, storage: BatchedStorage, start: Start, number: int
) -> None:
    study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
    worker = start(slots=6, epoch_s=0.1)
    wait_for_running(storage, study_id, 6)
    os.kill(worker.pid, number)
    assert exit_code(worker) == 0
    states = Counter(trial.state.name for trial in storage.get_all_trials(study_id))
    assert states["RUNNING"] == 0
    assert states["WAITING"] > 0
    work_here(
        store_url, CurveEngine(slots=8), max_retries=0
    )  # a stop signal is not counted as a crash
    assert_exact(storage.get_all_trials(study_id), 40)


def test_worker_on_a_second_signal_ends_at_once(
    tmp_path: Path, store_url: str, storage: BatchedStorage, start: Start
) -> None:
    study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
    worker = start(slots=6, epoch_s=5.0)
    wait_for_running(storage, study_id, 6)
    os.kill(worker.pid, signal.SIGINT)
    time.sleep(0.2)
    os.kill(worker.pid, signal.SIGINT)
    assert exit_code(worker, within_s=3) == 128 + signal.SIGINT


def test_worker_past_its_grace_time_ends(
    tmp_path: Path, storage: BatchedStorage, start: Start
) -> None:
    study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
    worker = start(slots=6, epoch_s=30.0, grace_s=0.5)
    wait_for_running(storage, study_id, 6)
    os.kill(worker.pid, signal.SIGTERM)
    assert exit_code(worker, within_s=10) == 128 + signal.SIGTERM


def test_claim_after_a_worker_was_killed_retries_its_trials(
    tmp_path: Path, store_url: str, storage: BatchedStorage, start: Start
) -> None:
    study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
    worker = start(slots=6, epoch_s=0.2, lease_s=3.0)
    orphans = wait_for_running(storage, study_id, 6)
    worker.kill()
    worker.join()
    work_here(store_url, CurveEngine(slots=8), lease_s=3.0)
    trials = storage.get_all_trials(study_id)
    assert_exact(trials, 40)
    retried = {t.user_attrs["retry_of"]: t for t in trials if "retry_of" in t.user_attrs}
    assert retried
    for number, successor in retried.items():
        assert successor.params == trials[number].params
        assert trials[number].user_attrs["lost"] == "its lease ran out"
        assert successor.user_attrs["retries"] == 1
        assert not any(key.startswith("completed_rung_") for key in trials[number].system_attrs)
    assert {trial.number for trial in orphans} >= retried.keys()
    assert StoredStudy.open("probe", storage).summary().states["FAIL"] == 0


def test_claim_of_a_trial_that_kills_workers_gives_it_up(
    tmp_path: Path, store_url: str, storage: BatchedStorage, start: Start
) -> None:
    study_id = StoredStudy.create(make_spec(tmp_path, "study.n_trials=1"), storage).study_id
    for _ in range(2):
        worker = start(slots=1, epoch_s=1.0, lease_s=2.0)
        wait_for_running(storage, study_id, 1, alive_within_s=2.0)
        worker.kill()
        worker.join()
        time.sleep(2.1)
    work_here(store_url, CurveEngine(slots=1), lease_s=2.0, max_retries=1)
    trials = storage.get_all_trials(study_id)
    assert_exact(trials, 1)
    assert trials[1].user_attrs["failure"] == "its worker died 2 times"
    assert trials[2].params != trials[1].params


def test_worker_stopped_past_its_lease_writes_nothing(
    tmp_path: Path, store_url: str, storage: BatchedStorage, start: Start
) -> None:
    study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
    worker = start(slots=6, epoch_s=0.2, lease_s=1.0)
    wait_for_running(storage, study_id, 6)
    stop_between_transactions(worker, storage)
    time.sleep(1.2)
    work_here(store_url, CurveEngine(slots=8), lease_s=1.0)
    finished = storage.get_all_trials(study_id)
    os.kill(worker.pid, signal.SIGCONT)
    assert exit_code(worker) == 0
    assert_exact(finished, 40)
    assert storage.get_all_trials(study_id) == finished


def test_worker_suspended_past_its_lease_goes_on_without_counting_a_crash(
    tmp_path: Path, store_url: str, storage: BatchedStorage, start: Start
) -> None:
    """No other worker has taken its trials, so it hands them back and claims new ones."""
    study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
    worker = start(slots=6, epoch_s=0.2, lease_s=1.0, retries=0)
    wait_for_running(storage, study_id, 6)
    stop_between_transactions(worker, storage)
    time.sleep(1.2)
    os.kill(worker.pid, signal.SIGCONT)
    assert exit_code(worker) == 0
    trials = storage.get_all_trials(study_id)
    assert_exact(trials, 40)
    assert any("retry_of" in trial.user_attrs for trial in trials)
    assert {trial.user_attrs["retries"] for trial in trials if "retries" in trial.user_attrs} == {0}


def test_worker_under_nohup_ignores_a_closed_terminal(
    tmp_path: Path, storage: BatchedStorage, start: Start
) -> None:
    study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
    worker = start(slots=6, epoch_s=0.05, nohup=1)
    wait_for_running(storage, study_id, 6)
    os.kill(worker.pid, signal.SIGHUP)
    assert exit_code(worker) == 0
    assert_exact(storage.get_all_trials(study_id), 40)


def test_study_without_a_pruner_stores_whole_curves(
    tmp_path: Path, store_url: str, storage: BatchedStorage
) -> None:
    spec = make_spec(tmp_path, "study.n_trials=6", pruner={"name": "none"})
    study_id = StoredStudy.create(spec, storage).study_id
    work_here(store_url, CurveEngine(slots=4))
    for trial in storage.get_all_trials(study_id):
        assert sorted(trial.intermediate_values) == list(range(1, 10))


def stop_between_transactions(worker: BaseProcess, storage: BatchedStorage) -> None:
    """Stop a worker while it does not hold SQLite's write lock, so that others can go on."""
    while True:
        os.kill(worker.pid, signal.SIGSTOP)
        if storage.database.dialect != "sqlite":
            return
        file = storage.database.shown.removeprefix("sqlite:///")
        try:
            with closing(sqlite3.connect(file, timeout=0.1, isolation_level=None)) as probe:
                probe.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError:
            os.kill(worker.pid, signal.SIGCONT)
            time.sleep(0.05)


def exit_code(worker: BaseProcess, *, within_s: float = 60.0) -> int | None:
    worker.join(within_s)
    return worker.exitcode


def wait_for_running(
    storage: BatchedStorage, study_id: int, n: int, *, alive_within_s: float = 60.0
) -> list[FrozenTrial]:
    """Wait until `n` trials are run by live workers, and return them."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        running = storage.get_all_trials(study_id, states=(TrialState.RUNNING,))
        ready = [trial for trial in running if "training.learning_rate" in trial.params]
        alive = StoredStudy.open("probe", storage).summary(lease_s=alive_within_s).live_workers
        if len(ready) >= n and alive:
            return ready
        time.sleep(0.02)
    raise AssertionError(f"expected {n} running trials within a minute, found {len(ready)}")


def test_worker_started_again_reclaims_its_trials(
    tmp_path: Path, store_url: str, storage: BatchedStorage
) -> None:
    """It has its old id and does not wait for its lease to run out; other workers keep theirs."""
    study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
    settings = WorkerSettings()
    died = WorkerSession(StoredStudy.open("probe", store_url), settings, worker="slurm:1_0")
    held = [trial.number for trial in died.claim(3).trials]
    other = WorkerSession(StoredStudy.open("probe", store_url), settings, worker="slurm:1_1")
    others = [trial.number for trial in other.claim(2).trials]

    again = WorkerSession(StoredStudy.open("probe", store_url), settings, worker="slurm:1_0")
    with again:
        trials = storage.get_all_trials(study_id)
        assert {trials[number].state for number in held} == {TrialState.FAIL}
        assert {trials[number].user_attrs["lost"] for number in held} == {
            "its worker was started again"
        }
        assert {trials[number].state for number in others} == {TrialState.RUNNING}
        successors = [t for t in trials if t.user_attrs.get("retry_of") in held]
        assert [t.params for t in successors] == [trials[number].params for number in held]
        assert {t.number for t in again.claim(3).trials} == {t.number for t in successors}
        assert StoredStudy.open("probe", storage).summary().workers_by_host == {
            socket.gethostname(): 2
        }
    for session in (died, other):
        session.storage.database.close()


@pytest.mark.parametrize("epoch", [2, 3])
def test_loop_when_a_claim_after_an_outage_finds_its_trials_ended_goes_on_with_others(
    tmp_path: Path, store_url: str, storage: BatchedStorage, epoch: int
) -> None:
    """The other worker saw the lease expired. Epoch 3 is a rung, epoch 2 is none."""
    study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
    settings = WorkerSettings(poll_s=0.01)
    lost: list[int] = []
    with WorkerSession(StoredStudy.open("probe", store_url), settings, worker="here") as session:

        class Suspended(CurveEngine):
            def run_epoch(self) -> list[EpochReport]:
                reports = super().run_epoch()
                if not lost and any(report.epoch == epoch for report in reports):
                    lost.extend(session.running)
                    for key in lost:
                        storage.set_trial_state_values(key, TrialState.FAIL)
                    session.storage.cache(study_id).invalidate()  # as after an outage
                    session.claim(0)
                return reports

        work_through(session, Suspended(slots=4), settings)
    trials = storage.get_all_trials(study_id)
    assert {storage.get_trial(key).state for key in lost} == {TrialState.FAIL}
    assert sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials) == 40
