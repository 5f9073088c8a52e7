"""Every sampler and pruner can run a small study."""

import inspect
import math
import re
from pathlib import Path
from typing import Any

import optuna
import pytest

import headsweep
from headsweep.errors import StudyError
from headsweep.search.samplers_and_pruners import (
    PRUNERS,
    SAMPLERS,
    build_pruner,
    build_sampler,
    rungs,
)
from headsweep.search.space import is_active
from headsweep.search.spec import Policy, StudySpec
from headsweep.settings import WorkerSettings
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import WorkerSession
from tests.helpers.curves import CurveEngine, work_through
from tests.helpers.study_specs import DOCUMENT, make_spec

FINITE_SPACE = {
    "training.learning_rate": {"type": "float", "low": 0.01, "high": 0.05, "step": 0.01},
    "training.batch_size": {"type": "categorical", "choices": [64, 256]},
    "training.max_epochs": {"type": "int", "low": 7, "high": 9},
}
LISTS = {
    "head.hidden_dims": {"type": "categorical", "choices": [[32], [64, 32], None]},
    "training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
}
KWARGS: dict[str, dict[str, Any]] = {
    "percentile": {"percentile": 25.0},
    "patient": {"wrapped_pruner": {"name": "median"}, "patience": 1},
    "threshold": {"lower": 0.2},
    "successive_halving": {"reduction_factor": 3},
}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


def run(spec: StudySpec, url: str) -> list[optuna.trial.FrozenTrial]:
    storage = open_storage(url, create=True)
    study_id = StoredStudy.create(spec, storage).study_id
    with WorkerSession(StoredStudy.open(spec.name, url), WorkerSettings(), worker="one") as session:
        work_through(session, CurveEngine(slots=4), WorkerSettings(poll_s=0.01))
    trials = storage.get_all_trials(study_id)
    storage.database.close()
    return trials


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_of_every_name_runs_a_study(tmp_path: Path, url: str, name: str) -> None:
    space = FINITE_SPACE if name == "grid" else DOCUMENT["space"]
    spec = make_spec(tmp_path, "study.n_trials=20", sampler={"name": name}, space=space)
    trials = run(spec, url)
    assert len(trials) == 20
    assert all(trial.state.name in ("COMPLETE", "PRUNED") for trial in trials)
    for trial in trials:
        active = {k for k, d in spec.space.items() if is_active(d, trial.params, spec.config)}
        assert trial.params.keys() == active
    if name == "grid":
        assert len({tuple(trial.params.values()) for trial in trials}) == 20


@pytest.mark.parametrize("name", PRUNERS)
def test_pruner_of_every_name_runs_a_study(tmp_path: Path, url: str, name: str) -> None:
    spec = make_spec(tmp_path, "study.n_trials=24", pruner={"name": name, **KWARGS.get(name, {})})
    trials = run(spec, url)
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert len(trials) == 24
    # These curves only rise, so the patient pruner never prunes.
    assert bool(pruned) == (name not in ("none", "patient"))
    for trial in pruned:
        assert trial.value == trial.intermediate_values[trial.last_step or 0]
        assert trial.last_step in rungs(spec.pruner, 9)


def test_suggest_when_a_choice_is_a_list_stores_its_json(tmp_path: Path, url: str) -> None:
    spec = make_spec(tmp_path, "study.n_trials=12", base=["head=mlp"], space=LISTS)
    trials = run(spec, url)
    assert {trial.params["head.hidden_dims"] for trial in trials} == {"[32]", "[64, 32]", None}


def test_suggest_when_condition_fails_leaves_the_key_out(tmp_path: Path, url: str) -> None:
    trials = run(make_spec(tmp_path, sampler={"name": "tpe", "n_startup_trials": 5}), url)
    for trial in trials:
        sgd = trial.params["training.optimizer"] == "sgd"
        assert ("training.momentum" in trial.params) == sgd


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy(name="successive_halving", kwargs={"min_resource": 1, "reduction_factor": 3}),
         {1, 3, 9, 27}),
        (Policy(name="hyperband", kwargs={"min_resource": 2, "max_resource": 30,
                                          "reduction_factor": 3}), {2, 6, 18}),
        (Policy(name="median", kwargs={"n_warmup_steps": 5, "interval_steps": 10}), {5, 15, 25}),
        (Policy(name="none"), set()),
    ],
)  # fmt: skip
def test_rungs_of_each_pruner_are_its_decision_epochs(policy: Policy, expected: set[int]) -> None:
    assert rungs(policy, 30) == expected


@pytest.mark.parametrize("name", sorted(set(PRUNERS) - {"none", "patient"}))
def test_pruner_when_reported_every_epoch_decides_only_at_rungs(tmp_path: Path, name: str) -> None:
    """Reporting only at the rungs prunes the same trials at the same epochs."""
    interval = {"interval_steps": 3} if name in ("median", "threshold") else {}
    pruner = {"name": name, **KWARGS.get(name, {}), **interval}
    spec = make_spec(tmp_path, pruner=pruner)
    at_rungs = rungs(spec.pruner, 9)
    outcomes = []
    for reported in (at_rungs, frozenset(range(1, 10))):
        study = optuna.create_study(direction="maximize", study_name="same")
        judge = build_pruner(spec.pruner)
        ends = []
        for number in range(30):
            trial = study.ask()
            quality = (number * 7 % 30) / 30
            for epoch in range(1, 10):
                if epoch in reported:
                    trial.report(quality * (1 - math.exp(-epoch / 3)), epoch)
                    frozen = study._storage.get_trial(trial._trial_id)
                    if judge.prune(study, frozen):
                        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                        ends.append(epoch)
                        break
            else:
                study.tell(trial, quality)
                ends.append(0)
        outcomes.append(ends)
    assert outcomes[0] == outcomes[1]


def test_build_sampler_for_two_workers_draws_different_values(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    distribution = optuna.distributions.FloatDistribution(0.0, 1.0)
    study = optuna.create_study()
    drawn = []
    for worker in (0, 1, 0):
        trial = study.ask()
        sampler = build_sampler(spec, worker)
        drawn.append(sampler.sample_independent(
            study, study._storage.get_trial(trial._trial_id), "x", distribution
        ))  # fmt: skip
    assert drawn[0] == drawn[2] != drawn[1]


def test_grid_when_smaller_than_the_budget_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="the grid has 30 points, fewer than"):
        make_spec(tmp_path, sampler={"name": "grid"}, space=FINITE_SPACE)


def test_samplers_never_unpickle() -> None:
    """Fails if a new sampler, or a new version of Optuna, reads pickles."""
    for name, kind in SAMPLERS.items():
        source = inspect.getsource(inspect.getmodule(kind))  # type: ignore[arg-type]
        assert not re.search(r"\bpickle\.|import pickle|from pickle", source), name


def test_private_parts_of_optuna_are_used_by_one_module() -> None:
    """Private are modules such as `optuna._x`, and attributes with an underscore but `self._x`."""
    private = re.compile(
        r"(?:from|import) optuna[\w.]*\._|from optuna\S* import [^\n]*\b_[a-z]"
        r"|\b(?:study|trial|storage|sampler|frozen)\._[a-z]"
    )
    sources = Path(headsweep.__file__).parent.rglob("*.py")
    found = {path.name for path in sources if private.search(path.read_text())}
    assert found == {"optuna_tables.py"}
