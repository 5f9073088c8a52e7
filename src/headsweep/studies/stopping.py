"""When a search stops before its budget is spent: at a time, or without improvement."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

from headsweep.errors import StorageError
from headsweep.search.spec import StudySpec
from headsweep.studies.trials import FINISHED

DEADLINE = "headsweep:deadline"
"""Study attribute: when the search stops, naive UTC by the database's clock; null means never."""

StopReason = Literal["timeout", "patience"]


def stop_reason(
    spec: StudySpec, seconds_left: float | None, trials: Iterable[FrozenTrial]
) -> StopReason | None:
    """Return why no further trial may start; None if trials may.

    Args:
        spec: the study's definition.
        seconds_left: time until the deadline; None if there is none.
        trials: the trials of the study.
    """
    if seconds_left is not None and seconds_left <= 0:
        return "timeout"
    if spec.patience is not None and n_without_improvement(trials) >= spec.patience:
        return "patience"
    return None


def n_without_improvement(trials: Iterable[FrozenTrial]) -> int:
    """Return how many trials finished since the best complete one did."""
    finished = [t for t in trials if t.state in FINISHED and t.datetime_complete is not None]
    best: float | None = None
    count = 0
    for trial in sorted(finished, key=lambda t: (t.datetime_complete, t.number)):
        value = trial.value if trial.state == TrialState.COMPLETE else None
        if value is not None and (best is None or value > best):
            best, count = value, 0
        else:
            count += 1
    return count


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
