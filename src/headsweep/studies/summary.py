"""The progress of a study: trials by state, best value, speed, live workers, failures."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from headsweep.search.objective import is_feasible
from headsweep.search.spec import StudySpec
from headsweep.storage.attributes import FAILURE, HOST, REFUSED, WORKER, typed
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.claims import database_now, heartbeats
from headsweep.storage.optuna_tables import trial_id
from headsweep.studies.stopping import StopReason, counted, seconds_left, stop_reason
from headsweep.studies.trials import EPOCHS_TRAINED, FINISHED
from headsweep.studies.worker_timings import WorkerTimings, total_timings

SPEED_WINDOW = datetime.timedelta(minutes=10)


@dataclass(frozen=True)
class Summary:
    """The progress of a study at one moment."""

    study: str
    n_trials: int
    states: dict[str, int]
    """Trials by state; FAIL counts those that failed by themselves, not those run again."""
    best_value: float | None
    best_trial: int | None
    trials_per_minute: float
    """Over the last ten minutes in which trials finished."""
    minutes_left: float | None
    workers_by_host: dict[str, int]
    """Workers that hold trials and renewed them within the lease."""
    epochs_trained: int
    epochs_planned: int
    """Epochs that the finished trials would have trained without pruning or early stopping."""
    last_failure: str | None
    effort: WorkerTimings
    """What the workers spent, as of their last report."""
    stopped_by: StopReason | None = None
    """Why the search stopped before its budget was spent; None if it did not."""
    n_refused: int = 0
    """Trials whose params do not fit the space: enqueued ones, which count in FAIL too, and
    finished ones of other programs, which are never among the best."""

    @property
    def live_workers(self) -> int:
        """Number of live workers on all hosts."""
        return sum(self.workers_by_host.values())

    @property
    def finished(self) -> int:
        """Number of trials that count towards the budget."""
        return self.states["COMPLETE"] + self.states["PRUNED"]

    @property
    def n_left(self) -> int:
        """Number of trials that may still be started."""
        return max(0, self.n_trials - self.finished - self.states["RUNNING"])

    @property
    def share_not_trained(self) -> float:
        """Share of the planned epochs that pruning and early stopping saved."""
        return 1.0 - self.epochs_trained / self.epochs_planned if self.epochs_planned else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain data."""
        derived = {
            "live_workers": self.live_workers,
            "finished": self.finished,
            "share_not_trained": self.share_not_trained,
        }
        return asdict(self) | derived | {"effort": self.effort.to_dict()}


def summarize(
    spec: StudySpec,
    attrs: Mapping[str, Any],
    study_id: int,
    storage: BatchedStorage,
    fits: Callable[[FrozenTrial], bool],
    *,
    lease_s: float,
) -> Summary:
    """Summarize a study's trials.

    Args:
        spec: the study's spec with the present budget.
        attrs: the study's user attributes.
        study_id: the study's id.
        storage: the storage that holds the study.
        fits: whether a finished trial's params are in the space.
        lease_s: a worker is live if it renewed a trial within this time.

    Returns:
        The summary.
    """
    trials = storage.sync(study_id).trials
    running = [trial_id(trial) for trial in trials if trial.state == TrialState.RUNNING]
    live, now = _renewed(storage, running, lease_s)
    finished = [trial for trial in trials if trial.state in FINISHED]
    failed = [trial for trial in trials if FAILURE in trial.user_attrs]
    states = Counter(trial.state.name for trial in trials)
    fitting = [trial for trial in finished if fits(trial)]
    best = max(
        (t for t in fitting if t.state == TrialState.COMPLETE and is_feasible(t)),
        key=lambda trial: (trial.value or 0.0, -trial.number),
        default=None,
    )
    speed = _trials_per_minute(finished)
    left = max(0, spec.n_trials - len(finished))
    deadline_s = seconds_left(attrs, now)
    return Summary(
        study=spec.name,
        n_trials=spec.n_trials,
        states={state.name: states[state.name] for state in TrialState} | {"FAIL": len(failed)},
        best_value=best.value if best else None,
        best_trial=best.number if best else None,
        trials_per_minute=speed,
        minutes_left=_minutes_left(left, speed, deadline_s),
        workers_by_host=_workers_by_host([t for t in trials if trial_id(t) in live]),
        epochs_trained=sum(
            typed(t.user_attrs, EPOCHS_TRAINED, 0, where=_named(t)) for t in finished
        ),
        epochs_planned=sum(_planned_epochs(spec, trial) for trial in finished),
        stopped_by=stop_reason(spec, deadline_s, counted(fitting)) if left else None,
        n_refused=len(finished) - len(fitting) + sum(REFUSED in t.user_attrs for t in failed),
        last_failure=_text(failed[-1], FAILURE) if failed else None,
        effort=total_timings(attrs),
    )


def _renewed(
    storage: BatchedStorage, trial_ids: Sequence[int], lease_s: float
) -> tuple[set[int], datetime.datetime]:
    """Return which of these trials were renewed within the lease, and the database's time."""

    def read(connection: Connection) -> tuple[set[int], datetime.datetime]:
        now = database_now(connection)
        beats = heartbeats(connection, trial_ids)
        return {k for k, beat in beats.items() if (now - beat).total_seconds() <= lease_s}, now

    return storage.read(lambda: storage.database.read(read))


def _minutes_left(n_trials: int, per_minute: float, deadline_s: float | None) -> float | None:
    """Return how long so many trials take, at most until the deadline; None if none finished."""
    if not per_minute:
        return None
    minutes = n_trials / per_minute
    return minutes if deadline_s is None else min(minutes, max(0.0, deadline_s / 60))


def _named(trial: FrozenTrial) -> str:
    return f"trial {trial.number}"


def _text(trial: FrozenTrial, name: str) -> str:
    return typed(trial.user_attrs, name, "", where=_named(trial))


def _workers_by_host(live: Sequence[FrozenTrial]) -> dict[str, int]:
    workers = {(_text(t, HOST), _text(t, WORKER)) for t in live}
    return dict(sorted(Counter(host for host, _ in workers).items()))


def _planned_epochs(spec: StudySpec, trial: FrozenTrial) -> int:
    return int(trial.params.get("training.max_epochs", spec.config.training.max_epochs))


def _trials_per_minute(finished: Sequence[FrozenTrial]) -> float:
    ends = [trial.datetime_complete for trial in finished if trial.datetime_complete]
    starts = [trial.datetime_start for trial in finished if trial.datetime_start]
    if not ends or not starts:
        return 0.0
    since = max(min(starts), max(ends) - SPEED_WINDOW)
    recent = [end for end in ends if end >= since]
    span_s = (max(ends) - since).total_seconds()
    return 60.0 * len(recent) / span_s if span_s > 0 else 0.0
