"""Suggestions that share a few params; each one alone keeps its distribution."""

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from headsweep.errors import StudyError
from headsweep.search.samplers.tpe import BatchedTPESampler, can_be_shared
from headsweep.search.samplers_and_pruners import SHARED_KEYS, build_sampler, trials_at_once
from headsweep.search.space import suggest
from tests.helpers.study_specs import make_spec

SPACE: dict[str, BaseDistribution] = {
    "rate": FloatDistribution(1e-4, 1e-1, log=True),
    "batch": CategoricalDistribution((64, 256, 1024)),
    "decay": FloatDistribution(0.0, 1.0),
    "depth": IntDistribution(1, 3),
    "rank": IntDistribution(64, 256, step=64),
    "width": IntDistribution(16, 1024, log=True),
    "dropout": FloatDistribution(0.0, 0.75, step=0.25),
}
CONDITIONAL: dict[str, BaseDistribution] = {"momentum": FloatDistribution(0.8, 0.99)}
"""What only half of the trials have, as keys with `when`."""
SPACE_OF_ALL = SPACE | CONDITIONAL
SHARED = ("batch", "depth", "rank")
BATCH = 8


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    """A study with two kinds of good trials: small batches at low rates, large at high rates."""
    study = optuna.create_study()
    rng = np.random.RandomState(0)
    for number in range(120):
        good = number % 15 == 0
        large = number % 2
        exponent = -3.8 + 2.6 * large + 0.1 * rng.normal() if good else rng.uniform(-4, -1)
        params = {
            "rate": 10**exponent,
            "batch": (64, 1024)[large] if good else rng.choice([64, 256, 1024]).item(),
            "decay": 0.5 + 0.1 * rng.normal() if good else rng.uniform(),
            "depth": int(rng.randint(1, 4)),
            "rank": 64 * (2 if good else int(rng.randint(1, 5))),
            "width": int(2 ** (8 + rng.normal() if good else rng.uniform(4, 10))),
            "dropout": 0.25 * int(rng.randint(0, 4)),
        }
        space = SPACE
        if number % 4 < 2:
            params["momentum"] = rng.uniform(0.8, 0.99)
            space = SPACE_OF_ALL
        value = rng.uniform(0.0, 0.1) if good else rng.uniform(1.0, 2.0)
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=value))
    return study


def batches(study: optuna.Study, sampler: BatchedTPESampler, n: int) -> np.ndarray:
    """Return internal values (n, BATCH, d) of batches suggested for the same study."""
    template = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)
    drawn = np.empty((n, BATCH, len(SPACE_OF_ALL)))
    for batch in drawn:
        with sampler.batch(BATCH):
            for row in batch:
                sampler.before_trial(study, template)
                params = sampler.sample_relative(study, template, SPACE_OF_ALL)
                row[:] = [d.to_internal_repr(params[name]) for name, d in SPACE_OF_ALL.items()]
    return drawn


def features(drawn: np.ndarray) -> np.ndarray:
    """Return the compared values: shares of choices, means and spreads of numbers (n, BATCH, …)."""
    rate, batch, decay, depth, rank, width, dropout, momentum = np.moveaxis(drawn, -1, 0)
    numbers = (np.log10(rate), decay, rank / 64, np.log2(width), dropout, 10 * momentum)
    columns = [power for x in numbers for power in (x, x**2)]
    columns += [batch == choice for choice in range(3)] + [depth == value for value in (1, 2, 3)]
    # Dependence between params: the rate at every batch size.
    columns += [(batch == choice) * (np.log10(rate) + 2.5) for choice in range(3)]
    return np.stack(columns, axis=-1).astype(float)


@pytest.mark.parametrize("liar", [False, True], ids=["alone", "staying away from each other"])
def test_suggestions_that_agree_are_each_distributed_as_plain_ones(
    study: optuna.Study, liar: bool
) -> None:
    """Compare means over batches, because only different batches are independent."""
    n = 250 if liar else 500
    plain, shared = (
        features(
            batches(
                study, BatchedTPESampler(seed=seed, constant_liar=liar, group=True, **kwargs), n
            )
        )
        for seed, kwargs in ((1, {}), (2, {"shared": SHARED, "n_shared": BATCH}))
    )
    means, errors = [], []
    for drawn in (plain, shared):
        per_batch = drawn.mean(axis=1)
        means.append(per_batch.mean(axis=0))
        errors.append(per_batch.std(axis=0) / np.sqrt(n))
    difference = np.abs(means[0] - means[1])
    error = np.hypot(*errors)
    # With the constant liar, suggestions avoid each other, and shared ones can do so less: allow a
    # small part of the spread. The rarest choice may be absent from all batches that share it.
    room = (0.15 if liar else 0.01) * plain.std(axis=(0, 1)) + 0.005
    assert (difference <= 3.5 * error + room).all(), np.round(difference / error, 1)


def test_suggestions_in_a_row_agree_across_batches(study: optuna.Study) -> None:
    sampler = BatchedTPESampler(seed=0, shared=SHARED, n_shared=12, group=True)
    drawn = batches(study, sampler, 30).reshape(-1, 12, len(SPACE_OF_ALL))
    agreed = drawn[:, :, [1, 3, 4]]
    assert (agreed == agreed[:, :1]).all()
    assert len(np.unique(agreed[:, 0], axis=0)) > 2
    assert len(np.unique(drawn[:, :, 0])) == drawn[:, :, 0].size  # these are not shared


def test_suggestions_at_random_agree_before_the_first_fit() -> None:
    study = optuna.create_study(sampler=BatchedTPESampler(seed=0, shared=SHARED, n_shared=4))
    trials = [study.ask(SPACE) for _ in range(400)]
    quads = np.array([[t.params["batch"], t.params["depth"]] for t in trials]).reshape(-1, 4, 2)
    assert (quads == quads[:, :1]).all()
    shares = [(quads[:, 0, 0] == choice).mean() for choice in (64, 256, 1024)]
    assert min(shares) > 0.2


def test_value_that_almost_no_suggestion_has_is_still_agreed_on(study: optuna.Study) -> None:
    """Redrawing ends after a bounded number of suggestions."""
    sampler = BatchedTPESampler(seed=0, shared=SHARED, n_shared=4)
    template = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)
    sampler.before_trial(study, template)
    sampler._shared = {"batch": 1.0, "depth": 3.0}
    for _ in range(3):
        params = sampler.sample_relative(study, template, SPACE)
        assert (params["batch"], params["depth"]) == (256, 3)


@pytest.mark.parametrize(
    ("distribution", "shareable"),
    [
        (CategoricalDistribution(("a", "b")), True),
        (CategoricalDistribution(tuple(range(33))), False),
        (IntDistribution(1, 32), True),
        (IntDistribution(1, 33), False),
        (IntDistribution(64, 1024, step=64), True),
        (FloatDistribution(0, 1, step=0.5), False),
    ],
)
def test_can_be_shared_is_for_params_of_few_values(
    distribution: BaseDistribution, shareable: bool
) -> None:
    assert can_be_shared(distribution) == shareable


def test_n_shared_of_a_study_file_reaches_the_sampler(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, sampler={"name": "tpe", "n_shared": 6, "n_startup_trials": 2})
    study = optuna.create_study(sampler=build_sampler(spec, 0))
    sizes = []
    for number in range(24):
        trial = study.ask({"training.batch_size": CategoricalDistribution((64, 256))})
        sizes.append(trial.params["training.batch_size"])
        study.tell(trial, float(number))
    assert all(len(set(sizes[i : i + 6])) == 1 for i in range(0, 24, 6))
    assert "training.batch_size" in SHARED_KEYS


@pytest.mark.parametrize(("n_trials", "n_shared"), [(100, 5), (40, 2)])
def test_suggestions_of_a_study_file_agree_by_fifths_of_what_runs_at_once(
    tmp_path: Path, n_trials: int, n_shared: int
) -> None:
    spec = make_spec(tmp_path, f"study.n_trials={n_trials}", sampler={"name": "tpe"})
    study = optuna.create_study(sampler=build_sampler(spec, 0))
    sizes = np.array([suggest(study.ask(), spec.space, spec.config)["training.batch_size"]
                      for _ in range(120)]).reshape(-1, n_shared)  # fmt: skip
    assert (sizes == sizes[:, :1]).all()
    neighbours = sizes[: len(sizes) // 2 * 2, 0].reshape(-1, 2)
    assert (neighbours[:, 0] != neighbours[:, 1]).any()  # no larger group agrees
    assert set(sizes[:, 0]) == {64, 256}


@pytest.mark.parametrize(
    ("head", "name", "n_trials", "at_once"),
    [
        ("linear", "tpe", 100, 25),
        ("linear", "tpe", 7, 4),
        ("mlp", "tpe", 100, 10),
        ("retrieval", "tpe", 100, 10),
        ("linear", "gp", 100, 10),
        ("linear", "random", 100, 100),
        ("mlp", "random", 100, 100),
    ],
)
def test_trials_at_once_leave_a_learning_sampler_results_to_learn_from(
    tmp_path: Path, head: str, name: str, n_trials: int, at_once: int
) -> None:
    spec = make_spec(
        tmp_path, f"study.n_trials={n_trials}", base=[f"head={head}"], sampler={"name": name}
    )
    assert trials_at_once(spec) == at_once


@pytest.mark.parametrize(
    ("sampler", "problem"),
    [
        ({"name": "tpe", "n_shared": 0}, "n_shared must be at least 1, found 0"),
        ({"name": "tpe", "n_shared": "all"}, "must be of type int, found 'all'"),
        ({"name": "random", "n_shared": 2}, "unknown key 'n_shared'"),
    ],
)
def test_n_shared_when_wrong_is_refused(
    tmp_path: Path, sampler: dict[str, Any], problem: str
) -> None:
    with pytest.raises(StudyError, match=problem):
        make_spec(tmp_path, sampler=sampler)
