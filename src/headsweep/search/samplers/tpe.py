"""TPE for many slots: one fit serves all suggestions of a batch.

As in Optuna's `TPESampler`, a suggestion is the draw from the density of good trials at which the
ratio of the density of all other trials to it is lowest. Running trials count as other trials, and
so does every suggestion of the batch: its kernel is added without fitting again.

Optuna's fits again for every trial; here one fit serves a batch of 32. It must therefore use its
trials better, and its suggestions must stay diverse. These differences from Optuna's sampler were
chosen by measurement (`docs/benchmarks/search.md`):

- The good trials are as few as the square root of all, not a tenth, and are weighted by rank, as
  parents are in evolution strategies.
- Their kernels are no wider than the good trials are spread, so that they narrow as fast.
- Half of the suggestions recombine good trials, each value from a trial of its own. Otherwise the
  first batches would settle where all later ones search.
- Fewer draws compete for a suggestion.
- A running trial weighs less than one that is known not to be good.

Trials that agree on a few params, such as the batch size, train in fewer and larger products. With
`n_shared`, so many consecutive suggestions agree on `shared`: the first one's values are used for
the others too, and the rest of their params follows its distribution given these values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from headsweep.search.samplers.tpe_fits import DensityRatio, Fits, History, Space
from headsweep.search.steps import on_step

BATCHED_ARGUMENTS = frozenset(
    ("n_startup_trials", "n_ei_candidates", "multivariate", "group", "constant_liar", "n_shared")
)
"""Keyword arguments of a study file that this sampler takes; the others are Optuna's alone."""

MAX_SHARED_VALUES = 32
"""A param with more values than this is never shared: suggestions would rarely agree on it."""

N_DRAWN_TO_AGREE = 16
"""Suggestions drawn at once where params are shared: most of them are rejected."""


class BatchedTPESampler(BaseSampler):
    """TPE for one objective; inside `with sampler.batch(n):` one fit serves all suggestions.

    Args:
        n_startup_trials: below so many finished trials, suggestions are random.
        n_ei_candidates: draws from which each suggestion is chosen.
        multivariate: whether params are suggested jointly; None means yes.
        group: whether a conditional space is split into groups of params that always occur
            together, each suggested jointly.
        constant_liar: whether to stay away from running trials.
        shared: names of params on which consecutive suggestions agree, where they are categorical
            or integers with few values.
        n_shared: how many consecutive suggestions agree; 1 shares nothing. Each suggestion alone
            is distributed as without it.
        seed: seed of all draws; None draws one.

    Raises:
        ValueError: `group` without `multivariate`, or `n_shared` below 1.
    """

    def __init__(
        self,
        *,
        n_startup_trials: int = 10,
        n_ei_candidates: int = 12,
        multivariate: bool | None = None,
        group: bool = False,
        constant_liar: bool = True,
        shared: Sequence[str] = (),
        n_shared: int = 1,
        seed: int | None = None,
    ) -> None:
        if group and multivariate is False:
            raise ValueError("group needs multivariate, found multivariate=False")
        if n_shared < 1:
            raise ValueError(f"n_shared must be at least 1, found {n_shared}")
        self._n_startup = n_startup_trials
        self._n_candidates = n_ei_candidates
        self._multivariate = multivariate is not False
        self._group = group
        self._constant_liar = constant_liar
        self._shared_names = frozenset(shared) if n_shared > 1 else frozenset()
        self._n_shared = n_shared
        self._rng = np.random.RandomState(seed)
        self._random = RandomSampler(seed)
        self._histories: dict[str, History] = {}
        self._batch_size: int | None = None
        self._fits: Fits | None = None
        self._shared: dict[str, float] = {}
        self._n_sharing = 0
        """How many trials have begun since the shared values were cleared."""

    @contextmanager
    def batch(self, n: int) -> Iterator[None]:
        """Fit once for the `n` suggestions made inside the context."""
        self._batch_size, self._fits = n, None
        try:
            yield
        finally:
            self._batch_size, self._fits = None, None

    def reseed_rng(self) -> None:
        """Seed the random numbers anew."""
        self._rng.seed()
        self._random.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Prepare for a trial."""
        if self._batch_size is None:
            self._fits = None
        if self._n_sharing % self._n_shared == 0:
            self._shared.clear()
        self._n_sharing += 1

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        """Return the params that are suggested jointly."""
        if not self._multivariate:
            return {}
        return {n: d for group in self._fits_of(study).groups for n, d in group.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Space
    ) -> dict[str, Any]:
        """Return values for the params that are suggested jointly."""
        fits = self._fits_of(study)
        if fits.n_finished < self._n_startup:
            return {}
        params: dict[str, Any] = {}
        for group in fits.groups:
            mine = {name: d for name, d in search_space.items() if name in group}
            params |= self._suggestion(fits, mine)
        rest = {name: d for name, d in search_space.items() if name not in params}
        return params | self._suggestion(fits, rest)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return a value for one param."""
        fits = self._fits_of(study)
        if fits.n_finished >= self._n_startup:
            return self._suggestion(fits, {param_name: param_distribution})[param_name]
        if (agreed := self._agreed(param_name, param_distribution)) is not None:
            return param_distribution.to_external_repr(agreed)
        drawn = self._random.sample_independent(study, trial, param_name, param_distribution)
        drawn = on_step(param_distribution, drawn)
        self._share({param_name: param_distribution}, {param_name: drawn})
        return drawn

    def _fits_of(self, study: Study) -> Fits:
        """Return what this batch, or this trial, has fitted so far."""
        fits = self._fits
        if fits is None:
            name = study.study_name
            history = self._histories[name] = self._histories.get(name) or History(study)
            running = history.learn(study.get_trials(deepcopy=False))
            fits = self._fits = Fits(history, running, group=self._group)
        return fits

    def _suggestion(self, fits: Fits, space: Space) -> dict[str, Any]:
        if not space:
            return {}
        key = tuple(space)
        if key not in fits.made:
            densities = fits.densities(space, constant_liar=self._constant_liar)
            n_ahead = self._batch_size or 1
            if self._shared_names:
                n_ahead = max(n_ahead, N_DRAWN_TO_AGREE)
            fits.made[key] = DensityRatio(*densities, self._n_candidates, n_ahead, self._rng)
        agreed = {i: self._agreed(name, d) for i, (name, d) in enumerate(space.items())}
        fixed = {i: value for i, value in agreed.items() if value is not None}
        point = fits.made[key].suggest(constant_liar=self._constant_liar, fixed=fixed).tolist()
        params = {
            name: on_step(distribution, distribution.to_external_repr(value))
            for (name, distribution), value in zip(space.items(), point, strict=True)
        }
        self._share(space, params)
        return params

    def _share(self, space: Space, params: dict[str, Any]) -> None:
        """Make the next suggestions agree with these params."""
        for name, distribution in space.items():
            if name in self._shared_names and can_be_shared(distribution):
                self._shared.setdefault(name, distribution.to_internal_repr(params[name]))

    def _agreed(self, name: str, distribution: BaseDistribution) -> float | None:
        """Return the internal value that suggestions agree on at present, if they do."""
        value = self._shared.get(name)
        return value if can_be_shared(distribution) and _is_legal(value, distribution) else None


def can_be_shared(distribution: BaseDistribution) -> bool:
    """Return whether a param has so few values that suggestions often agree on it."""
    if isinstance(distribution, IntDistribution):
        n_values = (distribution.high - distribution.low) // distribution.step + 1
        return n_values <= MAX_SHARED_VALUES
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices) <= MAX_SHARED_VALUES
    return False


def _is_legal(value: float | None, distribution: BaseDistribution) -> bool:
    """Return whether an internal value is one of a distribution that can be shared."""
    if value is None:
        return False
    if isinstance(distribution, CategoricalDistribution):
        return value < len(distribution.choices)
    assert isinstance(distribution, IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    return low <= value <= high and (value - low) % step == 0
