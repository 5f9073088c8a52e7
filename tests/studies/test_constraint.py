"""Studies with a constraint: what workers record, and which trial is the best."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from headsweep.errors import StudyError
from headsweep.search.objective import is_feasible
from headsweep.search.space import distribution
from headsweep.settings import WorkerSettings
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import WorkerSession
from tests.helpers.curves import CurveEngine, work_through
from tests.helpers.study_specs import make_spec

BOUND = 0.05
"""The ECE of `CurveEngine` is a tenth of the value, so values above 0.5 violate the constraint."""


def searched(folder: Path, bound: float) -> tuple[StoredStudy, str]:
    url = f"sqlite:///{folder}/studies.db"
    study = {"name": "probe", "n_trials": 40, "seed": 7}
    sections = {"study": study, "sampler": {"name": "tpe", "n_shared": 1}}
    spec = make_spec(folder, objective={"constraint": {"ece": bound}}, **sections)
    settings = WorkerSettings(poll_s=0.01)
    StoredStudy.create(spec, url).close()
    with WorkerSession(StoredStudy.open("probe", url), settings, worker="one") as session:
        work_through(session, CurveEngine(slots=4), settings)
    return StoredStudy.open("probe", url), url


@pytest.fixture(scope="module")
def constrained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StoredStudy, str]]:
    study, url = searched(tmp_path_factory.mktemp("constrained"), BOUND)
    with study:
        yield study, url


def test_every_trial_records_its_metrics_and_violation(
    constrained: tuple[StoredStudy, str],
) -> None:
    _, url = constrained
    stock = optuna.load_study(study_name="probe", storage=url)
    assert stock.metric_names == ["val/auprc_macro"]
    assert {"user_attrs_val/auprc_macro", "user_attrs_val/ece"} <= {*stock.trials_dataframe()}
    for trial in stock.trials:
        assert trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        assert trial.user_attrs["val/auprc_macro"] == pytest.approx(trial.value)
        assert trial.constraints == {"ece": pytest.approx((trial.value or 0) / 10 - BOUND)}


def test_best_trial_is_the_best_feasible_one_everywhere(
    constrained: tuple[StoredStudy, str], tmp_path: Path
) -> None:
    study, url = constrained
    complete = study.trials((TrialState.COMPLETE,))
    values = [trial.value or 0 for trial in complete]
    best = max((t for t in complete if is_feasible(t)), key=lambda t: t.value or 0)
    assert max(values) > 0.5 >= (best.value or 0) > 0.3
    assert study.best_trials(1)[0].number == best.number
    assert study.summary().best_trial == best.number
    assert study.export(tmp_path / "best.yaml").number == best.number
    assert optuna.load_study(study_name="probe", storage=url).best_trial.number == best.number


def test_sampler_of_the_study_prefers_feasible_trials(
    constrained: tuple[StoredStudy, str],
) -> None:
    trials = [trial for trial in constrained[0].trials() if trial.state in (1, 2)]
    last = trials[-20:]
    assert sum(map(is_feasible, last)) >= 12


def test_best_when_no_trial_is_feasible_names_the_nearest(tmp_path: Path) -> None:
    study, _ = searched(tmp_path, 0.0)
    with study:
        lowest = min(study.trials((TrialState.COMPLETE,)), key=lambda t: t.value or 0)
        with pytest.raises(StudyError) as raised:
            study.best_trials(1)
        text = str(raised.value)
        assert "meets objective.constraint (ece <= 0)" in text
        assert f"trial {lowest.number} is nearest" in text
        assert study.summary().best_trial is None
        json.dumps(study.summary().to_dict())


def test_trial_of_another_program_without_measured_constraint_is_no_best(tmp_path: Path) -> None:
    study, url = searched(tmp_path, BOUND)
    with study:
        best = study.best_trials(1)[0]
        params = {**best.params, "training.learning_rate": 0.011}
        foreign = optuna.create_trial(value=1.0, params=params, distributions=best.distributions)
        optuna.load_study(study_name="probe", storage=url).add_trial(foreign)
        assert study.best_trials(1)[0].number == best.number


@pytest.mark.parametrize("name", ["tpe", "gp", "cmaes", "qmc", "random"])
@pytest.mark.parametrize("constraint", [{"ece": BOUND}, {}])
def test_sampler_when_another_programs_trial_has_other_constraints_ignores_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, constraint: dict[str, float]
) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    study = {"name": "probe", "n_trials": 16, "seed": 7}
    kwargs = {"tpe": {"n_startup_trials": 5}, "gp": {"n_startup_trials": 5}}.get(name, {})
    sampler = {"name": name, **kwargs}
    spec = make_spec(tmp_path, objective={"constraint": constraint}, study=study, sampler=sampler)
    StoredStudy.create(spec, url).close()
    settings = WorkerSettings(poll_s=0.01)
    params = {
        "training.learning_rate": 0.011,
        "training.batch_size": 64,
        "training.optimizer": "adamw",
    }
    stock = optuna.load_study(study_name="probe", storage=url)
    distributions = {key: distribution(spec.space[key]) for key in params}
    for recorded in ({}, {"brier": -1.0}, {"ece": -0.1, "brier": -1.0}):
        stock.add_trial(
            optuna.create_trial(
                value=1.0, params=params, distributions=distributions, constraints=recorded
            )
        )
    with WorkerSession(StoredStudy.open("probe", url), settings, worker="one") as session:
        work_through(session, CurveEngine(slots=4), settings)
        seen = {trial.number for trial in session._suggestions.study.get_trials(deepcopy=False)}
    noticed = capsys.readouterr().err
    tracked = constraint or name == "gp"
    ignored = ({0, 1, 2} if constraint else {1, 2}) if tracked else set()
    assert {0, 1, 2} - seen == ignored
    for number in range(3):
        assert noticed.count(f"Notice: trial {number} ") == (number in ignored)
