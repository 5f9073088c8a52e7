"""A study's trials in memory, updated with the rows that are new.

Trial objects are never changed: every update replaces the trial by a copy, since samplers and
pruners may still use the old object.
"""

from __future__ import annotations

import datetime
import gc
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Row

from headsweep.storage.optuna_tables import (
    RUNG_PREFIX,
    altered,
    frozen_trial,
    to_local,
    trial_id,
)
from headsweep.storage.sorted_values import SortedValues
from headsweep.storage.trial_rows import (
    Details,
    Marks,
    fetch_all_trials,
    fetch_changed,
    fetch_details_after,
    fetch_trials,
    values_in_order,
)

UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)
LISTED = (*UNFINISHED, TrialState.FAIL)


@contextmanager
def collection_paused() -> Iterator[None]:
    """Collect no garbage inside of the context.

    Where millions of small objects are created and none is garbage, collecting doubles the time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class TrialCache:
    """The trials of one study, by number and by id.

    `own` are the unfinished trials that only this process writes: memory is newer than the
    database, so updates do not replace them. If another process has ended such a trial, it is read
    again and removed from `own`.
    """

    def __init__(self, study_id: int) -> None:
        self.study_id = study_id
        self.own: set[int] = set()
        self._trials: list[FrozenTrial] = []
        self._position: dict[int, int] = {}
        self._in_order = True
        self._unsorted = False
        """Whether values are added without sorting, to be sorted all at once later."""
        self._in: dict[TrialState, set[int]] = {state: set() for state in LISTED}
        self._reported: defaultdict[int, SortedValues] = defaultdict(SortedValues)
        self._at_rung: defaultdict[int, SortedValues] = defaultdict(SortedValues)
        self.misfits: set[int] = set()
        """Ids of trials with distributions other than the declared ones."""
        self._declared: dict[str, BaseDistribution] = {}
        self._marks: Marks | None = None
        self._last_id = 0

    def declare_distributions(self, distributions: Mapping[str, BaseDistribution]) -> None:
        """Set the distributions of the study's space, with which those of trials are compared."""
        self._declared = dict(distributions)
        self.misfits = {trial_id(t) for t in self._trials if not self._fits(t)}

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials in the order of their numbers."""
        self._sort()
        return list(self._trials)

    def get(self, key: int) -> FrozenTrial | None:
        """Return the trial with this id, if it is known."""
        position = self._position.get(key)
        return None if position is None else self._trials[position]

    def in_state(self, state: TrialState) -> list[FrozenTrial]:
        """Return the trials that are RUNNING, WAITING or FAIL, oldest first."""
        return [self._trials[self._position[key]] for key in sorted(self._in[state])]

    @property
    def n_trials(self) -> int:
        """How many trials the study has, in any state."""
        return len(self._trials)

    @property
    def n_finished(self) -> int:
        """How many trials are COMPLETE or PRUNED."""
        return len(self._trials) - sum(map(len, self._in.values()))

    @property
    def next_number(self) -> int:
        """The number of the next trial: one more than the highest, even if some were deleted."""
        self._sort()
        return self._trials[-1].number + 1 if self._trials else 0

    def invalidate(self) -> None:
        """Read everything again at the next `sync`, since what was read may be rolled back."""
        self._marks = None

    def reported_at(self, step: int) -> SortedValues:
        """Return the values that trials reported at a step, except failed ones."""
        return self._reported[step]

    def at_rung(self, rung: int) -> SortedValues:
        """Return the values of trials at a rung of successive halving, except failed ones."""
        return self._at_rung[rung]

    def put(self, trial: FrozenTrial) -> None:
        """Add a trial, or replace the one with the same id."""
        key = trial_id(trial)
        before = self.get(key)
        if before is not None:
            self._trials[self._position[key]] = trial
            self._in_order &= before.number == trial.number
        else:
            if self._trials and trial.number < self._trials[-1].number:
                self._in_order = False
            self._position[key] = len(self._trials)
            self._trials.append(trial)
        self._index(key, trial, before)
        if before is not None and before.state == trial.state:
            return
        for state, keys in self._in.items():
            (keys.add if state == trial.state else keys.discard)(key)
        if trial.state not in UNFINISHED:
            self.own.discard(key)

    def end(
        self,
        key: int,
        state: TrialState,
        values: Sequence[float],
        at: datetime.datetime | None,
    ) -> None:
        """End a trial of `own` as it was ended in the database; `at` is naive local time."""
        trial = self._trials[self._position[key]]
        ended = altered(trial, state=state, datetime_complete=at)
        self.put(altered(ended, values=[float(v) for v in values]) if values else ended)

    def sync(self, connection: Connection, *, own: bool = False) -> None:
        """Read what other processes wrote since the last call, on one snapshot.

        Args:
            connection: in a transaction.
            own: whether to look for trials of `own` that another process has ended.
        """
        if self._marks is None:
            self._load(connection)
            return
        rows = fetch_changed(
            connection,
            self.study_id,
            after=self._last_id,
            running=self._in[TrialState.RUNNING] - (set() if own else self.own),
            waiting=self._in[TrialState.WAITING],
        )
        details, self._marks = fetch_details_after(connection, self.study_id, self._marks)
        ended = [row.trial_id for row in rows if self._has_ended(row)]
        for row in rows:
            self._follow_state(row)
            self._last_id = max(self._last_id, row.trial_id)
        for key, added in details.items():
            trial = self.get(key)
            if trial is not None and key not in self.own and trial.state in UNFINISHED:
                self.put(_extended(trial, added))
        for trial in fetch_trials(connection, ended):
            self.put(trial)

    def replace(self, trials: Iterable[FrozenTrial]) -> None:
        """Replace trials by what another process wrote."""
        for trial in trials:
            self.own.discard(trial_id(trial))
            self.put(trial)

    def remove(self, trial_ids: Iterable[int]) -> None:
        """Drop trials that were deleted."""
        deleted = {key for key in trial_ids if key in self._position}
        if not deleted:
            return
        for key in deleted:
            self._index_failed(key)
        for keys in (self.own, self.misfits, *self._in.values()):
            keys -= deleted
        self._trials = [trial for trial in self._trials if trial_id(trial) not in deleted]
        self._position = {trial_id(trial): i for i, trial in enumerate(self._trials)}

    def _sort(self) -> None:
        if not self._in_order:
            self._trials.sort(key=lambda trial: trial.number)
            self._position = {trial_id(trial): i for i, trial in enumerate(self._trials)}
            self._in_order = True

    def _load(self, connection: Connection) -> None:
        """Read all trials."""
        with collection_paused():
            self._load_all(connection)

    def _load_all(self, connection: Connection) -> None:
        own = [self._trials[self._position[key]] for key in self.own]
        trials, self._marks = fetch_all_trials(connection, self.study_id)
        self._trials, self._position = [], {}
        self._in = {state: set() for state in LISTED}
        self._reported.clear()
        self._at_rung.clear()
        self._unsorted = True
        for trial in trials:
            self.put(trial)
        self._unsorted = False
        for values in (*self._reported.values(), *self._at_rung.values()):
            values.sort()
        for trial in own:
            self.put(trial)
        self._last_id = max((trial_id(trial) for trial in trials), default=0)

    def _index(self, key: int, trial: FrozenTrial, before: FrozenTrial | None) -> None:
        """Index a trial's reports; a field that is the same object has not changed."""
        if trial.state == TrialState.FAIL:
            self._index_failed(key)
            return
        enter = SortedValues.enter_unsorted if self._unsorted else SortedValues.enter
        if before is None or before.distributions is not trial.distributions:
            (self.misfits.discard if self._fits(trial) else self.misfits.add)(key)
        if before is None or before.intermediate_values is not trial.intermediate_values:
            for step, value in trial.intermediate_values.items():
                enter(self._reported[step], key, value)
        if before is None or before.system_attrs is not trial.system_attrs:
            for name, value in trial.system_attrs.items():
                rung = name.removeprefix(RUNG_PREFIX)
                # Other values with such a name were not written by a pruner.
                if rung != name and rung.isdecimal() and isinstance(value, float | int):
                    enter(self._at_rung[int(rung)], key, value)

    def _fits(self, trial: FrozenTrial) -> bool:
        """Return whether the distributions of a trial are compatible with the declared ones."""
        declared = self._declared
        for name, distribution in trial.distributions.items():
            expected = declared.get(name, distribution)
            if expected is distribution:
                continue
            try:
                check_distribution_compatibility(expected, distribution)
            except ValueError:
                return False
            if expected == distribution:
                declared[name] = distribution  # rows share one object: compared by identity next
            elif not _contains(expected, trial.params[name]):
                return False
        return True

    def _index_failed(self, key: int) -> None:
        """Remove a failed trial's values."""
        for values in (*self._reported.values(), *self._at_rung.values()):
            values.leave(key)

    def _has_ended(self, row: Row[Any]) -> bool:
        trial = self.get(row.trial_id)
        return row.state not in UNFINISHED and (trial is None or trial.state in UNFINISHED)

    def _follow_state(self, row: Row[Any]) -> None:
        trial = self.get(row.trial_id)
        start = to_local(row.datetime_start)
        if trial is None:
            self.put(frozen_trial(row.trial_id, row.number, row.state, start))
        elif row.trial_id not in self.own and row.state in UNFINISHED and trial.state != row.state:
            self.put(altered(trial, state=row.state, datetime_start=start))


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether a number lies between the bounds of a distribution, except for rounding."""
    low, high = getattr(distribution, "low", -math.inf), getattr(distribution, "high", math.inf)
    slack = 1e-9 * max(abs(low), abs(high)) if math.isfinite(high) else 0.0
    return not isinstance(value, int | float) or bool(low - slack <= value <= high + slack)


def _extended(trial: FrozenTrial, added: Details) -> FrozenTrial:
    extended = altered(
        trial,
        params={**trial.params, **added.params},
        distributions={**trial.distributions, **added.distributions},
        intermediate_values={**trial.intermediate_values, **added.reports},
        user_attrs={**trial.user_attrs, **added.user_attrs},
        system_attrs={**trial.system_attrs, **added.system_attrs},
    )
    return altered(extended, values=values_in_order(added.values)) if added.values else extended
