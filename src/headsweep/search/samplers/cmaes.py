"""CMA-ES that stores no optimizer: its state is computed from the finished trials.

Optuna's own `CmaEsSampler` stores its optimizer as a pickle, and a pickle that somebody else wrote
can run any code. The state follows from the results of all generations, so here only the number of
the generation is stored with each trial, and a worker that joins replays all generations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from headsweep.search.new_trials import NewTrials
from headsweep.search.objective import violation
from headsweep.search.steps import on_step
from headsweep.storage.optuna_tables import set_system_attr

GENERATION = "cma:generation"
"""Trial attribute, as Optuna's sampler names it: the generation that a trial was drawn in."""

Floats = NDArray[np.float64]
Space = dict[str, BaseDistribution]
Generations = dict[int, list[FrozenTrial]]
"""Finished trials by the generation that they were drawn in."""


class ReplayedCmaEsSampler(BaseSampler):
    """CMA-ES (Hansen, arXiv:1604.00772) over the numerical keys that all trials share.

    Args:
        n_startup_trials: below so many complete trials, suggestions are random.
        popsize: trials of a generation; None uses CMA-ES's own choice.
        consider_pruned_trials: whether generations count trials that were pruned.
        lr_adapt: whether the learning rate is adapted, for noisy and multimodal functions.
        seed: seed of all draws; None draws one.

    Raises:
        ImportError: the package `cmaes` is not installed.
    """

    def __init__(
        self,
        *,
        n_startup_trials: int = 1,
        popsize: int | None = None,
        consider_pruned_trials: bool = False,
        lr_adapt: bool = False,
        seed: int | None = None,
    ) -> None:
        import cmaes  # type: ignore[import-untyped]

        self._new = cmaes.CMA
        self._n_startup = n_startup_trials
        self._popsize = popsize
        self._states = (TrialState.COMPLETE, *([TrialState.PRUNED] * consider_pruned_trials))
        self._lr_adapt = lr_adapt
        self._rng = np.random.RandomState(seed)
        self._random = RandomSampler(seed)
        self._unread = NewTrials()
        self._generations: Generations = {}
        self._n_finished = 0
        self._shared: Space | None = None
        """The params that all complete trials have, with the same distributions."""
        self._space: Space = {}
        self._optimizer: Any = None

    def reseed_rng(self) -> None:
        """Seed the random numbers anew."""
        self._rng.seed()
        self._random.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        """Return the params that are suggested jointly."""
        self._learn(study.get_trials(deepcopy=False))
        return {
            name: distribution
            for name, distribution in sorted((self._shared or {}).items())
            if isinstance(distribution, FloatDistribution | IntDistribution)
            and not distribution.single()
        }

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Space
    ) -> dict[str, Any]:
        """Return values for the params that are suggested jointly."""
        self._learn(study.get_trials(deepcopy=False))
        if not search_space or self._n_finished < self._n_startup:
            return {}
        maximize = study.direction == StudyDirection.MAXIMIZE
        self._follow(self._generations, search_space, maximize=maximize)
        point = self._optimizer.ask()
        set_system_attr(study, trial, GENERATION, self._optimizer.generation)
        named = zip(search_space.items(), point, strict=True)
        return {name: _from_unit(distribution, u) for (name, distribution), u in named}

    def follow(self, trials: Sequence[FrozenTrial], space: Space, *, maximize: bool) -> None:
        """Pass the results of every generation that is complete and new to the optimizer.

        Args:
            trials: all finished trials of the study, by number.
            space: of the params that are suggested jointly.
            maximize: whether the study maximizes.
        """
        self._follow(by_generation(trials, {}), space, maximize=maximize)

    def _learn(self, trials: Sequence[FrozenTrial]) -> None:
        """Take in the trials that have finished since the last call; see `NewTrials`."""
        if self._unread.outdated(trials):
            self._unread.clear()
            self._generations, self._n_finished, self._shared = {}, 0, None
        new = self._unread.read(trials)
        finished = [trial for trial in new if trial.state in self._states]
        self._n_finished += len(finished)
        by_generation(finished, self._generations)
        for trial in (trial for trial in new if trial.state == TrialState.COMPLETE):
            known = trial.distributions if self._shared is None else self._shared
            self._shared = {n: d for n, d in known.items() if trial.distributions.get(n) == d}

    def _follow(self, generations: Generations, space: Space, *, maximize: bool) -> None:
        if self._optimizer is None or space != self._space:
            self._space, self._optimizer = space, self._begin(len(space))
        optimizer, sign = self._optimizer, -1.0 if maximize else 1.0
        while True:
            drawn = [
                (point, (violation(trial), sign * trial.value))
                for trial in sorted(
                    generations.get(optimizer.generation, ()), key=lambda trial: trial.number
                )
                if trial.value is not None
                and math.isfinite(trial.value)
                and (point := _to_unit(space, trial.params)) is not None
            ][: optimizer.population_size]
            if len(drawn) < optimizer.population_size:
                return
            optimizer.tell(with_feasible_first(drawn))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return a value for one param."""
        drawn = self._random.sample_independent(study, trial, param_name, param_distribution)
        return on_step(param_distribution, drawn)

    def _begin(self, n_dimensions: int) -> Any:
        """Return an optimizer in the middle of the unit cube, as wide as Optuna's."""
        return self._new(
            mean=np.full(n_dimensions, 0.5),
            sigma=1 / 6,
            bounds=np.tile([0.0, 1.0], (n_dimensions, 1)),
            n_max_resampling=10 * n_dimensions,
            population_size=self._popsize,
            lr_adapt=self._lr_adapt,
            seed=self._rng.randint(2**31 - 2),
        )


def by_generation(trials: Sequence[FrozenTrial], generations: Generations) -> Generations:
    """Add trials to the lists of their generations.

    Returns:
        The lists.
    """
    for trial in trials:
        generation = trial.system_attrs.get(GENERATION)
        if isinstance(generation, int):
            generations.setdefault(generation, []).append(trial)
    return generations


def with_feasible_first(
    drawn: Sequence[tuple[Floats, tuple[float, float]]],
) -> list[tuple[Floats, float]]:
    """Return points with the values to minimize.

    Where a trial violates constraints, the values are ranks: CMA-ES uses only the order. Trials
    that violate none come first, the others follow by how far they are beyond the bounds (Deb,
    *An Efficient Constraint Handling Method for Genetic Algorithms*, 2000).

    Args:
        drawn: points with their violation and value.
    """
    if not any(beyond for _, (beyond, _) in drawn):
        return [(point, value) for point, (_, value) in drawn]
    order = sorted(range(len(drawn)), key=lambda i: (drawn[i][1][0], drawn[i][1][1]))
    return [(drawn[i][0], float(rank)) for rank, i in enumerate(order)]


def _edges(distribution: FloatDistribution | IntDistribution) -> tuple[float, float]:
    """Return the ends of the range on its scale, widened by half a step where there are steps."""
    half = 0.0 if distribution.step is None else distribution.step / 2
    low, high = distribution.low - half, distribution.high + half
    return (math.log(low), math.log(high)) if distribution.log else (low, high)


def _to_unit(space: Space, params: Mapping[str, Any]) -> Floats | None:
    """Return params (d,) in the unit cube; None if stored values are not ones of the space."""
    point = []
    for name, distribution in space.items():
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        value = params.get(name, math.nan)
        if not distribution.low <= value <= distribution.high:
            return None
        low, high = _edges(distribution)
        point.append(((math.log(value) if distribution.log else value) - low) / (high - low))
    return np.array(point)


def _from_unit(distribution: BaseDistribution, u: float) -> float | int:
    """Return the inverse of `_to_unit` for one param, rounded to a step if there are steps."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = _edges(distribution)
    value = low + float(u) * (high - low)
    value = math.exp(value) if distribution.log else value
    if isinstance(distribution, IntDistribution):
        n_steps = round((value - distribution.low) / distribution.step)
        value = distribution.low + n_steps * distribution.step
    value = min(max(value, distribution.low), distribution.high)
    stepped: float | int = on_step(distribution, value)
    return stepped
