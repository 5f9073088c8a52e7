"""Studies created by stock Optuna are adopted, or refused in one line."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from headsweep.errors import StudyError
from headsweep.settings import WorkerSettings
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import WorkerSession
from tests.helpers.curves import CurveEngine, work_through
from tests.helpers.study_specs import make_spec

RATE = "training.learning_rate"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture
def storage(url: str) -> Iterator[BatchedStorage]:
    storage = open_storage(url, create=True)
    yield storage
    storage.database.close()


def stock_study(url: str, **kwargs: Any) -> optuna.Study:
    return optuna.create_study(storage=url, study_name="probe", **kwargs)


def one_line(tmp_path: Path, storage: BatchedStorage) -> str:
    """Return the error message, and check that nothing of headsweep was written."""
    with pytest.raises(StudyError) as refused:
        StoredStudy.create(make_spec(tmp_path), storage)
    assert "headsweep:definition" not in storage.get_study_user_attrs(1)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_create_when_stock_study_maximizes_adopts_it(
    tmp_path: Path, storage: BatchedStorage, url: str
) -> None:
    study = stock_study(url, direction="maximize")
    study.set_user_attr("note", "made in advance")
    spec = make_spec(tmp_path)
    assert StoredStudy.create(spec, storage).study_id == 1
    assert StoredStudy.open("probe", storage).spec == spec
    assert study.user_attrs["note"] == "made in advance"


def test_create_when_stock_study_minimizes_refuses(
    tmp_path: Path, storage: BatchedStorage, url: str
) -> None:
    stock_study(url)
    assert one_line(tmp_path, storage).startswith(
        "probe: the stored study minimizes its objective (the default of `optuna create-study`), "
        "but headsweep maximizes one objective, val/auprc_macro. "
    )


def test_create_when_stock_study_has_two_objectives_refuses(
    tmp_path: Path, storage: BatchedStorage, url: str
) -> None:
    stock_study(url, directions=["maximize", "maximize"])
    assert "the stored study has 2 objectives" in one_line(tmp_path, storage)


@pytest.mark.parametrize(
    ("end", "found"),
    [
        (lambda study, trial: None, "trials of another program (1 RUNNING)"),
        (lambda study, trial: study.tell(trial, 0.5), "(1 COMPLETE)"),
        (lambda study, trial: study.tell(trial, state=TrialState.FAIL), "(1 FAIL)"),
    ],
    ids=["running", "complete", "failed"],
)
def test_create_when_stock_study_has_begun_trials_refuses(
    tmp_path: Path,
    storage: BatchedStorage,
    url: str,
    end: Callable[[optuna.Study, optuna.Trial], None],
    found: str,
) -> None:
    study = stock_study(url, direction="maximize")
    end(study, study.ask())
    assert found in one_line(tmp_path, storage)


def test_create_when_stock_sampler_left_its_state_refuses(
    tmp_path: Path, storage: BatchedStorage, url: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(seed=0)
    study = stock_study(url, direction="maximize", sampler=sampler)
    for _ in range(2):
        study.tell(study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), 0.5)
    for trial_id in (1, 2):  # deletes the trials, but not the sampler's position in its sequence
        with storage.database.engine.begin() as connection:
            for table in ("trial_values", "trial_params", "trials"):
                connection.exec_driver_sql(f"DELETE FROM {table} WHERE trial_id = {trial_id}")
    assert "the state of another sampler or pruner (qmc:" in one_line(tmp_path, storage)


def test_create_when_stock_study_has_enqueued_trials_runs_them(
    tmp_path: Path, storage: BatchedStorage, url: str
) -> None:
    study = stock_study(url, direction="maximize")
    study.enqueue_trial({RATE: 0.01})
    StoredStudy.create(make_spec(tmp_path, "study.n_trials=4"), storage)
    with WorkerSession(StoredStudy.open("probe", url), WorkerSettings(), worker="one") as session:
        work_through(session, CurveEngine(slots=2), WorkerSettings(poll_s=0.01))
    trials = optuna.load_study(study_name="probe", storage=url).trials
    assert len(trials) == 4
    assert [trial.params[RATE] for trial in trials].count(0.01) == 1


def test_session_when_study_of_before_minimizes_refuses(
    tmp_path: Path, storage: BatchedStorage, url: str
) -> None:
    """Earlier versions adopted such studies, and their workers searched for the lowest value."""
    study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
    with storage.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE study_directions SET direction = 'MINIMIZE'")
    with pytest.raises(StudyError, match="minimizes its objective"):
        WorkerSession(StoredStudy.open("probe", url), WorkerSettings(), worker="one")
    with pytest.raises(StudyError, match="minimizes its objective"):
        StoredStudy.create(make_spec(tmp_path), storage)
    assert storage.get_all_trials(study_id) == []


def test_create_names_the_metric_for_plots(
    tmp_path: Path, storage: BatchedStorage, url: str
) -> None:
    StoredStudy.create(make_spec(tmp_path), storage)
    assert optuna.load_study(study_name="probe", storage=url).metric_names == ["val/auprc_macro"]


def test_create_when_metric_is_named_keeps_the_name(
    tmp_path: Path, storage: BatchedStorage, url: str
) -> None:
    study = stock_study(url, direction="maximize")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["AUPRC"])
    StoredStudy.create(make_spec(tmp_path), storage)
    assert study.metric_names == ["AUPRC"]
