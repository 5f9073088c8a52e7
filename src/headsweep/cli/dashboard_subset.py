"""Which trials of a large study the dashboard's page shows.

The page draws every trial as SVG and every learning curve as a trace of its own, and it draws all
plots again at every refresh, every ten seconds. With 80,000 trials it is always busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from headsweep.storage.optuna_tables import FrozenStudy, trial_id

CURVES = 1000
"""Up to this number of trials, the page draws learning curves."""
SHOWN = 5000
"""Up to this number of trials, the page shows all of them."""
RECENT = 1000
"""How many of the newest trials are all shown."""
ROUNDED = 1000
"""The newest begin at a multiple of it, so that a dashboard started again shows mostly the same."""
LATER = 20
"""Of the trials added after `SHOWN` newer ones are shown already, every n-th is shown."""


class Subset:
    """Chooses the trials of one study that are shown.

    Shown are the trials that were the best so far, the first of each kind, the newest ones, all
    unfinished ones, and every n-th of the rest. The page asks only for what follows the trials that
    it has, so what was chosen among leading finished trials stays while the dashboard runs.
    """

    def __init__(self) -> None:
        self._newest: int | None = None
        """Number of the first of the newest trials when the study was first asked for."""
        self._every = 1
        self._forget()

    def _forget(self) -> None:
        self._newest = None
        self._numbers: list[int] = []
        """Numbers of the shown ones among the leading finished trials."""
        self._n = 0
        """How many leading trials are finished."""
        self._last: tuple[Any, ...] = ()
        self._best: float | None = None
        self._kinds: set[tuple[Any, ...]] = set()

    def choose(self, study: FrozenStudy, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the trials to show, in their order.

        Args:
            study: a study with one objective.
            trials: all its trials.
        """
        if self._n > len(trials) or self._last != _identity(study, trials, self._n):
            self._forget()  # the study's id now belongs to another one
        if self._newest is None:
            self._begin(len(trials))
        first_unfinished = next(
            (i for i in range(self._n, len(trials)) if not trials[i].state.is_finished()),
            len(trials),
        )
        settled = trials[:first_unfinished]
        self._numbers += self._chosen(study, settled, self._n)
        self._n, self._last = first_unfinished, _identity(study, trials, first_unfinished)
        best, kinds = self._best, set(self._kinds)
        numbers = self._numbers + self._chosen(study, trials, first_unfinished)
        self._best, self._kinds = best, kinds  # the unfinished trials may change them
        return [trials[i] for i in numbers]

    def _begin(self, n: int) -> None:
        self._newest = max(0, n - RECENT) // ROUNDED * ROUNDED if n > SHOWN else 0
        self._every = max(1, -(-self._newest // (SHOWN - RECENT)))

    def _chosen(self, study: FrozenStudy, trials: Sequence[FrozenTrial], begin: int) -> list[int]:
        """Return the numbers of the shown ones among the trials from `begin` on."""
        numbers = []
        names: dict[int, str] = {}
        for i in range(begin, len(trials)):
            trial = trials[i]
            of_trial = _kind(trial, names)
            improved, new = self._improves(study, trial), of_trial not in self._kinds
            if improved:
                self._best = trial.values[0]
            if new:
                self._kinds.add(of_trial)
            if improved or new or self._is_sampled(i) or not trial.state.is_finished():
                numbers.append(i)
        return numbers

    def _is_sampled(self, i: int) -> bool:
        assert self._newest is not None
        if i < self._newest:
            return i % self._every == 0
        return i < self._newest + SHOWN or i % LATER == 0

    def _improves(self, study: FrozenStudy, trial: FrozenTrial) -> bool:
        """Return whether a trial is better than all before it."""
        if trial.state != TrialState.COMPLETE:
            return False
        value, best = trial.values[0], self._best
        maximize = study.directions[0] == StudyDirection.MAXIMIZE
        return best is None or (value > best if maximize else value < best)


def _kind(trial: FrozenTrial, names: dict[int, str]) -> tuple[Any, ...]:
    """Return what optuna-dashboard reads of a trial for all but the list of trials.

    Args:
        trial: the trial.
        names: texts of distributions by id, of trials that still exist.
    """
    distributions = []
    for name, distribution in trial.distributions.items():
        if (text := names.get(id(distribution))) is None:
            text = names[id(distribution)] = repr(distribution)
        distributions.append((name, text))
    attrs = tuple((name, type(value)) for name, value in trial.user_attrs.items())
    return (trial.state, bool(trial.intermediate_values), tuple(distributions), attrs)


def _identity(study: FrozenStudy, trials: Sequence[FrozenTrial], n: int) -> tuple[Any, ...]:
    """Return what tells the first `n` trials from those of another study with the same ids."""
    if n == 0:
        return ()
    last = trials[n - 1]
    return (study.study_name, trial_id(last), last.datetime_start, last.datetime_complete)


def state_omissions(answer: dict[str, Any], *, shown: int, total: int) -> str | None:
    """Leave learning curves out of a large study's answer, and say in its name what is left out.

    Args:
        answer: optuna-dashboard's answer for the study, without its trials; changed in place.
        shown: how many trials the page gets.
        total: how many trials the study has.

    Returns:
        What the page shows, if it is not everything.
    """
    parts = []
    if shown < total:
        parts.append(f"{shown:,} of {total:,} trials")
    if total > CURVES and answer["has_intermediate_values"]:
        answer["has_intermediate_values"] = False
        parts.append("no learning curves")
    if not parts:
        return None
    answer["name"] += f" ({', '.join(parts)}; everything: headsweep dashboard --all-points)"
    return ", ".join(parts)
