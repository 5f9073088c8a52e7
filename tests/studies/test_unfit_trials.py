"""Finished trials of other programs whose params do not fit the space are never among the best."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from headsweep.api import Study
from headsweep.config.files import read_config
from headsweep.errors import StudyError
from headsweep.settings import WorkerSettings
from headsweep.storage.attributes import FAILURE, REFUSED
from headsweep.storage.optuna_tables import trial_id
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import join
from tests.helpers.study_specs import DOCUMENT, make_spec

RATE, SIZE, OPTIMIZER = "training.learning_rate", "training.batch_size", "training.optimizer"
SPACE = {
    RATE: FloatDistribution(1e-5, 1e-1, log=True),
    SIZE: CategoricalDistribution([64, 256]),
    OPTIMIZER: CategoricalDistribution(["adamw", "sgd"]),
}
FIT = {RATE: 0.01, SIZE: 64, OPTIMIZER: "adamw"}

UNFIT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "out-of-bounds": (FIT | {RATE: 0.5}, SPACE | {RATE: FloatDistribution(1e-5, 1.0, log=True)}),
    "other-choices": (FIT | {SIZE: 96}, SPACE | {SIZE: CategoricalDistribution([64, 96])}),
    "other-kind": (FIT | {RATE: "low"}, SPACE | {RATE: CategoricalDistribution(["low", "high"])}),
    "lacks-params": (
        {RATE: 0.01, OPTIMIZER: "adamw"},
        {RATE: SPACE[RATE], OPTIMIZER: SPACE[OPTIMIZER]},
    ),
    "lacks-a-conditional-param": (FIT | {OPTIMIZER: "sgd"}, SPACE),
    "unknown-name": (FIT | {"lr": 0.1}, SPACE | {"lr": FloatDistribution(0.0, 1.0)}),
}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture(params=list(UNFIT))
def study(request: pytest.FixtureRequest, tmp_path: Path, url: str) -> Iterator[StoredStudy]:
    """A study with a trial of another program, number 0, that does not fit and has a high value."""
    section = DOCUMENT["study"] | {"patience": 2}
    with StoredStudy.create(make_spec(tmp_path, study=section), url) as study:
        params, distributions = UNFIT[request.param]
        stock = optuna.load_study(study_name="probe", storage=url)
        stock.add_trial(create_trial(value=0.9, params=params, distributions=distributions))
        yield study


def complete(url: str, *values: float) -> None:
    """Let a worker complete trials with these values, numbers 1 and up."""
    with join("probe", url, WorkerSettings(), worker="one") as session:
        for value in values:
            (trial,) = session.claim(1).trials
            session.complete(trial_id(trial), value, epochs=1)
            session.flush()


def test_best_trials_leave_out_trials_that_do_not_fit(study: StoredStudy, url: str) -> None:
    complete(url, 0.3, 0.4)
    assert [trial.number for trial in study.best_trials(10)] == [2, 1]
    summary = study.summary()
    assert (summary.best_trial, summary.best_value, summary.n_refused) == (2, 0.4, 1)


def test_patience_does_not_wait_for_better_than_a_trial_that_does_not_fit(
    study: StoredStudy, url: str
) -> None:
    complete(url, 0.1, 0.2, 0.3, 0.4)
    assert study.summary().stopped_by is None


def test_best_trials_when_no_trial_fits_says_that_none_is_complete(study: StoredStudy) -> None:
    with pytest.raises(StudyError, match="no complete trial yet"):
        study.best_trials(1)
    assert study.summary().best_value is None


def test_export_and_best_params_take_the_best_trial_that_fits(
    study: StoredStudy, url: str, tmp_path: Path, headsweep
) -> None:
    complete(url, 0.3, 0.4)
    file = tmp_path / "best.yaml"
    ended = headsweep("export", "probe", "--storage", url, "--trial", "best", "-o", file)
    assert (ended.code, ended.err) == (0, "")
    assert "trial 2," in ended.out
    with Study.open("probe", storage=url) as handle:
        assert read_config(file).training.learning_rate == handle.best_params[RATE]
        assert handle.best_params == study.trial(2).params
        assert handle.best_value == 0.4


def test_status_names_how_many_trials_were_refused(study: StoredStudy, url: str, headsweep) -> None:
    stock = optuna.load_study(study_name="probe", storage=url)
    refused = stock.ask()
    refused.set_user_attr(FAILURE, "enqueued with unfit params")
    refused.set_user_attr(REFUSED, True)
    stock.tell(refused, state=TrialState.FAIL)
    ended = headsweep("status", "probe", "--storage", url)
    assert "probe: refused, as their params do not fit the space: 2 trials" in ended.out
    as_json = headsweep("status", "probe", "--storage", url, "--json")
    assert json.loads(as_json.out)["n_refused"] == 2
