"""Trials of a study as configs, and what there is to tell of them."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.errors import StudyError
from headsweep.search.spec import StudySpec
from headsweep.storage.attributes import typed
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.claims import FAILURE, HOST, WORKER, database_now, heartbeats
from headsweep.storage.optuna_tables import to_local, trial_id
from headsweep.studies.study import load_spec, study_id_of
from headsweep.studies.worker_timings import WorkerTimings, total_timings

TAPE_POSITION = "tape_position"
"""Trial attribute: where on the tape of permutations the trial entered."""
EPOCHS_TRAINED = "epochs_trained"
"""Trial attribute: how many epochs the trial trained."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def trial_config(spec: StudySpec, trial: FrozenTrial) -> Config:
    """The config that a trial trains: the study's base, its params, its place on the tape.

    Raises:
        ConfigError: the params together break a law of the config.
    """
    values = dict(trial.params)
    if TAPE_POSITION in trial.user_attrs:
        values["training.tape_position"] = trial.user_attrs[TAPE_POSITION]
    return with_values(spec.config, values, where=f"trial {trial.number}")


def best_trials(name: str, storage: BatchedStorage, n: int) -> list[FrozenTrial]:
    """The `n` best COMPLETE trials of a study, best first; the earlier of two equals.

    Raises:
        StudyError: the study does not exist, or has no COMPLETE trial.
    """
    trials = storage.get_all_trials(
        study_id_of(name, storage), deepcopy=False, states=(TrialState.COMPLETE,)
    )
    if not trials:
        raise StudyError(f"{name}: a study must have a complete trial, found none")
    return sorted(trials, key=lambda trial: (-(trial.value or 0.0), trial.number))[:n]


def trial_by_number(name: str, storage: BatchedStorage, number: int) -> FrozenTrial:
    """The trial of a study with this number.

    Raises:
        StudyError: there is no such study or trial.
    """
    try:
        key = storage.get_trial_id_from_study_id_trial_number(study_id_of(name, storage), number)
    except KeyError:
        raise StudyError(f"{name}: the trial must exist, found no number {number}") from None
    return storage.get_trial(key)


@dataclass(frozen=True)
class Summary:
    """How far a study is."""

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
    """Workers that hold trials and renewed them lately."""
    epochs_trained: int
    epochs_planned: int
    """Epochs that the finished trials would have trained without pruning or early stopping."""
    last_failure: str | None
    effort: WorkerTimings
    """What its workers spent, until they told it last."""

    @property
    def live_workers(self) -> int:
        """Workers of all hosts."""
        return sum(self.workers_by_host.values())

    @property
    def finished(self) -> int:
        """Trials that count towards the budget for good."""
        return self.states["COMPLETE"] + self.states["PRUNED"]

    @property
    def share_not_trained(self) -> float:
        """Share of the planned epochs that pruning and early stopping saved."""
        return 1.0 - self.epochs_trained / self.epochs_planned if self.epochs_planned else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain data."""
        derived = {
            "live_workers": self.live_workers,
            "finished": self.finished,
            "share_not_trained": self.share_not_trained,
        }
        return asdict(self) | derived | {"effort": self.effort.to_dict()}


def summarize(name: str, storage: BatchedStorage, *, lease_s: float = 60.0) -> Summary:
    """The state of a study.

    Args:
        lease_s: a worker is live when it renewed a trial within this time.

    Raises:
        StudyError: no study of that name is in the store.
    """
    spec = load_spec(name, storage)
    study_id = study_id_of(name, storage)
    trials = storage.sync(study_id).trials

    running = [trial_id(trial) for trial in trials if trial.state == TrialState.RUNNING]

    def alive(connection: Connection) -> tuple[set[int], datetime.datetime]:
        now = database_now(connection)
        beats = heartbeats(connection, running)
        return {k for k, beat in beats.items() if (now - beat).total_seconds() <= lease_s}, now

    live, now = storage.read(lambda: storage.database.read(alive))
    finished = [trial for trial in trials if trial.state in FINISHED]
    failed = [trial for trial in trials if FAILURE in trial.user_attrs]
    states = Counter(trial.state.name for trial in trials)
    best = max(
        (t for t in finished if t.state == TrialState.COMPLETE),
        key=lambda trial: (trial.value or 0.0, -trial.number),
        default=None,
    )
    speed = _trials_per_minute(finished, to_local(now) or now)
    left = spec.n_trials - len(finished)
    return Summary(
        study=name,
        n_trials=spec.n_trials,
        states={state.name: states[state.name] for state in TrialState} | {"FAIL": len(failed)},
        best_value=best.value if best else None,
        best_trial=best.number if best else None,
        trials_per_minute=speed,
        minutes_left=max(0, left) / speed if speed else None,
        workers_by_host=_workers_by_host([t for t in trials if trial_id(t) in live]),
        epochs_trained=sum(
            typed(t.user_attrs, EPOCHS_TRAINED, 0, where=_place(t)) for t in finished
        ),
        epochs_planned=sum(_planned_epochs(spec, trial) for trial in finished),
        last_failure=_text(failed[-1], FAILURE) if failed else None,
        effort=total_timings(storage.get_study_user_attrs(study_id)),
    )


def _place(trial: FrozenTrial) -> str:
    return f"trial {trial.number}"


def _text(trial: FrozenTrial, name: str) -> str:
    return typed(trial.user_attrs, name, "", where=_place(trial))


def _workers_by_host(live: Sequence[FrozenTrial]) -> dict[str, int]:
    workers = {(_text(t, HOST), _text(t, WORKER)) for t in live}
    return dict(sorted(Counter(host for host, _ in workers).items()))


def _planned_epochs(spec: StudySpec, trial: FrozenTrial) -> int:
    return int(trial.params.get("training.max_epochs", spec.config.training.max_epochs))


def _trials_per_minute(finished: Sequence[FrozenTrial], now: datetime.datetime) -> float:
    ends = [trial.datetime_complete for trial in finished if trial.datetime_complete]
    starts = [trial.datetime_start for trial in finished if trial.datetime_start]
    if not ends or not starts:
        return 0.0
    since = max(min(starts), max(ends) - datetime.timedelta(minutes=10))
    recent = [end for end in ends if end >= since]
    span_s = (max(ends) - since).total_seconds()
    return 60.0 * len(recent) / span_s if span_s > 0 else 0.0
