"""Trials whose worker crashed or stopped: they fail, and a copy of each is queued.

Every function here runs in one transaction under the study's lock. The copy is WAITING, has the
same params, and is written before the lost trial becomes FAIL. A trial that fails because of an
error of its own is not retried.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Select, Text, bindparam, func, literal_column, select, update

from headsweep.storage.attributes import FAILURE, LOST, RETRIES, RETRY_OF, WORKER
from headsweep.storage.bulk_writes import (
    Changes,
    attr_rows,
    detail_rows,
    end_rows,
    heartbeat_rows,
    insert_trials,
    lock_owned,
    lock_running,
    upsert,
    write_changes,
)
from headsweep.storage.optuna_tables import (
    HEARTBEATS,
    RUNG_PREFIX,
    SYSTEM_ATTRS,
    TRIALS,
    USER_ATTRS,
    among,
    bound_ids,
    trial_id,
    utc_now,
)
from headsweep.storage.trial_cache import TrialCache
from headsweep.storage.trial_rows import fetch_trials


@dataclass(frozen=True)
class Expired:
    """The result of `expire_trials`."""

    any: bool
    """Whether any trial was failed; the cache is then out of date."""
    without_heartbeat: frozenset[int]
    """Ids of RUNNING trials without heartbeat, which other programs run, such as stock Optuna."""


def expire_trials(
    connection: Connection,
    cache: TrialCache,
    now: datetime.datetime,
    *,
    lease_s: float,
    max_retries: int,
) -> Expired:
    """Fail the trials whose lease expired, and queue a retry of each.

    A trial that lost its worker more than `max_retries` times is not retried: it probably crashes
    its workers. A heartbeat in the future was written before the clock was set back. It is set to
    now; otherwise the trials of a crashed worker would not expire until the clock reaches it.

    Args:
        connection: in a transaction under the study's lock.
        cache: the study's cache, up to date.
        now: naive UTC.
        lease_s: how long a heartbeat is valid, in seconds.
        max_retries: how often a trial is retried.

    Returns:
        Whether any trial was failed, and the trials that have no heartbeat.
    """
    running = [trial_id(trial) for trial in cache.in_state(TrialState.RUNNING)]
    dialect = connection.dialect.name
    bounds = {
        "ids": bound_ids(running, dialect),
        "oldest": now - datetime.timedelta(seconds=lease_s),
        "now": now,
    }
    rows = connection.execute(_suspects(dialect), bounds).all()
    without = frozenset(row.trial_id for row in rows if row.heartbeat is None)
    beats = {row.trial_id: row.heartbeat for row in rows if row.heartbeat is not None}
    ahead = [key for key, beat in beats.items() if beat > now]
    upsert(connection, {HEARTBEATS: heartbeat_rows(ahead, now)})
    stale = [key for key, beat in beats.items() if beat <= now]
    if not stale:
        return Expired(any=False, without_heartbeat=without)
    lost = fetch_trials(connection, lock_running(connection, cache.study_id, stale))
    _fail(connection, cache.study_id, lost, "its lease ran out", max_retries=max_retries)
    return Expired(any=bool(lost), without_heartbeat=without)


def take_back(connection: Connection, study_id: int, worker: str, *, max_retries: int) -> int:
    """Fail the trials that a previous run of this worker left RUNNING, and queue a retry of each.

    A worker that is restarted with the same id does not have to wait until its own leases expire.

    Args:
        connection: in a transaction under the study's lock.
        study_id: id of the study.
        worker: id of the worker.
        max_retries: how often a trial is retried.

    Returns:
        Number of trials that were failed.
    """
    query = (
        select(TRIALS.c.trial_id)
        .join(USER_ATTRS, USER_ATTRS.c.trial_id == TRIALS.c.trial_id)
        .where(
            TRIALS.c.study_id == study_id,
            TRIALS.c.state == TrialState.RUNNING,
            USER_ATTRS.c.key == WORKER,
            USER_ATTRS.c.value_json == json.dumps(worker),
        )
    )
    left = list(connection.execute(query).scalars())
    if not left:
        return 0
    lost = fetch_trials(connection, lock_running(connection, study_id, left))
    _fail(connection, study_id, lost, "its worker was started again", max_retries=max_retries)
    return len(lost)


def hand_back(
    connection: Connection,
    study_id: int,
    changes: Mapping[int, Changes],
    trial_ids: Sequence[int],
    *,
    worker: str,
    crashed: bool,
    max_retries: int,
) -> None:
    """Fail trials that this worker still runs, and queue a retry of each for any worker.

    Args:
        connection: in a transaction under the study's lock.
        study_id: id of the study.
        changes: pending changes, such as the end of other trials; they are written first.
        trial_ids: the trials to give up.
        worker: id of the worker.
        crashed: whether the worker failed, which counts as a retry, or was asked to stop.
        max_retries: how often a trial whose worker crashed is retried.
    """
    write_changes(connection, study_id, changes, dict.fromkeys(changes, worker), utc_now())
    reason = "its worker failed" if crashed else "its worker was told to stop"
    owned = lock_owned(connection, study_id, dict.fromkeys(trial_ids, worker))
    trials = fetch_trials(connection, owned)
    _fail(connection, study_id, trials, reason, crashed=crashed, max_retries=max_retries)


def _fail(
    connection: Connection,
    study_id: int,
    lost: Sequence[FrozenTrial],
    reason: str,
    *,
    crashed: bool = True,
    max_retries: int,
) -> None:
    """Fail trials, and queue a retry of each that has not reached `max_retries`."""
    retries = {trial_id(trial): trial.user_attrs.get(RETRIES, 0) for trial in lost}
    given_up = [t for t in lost if crashed and retries[trial_id(t)] >= max_retries]
    retried = [t for t in lost if not crashed or retries[trial_id(t)] < max_retries]
    _queue_retries(connection, study_id, retried, reason, crashed=crashed)
    failure = f"its worker died {max_retries + 1} times"
    failures = attr_rows({trial_id(trial): {FAILURE: failure} for trial in given_up})
    ends = {trial_id(trial): (TrialState.FAIL, ()) for trial in lost}
    upsert(connection, {USER_ATTRS: failures, **end_rows(ends, utc_now())})
    _leave_rungs(connection, lost)


def _queue_retries(
    connection: Connection,
    study_id: int,
    trials: Sequence[FrozenTrial],
    reason: str,
    *,
    crashed: bool,
) -> None:
    """Add a WAITING copy of each trial, with its params and origin but without its reports."""
    if not trials:
        return
    highest = select(func.max(TRIALS.c.number)).where(TRIALS.c.study_id == study_id)
    first_number = (connection.execute(highest).scalar() or 0) + 1
    ids = insert_trials(connection, study_id, len(trials), first_number, TrialState.WAITING, None)
    changes: dict[int, Changes] = {}
    for key, trial in zip(ids, trials, strict=True):
        retries = trial.user_attrs.get(RETRIES, 0) + int(crashed)
        changes[key] = Changes(
            params={
                name: (distribution.to_internal_repr(trial.params[name]), distribution)
                for name, distribution in trial.distributions.items()
            },
            user_attrs={RETRY_OF: trial.number, RETRIES: retries},
            system_attrs={
                name: value
                for name, value in trial.system_attrs.items()
                if not name.startswith(RUNG_PREFIX)
            },
        )
    upsert(connection, detail_rows(changes))
    upsert(connection, {USER_ATTRS: attr_rows({trial_id(t): {LOST: reason} for t in trials})})


def _leave_rungs(connection: Connection, trials: Sequence[FrozenTrial]) -> None:
    """Rename the rung values of lost trials, since their retries enter the rungs again."""
    # They are not deleted, since SQLite would give the ids of deleted rows to new ones.
    if not trials:
        return
    dialect = connection.dialect.name
    connection.execute(
        update(SYSTEM_ATTRS)
        .where(
            among(SYSTEM_ATTRS.c.trial_id, "ids", dialect),
            SYSTEM_ATTRS.c.key.startswith(RUNG_PREFIX),
        )
        .values(key=literal_column("'lost_'", Text) + SYSTEM_ATTRS.c.key),
        {"ids": bound_ids([trial_id(trial) for trial in trials], dialect)},
    )


@cache
def _suspects(dialect: str) -> Select[Any]:
    """Return the query of trials with no heartbeat, or one before `oldest` or after `now`."""
    beat = HEARTBEATS.c.heartbeat
    query = select(TRIALS.c.trial_id, beat).join_from(
        TRIALS, HEARTBEATS, HEARTBEATS.c.trial_id == TRIALS.c.trial_id, isouter=True
    )
    return query.where(
        among(TRIALS.c.trial_id, "ids", dialect),
        beat.is_(None) | (beat < bindparam("oldest")) | (beat > bindparam("now")),
    )
