"""Model-based test of the storage: for any order of worker actions the budget is met exactly.

`tests/workers/test_storm.py` kills real processes. Here one process acts as all workers, in orders
that Hypothesis generates and shrinks. The seed is fixed, so a failure can be reproduced.
"""

import shutil
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from optuna.trial import FrozenTrial, TrialState

from headsweep.search.spec import StudySpec
from headsweep.settings import WorkerSettings
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.optuna_tables import trial_id
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import WorkerSession
from tests.helpers.clock import held_clock
from tests.helpers.study_specs import make_spec

pytestmark = pytest.mark.hardening

LEASE_S = 60.0
SETTINGS = WorkerSettings(lease_s=LEASE_S, max_retries=1, max_failures=10**6)
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
LATE_S = 3 * LEASE_S

draw_n = st.integers(1, 3)
draw_worker = st.integers(0, 3)


class Worker:
    """A worker's session and the epoch of each of its trials."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.session = WorkerSession(StoredStudy.open("probe", url), SETTINGS, worker=name)
        self.session.__enter__()
        self.epoch: dict[int, int] = {}

    def vanish(self) -> None:
        """End as if killed, without handing trials back."""
        self.session._open.pop_all()
        self.session.storage.database.close()

    def leave(self) -> None:
        self.session.__exit__(None, None, None)


class Store(RuleBasedStateMachine):
    """Up to four workers on one SQLite storage."""

    def __init__(self) -> None:
        super().__init__()
        self.held = ExitStack()
        self.folder = Path(self.held.enter_context(tempfile.TemporaryDirectory()))
        self.clock = self.held.enter_context(held_clock())
        self.url = f"sqlite:///{self.folder}/studies.db"
        self.workers: dict[int, Worker] = {}
        self.died: list[str] = []
        self.named = 0
        self.told: dict[int, tuple[TrialState, float]] = {}
        """The accepted final state and value of each trial, by number."""

    @initialize()
    def create(self) -> None:
        shutil.copy(TEMPLATE["file"], self.folder / "studies.db")
        self.spec: StudySpec = TEMPLATE["spec"]
        self.budget = self.spec.n_trials
        self.reader: BatchedStorage = open_storage(self.url)

    def worker(self, place: int) -> Worker:
        """Return the worker at a place; start a new one if the place is free."""
        if place not in self.workers:
            self.named += 1
            self.workers[place] = Worker(f"w{self.named}", self.url)
        return self.workers[place]

    def flush(self, worker: Worker, ends: dict[int, tuple[TrialState, float]]) -> None:
        """Flush a worker and record the final states that were accepted."""
        numbers = {key: worker.session.storage.get_trial(key).number for key in ends}
        lost = worker.session.flush()
        for key, end in ends.items():
            if key not in lost:
                assert numbers[key] not in self.told, "a trial ended twice"
                self.told[numbers[key]] = end
        for key in {*ends, *lost}:
            worker.epoch.pop(key, None)

    @rule(place=draw_worker, n=draw_n)
    def claim(self, place: int, n: int) -> None:
        worker = self.worker(place)
        batch = worker.session.claim(n)
        assert len(batch.trials) <= n
        worker.epoch |= {trial_id(trial): 0 for trial in batch.trials}
        for trial in batch.trials:
            assert "training.learning_rate" in trial.params
            worker.session.record_admission(trial, tape_position=0)

    @rule(place=draw_worker)
    def train_and_report(self, place: int) -> None:
        worker, ends = self.worker(place), {}
        for key in worker.epoch:
            worker.epoch[key] = epoch = {0: 1, 1: 3, 3: 9, 9: 9}[worker.epoch[key]]
            worker.session.report(key, epoch, (key * 37 % 11) / 11)
        for key in worker.session.trials_to_prune(list(worker.epoch)):
            worker.session.prune(key, epochs=worker.epoch[key])
            ends[key] = (TrialState.PRUNED, (key * 37 % 11) / 11)
        self.flush(worker, ends)

    @rule(place=draw_worker, n=draw_n)
    def complete(self, place: int, n: int) -> None:
        """Complete trials, also long after the lease ran out, as a worker without fencing would."""
        worker, ends = self.worker(place), {}
        for key in list(worker.epoch)[:n]:
            worker.session.complete(key, key / 1000, epochs=9)
            ends[key] = (TrialState.COMPLETE, key / 1000)
        self.flush(worker, ends)

    @rule(place=draw_worker)
    def fail(self, place: int) -> None:
        worker = self.worker(place)
        for key in list(worker.epoch)[:1]:
            worker.session.fail(key, "it diverged")
            worker.session.flush()
            del worker.epoch[key]

    @rule(place=draw_worker)
    def renew(self, place: int) -> None:
        worker = self.worker(place)
        worker.session.renew(worker.session.running)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), crashed=st.booleans())
    def hand_back(self, data: st.DataObject, crashed: bool) -> None:
        worker = self.workers.pop(data.draw(st.sampled_from(sorted(self.workers))))
        worker.session.hand_back(crashed=crashed)
        worker.leave()

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        worker = self.workers.pop(data.draw(st.sampled_from(sorted(self.workers))))
        worker.vanish()
        self.died.append(worker.name)

    @precondition(lambda self: self.died and len(self.workers) < 4)
    @rule()
    def start_again_under_the_old_name(self) -> None:
        place = min({0, 1, 2, 3} - self.workers.keys())
        self.workers[place] = Worker(self.died.pop(), self.url)

    @rule(seconds=st.sampled_from([LEASE_S / 2, LATE_S, -7200.0, 7200.0]))
    def set_the_clock(self, seconds: float) -> None:
        self.clock.set_by(seconds)

    @rule(n=draw_n)
    def raise_the_budget(self, n: int) -> None:
        self.budget += n
        StoredStudy.create(self.spec.model_copy(update={"n_trials": self.budget}), self.reader)

    @invariant()
    def nothing_is_lost_or_twice(self) -> None:
        trials = self.reader.get_all_trials(1, deepcopy=False)
        assert [trial.number for trial in trials] == list(range(len(trials)))
        states = Counter(trial.state for trial in trials)
        counted = states[TrialState.COMPLETE] + states[TrialState.PRUNED]
        assert counted + states[TrialState.RUNNING] <= self.budget
        ended = {t.number: (t.state, t.value) for t in trials if t.state in FINISHED}
        assert ended == self.told
        self.lineages_are_chains(trials)

    def lineages_are_chains(self, trials: list[FrozenTrial]) -> None:
        successors = Counter(t.user_attrs["retry_of"] for t in trials if "retry_of" in t.user_attrs)
        assert set(successors.values()) <= {1}
        for trial in trials:
            succeeded = trial.number in successors
            failed = trial.state == TrialState.FAIL
            assert ("lost" in trial.user_attrs) == succeeded
            assert failed == (succeeded or "failure" in trial.user_attrs)
            if "retry_of" in trial.user_attrs:
                before = trials[trial.user_attrs["retry_of"]]
                assert before.params.items() <= trial.params.items()
                assert trial.user_attrs["retries"] <= SETTINGS.max_retries

    def teardown(self) -> None:
        """Kill all workers, set the clock back two hours, and finish with a new worker."""
        try:
            if hasattr(self, "reader"):
                for worker in self.workers.values():
                    worker.vanish()
                self.clock.set_by(-7200)
                self.finish()
                self.reader.database.close()
        finally:
            self.held.close()

    def finish(self) -> None:
        last = Worker("last", self.url)
        for _ in range(200):
            batch = last.session.claim(4)
            ends = {}
            for trial in batch.trials:
                key = trial_id(trial)
                last.session.complete(key, 0.5, epochs=9)
                ends[key] = (TrialState.COMPLETE, 0.5)
            self.flush(last, ends)
            if batch.over:
                break
            if not batch.trials:
                self.clock.set_by(LEASE_S + 1)
        last.leave()
        self.nothing_is_lost_or_twice()
        assert len(self.told) == self.budget


TEMPLATE: dict = {}


@pytest.fixture(autouse=True)
def template(tmp_path: Path) -> None:
    """A storage with the study, which is copied at the start of every history."""
    spec = make_spec(tmp_path, "study.n_trials=5")
    storage = open_storage(f"sqlite:///{tmp_path}/template.db", create=True)
    StoredStudy.create(spec, storage)
    with storage.database.engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    storage.database.close()
    TEMPLATE.update(file=tmp_path / "template.db", spec=spec)


def test_storage_under_any_order_of_worker_actions_meets_the_budget() -> None:
    """Fails when `claim` starts one trial more than the budget leaves."""
    run_state_machine_as_test(
        Store,
        settings=settings(
            max_examples=8,
            stateful_step_count=20,
            derandomize=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
