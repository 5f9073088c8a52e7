"""Searches that stop before their budget is spent, by a time limit or by patience."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from headsweep.settings import LAUNCHER_VARIABLE, WorkerSettings
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.studies.stopping import DEADLINE, Improvements, counted
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import WorkerSession
from tests.helpers.curves import CurveEngine, work_through
from tests.helpers.study_specs import DOCUMENT, make_spec

BEGUN = datetime.datetime(2026, 1, 1)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture
def storage(url: str) -> Iterator[BatchedStorage]:
    storage = open_storage(url, create=True)
    yield storage
    storage.database.close()


def search(url: str, *, epoch_s: float = 0.0, slots: int = 4) -> None:
    settings = WorkerSettings(poll_s=0.01)
    with WorkerSession(StoredStudy.open("probe", url), settings, worker="one") as session:
        work_through(session, CurveEngine(slots=slots, epoch_s=epoch_s), settings)


def ended(values: list[float | None]) -> list[FrozenTrial]:
    """Return trials that finished one per second with these values; None means pruned."""
    return [
        optuna.trial.create_trial(
            state=TrialState.PRUNED if value is None else TrialState.COMPLETE, value=value
        )
        for value in values
    ]


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ([], 0),
        ([0.5], 0),
        ([0.5, 0.4, 0.5], 2),
        ([0.5, None, 0.6], 0),
        ([0.5, None, 0.6, None, 0.1], 2),
        ([None, None], 2),
    ],
)
def test_n_without_counts_from_the_best(values: list[float | None], count: int) -> None:
    trials = ended(values)
    for i, trial in enumerate(trials):
        trial.number, trial.datetime_complete = i, BEGUN + datetime.timedelta(seconds=i)
    assert counted(trials).n_without == count
    assert counted(reversed(trials)).n_without == count


@given(st.lists(st.tuples(st.none() | st.integers(0, 4), st.integers(0, 9), st.booleans())))
def test_improvements_equal_a_walk_over_all_trials(
    trials: list[tuple[int | None, int, bool]],
) -> None:
    """Trials end in any order and at equal times; some violate the constraint."""
    finished = ended([None if value is None else float(value) for value, _, _ in trials])
    for number, (trial, (_, second, feasible)) in enumerate(zip(finished, trials, strict=True)):
        trial.number = number
        trial.datetime_complete = BEGUN + datetime.timedelta(seconds=second)
        trial.set_constraint("ece", 0.0 if feasible else 0.1)
    best, count = None, 0
    for trial in sorted(finished, key=lambda t: (t.datetime_complete, t.number)):
        value = trial.value if trial.state == TrialState.COMPLETE else None
        better = value is not None and (best is None or value > best)
        if better and trial.constraints["ece"] <= 0:
            best, count = value, 0
        else:
            count += 1
    assert counted(finished).n_without == count


def test_worker_with_patience_reads_each_trial_once(
    tmp_path: Path, storage: BatchedStorage, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    section: dict[str, Any] = DOCUMENT["study"] | {"n_trials": 60, "patience": 1000}
    StoredStudy.create(make_spec(tmp_path, study=section), storage)
    counted_numbers: list[int] = []
    add = Improvements.add
    monkeypatch.setattr(
        Improvements, "add", lambda self, t: (counted_numbers.append(t.number), add(self, t))[1]
    )
    search(url)
    assert len(counted_numbers) == len({*counted_numbers}) >= 50


def test_worker_stops_after_patience_and_a_second_worker_starts_nothing(
    tmp_path: Path, storage: BatchedStorage, url: str
) -> None:
    section: dict[str, Any] = DOCUMENT["study"] | {"n_trials": 500, "patience": 15}
    study = StoredStudy.create(make_spec(tmp_path, study=section), storage)
    for _ in range(2):
        search(url)
        n_trials = len(study.trials())
    summary = study.summary()
    assert summary.stopped_by == "patience"
    assert 15 < n_trials < 500
    assert summary.finished == n_trials
    assert summary.states["RUNNING"] == summary.states["WAITING"] == 0
    # Trials that ran when patience was reached finished too, at most as many as there are slots.
    assert 15 <= counted(study.trials()).n_without < 15 + 4


def test_worker_at_the_deadline_ends_running_trials_and_goes_on_later(
    tmp_path: Path, storage: BatchedStorage, url: str
) -> None:
    study = StoredStudy.create(make_spec(tmp_path), storage)
    study.set_deadline(2.0)  # a busy machine takes a second to join
    begun = time.monotonic()
    search(url, epoch_s=0.2, slots=2)
    # Rungs are at the epochs 1, 3 and 9: the slowest trial takes 6 epochs from one to the next.
    assert time.monotonic() - begun < 8
    summary = study.summary()
    assert summary.stopped_by == "timeout"
    assert 0 < summary.finished < summary.n_trials
    assert summary.states["RUNNING"] == summary.states["WAITING"] == 0
    before = len(study.trials())
    search(url)
    assert len(study.trials()) == before

    study.set_deadline(None)
    search(url)
    summary = study.summary()
    assert (summary.finished, summary.stopped_by) == (summary.n_trials, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [("soon", "must be a time such as 2h"), ("0h", "between 1 second"), ("2 h", "must be a time")],
)
def test_timeout_that_is_no_time_is_refused(headsweep, text: str, message: str) -> None:
    ended = headsweep("run", "quickstart", "--timeout", text)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert message in ended.err


def test_run_with_a_timeout_ends_with_its_reason_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    import headsweep as hs

    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).standard_normal((200, 8))
    data = hs.Dataset.from_arrays({"visual": x}, (x[:, :2] > 0).astype(int), labels=["a", "b"])
    definition = DOCUMENT | {
        "study": {"name": "timed", "n_trials": 6},
        "base": ["head=linear", "training.max_epochs=3"],
    }
    with hs.Study.create(definition, data=data) as study:
        study.run(timeout_s=0.01, progress=False)
        assert study.status().stopped_by == "timeout"
        study.run(progress=False)
        assert study.status().finished == 6


@pytest.mark.parametrize(
    ("seconds", "launched", "kept"),
    [(-1.0, False, False), (3600.0, False, True), (-1.0, True, True)],
    ids=["past", "coming", "past-but-started-by-a-launcher"],
)
def test_worker_removes_a_past_deadline_unless_a_launcher_started_it(
    tmp_path: Path,
    storage: BatchedStorage,
    url: str,
    headsweep,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    launched: bool,
    kept: bool,
) -> None:
    study = StoredStudy.create(make_spec(tmp_path), storage)
    study.set_deadline(seconds)
    worked: list[str] = []
    monkeypatch.setattr("headsweep.workers.worker.work", lambda own, *_: worked.append(own.name))
    if launched:
        monkeypatch.setenv(LAUNCHER_VARIABLE, str(os.getppid()))
    assert headsweep("worker", "probe", "--storage", url, "--device", "cpu").code == 0
    assert worked == ["probe"]
    assert (study.attrs().get(DEADLINE) is not None) == kept


@pytest.mark.parametrize(("seconds", "kept"), [(-1.0, False), (3600.0, True)])
def test_create_removes_a_past_deadline_and_leaves_a_coming_one(
    tmp_path: Path, url: str, headsweep, seconds: float, kept: bool
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(DOCUMENT))
    create = ("create", file, "--storage", url)
    assert headsweep(*create).code == 0
    with StoredStudy.open("probe", url) as study:
        study.set_deadline(seconds)
    assert headsweep(*create).code == 0
    with StoredStudy.open("probe", url) as study:
        assert (study.attrs().get(DEADLINE) is not None) == kept
