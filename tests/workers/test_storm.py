"""Workers and the server are killed at random, and the study still meets its budget exactly."""

import os
import random
import signal
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from optuna.trial import TrialState

from headsweep.storage.batched_storage import BatchedStorage
from headsweep.studies.study import StoredStudy
from tests.helpers.exact_budget import assert_exact
from tests.helpers.postgres import Server
from tests.helpers.study_specs import make_spec
from tests.workers.conftest import Start

pytestmark = pytest.mark.slow

BUDGET = 60
LEASE_S = 1.0
OPTIONS = {"slots": 6, "epoch_s": 0.03, "lease_s": LEASE_S, "retries": 50}
STORM_S = 5.0
SERVER_ENDS = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)


class Storm:
    """Random faults, from a seed, for three workers and their database server."""

    def __init__(self, seed: int, start: Start, server: Server | None) -> None:
        self.draw = random.Random(seed)
        self.start = start
        self.server = server
        self.workers = [start(**OPTIONS) for _ in range(3)]
        self.told_to_leave: list[BaseProcess] = []
        self.blows: Counter[str] = Counter()

    def blow(self) -> None:
        choices = [self.kill, self.kill, self.stop_past_its_lease, self.join]
        if self.server is not None:
            choices.append(self.restart_server)
        blow = self.draw.choice(choices)
        self.blows[blow.__name__] += 1
        blow()

    def kill(self) -> None:
        victim = self.draw.choice(self.workers)
        victim.kill()
        victim.join()
        self.workers[self.workers.index(victim)] = self.start(**OPTIONS)

    def join(self) -> None:
        """Start one more worker, and ask another one to stop."""
        leaving = self.draw.choice(self.workers)
        if leaving not in self.told_to_leave:  # a second signal would end it at once
            self.told_to_leave.append(leaving)
            _signal(leaving, signal.SIGTERM)
        self.workers.append(self.start(**OPTIONS))

    def stop_past_its_lease(self) -> None:
        victim = self.draw.choice(self.workers)
        _signal(victim, signal.SIGSTOP)
        time.sleep(1.3 * LEASE_S)
        _signal(victim, signal.SIGCONT)

    def restart_server(self) -> None:
        assert self.server is not None
        self.server.stop(self.draw.choice(SERVER_ENDS))
        time.sleep(self.draw.uniform(0.0, 0.5))
        self.server.start()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Server | None:
    return request.getfixturevalue("postgres") if "postgresql" in request.node.name else None


@pytest.mark.parametrize("seed", range(10))
def test_study_when_workers_and_server_are_killed_meets_the_budget(
    tmp_path: Path, storage: BatchedStorage, start: Start, server: Server | None, seed: int
) -> None:
    study_id = StoredStudy.create(make_spec(tmp_path, f"study.n_trials={BUDGET}"), storage).study_id
    storm = Storm(seed, start, server)
    until = time.monotonic() + STORM_S
    while time.monotonic() < until:
        time.sleep(storm.draw.uniform(0.1, 0.6))
        storm.blow()
    storm.workers.append(start(**OPTIONS))
    ends = [_end_of(worker) for worker in storm.workers]
    # A worker that gets the signal before it has loaded its modules is ended by it.
    assert set(ends) <= {0, -signal.SIGTERM}, f"seed {seed}, blows {dict(storm.blows)}"
    assert_exact(storage.get_all_trials(study_id), BUDGET)


def test_trials_of_a_killed_worker_are_requeued_after_its_lease(
    tmp_path: Path, storage: BatchedStorage, start: Start
) -> None:
    study_id = StoredStudy.create(make_spec(tmp_path, f"study.n_trials={BUDGET}"), storage).study_id
    killed, witness = start(**OPTIONS), start(**OPTIONS)
    while not (orphans := _running(storage, study_id, killed)):
        time.sleep(0.01)
    killed.kill()
    begun = time.monotonic()
    while _running(storage, study_id, killed):
        assert time.monotonic() - begun < LEASE_S + 3.0  # one polling interval on a busy machine
        time.sleep(0.01)
    assert time.monotonic() - begun > 0.3 * LEASE_S
    assert orphans
    witness.join(60)
    assert_exact(storage.get_all_trials(study_id), BUDGET)


def _signal(worker: BaseProcess, number: int) -> None:
    if worker.is_alive() and worker.pid is not None:
        os.kill(worker.pid, number)


def _running(storage: BatchedStorage, study_id: int, worker: BaseProcess) -> list[int]:
    trials = storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
    return [t.number for t in trials if t.user_attrs.get("worker") == str(worker.pid)]


def _end_of(worker: BaseProcess) -> int | None:
    worker.join(90)
    return worker.exitcode
