"""When a search stops before its budget is spent: at a time, or without improvement."""

from __future__ import annotations

import bisect
import datetime
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from headsweep.errors import StorageError
from headsweep.search.objective import is_feasible
from headsweep.search.spec import StudySpec
from headsweep.storage.claims import database_now
from headsweep.studies.study_attributes import read_study_attrs, write_study_attrs
from headsweep.studies.trials import FINISHED

DEADLINE = "headsweep:deadline"
"""Study attribute: when the search stops, naive UTC by the database's clock; null means never."""

StopReason = Literal["timeout", "patience"]


class Improvements:
    """Counts the trials since the best one, in the order in which they finished."""

    def __init__(self) -> None:
        self._finished: list[tuple[datetime.datetime, int]] = []
        """When each trial finished, and its number; ascending."""
        self._best: tuple[float, tuple[datetime.datetime, int]] | None = None

    def add(self, trial: FrozenTrial) -> None:
        """Count a trial that has finished; almost all come in order, so the cost is constant."""
        if trial.state not in FINISHED or trial.datetime_complete is None:
            return
        at = trial.datetime_complete, trial.number
        bisect.insort(self._finished, at)
        if trial.state != TrialState.COMPLETE or trial.value is None or not is_feasible(trial):
            return
        best = self._best
        if best is None or (trial.value, best[1]) > (best[0], at):
            self._best = trial.value, at

    @property
    def n_without(self) -> int:
        """How many trials finished since the best complete one that meets the constraint did."""
        if self._best is None:
            return len(self._finished)
        return len(self._finished) - bisect.bisect_right(self._finished, self._best[1])


def stop_reason(
    spec: StudySpec, seconds_left: float | None, improvements: Improvements
) -> StopReason | None:
    """Return why no further trial may start; None if trials may.

    Args:
        spec: the study's definition.
        seconds_left: time until the deadline; None if there is none.
        improvements: has counted the trials of the study.
    """
    if seconds_left is not None and seconds_left <= 0:
        return "timeout"
    if spec.patience is not None and improvements.n_without >= spec.patience:
        return "patience"
    return None


def counted(trials: Iterable[FrozenTrial]) -> Improvements:
    """Return the count of these trials."""
    improvements = Improvements()
    for trial in trials:
        improvements.add(trial)
    return improvements


def seconds_left(attrs: Mapping[str, Any], now: datetime.datetime) -> float | None:
    """Return the time until a study's deadline; None if it has none.

    Args:
        attrs: the study's user attributes.
        now: naive UTC by the database's clock.

    Raises:
        StorageError: the attribute holds no time.
    """
    text = attrs.get(DEADLINE)
    if text is None:
        return None
    try:
        return (datetime.datetime.fromisoformat(text) - now).total_seconds()
    except (TypeError, ValueError):
        raise StorageError(f"{DEADLINE} must be a time, found {str(text)[:40]!r}") from None


def set_deadline(connection: Connection, study_id: int, timeout_s: float | None) -> None:
    """Set or remove a study's deadline.

    Args:
        connection: in a transaction under the study's lock.
        study_id: id of the study.
        timeout_s: seconds from now by the database's clock; None removes the deadline.
    """
    if timeout_s is None:
        if DEADLINE not in read_study_attrs(connection, study_id):
            return
        deadline = None
    else:
        end = database_now(connection) + datetime.timedelta(seconds=timeout_s)
        deadline = end.isoformat()
    write_study_attrs(connection, study_id, {DEADLINE: deadline})


def clear_past_deadline(connection: Connection, study_id: int) -> None:
    """Remove a study's deadline if it has passed.

    Args:
        connection: in a transaction under the study's lock.
        study_id: id of the study.
    """
    attrs = read_study_attrs(connection, study_id)
    left_s = seconds_left(attrs, database_now(connection))
    if left_s is not None and left_s <= 0:
        write_study_attrs(connection, study_id, {DEADLINE: None})
