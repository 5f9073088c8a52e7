"""Batched TPE: Optuna's test suite for samplers, its densities, and the values it reaches."""

import json
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
from optuna.samplers import BaseSampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator, _ParzenEstimatorParameters
from optuna.samplers._tpe.sampler import default_weights
from optuna.search_space.group_decomposed import _SearchSpaceGroup
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from headsweep.search.samplers.parzen import Parzen, closing_in
from headsweep.search.samplers.tpe import BatchedTPESampler
from headsweep.search.samplers.tpe_fits import (
    MAX_OBSERVATIONS,
    fading_weights,
    rank_weights,
    refined,
    thinned,
)
from tests.helpers.objectives import FUNCTIONS, RECORDED, best_of_batches, head_study

SPACE: dict[str, BaseDistribution] = {
    "rate": FloatDistribution(1e-5, 1e-1, log=True),
    "dropout": FloatDistribution(0.0, 0.7),
    "coarse": FloatDistribution(0.0, 1.0, step=0.25),
    "width": IntDistribution(16, 1024, log=True),
    "depth": IntDistribution(1, 3),
    "loss": CategoricalDistribution(("bce", "focal", "asymmetric")),
}


VARIANTS = [
    {},
    {"multivariate": False},
    {"group": True},
    {"n_shared": 4, "shared": ["x", "y", "z", "batch"]},
]


class TestOptunasContract(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    """Optuna's suite without multiple objectives, which headsweep does not support."""

    @pytest.fixture(params=VARIANTS, ids=str)
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: BatchedTPESampler(n_startup_trials=0, **request.param)


@pytest.mark.parametrize("n", [0, 1, 2, 30])
def test_log_density_equals_optunas(n: int) -> None:
    rng = np.random.RandomState(n)
    observations = {name: _drawn(d, n, rng) for name, d in SPACE.items()}
    parameters = _ParzenEstimatorParameters(1.0, True, False, default_weights, True)
    theirs = _ParzenEstimator(observations, SPACE, parameters)
    rows = np.array([observations[name] for name in SPACE]).T.reshape(-1, len(SPACE))
    ours = Parzen(rows, list(SPACE.values()), default_weights(n))
    points = np.array([_drawn(d, 50, rng) for d in SPACE.values()]).T
    expected = theirs.log_pdf({name: points[:, i] for i, name in enumerate(SPACE)})
    np.testing.assert_allclose(ours.log_density(points), expected, rtol=1e-6)


def test_draw_returns_legal_values_near_the_observations() -> None:
    observations = np.array([[_internal(d, 0.3) for d in SPACE.values()]] * 40)
    parzen = Parzen(observations, list(SPACE.values()), np.ones(40))
    drawn = parzen.draw(500, np.random.RandomState(0))
    for i, distribution in enumerate(SPACE.values()):
        assert all(distribution._contains(value) for value in drawn[:, i])
    assert statistics.median(drawn[:, 1]) == pytest.approx(0.21, abs=0.03)


def test_recombine_draws_each_value_from_its_own_density() -> None:
    space = list(SPACE.values())
    rng = np.random.RandomState(1)
    observations = np.array([_drawn(d, 12, rng) for d in space]).T
    weights = rank_weights(12)
    points = Parzen(observations, space, weights).recombine(400, rng)
    for i, distribution in enumerate(space):
        assert all(distribution._contains(value) for value in points[:, i])
    alone = [Parzen(observations[:, [i]], [d], weights) for i, d in enumerate(space)]
    expected = sum(parzen.log_density(points[:, [i]]) for i, parzen in enumerate(alone))
    recombined = Parzen(observations, space, weights).log_recombined(points)
    np.testing.assert_allclose(recombined, expected)


def test_recombine_when_observations_cluster_mixes_clusters() -> None:
    space = [FloatDistribution(0.0, 1.0), FloatDistribution(0.0, 1.0)]
    observations = np.repeat([[0.2, 0.2], [0.8, 0.8]], 50, axis=0)
    parzen = Parzen(observations, space, np.ones(100), closing_in(np.ones(100) / 1e4, 2))
    rng = np.random.RandomState(0)
    same_side = [
        ((points < 0.5).all(axis=1) | (points > 0.5).all(axis=1)).mean()
        for points in (parzen.draw(1000, rng), parzen.recombine(1000, rng))
    ]
    assert same_side[0] > 0.9
    assert same_side[1] == pytest.approx(0.5, abs=0.06)


def test_add_changes_the_density_like_an_observation() -> None:
    """Exact for the added kernel; the widths of neighbouring kernels are not fitted again."""
    space = [FloatDistribution(0.0, 1.0), CategoricalDistribution(("a", "b"))]
    observations = np.array([[0.1, 0], [0.5, 1], [0.52, 0], [0.9, 1]])
    grown = Parzen(observations[:3], space, np.ones(3))
    fitted = Parzen(observations, space, np.ones(4))
    points = np.array([[0.9, 1.0], [0.95, 1.0], [0.2, 0.0]])
    before = grown.log_density(points)
    kernel = grown.add(observations[3], 1.0, at=points)
    np.testing.assert_allclose(
        grown.log_density(points)[:2], fitted.log_density(points)[:2], atol=0.3
    )
    sums = np.logaddexp(before + np.log(4), kernel) - np.log(5)
    np.testing.assert_allclose(grown.log_density(points), sums)
    assert kernel[0] > kernel[1] > kernel[2]


def test_closing_in_when_observations_agree_narrows_with_their_number() -> None:
    space = [FloatDistribution(0.0, 1.0), IntDistribution(0, 8)]
    for n, narrowest in ((1, 1.0), (2, 0.25), (5, 0.04), (20, 0.01)):
        parzen = Parzen(np.full((n, 2), (0.5, 4.0)), space, np.ones(n), closing_in(np.ones(n), 2))
        drawn = parzen.draw(4000, np.random.RandomState(0))
        near = np.abs(drawn[:, 0] - 0.5) < 3 * narrowest
        assert near.mean() > 0.9 * n / (n + 1)
        assert np.abs(drawn[:, 0] - 0.5).std() >= 0.5 * min(narrowest, 0.25)
        assert (drawn[:, 1] != 4).mean() > 0.02


def test_weights_equal_optunas_and_decrease_by_rank() -> None:
    for n in (0, 1, 24, 25, 26, 300):
        np.testing.assert_allclose(fading_weights(n), default_weights(n))
    weights = rank_weights(18)
    assert weights.mean() == pytest.approx(1.0)
    assert (np.diff(weights) < 0).all()
    assert weights[-1] > 0


def test_refined_groups_equal_optunas() -> None:
    space = {name: FloatDistribution(0.0, 1.0) for name in "abcdef"}
    rng = np.random.RandomState(0)
    for _ in range(20):
        theirs, ours = _SearchSpaceGroup(), []
        for _ in range(6):
            chosen = {name: space[name] for name in "abcdef" if rng.uniform() < 0.6}
            theirs.add_distributions(chosen)
            ours = refined(ours, chosen)
            expected = {frozenset(group) for group in theirs.search_spaces}
            assert {frozenset(group) for group in ours} == expected


def test_batch_suggests_different_values() -> None:
    sampler = BatchedTPESampler(seed=0, n_startup_trials=5)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) ** 2, n_trials=20)
    with sampler.batch(16):
        suggested = [study.ask({"x": FloatDistribution(0, 1)}).params["x"] for _ in range(16)]
    assert len(set(suggested)) == 16
    assert (
        min(abs(a - b) for a, b in zip(sorted(suggested), sorted(suggested)[1:], strict=False)) > 0
    )


def test_thinned_when_trials_are_many_keeps_their_weight() -> None:
    """Thousands of trials are thinned to some hundred observations, with all good trials."""
    weights = fading_weights(5000)
    kept, kept_weights = thinned(np.arange(5000), weights)
    assert len(kept) <= MAX_OBSERVATIONS
    assert kept.tolist() == sorted(kept.tolist())
    assert kept[-MAX_OBSERVATIONS // 2 :].tolist() == list(
        range(5000 - MAX_OBSERVATIONS // 2, 5000)
    )
    assert kept_weights.sum() == pytest.approx(weights.sum(), rel=0.02)


def _drawn(distribution: BaseDistribution, n: int, rng: np.random.RandomState) -> np.ndarray:
    return np.array([_internal(distribution, rng.uniform()) for _ in range(n)])


def _internal(distribution: BaseDistribution, place: float) -> float:
    """Return a legal value at a fraction of the range."""
    if isinstance(distribution, CategoricalDistribution):
        return float(int(place * len(distribution.choices)))
    low, high, step = distribution.low, distribution.high, distribution.step
    value = low * (high / low) ** place if distribution.log else low + place * (high - low)
    return value if step is None else low + round((value - low) / step) * step


@pytest.mark.parametrize("name", [*FUNCTIONS, "head"])
def test_batched_tpe_reaches_stock_tpe_and_beats_random(name: str) -> None:
    """Medians of 320 trials in batches of 32, few seeds; stock's quartiles are recorded.

    `scripts/benchmarks/samplers.py --seeds 20 --contestants stock random` printed the record,
    with `--seeds 60` that of Hartmann 6.
    """
    # Rounding differences may send a search to the other basin of the Hartmann function.
    seeds = range(7 if name == "Hartmann 6" else 3)
    objective = head_study() if name == "head" else FUNCTIONS[name]
    stock = json.loads((RECORDED / "stock.json").read_text())["quartiles"]
    grouped = {"group": True} if objective.conditional else {}

    def median(build: Callable[[int], BaseSampler]) -> float:
        return statistics.median(best_of_batches(objective, build(seed), 320, 32) for seed in seeds)

    ours = median(lambda seed: BatchedTPESampler(seed=seed, **grouped))
    assert ours <= stock[f"{name}/stock"][2]
    assert ours < stock[f"{name}/random"][0]
