"""A study's trials in memory, brought up to date by increments.

Trials handed out are never changed: every update replaces the trial by a copy, since samplers and
pruners keep what they were given while they decide.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Row, or_, select

from headsweep.studies.schema import (
    RUNG_PREFIX,
    TRIALS,
    Details,
    Marks,
    fetch_all_trials,
    fetch_details_after,
    fetch_trials,
    frozen_trial,
    to_local,
    trial_id,
    values_in_order,
)

UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)


class Mirror:
    """The trials of one study, by number and by id.

    `own` are the unfinished trials that only this process writes: what is in memory is newer than
    what lies in the database, so increments pass them over, except that one which another process
    has finished leaves `own` and is read again.
    """

    def __init__(self, study_id: int) -> None:
        self.study_id = study_id
        self.own: set[int] = set()
        self._trials: list[FrozenTrial] = []
        self._place: dict[int, int] = {}
        self._in_order = True
        self._unfinished: set[int] = set()
        self._failed: set[int] = set()
        self._reported: defaultdict[int, dict[int, float]] = defaultdict(dict)
        self._at_rung: defaultdict[int, dict[int, float]] = defaultdict(dict)
        self._marks: Marks | None = None
        self._last_id = 0

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials in the order of their numbers."""
        if not self._in_order:
            self._trials.sort(key=lambda trial: trial.number)
            self._place = {trial_id(trial): place for place, trial in enumerate(self._trials)}
            self._in_order = True
        return list(self._trials)

    def get(self, key: int) -> FrozenTrial | None:
        """The trial of this id, if it is known."""
        place = self._place.get(key)
        return None if place is None else self._trials[place]

    def in_state(self, state: TrialState) -> list[FrozenTrial]:
        """The trials in a state that is not final, oldest first."""
        found = [self._trials[self._place[key]] for key in sorted(self._unfinished)]
        return [trial for trial in found if trial.state == state]

    @property
    def n_trials(self) -> int:
        """How many trials the study has, in any state."""
        return len(self._trials)

    @property
    def n_finished(self) -> int:
        """How many trials are COMPLETE or PRUNED."""
        return len(self._trials) - len(self._unfinished) - len(self._failed)

    @property
    def failed(self) -> list[FrozenTrial]:
        """Trials in the state FAIL, whether they were run again or not."""
        return [self._trials[self._place[key]] for key in sorted(self._failed)]

    def invalidate(self) -> None:
        """Reads everything again at the next `sync`: what was read may have been rolled back."""
        self._marks = None

    def reported_at(self, step: int) -> Mapping[int, float]:
        """What trials reported at a step, by trial id; not of failed trials."""
        return self._reported[step]

    def values_at_rung(self, rung: int) -> Mapping[int, float]:
        """What trials brought to a rung of successive halving, by trial id; not of failed ones."""
        return self._at_rung[rung]

    def put(self, trial: FrozenTrial) -> None:
        """Adds a trial, or replaces the one of the same id."""
        key = trial_id(trial)
        self._index(key, trial)
        if key in self._place:
            self._trials[self._place[key]] = trial
        else:
            if self._trials and trial.number < self._trials[-1].number:
                self._in_order = False
            self._place[key] = len(self._trials)
            self._trials.append(trial)
        if trial.state in UNFINISHED:
            self._unfinished.add(key)
        else:
            self._unfinished.discard(key)
            self.own.discard(key)
        if trial.state == TrialState.FAIL:
            self._failed.add(key)

    def sync(self, connection: Connection) -> None:
        """Reads what other processes wrote since the last call, on one snapshot."""
        if self._marks is None:
            self._load(connection)
            return
        watched = self._unfinished - self.own
        query = select(TRIALS).where(
            TRIALS.c.study_id == self.study_id,
            or_(TRIALS.c.trial_id > self._last_id, TRIALS.c.trial_id.in_(watched)),
        )
        rows = connection.execute(query.order_by(TRIALS.c.trial_id)).all()
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
        """Puts trials as another process left them."""
        for trial in trials:
            self.own.discard(trial_id(trial))
            self.put(trial)

    def _load(self, connection: Connection) -> None:
        kept = [self._trials[self._place[key]] for key in self.own]
        trials, self._marks = fetch_all_trials(connection, self.study_id)
        self._trials, self._place = [], {}
        for kept_by_key in (self._unfinished, self._failed, self._reported, self._at_rung):
            kept_by_key.clear()
        for trial in [*trials, *kept]:
            self.put(trial)
        self._last_id = max((trial_id(trial) for trial in trials), default=0)

    def _index(self, key: int, trial: FrozenTrial) -> None:
        if trial.state == TrialState.FAIL:
            for values in (*self._reported.values(), *self._at_rung.values()):
                values.pop(key, None)
            return
        for step, value in trial.intermediate_values.items():
            self._reported[step][key] = value
        for name, value in trial.system_attrs.items():
            if name.startswith(RUNG_PREFIX):
                self._at_rung[int(name.removeprefix(RUNG_PREFIX))][key] = value

    def _has_ended(self, row: Row[Any]) -> bool:
        trial = self.get(row.trial_id)
        return row.state not in UNFINISHED and (trial is None or trial.state in UNFINISHED)

    def _follow_state(self, row: Row[Any]) -> None:
        trial = self.get(row.trial_id)
        start = to_local(row.datetime_start)
        if trial is None:
            self.put(frozen_trial(row.trial_id, row.number, row.state, start))
        elif row.trial_id not in self.own and row.state in UNFINISHED and trial.state != row.state:
            trial = copy.copy(trial)
            trial.state, trial.datetime_start = row.state, start
            self.put(trial)


def _extended(trial: FrozenTrial, added: Details) -> FrozenTrial:
    extended = copy.copy(trial)
    extended.params = {**trial.params, **added.params}
    extended.distributions = {**trial.distributions, **added.distributions}
    extended.intermediate_values = {**trial.intermediate_values, **added.reports}
    extended.user_attrs = {**trial.user_attrs, **added.user_attrs}
    extended.system_attrs = {**trial.system_attrs, **added.system_attrs}
    if added.values:
        extended.values = values_in_order(added.values)
    return extended
