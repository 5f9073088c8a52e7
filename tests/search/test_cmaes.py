"""CMA-ES without a stored optimizer, compared with Optuna's own sampler."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import CmaEsSampler
from optuna.trial import TrialState

from headsweep.search.samplers import cmaes
from headsweep.search.samplers.cmaes import GENERATION, ReplayedCmaEsSampler

POPULATION = 7
"""The default population size of CMA-ES in three dimensions."""


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -3.0, 5.0)
    rate = trial.suggest_float("rate", 1e-5, 1e-1, log=True)
    depth = trial.suggest_int("depth", 1, 9)
    trial.suggest_categorical("kind", ["a", "b"])
    return (x - 1) ** 2 + (math.log10(rate) + 3) ** 2 + (depth - 4) ** 2 / 4


def searched(sampler: optuna.samplers.BaseSampler, n_trials: int, **kwargs: Any) -> optuna.Study:
    study = optuna.create_study(sampler=sampler, **kwargs)
    study.optimize(objective, n_trials=n_trials)
    return study


@pytest.fixture(scope="module")
def stock() -> optuna.Study:
    """A study of Optuna's sampler that has just finished its fifth generation."""
    return searched(
        CmaEsSampler(seed=1, warn_independent_sampling=False), n_trials=1 + 5 * POPULATION + 1
    )


def test_follow_when_given_stock_trials_equals_the_stored_optimizer(stock):
    """After the same trials it has the same mean, step size and covariance."""
    stored = CmaEsSampler()._restore_optimizer(stock.trials)
    ours = ReplayedCmaEsSampler(seed=3)
    space = ours.infer_relative_search_space(stock, stock.trials[-1])
    assert sorted(space) == ["depth", "rate", "x"]
    ours.follow(stock.trials, space, maximize=False)
    assert ours._optimizer.generation == stored.generation == 5
    np.testing.assert_allclose(ours._optimizer._mean, stored._mean, rtol=1e-9)
    np.testing.assert_allclose(ours._optimizer._C, stored._C, rtol=1e-9)
    assert ours._optimizer._sigma == pytest.approx(stored._sigma)


def test_follow_when_joining_late_equals_the_sampler_that_was_there():
    sampler = ReplayedCmaEsSampler(seed=5)
    study = searched(sampler, n_trials=40)
    late = ReplayedCmaEsSampler(seed=6)
    late.follow(study.trials, sampler._space, maximize=False)
    sampler.follow(study.trials, sampler._space, maximize=False)
    np.testing.assert_array_equal(late._optimizer._mean, sampler._optimizer._mean)
    assert late._optimizer.generation == sampler._optimizer.generation == 5


def test_optimize_in_both_directions_finds_the_optimum():
    assert searched(ReplayedCmaEsSampler(seed=0), n_trials=150).best_value < 0.05
    upwards = optuna.create_study(direction="maximize", sampler=ReplayedCmaEsSampler(seed=0))
    upwards.optimize(lambda trial: -objective(trial), n_trials=150)
    assert upwards.best_value > -0.05


def test_optimize_stores_only_generations_with_trials(stock):
    ours = searched(ReplayedCmaEsSampler(seed=0), n_trials=20)
    assert {name for trial in ours.trials for name in trial.system_attrs} == {GENERATION}
    assert any("optimizer" in name for trial in stock.trials for name in trial.system_attrs)


def test_follow_when_trials_are_foreign_ignores_them(stock):
    """Ignored are values that are not finite, params outside the space and bad generations."""
    sampler = ReplayedCmaEsSampler(seed=0)
    space = sampler.infer_relative_search_space(stock, stock.trials[-1])
    sampler.follow(stock.trials, space, maximize=False)
    mean = sampler._optimizer._mean.copy()
    for fault in (
        {"value": math.inf},
        {"value": math.nan},
        {"params": {"x": 9.0, "rate": 1e-3, "depth": 3}},
        {"params": {"x": 1.0, "rate": math.nan, "depth": 3}},
        {"params": {}},
        {"system_attrs": {GENERATION: "5"}},
        {"system_attrs": {GENERATION: [5]}},
    ):
        spoilt = []
        for trial in stock.trials[1 : 1 + POPULATION]:
            fields = {
                "params": trial.params,
                "system_attrs": {GENERATION: 5},
                "value": trial.value,
            } | fault
            spoilt.append(
                optuna.trial.FrozenTrial(
                    **fields,
                    number=trial.number,
                    state=TrialState.COMPLETE,
                    datetime_start=None,
                    datetime_complete=None,
                    distributions={},
                    user_attrs={},
                    intermediate_values={},
                    trial_id=0,
                )
            )
        sampler.follow(spoilt, space, maximize=False)
        np.testing.assert_array_equal(sampler._optimizer._mean, mean)


def test_sample_reads_each_finished_trial_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also within one generation of many trials, and with trials that end out of order."""
    read: list[int] = []
    taken_in = cmaes.by_generation

    def counting(trials: Any, generations: Any) -> Any:
        read.extend(trial.number for trial in trials)
        return taken_in(trials, generations)

    monkeypatch.setattr(cmaes, "by_generation", counting)
    study = optuna.create_study(sampler=ReplayedCmaEsSampler(seed=0))
    running = [study.ask() for _ in range(12)]
    for trial in running:
        objective(trial)
    for trial in running[::-1]:
        study.tell(trial, float(trial.number))
        objective(study.ask())
    assert sorted(read) == sorted({*read})
    assert len(read) >= 11


def test_incremental_state_equals_that_of_all_trials_at_once() -> None:
    sampler = ReplayedCmaEsSampler(seed=5)
    study = optuna.create_study(sampler=sampler)
    rng = np.random.default_rng(0)
    running: list[optuna.Trial] = []
    for _ in range(60):
        running.append(study.ask())
        objective(running[-1])
        if len(running) > 6:
            trial = running.pop(int(rng.integers(7)))
            study.tell(trial, trial.params["x"] ** 2)
    objective(study.ask())  # takes in the trials that ended last
    whole = ReplayedCmaEsSampler(seed=5)
    finished = [t for t in study.trials if t.state == TrialState.COMPLETE]
    whole.follow(finished, sampler._space, maximize=False)
    assert whole._optimizer.generation == sampler._optimizer.generation > 2


def test_constraint_violations_come_last_in_a_generation() -> None:
    results = [(0.5, -9.0), (0.0, 2.0), (0.1, -1.0), (0.0, 1.0)]  # violation and value
    points = [np.array([float(i)]) for i in range(4)]
    ordered = cmaes.with_feasible_first(list(zip(points, results, strict=True)))
    assert [(point[0], rank) for point, rank in ordered] == [(3, 0), (1, 1), (2, 2), (0, 3)]
    feasible = [(points[0], (0.0, 2.0)), (points[1], (0.0, 1.0))]
    assert [value for _, value in cmaes.with_feasible_first(feasible)] == [2.0, 1.0]
