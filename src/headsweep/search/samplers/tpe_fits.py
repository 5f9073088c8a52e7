"""A study as batched TPE sees it: its trials as numbers, and the densities fitted to them."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from headsweep.search.new_trials import NewTrials
from headsweep.search.objective import violation
from headsweep.search.samplers.parzen import Floats, Parzen, closing_in

T = TypeVar("T", bound=np.generic)
Space = dict[str, BaseDistribution]

GOOD, MAX_GOOD = 0.7, 25
"""Of n finished trials, the best 0.7 √n are good, but at most 25."""
RECOMBINED = 0.5
"""The share of suggestions whose values come from good trials one by one, not all from the same."""
MAX_OBSERVATIONS = 600
"""Trials that are not good are thinned to about this number, so that fits do not get slower."""
N_AT_FULL_WEIGHT = 25
"""The most recent trials that are not good weigh 1, and those before them less the older they are.
"""
LIE_WEIGHT = 0.3
"""The weight of a running trial, against one that is known not to be good."""
MAX_REJECTED = 200
"""Most suggestions that are rejected while one that agrees with shared values is drawn."""

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_RUNNING = TrialState.RUNNING


class History:
    """A study's finished trials as numbers, and the spaces they span.

    `groups` partitions all params such that every trial has all or none of a group; `common` are
    the params that all trials have, with the same distribution. `finished` holds the trials'
    numbers (n,), ascending, and `rows` their params in internal representation, by number.

    Raises:
        ValueError: the study has several objectives.
    """

    def __init__(self, study: Study) -> None:
        if len(study.directions) > 1:
            raise ValueError("a batched TPE must have one objective, found several")
        self._sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        self._clear()

    def _clear(self) -> None:
        self.rows: dict[int, Mapping[str, float]] = {}
        self.finished: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.groups: list[Space] = []
        self.common: Space = {}
        self._best: list[tuple[tuple[float, ...], int]] = []
        """Rank and number of the best `MAX_GOOD` trials, best first."""
        self._new = NewTrials()

    @property
    def n_finished(self) -> int:
        """How many finished trials are known."""
        return len(self.rows)

    def learn(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Take in the trials that have finished since the last call.

        Only trials that are new or had not ended are read, so that the cost of a call does not
        grow with the study. If trials were deleted or hidden since, all are read again.

        Args:
            trials: all trials of the study, by number.

        Returns:
            The running trials that a fit counts: those with params. Trials without params were
            claimed just now; if they were counted, they would lower the weight of all others.
        """
        if self._new.outdated(trials):
            self._clear()
        unread = self._new.read(trials)
        self._enter([trial for trial in unread if trial.state in _FINISHED])
        return [trial for trial in unread if trial.state == _RUNNING and trial.params]

    def _enter(self, finished: Sequence[FrozenTrial]) -> None:
        for trial in finished:
            space = {n: d for n, d in trial.distributions.items() if not d.single()}
            self.groups = refined(self.groups, space)
            common = self.common if self.rows else space
            self.common = {n: d for n, d in common.items() if space.get(n) == d}
            self.rows[trial.number] = internal_params(trial)
        ranks = [(_rank(trial, self._sign), trial.number) for trial in finished]
        self._best = heapq.nsmallest(MAX_GOOD, [*self._best, *ranks])
        numbers = np.array([trial.number for trial in finished], dtype=np.int64)
        self.finished = np.sort(np.concatenate([self.finished, numbers]), kind="stable")

    def best(self, n: int) -> list[int]:
        """Return the numbers of the `n` best trials, best first; `n` is at most `MAX_GOOD`."""
        return [number for _, number in self._best[:n]]


class Fits:
    """Densities fitted to the present trials of a study; for each set of params when needed."""

    def __init__(self, history: History, running: Sequence[FrozenTrial], *, group: bool) -> None:
        self.n_finished = history.n_finished
        self.groups = history.groups if group else [history.common]
        self.made: dict[tuple[str, ...], DensityRatio] = {}
        self._history = history
        self._running = {trial.number: internal_params(trial) for trial in running}

    def densities(self, space: Space, *, constant_liar: bool) -> tuple[Parzen, Parzen]:
        """Return those of the good trials and of the others; `constant_liar` adds running ones."""
        n_good = min(math.ceil(GOOD * math.sqrt(self.n_finished)), MAX_GOOD)
        good = np.array(self._history.best(n_good), dtype=np.int64)
        finished = self._history.finished
        running = np.array([*self._running] if constant_liar else [], dtype=np.int64)
        others = np.sort(np.concatenate([finished[~np.isin(finished, good)], running]))
        distributions = list(space.values())
        below, ranked = self._observed(good, rank_weights(n_good), space)
        weights = fading_weights(len(others))
        weights[np.isin(others, running)] *= LIE_WEIGHT
        above, faded = self._observed(*thinned(others, weights), space)
        return (
            Parzen(below, distributions, ranked, closing_in(ranked, len(space))),
            Parzen(above, distributions, faded),
        )

    def _observed(
        self, numbers: NDArray[np.int64], weights: Floats, space: Space
    ) -> tuple[Floats, Floats]:
        """Return observations (n, d) of the trials with all of these params, and their weights."""
        known = self._history.rows
        rows = [known[n] if n in known else self._running[n] for n in numbers.tolist()]
        usable = [i for i, row in enumerate(rows) if space.keys() <= row.keys()]
        observations = np.array([[rows[i][name] for name in space] for i in usable], dtype=float)
        return observations.reshape(-1, len(space)), weights[usable]


class DensityRatio:
    """The density of good params over that of all others, and the suggestions made from it.

    A suggestion is the most promising of `n_candidates` draws; draws for `n_ahead` suggestions are
    made at once.
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
        self._drawn: Floats = np.empty((0, n_candidates, 0))
        self._log_below: Floats = np.empty((0, n_candidates))
        self._log_above: Floats = np.empty((0, n_candidates))

    def suggest(self, *, constant_liar: bool, fixed: Mapping[int, float]) -> Floats:
        """Return the next suggestion that has given values in some dimensions.

        Suggestions are drawn until one has them, so that its other params are distributed as they
        are among all suggestions with these values.

        Args:
            constant_liar: whether later suggestions stay away from this one.
            fixed: values by dimension.
        """
        best = self._next()
        for _ in range(MAX_REJECTED):
            if all(best[i] == value for i, value in fixed.items()):
                break
            best = self._next()
        else:
            for i, value in fixed.items():
                best[i] = value
        if constant_liar:
            # A sum over kernels, not a mean: adding a kernel does not change the others.
            kernel = self._above.add(best, LIE_WEIGHT, at=self._drawn.reshape(-1, len(best)))
            kernel = kernel.reshape(self._log_above.shape)
            self._log_above = np.logaddexp(self._log_above, kernel + math.log(LIE_WEIGHT))
        return best

    def _next(self) -> Floats:
        """Return the most promising of the next draws from the density of good trials."""
        if len(self._drawn) == 0:
            self._draw()
        best: Floats = self._drawn[0, np.argmax(self._log_below[0] - self._log_above[0])].copy()
        self._drawn = self._drawn[1:]
        self._log_below, self._log_above = self._log_below[1:], self._log_above[1:]
        return best

    def _draw(self) -> None:
        below, above, rng = self._below, self._above, self._rng
        shape = (self._n_ahead, self._n_candidates)
        n_recombined = rng.binomial(self._n_ahead, RECOMBINED)
        joint = below.draw((self._n_ahead - n_recombined) * self._n_candidates, rng)
        recombined = below.recombine(n_recombined * self._n_candidates, rng)
        # Some suggestions may be rejected, so the two kinds are mixed at random.
        order: NDArray[np.intp] = rng.permutation(self._n_ahead)
        self._drawn = np.concatenate([joint, recombined]).reshape(*shape, -1)[order]
        self._log_below, self._log_above = (
            np.concatenate([of.log_density(joint), of.log_recombined(recombined)])
            .reshape(shape)[order]
            for of in (below, above)
        )  # fmt: skip
        self._log_above = self._log_above + math.log(above.weight)


def refined(groups: Sequence[Space], space: Space) -> list[Space]:
    """Return groups split such that `space` has all or none of each; new params become a group."""
    parts: list[Space] = []
    new = dict(space)
    for group in groups:
        parts.append({name: space[name] for name in group if name in space})
        parts.append({name: d for name, d in group.items() if name not in space})
        new = {name: d for name, d in new.items() if name not in group}
    return [part for part in (*parts, new) if part]


def rank_weights(n: int) -> Floats:
    """Return weights (n,) of the best to the n-th best, 1 on average.

    Source: N. Hansen, *The CMA Evolution Strategy: A Tutorial*, equation 49.
    """
    weights: Floats = np.log(n + 0.5) - np.log(np.arange(1, n + 1))
    return weights / weights.mean() if n else weights


def fading_weights(n: int) -> Floats:
    """Return weights (n,) of the oldest to the newest trial, as `optuna.samplers.TPESampler`."""
    n_fading = max(0, n - N_AT_FULL_WEIGHT)
    ramp = np.linspace(1.0 / max(n, 1), 1.0, num=n_fading)
    return np.concatenate([ramp, np.ones(n - n_fading)])


def thinned(rows: NDArray[T], weights: Floats) -> tuple[NDArray[T], Floats]:
    """Return the recent half as it is; of the rest, every s-th with s times its weight."""
    if len(rows) <= MAX_OBSERVATIONS:
        return rows, weights
    n_recent = MAX_OBSERVATIONS // 2
    n_old = len(rows) - n_recent
    stride = -(-n_old // (MAX_OBSERVATIONS - n_recent))
    old = slice(n_old % stride, n_old, stride)
    old_weights = weights[old] * stride
    return (
        np.concatenate([rows[old], rows[n_old:]]),
        np.concatenate([old_weights, weights[n_old:]]),
    )


def _rank(trial: FrozenTrial, sign: float) -> tuple[float, ...]:
    """Return a sort key, best first: complete trials by value, then pruned ones by last epoch.

    Trials that do not meet the constraints come last, by how far they are beyond these.
    """
    if beyond := violation(trial):
        return (3, beyond)
    if trial.state == TrialState.COMPLETE:
        return (0, sign * (trial.value or 0.0))
    step = trial.last_step
    if step is None:
        return (2, 0.0)
    value = trial.intermediate_values[step]
    return (1, -step, float("inf") if value != value else sign * value)


def internal_params(trial: FrozenTrial) -> dict[str, float]:
    """Return a trial's params in Optuna's internal representation."""
    return {name: d.to_internal_repr(trial.params[name]) for name, d in trial.distributions.items()}
