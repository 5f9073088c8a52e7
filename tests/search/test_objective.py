"""The section `objective` of a study file: its metric, and its constraint in samplers."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from headsweep.errors import StudyError
from headsweep.leaderboard.finalists import choose_finalists
from headsweep.search.objective import is_feasible, violation, violations
from headsweep.search.samplers.cmaes import ReplayedCmaEsSampler
from headsweep.search.samplers.tpe import BatchedTPESampler
from headsweep.search.spec import spec_from_json, spec_to_json
from tests.helpers.study_specs import DOCUMENT, make_spec


def test_metric_is_the_bases_and_survives_storage(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, objective={"metric": "auroc_macro"})
    assert spec.config.training.metric == "auroc_macro"
    assert spec_from_json(spec_to_json(spec)) == spec
    base = [*DOCUMENT["base"], "training.metric=auroc_macro"]
    assert make_spec(tmp_path, base=base).fingerprint() == spec.fingerprint()
    assert make_spec(tmp_path, "objective.metric=auroc_macro").fingerprint() == spec.fingerprint()


def test_default_objective_changes_no_definition(tmp_path: Path) -> None:
    plain, named = make_spec(tmp_path), make_spec(tmp_path, objective={"metric": "auprc_macro"})
    assert named == plain
    assert "objective" not in spec_to_json(plain)
    assert '"metric"' not in spec_to_json(plain)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"metric": "auprc"}, "objective.metric: "),
    ({"metric": "recall_at_10"}, "objective.metric: recall_at_10 needs head=retrieval, found"),
    ({"constraint": {"eces": 0.1}}, "objective.constraint: unknown key 'eces'. Did you mean 'ece'"),
    ({"constraint": {"foo": 0.1}}, "unknown key 'foo'. Known are auprc_macro, auroc_macro, "),
    ({"constraint": {"ece": "low"}}, "objective.constraint.ece: "),
    ({"constraint": {"auroc_macro": 80}}, "constraint.auroc_macro: a bound must be at most 1 (0.8"),
    ({"constraint": {"ece": -0.1}}, "objective.constraint.ece: a bound must be at least 0, as ece"),
    ({"constraint": {"brier": float("nan")}}, "objective.constraint.brier: "),
    (
        {"constraint": {"recall_at_10": 0.1}},
        "objective.constraint.recall_at_10: recall_at_10 needs head=retrieval",
    ),
]


@pytest.mark.parametrize(("objective", "message"), BAD)
def test_load_of_a_bad_objective_raises(
    tmp_path: Path, objective: dict[str, Any], message: str
) -> None:
    with pytest.raises(StudyError) as raised:
        make_spec(tmp_path, objective=objective)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_load_when_base_and_objective_name_two_metrics_raises(tmp_path: Path) -> None:
    base = [*DOCUMENT["base"], "training.metric=auroc_macro"]
    with pytest.raises(StudyError, match=r"but the base has training\.metric=auroc_macro"):
        make_spec(tmp_path, base=base, objective={"metric": "balanced_accuracy"})


def test_load_of_a_searched_metric_raises(tmp_path: Path) -> None:
    space = {"training.metric": {"type": "categorical", "choices": ["auprc_macro"]}}
    with pytest.raises(StudyError, match="cannot be searched"):
        make_spec(tmp_path, space=space)


def test_violations_are_at_most_for_errors_and_at_least_for_others() -> None:
    bounds = {"ece": 0.05, "auroc_macro": 0.7}
    metrics = {"ece": 0.08, "auroc_macro": 0.75, "brier": 0.2}
    assert violations(bounds, metrics) == pytest.approx({"ece": 0.03, "auroc_macro": -0.05})


def test_violation_equals_optunas_and_ignores_foreign_values() -> None:
    trial = optuna.create_trial(value=1.0, constraints={"ece": 0.25, "brier": -1.0, "x": 0.5})
    assert violation(trial) == 0.75
    assert not is_feasible(trial)
    assert is_feasible(optuna.create_trial(value=1.0, constraints={"ece": 0.0}))
    assert is_feasible(optuna.create_trial(value=1.0))
    foreign = optuna.create_trial(value=1.0, system_attrs={"constraints:ece": "low"})
    assert is_feasible(foreign)


BOUND = 1.0
SAMPLERS: dict[str, tuple[Callable[..., BaseSampler], int]] = {
    "batched tpe": (BatchedTPESampler, 60),
    "stock tpe": (TPESampler, 60),
    "gp": (GPSampler, 18),
    "cmaes": (ReplayedCmaEsSampler, 90),
}


def objective(trial: optuna.Trial) -> float:
    """Grows with the sum of the params, which must not exceed `BOUND`."""
    x, y = (trial.suggest_float(name, 0, 1) for name in "xy")
    trial.set_constraint("ece", x + y - BOUND)
    return x + y


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_stays_within_the_constraint(name: str) -> None:
    """The best value is 2, where the constraint is violated by 1; unconstrained samplers go there.

    The best feasible value is 1, at the edge of the constraint.
    """
    build, n = SAMPLERS[name]
    study = optuna.create_study(direction="maximize", sampler=build(seed=1))
    study.optimize(objective, n_trials=n)
    last = study.trials[-n // 3 :]
    assert statistics.fmean(t.value or 0 for t in last) < 1.25
    best = max((t for t in study.trials if is_feasible(t)), key=lambda t: t.value or 0)
    assert 0.85 < (best.value or 0) <= BOUND
    assert study.best_trial.number == best.number
    assert max(t.value or 0 for t in study.trials) > BOUND  # an infeasible trial has more


def test_finalists_are_feasible_although_others_are_better(tmp_path: Path) -> None:
    def trial(number: int, value: float, beyond: float) -> FrozenTrial:
        one = optuna.create_trial(
            state=TrialState.COMPLETE, value=value, constraints={"ece": beyond}
        )
        one.number = number
        return one

    trials = [trial(0, 0.5, -0.01), trial(1, 0.9, 0.02), trial(2, 0.6, 0.0), trial(3, 0.4, -0.03)]
    spec = make_spec(tmp_path)
    configs = [
        spec.config.model_copy(
            update={"training": spec.config.training.model_copy(update={"batch_size": 8 + i})}
        )
        for i in range(4)
    ]
    chosen = choose_finalists(trials, lambda t: configs[t.number], 2)
    assert [finalist.trial for finalist in chosen] == [2, 0]
