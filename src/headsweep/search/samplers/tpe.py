"""TPE for many slots: one fit serves all suggestions of a batch.

As in Optuna's `TPESampler`, a suggestion is the draw from the density of good trials at which the
density of the others is lowest in proportion; running trials count among the others, and so does
every suggestion of the batch, one kernel each, without fitting again.

A batch of 32 learns once where one trial after another learns 32 times, so a fit must make more of
what it has, and stay wide enough. What differs from Optuna's was chosen by measurement
(`docs/benchmarks.md`): the good are as few as the root of all, not a tenth, and weigh by rank, as
parents do in evolution strategies; their kernels are no wider than the good are spread, so that a
search closes in as fast as they do; half of the suggestions recombine the good, each value from a
trial of its own, or what one batch found would settle where all the next ones search; fewer draws
compete for a suggestion; and what is not known yet weighs less than what is known not to be good.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from headsweep.search.samplers.parzen import Floats, Parzen, closing_in
from headsweep.search.steps import on_step

BATCHED_ARGUMENTS = frozenset(
    ("n_startup_trials", "n_ei_candidates", "multivariate", "group", "constant_liar")
)
"""Keyword arguments of `TPESampler` that this one takes; the others are deprecated there."""

T = TypeVar("T")
Space = dict[str, BaseDistribution]

GOOD, MAX_GOOD = 0.7, 25
"""Of n finished trials, the best 0.7 √n are good; at most so many."""
RECOMBINED = 0.5
"""The share of suggestions whose values come from the good one by one, not all from the same."""
MAX_OBSERVATIONS = 600
"""The trials to stay away from are thinned to about so many, or fits would grow with the study."""
N_AT_FULL_WEIGHT = 25
"""The most recent trials to stay away from; those before them weigh the less the older they are."""

LIE_WEIGHT = 0.3
"""A trial whose value is not known yet, against one that is known not to be good."""

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_RUNNING = TrialState.RUNNING


class BatchedTPESampler(BaseSampler):
    """TPE for one objective, which inside `with sampler.batch(n):` fits once.

    Args:
        n_startup_trials: below so many finished trials, suggestions are random.
        n_ei_candidates: draws from which each suggestion is chosen.
        multivariate: whether params are suggested jointly; None is yes.
        group: whether a conditional space is split into groups of params that always occur
            together, each suggested jointly.
        constant_liar: whether to stay away from running trials.
        seed: of all draws; None draws one.
    """

    def __init__(
        self,
        *,
        n_startup_trials: int = 10,
        n_ei_candidates: int = 12,
        multivariate: bool | None = None,
        group: bool = False,
        constant_liar: bool = True,
        seed: int | None = None,
    ) -> None:
        if group and multivariate is False:
            raise ValueError("group needs multivariate, found multivariate=False")
        self._n_startup = n_startup_trials
        self._n_candidates = n_ei_candidates
        self._multivariate = multivariate is not False
        self._group = group
        self._lies = constant_liar
        self._rng = np.random.RandomState(seed)
        self._random = RandomSampler(seed)
        self._pasts: dict[str, _Past] = {}
        self._batch_size: int | None = None
        self._fits: _Fits | None = None

    @contextmanager
    def batch(self, n: int) -> Iterator[None]:
        """Within it, fits are kept, and made for `n` suggestions."""
        self._batch_size, self._fits = n, None
        try:
            yield
        finally:
            self._batch_size, self._fits = None, None

    def reseed_rng(self) -> None:
        """See `BaseSampler`."""
        self._rng.seed()
        self._random.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See `BaseSampler`."""
        if self._batch_size is None:
            self._fits = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        """See `BaseSampler`."""
        if not self._multivariate:
            return {}
        return {n: d for group in self._fits_of(study).groups for n, d in group.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Space
    ) -> dict[str, Any]:
        """See `BaseSampler`."""
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
        """See `BaseSampler`."""
        fits = self._fits_of(study)
        if fits.n_finished < self._n_startup:
            drawn = self._random.sample_independent(study, trial, param_name, param_distribution)
            return on_step(param_distribution, drawn)
        return self._suggestion(fits, {param_name: param_distribution})[param_name]

    def _fits_of(self, study: Study) -> _Fits:
        """What this batch, or this trial, has fitted so far."""
        fits = self._fits
        if fits is None:
            name = study.study_name
            past = self._pasts[name] = self._pasts.get(name) or _Past(study)
            trials = past.learn(study.get_trials(deepcopy=False))
            fits = self._fits = _Fits(past, trials, group=self._group)
        return fits

    def _suggestion(self, fits: _Fits, space: Space) -> dict[str, Any]:
        if not space:
            return {}
        key = tuple(space)
        if key not in fits.made:
            densities = fits.densities(space, lie=self._lies)
            n_ahead = self._batch_size or 1
            fits.made[key] = _Fit(*densities, self._n_candidates, n_ahead, self._rng)
        point = fits.made[key].suggest(lie=self._lies).tolist()
        return {
            name: on_step(distribution, distribution.to_external_repr(value))
            for (name, distribution), value in zip(space.items(), point, strict=True)
        }


class _Past:
    """What stays true of a study: its finished trials as numbers, and the spaces they span.

    `groups` partitions all params such that every trial has all or none of a group; `common` are
    the params that all trials have, with the same distribution.
    """

    def __init__(self, study: Study) -> None:
        if len(study.directions) > 1:
            raise ValueError("a batched TPE must have one objective, found several")
        self._sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        self._rows: dict[int, Mapping[str, float]] = {}
        self._ranks: list[tuple[tuple[float, ...], int]] = []
        self.groups: list[Space] = []
        self.common: Space = {}

    @property
    def n_finished(self) -> int:
        """How many trials it knows."""
        return len(self._rows)

    def learn(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Takes in what has finished; the trials to be seen: these, and running ones with params.

        Those without were claimed just now; counted, they would fade all others.
        """
        seen = [t for t in trials if t.state in _FINISHED or (t.state == _RUNNING and t.params)]
        for trial in seen:
            if trial.number in self._rows or trial.state == _RUNNING:
                continue
            space = {n: d for n, d in trial.distributions.items() if not d.single()}
            self.groups = refined(self.groups, space)
            kept = self.common if self._rows else space
            self.common = {n: d for n, d in kept.items() if space.get(n) == d}
            self._rows[trial.number] = _row(trial)
            self._ranks.append((_rank(trial, self._sign), trial.number))
        return seen

    def best(self, n: int) -> list[int]:
        """The numbers of the `n` best trials, best first."""
        return [number for _, number in heapq.nsmallest(n, self._ranks)]

    def row(self, trial: FrozenTrial) -> Mapping[str, float]:
        """A trial's params in internal representation."""
        return self._rows[trial.number] if trial.number in self._rows else _row(trial)


class _Fits:
    """What is fitted to a study as it stands: for each group of params, when it is first asked."""

    def __init__(self, past: _Past, trials: Sequence[FrozenTrial], *, group: bool) -> None:
        self.n_finished = past.n_finished
        self.groups = past.groups if group else [past.common]
        self.made: dict[tuple[str, ...], _Fit] = {}
        self._past = past
        self._trials = trials

    def densities(self, space: Space, *, lie: bool) -> tuple[Parzen, Parzen]:
        """Of the good trials, and of all others; the running ones are among them if `lie`."""
        n_good = min(math.ceil(GOOD * math.sqrt(self.n_finished)), MAX_GOOD)
        best = self._past.best(n_good)
        good = set(best)
        trial_of = {trial.number: trial for trial in self._trials if trial.number in good}
        others = [
            trial
            for trial in self._trials
            if trial.number not in good and (lie or trial.state != _RUNNING)
        ]
        distributions = list(space.values())
        below, ranked = self._observed([trial_of[n] for n in best], rank_weights(n_good), space)
        weights = fading_weights(len(others))
        weights[[trial.state == _RUNNING for trial in others]] *= LIE_WEIGHT
        above, faded = self._observed(*thinned(others, weights), space)
        return (
            Parzen(below, distributions, ranked, closing_in(ranked, len(space))),
            Parzen(above, distributions, faded),
        )

    def _observed(
        self, trials: Sequence[FrozenTrial], weights: Floats, space: Space
    ) -> tuple[Floats, Floats]:
        """Observations (n, d) of the trials that have all of these params, and their weights."""
        rows = [self._past.row(trial) for trial in trials]
        usable = [i for i, row in enumerate(rows) if space.keys() <= row.keys()]
        observations = np.array([[rows[i][name] for name in space] for i in usable], dtype=float)
        return observations.reshape(-1, len(space)), weights[usable]


class _Fit:
    """The density of good params over that of all others, and the suggestions made from it.

    Draws for `n_ahead` suggestions are made and weighed at once.
    """

    def __init__(
        self,
        below: Parzen,
        above: Parzen,
        n_candidates: int,
        n_ahead: int,
        rng: np.random.RandomState,
    ) -> None:
        self._below, self._above = below, above
        self._n_candidates, self._n_ahead = n_candidates, n_ahead
        self._rng = rng
        self._drawn: Floats = np.empty((0, 0))
        self._log_below: Floats = np.empty(0)
        self._log_above: Floats = np.empty(0)

    def suggest(self, *, lie: bool) -> Floats:
        """The most promising of the next draws from the good density."""
        if len(self._drawn) == 0:
            self._draw()
        n = self._n_candidates
        gain = self._log_below[:n] - self._log_above[:n]
        best: Floats = self._drawn[np.argmax(gain)]
        self._drawn = self._drawn[n:]
        self._log_below, self._log_above = self._log_below[n:], self._log_above[n:]
        if lie:
            # A sum over kernels, not a mean: what is added leaves the others as they are.
            kernel = self._above.add(best, LIE_WEIGHT, at=self._drawn)
            self._log_above = np.logaddexp(self._log_above, kernel + math.log(LIE_WEIGHT))
        return best

    def _draw(self) -> None:
        below, above, rng, n = self._below, self._above, self._rng, self._n_candidates
        n_recombined = rng.binomial(self._n_ahead, RECOMBINED)
        joint = below.draw((self._n_ahead - n_recombined) * n, rng)
        recombined = below.recombine(n_recombined * n, rng)
        self._drawn = np.concatenate([joint, recombined])
        self._log_below, self._log_above = (
            np.concatenate([of.log_density(joint), of.log_recombined(recombined)])
            for of in (below, above)
        )
        self._log_above += math.log(above.weight)


def refined(groups: Sequence[Space], space: Space) -> list[Space]:
    """Groups split such that `space` has all or none of each; what is new becomes a group."""
    parts: list[Space] = []
    new = dict(space)
    for group in groups:
        parts.append({name: space[name] for name in group if name in space})
        parts.append({name: d for name, d in group.items() if name not in space})
        new = {name: d for name, d in new.items() if name not in group}
    return [part for part in (*parts, new) if part]


def rank_weights(n: int) -> Floats:
    """Weights (n,) of the best to the n-th best, 1 on average.

    Source: N. Hansen, *The CMA Evolution Strategy: A Tutorial*, equation 49.
    """
    weights: Floats = np.log(n + 0.5) - np.log(np.arange(1, n + 1))
    return weights / weights.mean() if n else weights


def fading_weights(n: int) -> Floats:
    """Weights (n,) of the oldest to the newest trial. Source: `optuna.samplers.TPESampler`."""
    n_fading = max(0, n - N_AT_FULL_WEIGHT)
    ramp = np.linspace(1.0 / max(n, 1), 1.0, num=n_fading)
    return np.concatenate([ramp, np.ones(n - n_fading)])


def thinned(rows: Sequence[T], weights: Floats) -> tuple[Sequence[T], Floats]:
    """The recent half as it is; of the rest, every s-th with s times its weight."""
    if len(rows) <= MAX_OBSERVATIONS:
        return rows, weights
    n_recent = MAX_OBSERVATIONS // 2
    n_old = len(rows) - n_recent
    stride = -(-n_old // (MAX_OBSERVATIONS - n_recent))
    old = slice(n_old % stride, n_old, stride)
    kept = [*rows[old], *rows[n_old:]]
    return kept, np.concatenate([weights[old] * stride, weights[n_old:]])


def _rank(trial: FrozenTrial, sign: float) -> tuple[float, ...]:
    """Best first: complete trials by value, then pruned ones by how far and how well they came."""
    if trial.state == TrialState.COMPLETE:
        return (0, sign * (trial.value or 0.0))
    step = trial.last_step
    if step is None:
        return (2, 0.0)
    value = trial.intermediate_values[step]
    return (1, -step, float("inf") if value != value else sign * value)


def _row(trial: FrozenTrial) -> Mapping[str, float]:
    return {name: d.to_internal_repr(trial.params[name]) for name, d in trial.distributions.items()}
