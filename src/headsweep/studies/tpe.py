"""TPE for many slots: one fit serves all suggestions of a batch.

Within a batch every suggestion enters the density of the trials to stay away from, as Optuna's
constant liar would have it, without fitting again. What is kept of Optuna's `TPESampler` is its
interface, its start-up, its groups and its defaults; what is not covered (several objectives,
constraints) is left to it.
"""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import optuna
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import default_gamma, default_weights
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from headsweep.studies.parzen import Floats, Parzen

BATCHED_ARGUMENTS = frozenset(
    ("n_startup_trials", "n_ei_candidates", "multivariate", "group", "constant_liar")
)
"""Keyword arguments of `TPESampler` that this sampler takes; the others are deprecated there."""

T = TypeVar("T")

MAX_OBSERVATIONS = 600
"""The trials to stay away from are thinned to about so many, or fits would grow with the study."""

_SEEN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


class BatchedTPESampler(TPESampler):
    """Optuna's TPE, which inside `with sampler.batch():` fits once.

    Args:
        n_ei_candidates: draws from which each suggestion is chosen.
        constant_liar: whether to stay away from running trials.
        kwargs: the others of `BATCHED_ARGUMENTS`, and `seed`.
    """

    def __init__(
        self, *, n_ei_candidates: int = 24, constant_liar: bool = True, **kwargs: Any
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # Optuna's own liar would write every suggestion to the store a second time.
            super().__init__(n_ei_candidates=n_ei_candidates, constant_liar=False, **kwargs)
        self._candidates = n_ei_candidates
        self._lies = constant_liar
        self._in_batch = False
        self._started = False
        self._fits: dict[tuple[str, ...], _Fit] = {}
        self._inferred: dict[str, BaseDistribution] | None = None
        self._rows: dict[tuple[str, int], Mapping[str, float]] = {}
        self._constrained = False

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Within it, fits are kept."""
        self._forget()
        self._in_batch = True
        try:
            yield
        finally:
            self._in_batch = False
            self._forget()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See `BaseSampler`."""
        if not self._in_batch:
            self._forget()
        super().before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """See `BaseSampler`."""
        if self._inferred is None or not self._in_batch:
            self._inferred = super().infer_relative_search_space(study, trial)
        return dict(self._inferred)

    def _sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        # Once in a batch is enough to know that the start-up is over.
        if not self._started:
            sample = super()._sample_relative(study, trial, search_space)
            self._started = self._in_batch and bool(sample)
            return sample
        return self._sample(study, trial, search_space) if search_space else {}

    def _sample(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if len(study.directions) > 1:
            return super()._sample(study, trial, search_space)
        key = tuple(search_space)
        if key not in self._fits:
            self._fits[key] = self._fit(study, trial, search_space)
        if self._constrained:
            return super()._sample(study, trial, search_space)
        values = self._fits[key].suggest(self._candidates, self._rng.rng, lie=self._lies)
        return {
            name: distribution.to_external_repr(value)
            for (name, distribution), value in zip(
                search_space.items(), values.tolist(), strict=True
            )
        }

    def _fit(
        self, study: Study, current: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> _Fit:
        trials = study.get_trials(deepcopy=False, states=_SEEN)
        finished = [t for t in trials if t.state != TrialState.RUNNING]
        n_good = default_gamma(len(finished))
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        good = {t.number for t in heapq.nsmallest(n_good, finished, key=lambda t: _rank(t, sign))}
        others = [t for t in (trials if self._lies else finished) if t.number != current.number]
        return _Fit(
            self._parzen(study, [t for t in others if t.number in good], search_space),
            self._parzen(study, [t for t in others if t.number not in good], search_space),
        )

    def _parzen(
        self,
        study: Study,
        trials: Sequence[FrozenTrial],
        search_space: dict[str, BaseDistribution],
    ) -> Parzen:
        names = list(search_space)
        kept, weights = thinned(trials, default_weights(len(trials)))
        rows = [self._row(study.study_name, trial) for trial in kept]
        usable = [i for i, row in enumerate(rows) if search_space.keys() <= row.keys()]
        observations = np.array([[rows[i][name] for name in names] for i in usable], dtype=float)
        return Parzen(
            observations.reshape(-1, len(names)), list(search_space.values()), weights[usable]
        )

    def _row(self, study_name: str, trial: FrozenTrial) -> Mapping[str, float]:
        """A trial's params in internal representation; kept for finished ones."""
        key = (study_name, trial.number)
        if key in self._rows:
            return self._rows[key]
        row = {
            name: distribution.to_internal_repr(trial.params[name])
            for name, distribution in trial.distributions.items()
        }
        if trial.state.is_finished():
            self._rows[key] = row
            self._constrained = self._constrained or bool(trial.constraints)
        return row

    def _forget(self) -> None:
        self._started = False
        self._fits = {}
        self._inferred = None


class _Fit:
    """The density of good params over that of all others, and the suggestions made from it."""

    def __init__(self, below: Parzen, above: Parzen) -> None:
        self._below = below
        self._above = above

    def suggest(self, n_candidates: int, rng: np.random.RandomState, *, lie: bool) -> Floats:
        """The most promising of `n_candidates` draws from the good density."""
        points = self._below.draw(n_candidates, rng)
        gain = self._below.log_density(points) - self._above.log_density(points)
        best: Floats = points[np.argmax(gain)]
        if lie:
            self._above.add(best)
        return best


def _rank(trial: FrozenTrial, sign: float) -> tuple[float, ...]:
    """Best first: complete trials by value, then pruned ones by how far and how well they came."""
    if trial.state == TrialState.COMPLETE:
        return (0, sign * (trial.value or 0.0))
    step = trial.last_step
    if step is None:
        return (2, 0.0)
    value = trial.intermediate_values[step]
    return (1, -step, float("inf") if value != value else sign * value)


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
