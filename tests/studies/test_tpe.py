"""Batched TPE: Optuna's own suite for samplers, its densities, and what it finds."""

import statistics
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator, _ParzenEstimatorParameters
from optuna.samplers._tpe.sampler import default_weights
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

from headsweep.studies.parzen import Parzen
from headsweep.studies.tpe import MAX_OBSERVATIONS, BatchedTPESampler, thinned

SPACE: dict[str, BaseDistribution] = {
    "rate": FloatDistribution(1e-5, 1e-1, log=True),
    "dropout": FloatDistribution(0.0, 0.7),
    "coarse": FloatDistribution(0.0, 1.0, step=0.25),
    "width": IntDistribution(16, 1024, log=True),
    "depth": IntDistribution(1, 3),
    "loss": CategoricalDistribution(("bce", "focal", "asymmetric")),
}


class TestOptunasContract(
    BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase
):
    @pytest.fixture(params=[{}, {"multivariate": False}], ids=str)
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: BatchedTPESampler(n_startup_trials=0, **request.param)


class TestOptunasContractWithGroups(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Its relative part asks for a sample before the groups were inferred; stock TPE fails too."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: BatchedTPESampler(n_startup_trials=0, group=True)


@pytest.mark.parametrize("n", [0, 1, 2, 30])
def test_densities_are_those_of_optuna(n: int) -> None:
    rng = np.random.RandomState(n)
    observations = {name: _drawn(d, n, rng) for name, d in SPACE.items()}
    parameters = _ParzenEstimatorParameters(1.0, True, False, default_weights, True)
    theirs = _ParzenEstimator(observations, SPACE, parameters)
    rows = np.array([observations[name] for name in SPACE]).T.reshape(-1, len(SPACE))
    ours = Parzen(rows, list(SPACE.values()), default_weights(n))
    points = np.array([_drawn(d, 50, rng) for d in SPACE.values()]).T
    expected = theirs.log_pdf({name: points[:, i] for i, name in enumerate(SPACE)})
    np.testing.assert_allclose(ours.log_density(points), expected, rtol=1e-6)


def test_draws_are_legal_and_follow_the_density() -> None:
    observations = np.array([[_internal(d, 0.3) for d in SPACE.values()]] * 40)
    parzen = Parzen(observations, list(SPACE.values()), np.ones(40))
    drawn = parzen.draw(500, np.random.RandomState(0))
    for i, distribution in enumerate(SPACE.values()):
        assert all(distribution._contains(value) for value in drawn[:, i])
    assert statistics.median(drawn[:, 1]) == pytest.approx(0.21, abs=0.03)


def test_a_point_let_in_is_denser_there_and_thinner_elsewhere() -> None:
    space = [FloatDistribution(0.0, 1.0)]
    parzen = Parzen(np.array([[0.2], [0.3]]), space, np.ones(2))
    points = np.array([[0.8], [0.25]])
    before = parzen.log_density(points)
    parzen.add(points[0])
    after = parzen.log_density(points)
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_a_point_let_in_last_is_as_if_it_had_been_observed() -> None:
    """Exactly so for its own kernel; the widths of its neighbours are not fitted again."""
    space = [FloatDistribution(0.0, 1.0), CategoricalDistribution(("a", "b"))]
    observations = np.array([[0.1, 0], [0.5, 1], [0.52, 0], [0.9, 1]])
    grown = Parzen(observations[:3], space, np.ones(3))
    grown.add(observations[3])
    fitted = Parzen(observations, space, np.ones(4))
    near = np.array([[0.9, 1.0], [0.95, 1.0]])
    np.testing.assert_allclose(grown.log_density(near), fitted.log_density(near), atol=0.3)


def test_suggestions_of_one_batch_differ() -> None:
    sampler = BatchedTPESampler(seed=0, n_startup_trials=5)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) ** 2, n_trials=20)
    with sampler.batch():
        suggested = [study.ask({"x": FloatDistribution(0, 1)}).params["x"] for _ in range(16)]
    assert len(set(suggested)) == 16
    assert (
        min(abs(a - b) for a, b in zip(sorted(suggested), sorted(suggested)[1:], strict=False)) > 0
    )


def test_a_long_study_is_thinned_and_not_forgotten() -> None:
    """Thousands of trials leave some hundred observations; the good ones are all kept."""
    weights = default_weights(5000)
    kept, kept_weights = thinned(list(range(5000)), weights)
    assert len(kept) <= MAX_OBSERVATIONS
    assert kept == sorted(kept)
    assert kept[-MAX_OBSERVATIONS // 2 :] == list(range(5000 - MAX_OBSERVATIONS // 2, 5000))
    assert kept_weights.sum() == pytest.approx(weights.sum(), rel=0.02)


def test_a_batch_finds_better_than_random_search() -> None:
    """Median of 7 seeds: 96 trials in batches of 32 on a bowl in four dimensions."""

    def best(sampler: BaseSampler) -> float:
        study = optuna.create_study(sampler=sampler)
        for _ in range(3):
            batch = sampler.batch() if isinstance(sampler, BatchedTPESampler) else None
            if batch:
                batch.__enter__()
            trials = [study.ask({f"x{i}": FloatDistribution(0, 1) for i in range(4)})
                      for _ in range(32)]  # fmt: skip
            if batch:
                batch.__exit__(None, None, None)
            for trial in trials:
                study.tell(trial, sum((x - 0.3) ** 2 for x in trial.params.values()))
        return study.best_value

    ours = [best(BatchedTPESampler(seed=seed)) for seed in range(7)]
    random = [best(RandomSampler(seed=seed)) for seed in range(7)]
    assert statistics.median(ours) < 0.6 * statistics.median(random)


def _drawn(distribution: BaseDistribution, n: int, rng: np.random.RandomState) -> np.ndarray:
    return np.array([_internal(distribution, rng.uniform()) for _ in range(n)])


def _internal(distribution: BaseDistribution, place: float) -> float:
    """A legal value at a share of the range."""
    if isinstance(distribution, CategoricalDistribution):
        return float(int(place * len(distribution.choices)))
    low, high, step = distribution.low, distribution.high, distribution.step
    value = low * (high / low) ** place if distribution.log else low + place * (high - low)
    return value if step is None else low + round((value - low) / step) * step
