"""Claims: how the budget is counted, and what happens to trials whose worker is gone."""

import datetime
from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import Connection, delete, update

from headsweep.errors import SearchError
from headsweep.search.spec import StudySpec
from headsweep.settings import WorkerSettings
from headsweep.storage.attributes import FAILURE, HOST, LOST, RETRIES, RETRY_OF, WORKER
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.bulk_writes import Changes, write_changes
from headsweep.storage.claims import (
    FOREIGN_GRACE_S,
    Claims,
    claim,
    count_states,
    heartbeats,
    renew,
)
from headsweep.storage.expiry import take_back
from headsweep.storage.optuna_tables import (
    HEARTBEATS,
    TRIALS,
    USER_ATTRS,
    to_local,
    trial_id,
    utc_now,
)
from headsweep.storage.trial_cache import TrialCache
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import WorkerSession
from tests.helpers.study_specs import make_spec

LIMITS: dict[str, Any] = {"lease_s": 60.0, "max_retries": 1, "max_failures": 1}
OUT_OF_LEASE = {"lease_s": -1.0}
"""Makes every lease expired, because a test cannot set the clock of PostgreSQL."""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> StudySpec:
    return make_spec(tmp_path_factory.mktemp("study"), "study.n_trials=6")


@pytest.fixture
def storage(spec: StudySpec, store_url: str) -> Iterator[BatchedStorage]:
    """A storage with two studies. The tests use the second; the first has a larger budget."""
    storage = open_storage(store_url, create=True)
    StoredStudy.create(spec.model_copy(update={"name": "other", "n_trials": 9}), storage)
    assert StoredStudy.create(spec, storage).study_id == 2
    yield storage
    storage.remove_session()
    storage.database.close()


def claimed(
    storage: BatchedStorage, cache: TrialCache, n: int, worker: str = "w", **limits: float
) -> Claims:
    return storage.database.write(
        lambda c: claim(c, cache, n, worker=worker, host="h", **LIMITS | limits),
        study_id=cache.study_id,
    )


def test_claim_returns_the_budget_left_after_running_and_claimed_trials(storage) -> None:
    cache = TrialCache(2)
    first, second, third = (claimed(storage, cache, 4) for _ in range(3))
    assert [len(claims.trials) for claims in (first, second, third)] == [4, 2, 0]
    assert [claims.budget_left for claims in (first, second, third)] == [2, 0, 0]
    assert [claims.others_running for claims in (first, second, third)] == [0, 0, 6]
    assert all(t.user_attrs == {WORKER: "w", HOST: "h"} for t in (*first.trials, *second.trials))
    assert storage.get_all_trials(2) == [*first.trials, *second.trials]

    cache.own |= {trial_id(trial) for trial in second.trials}
    assert claimed(storage, cache, 1).others_running == 4
    stock_runs = trial_id(first.trials[0])  # no heartbeat is ever written for such a trial
    storage.database.write(
        lambda c: c.execute(delete(HEARTBEATS).where(HEARTBEATS.c.trial_id == stock_runs)),
        study_id=2,
    )
    assert claimed(storage, cache, 1).others_running == 4


def test_claim_when_a_trial_without_heartbeats_is_old_fills_the_budget(storage) -> None:
    """Stock Optuna leaves a trial RUNNING if its process is killed."""
    cache = TrialCache(2)
    (left,) = claimed(storage, cache, 1, max_failures=0).trials

    def leave(connection: Connection, age_s: float) -> None:
        connection.execute(delete(HEARTBEATS))
        start = utc_now() - datetime.timedelta(seconds=age_s)
        connection.execute(update(TRIALS).values(datetime_start=start))

    storage.database.write(lambda c: leave(c, FOREIGN_GRACE_S - 60), study_id=2)
    young = claimed(storage, TrialCache(2), 9)
    assert (len(young.trials), young.budget_left) == (5, 0)
    assert [trial.number for trial in young.foreign] == [left.number]
    storage.database.write(lambda c: leave(c, FOREIGN_GRACE_S + 60), study_id=2)
    old = claimed(storage, TrialCache(2), 9)
    assert len(old.trials) == 6  # none of the six without heartbeats counts any more
    assert (old.budget_left, old.foreign) == (0, ())


def test_claim_when_a_running_trial_was_deleted_claims_another_one(storage) -> None:
    cache = TrialCache(2)
    first = claimed(storage, cache, 6).trials
    storage.database.read(cache.sync)
    gone = trial_id(first[2])

    def remove(connection: Connection) -> None:
        for table in (HEARTBEATS, USER_ATTRS, TRIALS):
            connection.execute(delete(table).where(table.c.trial_id == gone))

    storage.database.write(remove, study_id=2)
    assert claimed(storage, cache, 1).trials == ()  # this call notices the deletion
    (another,) = claimed(storage, cache, 1).trials
    assert another.number == 6


def test_claim_when_stock_optuna_starts_a_waiting_trial_leaves_it_alone(
    storage: BatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock Optuna starts WAITING trials without the study's lock."""
    study = optuna.load_study(study_name="probe", storage=storage)
    study.enqueue_trial({"training.batch_size": 64})
    cache = TrialCache(2)
    sync = cache.sync

    def sync_then_lose(connection: Connection, **options: Any) -> None:
        sync(connection, **options)
        connection.execute(update(TRIALS).values(state=TrialState.RUNNING))

    monkeypatch.setattr(cache, "sync", sync_then_lose)
    assert claimed(storage, cache, 1).trials == ()


def test_claim_by_two_workers_gives_consecutive_numbers_within_the_budget(storage) -> None:
    mine, theirs, other = TrialCache(2), TrialCache(2), TrialCache(1)
    got = [claimed(storage, cache, 2).trials for cache in (mine, other, theirs, mine, theirs)]
    assert [[t.number for t in some] for some in got] == [[0, 1], [0, 1], [2, 3], [4, 5], []]
    states = storage.database.read(lambda c: count_states(c, 2))
    assert states == {state: 6 * (state == TrialState.RUNNING) for state in TrialState}


def test_claim_when_leases_ran_out_retries_trials_up_to_the_limit(storage, store_url) -> None:
    session = WorkerSession(StoredStudy.open("probe", store_url), WorkerSettings(), worker="first")
    (dead,) = session.claim(1).trials
    session.storage.database.close()
    cache = TrialCache(2)
    assert claimed(storage, cache, 1, lease_s=60.0).trials[0].number == 1  # the other is alive
    second = claimed(storage, cache, 3, **OUT_OF_LEASE)
    assert [trial.number for trial in second.trials] == [2, 3, 4]
    assert second.budget_left == 3
    third = claimed(storage, cache, 3, max_failures=2, **OUT_OF_LEASE)
    # Trials 2 and 3 lost a worker for the second time: they fail, and other trials are claimed.
    assert [trial.number for trial in third.trials] == [5, 6, 7]

    trials = storage.get_all_trials(2)
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 5 + [TrialState.RUNNING] * 3
    lost = {"its lease ran out": [0, 1, 4], None: [2, 3, 5, 6, 7]}
    for reason, numbers in lost.items():
        assert [t.number for t in trials if t.user_attrs.get(LOST) == reason] == numbers
    assert (
        trials[2].user_attrs[FAILURE] == trials[3].user_attrs[FAILURE] == "its worker died 2 times"
    )
    lineage = [(t.user_attrs.get(RETRY_OF), t.user_attrs.get(RETRIES)) for t in trials]
    assert lineage[2:6] == [(0, 1), (1, 1), (None, None), (4, 1)]
    assert trials[2].params == dead.params != {}
    assert trials[2].distributions == dead.distributions
    with pytest.raises(
        SearchError, match="2 trials of the study failed, more than 1; the last is trial 3"
    ):
        claimed(storage, cache, 1, max_failures=1)
    assert claimed(storage, cache, 9, max_failures=2).budget_left == 0


def test_renew_moves_the_heartbeats_of_the_given_trials_only(storage) -> None:
    keys = [trial_id(trial) for trial in claimed(storage, TrialCache(2), 2).trials]

    def beats() -> dict[int, datetime.datetime]:
        return storage.database.read(lambda c: heartbeats(c, keys))

    first = beats()
    assert first.keys() == set(keys)
    assert len(set(first.values())) == 1
    assert abs(first[keys[0]] - utc_now()) < datetime.timedelta(minutes=10)
    storage.database.write(lambda c: renew(c, 2, "w", keys[1:]), study_id=None)
    assert beats()[keys[0]] == first[keys[0]]
    assert beats()[keys[1]] > first[keys[1]]
    assert storage.database.read(lambda c: heartbeats(c, [])) == {}


def test_take_back_fails_and_requeues_only_own_trials_of_the_study(storage) -> None:
    cache = TrialCache(2)
    for worker, looked_at in (("a", cache), ("b", cache), ("a", TrialCache(1))):
        claimed(storage, looked_at, 2, worker)

    def back(worker: str) -> int:
        return storage.database.write(lambda c: take_back(c, 2, worker, max_retries=1), study_id=2)

    assert [back("a"), back("a"), back("h"), back("c")] == [2, 0, 0, 0]
    states = [trial.state.name for trial in storage.get_all_trials(2)]
    assert states == ["FAIL", "FAIL", "RUNNING", "RUNNING", "WAITING", "WAITING"]
    assert [t.state.name for t in storage.get_all_trials(1)] == ["RUNNING", "RUNNING"]


def test_write_changes_when_a_trial_has_ended_skips_and_returns_it(storage) -> None:
    ended, runs = (trial_id(trial) for trial in claimed(storage, TrialCache(2), 2).trials)
    now = datetime.datetime(2026, 11, 23, 1, 30)

    def written(values: dict[int, float]) -> frozenset[int]:
        changes = {
            key: Changes(reports={1: value}, end=(TrialState.COMPLETE, [value]))
            for key, value in values.items()
        }
        return storage.database.write(lambda c: write_changes(c, 2, changes, {}, now), study_id=2)

    assert written({ended: 0.25}) == frozenset()
    assert written({ended: 0.5, runs: 0.75}) == {ended}
    trials = storage.get_all_trials(2)
    assert [(t.value, t.intermediate_values) for t in trials] == [
        (0.25, {1: 0.25}),
        (0.75, {1: 0.75}),
    ]
    assert {(t.state, t.datetime_complete) for t in trials} == {
        (TrialState.COMPLETE, to_local(now))
    }


@pytest.mark.parametrize(
    ("crashed", "reason"),
    [(True, "its worker failed"), (False, "its worker was told to stop")],
)
def test_hand_back_records_the_reason_and_removes_the_trial_from_its_rungs(
    storage: BatchedStorage, store_url: str, crashed: bool, reason: str
) -> None:
    with WorkerSession(
        StoredStudy.open("probe", store_url), WorkerSettings(), worker="first"
    ) as session:
        (trial,) = session.claim(1).trials
        session.report(trial_id(trial), 1, 0.9)
        assert session.trials_to_prune([trial_id(trial)]) == frozenset()
        session.flush()
        assert storage.current(2).at_rung(0).ascending == [0.9]
        session.hand_back(crashed=crashed)

    dead, successor = storage.get_all_trials(2)
    assert (dead.state, successor.state) == (TrialState.FAIL, TrialState.WAITING)
    assert dead.user_attrs[LOST] == reason
    assert successor.user_attrs[RETRIES] == int(crashed)
    assert successor.user_attrs[RETRY_OF] == dead.number
    # Optuna's own pruners count every trial with this attribute, in any state.
    assert "completed_rung_0" not in dead.system_attrs
    assert dead.system_attrs["lost_completed_rung_0"] == 0.9
    assert storage.current(2).at_rung(0).ascending == []
