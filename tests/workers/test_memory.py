"""Trials that do not fit into memory even alone fail with a reason and use no budget."""

from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState

from headsweep.engine import groups
from headsweep.engine.engine import Engine
from headsweep.engine.programs.linear import LinearProgram
from headsweep.engine.programs.linear_rows import Rows
from headsweep.engine.programs.linear_stack import Stack
from headsweep.errors import SearchError
from headsweep.settings import EngineSettings, WorkerSettings
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import join
from headsweep.workers.loop import Loop
from headsweep.workers.signals import Stop
from tests.helpers.exact_budget import assert_exact
from tests.helpers.splits import make_split
from tests.helpers.study_specs import make_spec

SPLITS = make_split("train", 300, seed=1), make_split("valid", 90, seed=2)
MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.fixture(autouse=True)
def small_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a device on which minibatches of 256 rows do not fit in a group of any size."""

    class Small(LinearProgram):
        def train_batch(self, stack: Stack, rows: Rows) -> None:
            if rows.length > 64:
                raise torch.OutOfMemoryError(MESSAGE)
            super().train_batch(stack, rows)

    monkeypatch.setitem(groups.PROGRAMS, "linear", Small)


def work(url: str, *, max_failures: int) -> None:
    settings = WorkerSettings(poll_s=0.01, max_failures=max_failures)
    engine = Engine(*SPLITS, EngineSettings(device="cpu", slots=8))
    with join("probe", url, settings, worker="small") as session:
        Loop(session, engine, settings, Stop()).run()


def test_loop_when_trials_do_not_fit_fails_them_and_spends_no_budget(
    tmp_path: Path, store_url: str, storage: BatchedStorage
) -> None:
    study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
    work(store_url, max_failures=1000)
    trials = storage.get_all_trials(study_id)
    assert_exact(trials, 40)
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert failed
    assert {trial.params["training.batch_size"] for trial in failed} == {256}
    assert all(MESSAGE in trial.user_attrs["failure"] for trial in failed)
    assert not any("retry_of" in trial.user_attrs for trial in trials)
    assert {t.params["training.batch_size"] for t in trials if t not in failed} == {64}
    assert StoredStudy.open("probe", storage).summary().states["FAIL"] == len(failed)


def test_loop_when_too_many_trials_do_not_fit_raises(
    tmp_path: Path, store_url: str, storage: BatchedStorage
) -> None:
    study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
    with pytest.raises(
        SearchError,
        match=r"trials of the study failed, more than 3.*does not fit into memory even alone",
    ):
        work(store_url, max_failures=3)
    states = {trial.state for trial in storage.get_all_trials(study_id)}
    assert TrialState.RUNNING not in states
