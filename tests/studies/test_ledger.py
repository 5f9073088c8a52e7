"""What the ledger says of a budget, and what it leaves of a trial that lost its worker."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

from headsweep.settings import WorkerSettings
from headsweep.studies.ledger import LOST, RETRIES, RETRY_OF, Claims, claim
from headsweep.studies.mirror import Mirror
from headsweep.studies.schema import trial_id
from headsweep.studies.session import Session
from headsweep.studies.storage import BatchedStorage
from headsweep.studies.store import create_or_continue, open_storage
from tests.studies.builders import make_spec


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture
def storage(tmp_path: Path, url: str) -> Iterator[BatchedStorage]:
    storage = open_storage(url, create=True)
    create_or_continue(make_spec(tmp_path, "study.n_trials=6"), storage)
    yield storage
    storage.database.close()


def test_the_budget_left_is_without_what_runs_and_what_was_just_claimed(storage) -> None:
    mirror = Mirror(1)

    def claimed(n: int) -> Claims:
        limits = {"lease_s": 60.0, "max_retries": 1, "max_failures": 1}
        return storage.database.write(
            lambda c: claim(c, mirror, n, worker="w", host="h", **limits), study_id=1
        )

    first, second, third = claimed(4), claimed(4), claimed(4)
    assert [len(claims.trials) for claims in (first, second, third)] == [4, 2, 0]
    assert [claims.budget_left for claims in (first, second, third)] == [2, 0, 0]
    assert third.others_running == 6


@pytest.mark.parametrize(
    ("crashed", "reason"),
    [(True, "its worker failed"), (False, "its worker was told to stop")],
)
def test_a_trial_handed_back_says_why_and_leaves_the_rungs_to_its_successor(
    storage: BatchedStorage, url: str, crashed: bool, reason: str
) -> None:
    with Session("probe", open_storage(url), WorkerSettings(), worker="first") as session:
        (trial,) = session.claim(1).trials
        session.report(trial_id(trial), 1, 0.9)
        assert session.verdicts([trial_id(trial)]) == frozenset()
        session.flush()
        assert storage.current(1).at_rung(0).ascending == [0.9]
        session.hand_back(crashed=crashed)

    dead, successor = storage.get_all_trials(1)
    assert (dead.state, successor.state) == (TrialState.FAIL, TrialState.WAITING)
    assert dead.user_attrs[LOST] == reason
    assert successor.user_attrs[RETRIES] == int(crashed)
    assert successor.user_attrs[RETRY_OF] == dead.number
    # Stock Optuna's pruners count whoever has this attribute, in any state.
    assert "completed_rung_0" not in dead.system_attrs
    assert dead.system_attrs["lost_completed_rung_0"] == 0.9
    assert storage.current(1).at_rung(0).ascending == []
