"""Enqueued params: from the study file, from the command line, from another study."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from headsweep.errors import StudyError
from headsweep.search.enqueued import complete_params
from headsweep.settings import WorkerSettings
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import WorkerSession
from tests.helpers.curves import CurveEngine, work_through
from tests.helpers.study_specs import DOCUMENT, make_spec

RATE, SIZE = "training.learning_rate", "training.batch_size"
OPTIMIZER, MOMENTUM = "training.optimizer", "training.momentum"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture
def storage(url: str) -> Iterator[BatchedStorage]:
    storage = open_storage(url, create=True)
    yield storage
    storage.database.close()


def listed(*params: dict[str, Any], n_trials: int = 12) -> dict[str, Any]:
    """Return the section `study` with params to enqueue."""
    return DOCUMENT["study"] | {"n_trials": n_trials, "enqueue": list(params)}


def search(url: str, name: str = "probe") -> None:
    settings = WorkerSettings(poll_s=0.01)
    with WorkerSession(StoredStudy.open(name, url), settings, worker="one") as session:
        work_through(session, CurveEngine(slots=4), settings)


def test_complete_params_of_an_empty_dict_is_the_default_config(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    training = spec.config.training
    defaults = {RATE: training.learning_rate, SIZE: 256, OPTIMIZER: training.optimizer}
    assert complete_params({}, spec, where="test") == defaults


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"head.width": 3}, "unknown key 'head.width'. Searched are training.learning_rate, "),
        ({"training.learning_rat": 0.1}, "unknown key 'training.learning_rat'. Did you mean"),
        ({RATE: 0.5}, f"{RATE} must be between 1e-05 and 0.1, found 0.5"),
        ({RATE: "high"}, f"{RATE} must be between 1e-05 and 0.1, found 'high'"),
        ({SIZE: 96}, f"{SIZE} must be one of 64, 256, found 96"),
        ({SIZE: True}, f"{SIZE} must be one of 64, 256, found True"),
        ({OPTIMIZER: "adamw", MOMENTUM: 0.9}, f"{MOMENTUM} is not searched with these other"),
    ],
)
def test_complete_params_with_bad_params_is_refused(
    tmp_path: Path, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(StudyError, match=r"^test: ") as refused:
        complete_params(params, make_spec(tmp_path), where="test")
    assert message in str(refused.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, 2.5])
def test_complete_params_with_no_whole_number_for_one_is_refused(
    tmp_path: Path, value: float
) -> None:
    """Before the fix, NaN and infinity raised ValueError and OverflowError."""
    space = DOCUMENT["space"] | {"training.max_epochs": {"type": "int", "low": 1, "high": 3}}
    with pytest.raises(StudyError, match=r"max_epochs must be between 1 and 3, found"):
        complete_params({"training.max_epochs": value}, make_spec(tmp_path, space=space), where="a")


def test_create_with_enqueued_params_runs_each_of_them_once(
    tmp_path: Path, storage: BatchedStorage, url: str
) -> None:
    section = listed({RATE: 0.01, SIZE: 64}, {OPTIMIZER: "sgd", MOMENTUM: 0.95, SIZE: 256})
    for _ in range(3):  # continuing the study enqueues no params twice
        study = StoredStudy.create(make_spec(tmp_path, study=section), storage)
    search(url)
    trials = study.trials()
    assert len(trials) == 12
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    first, second = trials[:2]
    assert (first.params[RATE], first.params[SIZE]) == (0.01, 64)
    assert (second.params[MOMENTUM], second.params[SIZE]) == (0.95, 256)
    assert Counter(t.user_attrs.get("enqueued_by") for t in trials) == {"study file": 2, None: 10}


def test_create_with_a_longer_list_enqueues_the_new_entries_only(
    tmp_path: Path, storage: BatchedStorage
) -> None:
    StoredStudy.create(make_spec(tmp_path, study=listed({RATE: 0.01})), storage)
    longer = make_spec(tmp_path, study=listed({RATE: 0.01}, {RATE: 0.02}))
    study = StoredStudy.create(longer, storage)
    assert [t.system_attrs["fixed_params"][RATE] for t in study.trials()] == [0.01, 0.02]
    with pytest.raises(StudyError, match="may only grow at its end; its first 2 entries"):
        StoredStudy.create(make_spec(tmp_path, study=listed({RATE: 0.03})), storage)


def test_enqueued_params_and_patience_leave_the_fingerprint_alone(tmp_path: Path) -> None:
    plain = make_spec(tmp_path).fingerprint()
    section = listed({RATE: 0.01}) | {"patience": 7}
    assert make_spec(tmp_path, study=section).fingerprint() == plain


def test_study_file_with_bad_enqueued_params_is_refused_with_its_entry(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"study\.enqueue\[1\]: training\.batch_size must be one"):
        make_spec(tmp_path, study=listed({}, {SIZE: 65}))


def test_enqueue_command_adds_trials_that_run_first(
    headsweep, tmp_path: Path, storage: BatchedStorage, url: str
) -> None:
    study = StoredStudy.create(make_spec(tmp_path, "study.n_trials=3"), storage)
    done = headsweep("enqueue", "probe", f"{RATE}=0.03", f"{SIZE}=256", "--storage", url)
    assert (done.code, done.out, done.err) == (0, "enqueued: trials 0\n", "")
    bad = headsweep("enqueue", "probe", f"{SIZE}=7", "--storage", url)
    assert (bad.code, bad.err.count("\n")) == (2, 1)
    assert "must be one of 64, 256, found 7" in bad.err
    assert headsweep("enqueue", "probe", "--storage", url).code == 2
    for _ in range(3):
        more = headsweep("enqueue", "probe", f"{RATE}=0.02", "--storage", url)
    assert "4 trials wait but the budget allows 3 more" in more.err
    search(url)
    assert [t.params[RATE] for t in study.trials()[:3]] == [0.03, 0.02, 0.02]


def test_enqueue_from_study_takes_its_best_trials_that_fit(
    headsweep, tmp_path: Path, storage: BatchedStorage, url: str
) -> None:
    old = StoredStudy.create(make_spec(tmp_path), storage)
    search(url)
    narrow = DOCUMENT["space"] | {SIZE: {"type": "categorical", "choices": [64]}}
    section = {"name": "narrow", "n_trials": 12}
    new = StoredStudy.create(make_spec(tmp_path, study=section, space=narrow), storage)
    command = ("enqueue", "narrow", "--from-study", "probe", "--top", 6, "--storage", url)
    warnings.simplefilter("default")  # pytest restores its filters
    done = headsweep(*command)
    assert done.code == 0
    fitting = [t.params for t in old.best_trials(6) if t.params[SIZE] == 64]
    assert [t.system_attrs["fixed_params"] for t in new.trials()] == fitting
    assert done.err.count("\n") == 1
    assert f"{6 - len(fitting)} of 6 trials of study 'probe' do not fit the space" in done.err
    search(url, "narrow")
    assert [t.params for t in new.trials()[: len(fitting)]] == fitting


def test_enqueue_from_study_when_no_trial_fits_is_refused_with_the_reason(
    headsweep, tmp_path: Path, storage: BatchedStorage, url: str
) -> None:
    """Before the fix, the command printed `enqueued: trials none` and exited with 0."""
    StoredStudy.create(make_spec(tmp_path), storage)
    search(url)
    other = {"training.max_epochs": {"type": "int", "low": 1, "high": 3}}
    section = {"name": "other", "n_trials": 2}
    new = StoredStudy.create(make_spec(tmp_path, study=section, space=other), storage)
    done = headsweep("enqueue", "other", "--from-study", "probe", "--storage", url)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "no trial of study 'probe' fits the space: trial " in done.err
    assert "unknown key 'training." in done.err
    assert not new.trials()
