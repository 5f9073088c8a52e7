"""Who runs which trial: claims under the budget, leases, successors of dead trials.

Every function here runs inside one transaction under the study's lock, so that *reap, count, claim,
first heartbeat* is one step for all workers. The budget is counted in trials that are COMPLETE,
PRUNED or RUNNING. A trial that loses its worker is succeeded by a WAITING copy with the same
params, written before the dead one becomes FAIL; one that fails by itself has no successor.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import (
    Connection,
    Select,
    Text,
    bindparam,
    func,
    insert,
    literal_column,
    null,
    select,
    update,
)

from headsweep.errors import SearchError
from headsweep.storage.bulk_writes import (
    Changes,
    attr_rows,
    detail_rows,
    end_rows,
    heartbeat_rows,
    lock_running,
    upsert,
    write_changes,
)
from headsweep.storage.optuna_tables import (
    HEARTBEATS,
    RUNG_PREFIX,
    STUDIES,
    STUDY_ATTRS,
    SYSTEM_ATTRS,
    TRIALS,
    USER_ATTRS,
    altered,
    among,
    bound_ids,
    fetch_trials,
    frozen_trial,
    to_local,
    trial_id,
    utc_now,
)
from headsweep.storage.trial_cache import TrialCache

N_TRIALS = "headsweep:n_trials"
"""Study attribute: the budget, apart from the definition since it may grow."""

RETRY_OF = "retry_of"
"""Trial attribute: the number of the trial that this one runs again."""
RETRIES = "retries"
"""Trial attribute: how often the trial lost its worker by a crash."""
LOST = "lost"
"""Trial attribute: why the worker of a trial that was succeeded stopped running it."""
FAILURE = "failure"
"""Trial attribute: why a trial failed by itself; such trials count towards the failure cap."""
WORKER = "worker"
"""Trial attribute: the worker that runs or ran the trial."""
HOST = "host"
"""Trial attribute: the machine on which that worker runs or ran."""


@dataclass(frozen=True)
class Claims:
    """What a worker got: trials to run, and whether the study may still need it."""

    trials: tuple[FrozenTrial, ...]
    others_running: int
    """RUNNING trials of other workers; each may come back if its worker dies."""
    budget_left: int


def claim(
    connection: Connection,
    cache: TrialCache,
    n_wanted: int,
    *,
    worker: str,
    host: str,
    lease_s: float,
    max_retries: int,
    max_failures: int,
) -> Claims:
    """Takes over dead trials, then claims up to `n_wanted` within the budget.

    Args:
        cache: of the study; up to date when this returns, but for the trials claimed.

    Raises:
        SearchError: more than `max_failures` trials failed by themselves.
    """
    now, n_trials = _open_books(connection, cache.study_id)
    cache.sync(connection)
    if reap(connection, cache, now, lease_s=lease_s, max_retries=max_retries):
        cache.sync(connection)
    _stop_after_failures(cache, max_failures)
    running = cache.in_state(TrialState.RUNNING)
    spent = cache.n_finished + len(running)
    left = max(0, n_trials - spent)
    waiting = cache.in_state(TrialState.WAITING)[: min(n_wanted, left)]
    trials = (
        *_start_waiting(connection, [trial_id(trial) for trial in waiting], now),
        *_start_new(connection, cache, min(n_wanted, left) - len(waiting), now),
    )
    claimed = [trial_id(trial) for trial in trials]
    runs_it = {WORKER: worker, HOST: host}
    signatures = attr_rows(dict.fromkeys(claimed, runs_it))
    upsert(connection, {USER_ATTRS: signatures, HEARTBEATS: heartbeat_rows(claimed, now)})
    others = [trial_id(t) for t in running if trial_id(t) not in cache.own] if not claimed else []
    signed = tuple(altered(trial, user_attrs={**trial.user_attrs, **runs_it}) for trial in trials)
    return Claims(signed, len(heartbeats(connection, others)), left - len(trials))


def renew(connection: Connection, trial_ids: Iterable[int]) -> None:
    """Says that these trials are alive."""
    now = database_now(connection)
    upsert(connection, {HEARTBEATS: heartbeat_rows(trial_ids, now)})


def reap(
    connection: Connection,
    cache: TrialCache,
    now: datetime.datetime,
    *,
    lease_s: float,
    max_retries: int,
) -> bool:
    """Fails the trials whose lease ran out, each after its successor was queued; whether any did.

    A trial that lost its worker more than `max_retries` times has none: it probably kills them.
    A sign of life from the future was written before the clock was set back; it counts from now,
    or the trials of a dead worker would wait until the clock has caught up.
    """
    running = [trial_id(trial) for trial in cache.in_state(TrialState.RUNNING)]
    dialect = connection.dialect.name
    bounds = {
        "ids": bound_ids(running, dialect),
        "oldest": now - datetime.timedelta(seconds=lease_s),
        "now": now,
    }
    doubtful = connection.execute(_doubtful(dialect), bounds).all()
    ahead = [row.trial_id for row in doubtful if row.heartbeat > now]
    upsert(connection, {HEARTBEATS: heartbeat_rows(ahead, now)})
    stale = [row.trial_id for row in doubtful if row.heartbeat <= now]
    dead = fetch_trials(connection, lock_running(connection, stale)) if stale else []
    _bury(connection, cache.study_id, dead, "its lease ran out", max_retries=max_retries)
    return bool(dead)


def take_back(connection: Connection, study_id: int, worker: str, *, max_retries: int) -> int:
    """Fails what a former life of this worker left RUNNING, as `reap` does; how many trials.

    A worker that its scheduler starts again under its old id need not wait for its own leases.
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
    dead = fetch_trials(connection, lock_running(connection, left)) if left else []
    _bury(connection, study_id, dead, "its worker was started again", max_retries=max_retries)
    return len(dead)


def _bury(
    connection: Connection,
    study_id: int,
    dead: Sequence[FrozenTrial],
    reason: str,
    *,
    crashed: bool = True,
    max_retries: int,
) -> None:
    """Fails trials that lost their worker, and queues a successor of each that may have one."""
    retries = {trial_id(trial): trial.user_attrs.get(RETRIES, 0) for trial in dead}
    poison = [t for t in dead if crashed and retries[trial_id(t)] >= max_retries]
    lost = [t for t in dead if not crashed or retries[trial_id(t)] < max_retries]
    _succeed(connection, study_id, lost, reason, crashed=crashed)
    fault = f"its worker died {max_retries + 1} times"
    faults = attr_rows({trial_id(trial): {FAILURE: fault} for trial in poison})
    ends = {trial_id(trial): (TrialState.FAIL, ()) for trial in dead}
    upsert(connection, {USER_ATTRS: faults, **end_rows(ends, utc_now())})
    _forget_rungs(connection, dead)


def hand_back(
    connection: Connection,
    study_id: int,
    changes: Mapping[int, Changes],
    trial_ids: Sequence[int],
    *,
    crashed: bool,
    max_retries: int,
) -> None:
    """Gives up trials that are still ours; their successors wait for the next worker.

    Args:
        changes: what is to be written first, as the end of other trials.
        crashed: whether the worker failed, which counts as a retry, or was told to stop.
        max_retries: a trial that lost its worker by a crash more often has no successor.
    """
    write_changes(connection, changes, utc_now())
    reason = "its worker failed" if crashed else "its worker was told to stop"
    trials = fetch_trials(connection, lock_running(connection, trial_ids))
    _bury(connection, study_id, trials, reason, crashed=crashed, max_retries=max_retries)


def count_states(connection: Connection, study_id: int) -> dict[TrialState, int]:
    """Number of trials in each state, all states present."""
    query = (
        select(TRIALS.c.state, func.count())
        .where(TRIALS.c.study_id == study_id)
        .group_by(TRIALS.c.state)
    )
    counts = dict.fromkeys(TrialState, 0)
    counts.update((state, n) for state, n in connection.execute(query))
    return counts


def heartbeats(connection: Connection, trial_ids: Sequence[int]) -> dict[int, datetime.datetime]:
    """When these trials were last said to be alive; without those that stock Optuna runs."""
    if not trial_ids:
        return {}
    dialect = connection.dialect.name
    rows = connection.execute(_beats(dialect), {"ids": bound_ids(trial_ids, dialect)})
    return {row.trial_id: row.heartbeat for row in rows}


def database_now(connection: Connection) -> datetime.datetime:
    """Naive UTC by the clock that all workers of the database share."""
    if connection.dialect.name == "sqlite":
        return utc_now()
    now = connection.exec_driver_sql("SELECT clock_timestamp() AT TIME ZONE 'UTC'").scalar_one()
    assert isinstance(now, datetime.datetime)
    return now


def _open_books(connection: Connection, study_id: int) -> tuple[datetime.datetime, int]:
    """The time, and the number of trials that the study is to finish; nobody else adds trials."""
    row = connection.execute(_books(connection.dialect.name), {"study": study_id}).one()
    return row.now or utc_now(), int(json.loads(row.value_json))


def _start_waiting(
    connection: Connection, ids: Sequence[int], now: datetime.datetime
) -> list[FrozenTrial]:
    if not ids:
        return []
    dialect = connection.dialect.name
    connection.execute(
        update(TRIALS)
        .where(among(TRIALS.c.trial_id, "ids", dialect))
        .values(state=TrialState.RUNNING, datetime_start=now),
        {"ids": bound_ids(ids, dialect)},
    )
    return fetch_trials(connection, ids)


def _start_new(
    connection: Connection, cache: TrialCache, n: int, now: datetime.datetime
) -> list[FrozenTrial]:
    first = cache.n_trials
    ids = insert_trials(connection, cache.study_id, n, first, TrialState.RUNNING, now)
    return [
        frozen_trial(key, first + i, TrialState.RUNNING, to_local(now)) for i, key in enumerate(ids)
    ]


def insert_trials(
    connection: Connection,
    study_id: int,
    n: int,
    first_number: int,
    state: TrialState,
    start: datetime.datetime | None,
) -> list[int]:
    """Adds `n` empty trials numbered from `first_number`; their ids in that order."""
    if n == 0:
        return []
    rows = [
        {"study_id": study_id, "number": first_number + i, "state": state, "datetime_start": start}
        for i in range(n)
    ]
    return list(connection.execute(_NEW_TRIALS, rows).scalars())


def _succeed(
    connection: Connection,
    study_id: int,
    trials: Sequence[FrozenTrial],
    reason: str,
    *,
    crashed: bool,
) -> None:
    """Queues a WAITING copy of each trial: its params and lineage, nothing of what it reported."""
    if not trials:
        return
    first_number = sum(count_states(connection, study_id).values())
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


def _forget_rungs(connection: Connection, trials: Sequence[FrozenTrial]) -> None:
    """Takes dead trials out of the competition at the rungs, where their successors enter."""
    # Renamed, not deleted: SQLite would give the keys of deleted rows to new ones.
    if not trials:
        return
    dialect = connection.dialect.name
    of_the_dead = among(SYSTEM_ATTRS.c.trial_id, "ids", dialect)
    connection.execute(
        update(SYSTEM_ATTRS)
        .where(of_the_dead, SYSTEM_ATTRS.c.key.startswith(RUNG_PREFIX))
        .values(key=literal_column("'lost_'", Text) + SYSTEM_ATTRS.c.key),
        {"ids": bound_ids([trial_id(trial) for trial in trials], dialect)},
    )


def _stop_after_failures(cache: TrialCache, max_failures: int) -> None:
    failed = cache.in_state(TrialState.FAIL)
    failures = [trial for trial in failed if FAILURE in trial.user_attrs]
    if len(failures) > max_failures:
        last = failures[-1]
        raise SearchError(
            f"a study must have at most {max_failures} failed trials, found {len(failures)}; "
            f"the last is trial {last.number}: {last.user_attrs[FAILURE]}"
        )


# Statements are made once: their making costs as much as their running.

_NEW_TRIALS = insert(TRIALS).returning(TRIALS.c.trial_id, sort_by_parameter_order=True)


@cache
def _books(dialect: str) -> Select[Any]:
    """Takes the lock on the study's row, under which stock Optuna numbers its trials."""
    now = func.timezone("UTC", func.clock_timestamp()) if dialect == "postgresql" else null()
    query = select(now.label("now"), STUDY_ATTRS.c.value_json)
    query = query.join_from(STUDIES, STUDY_ATTRS, STUDY_ATTRS.c.study_id == STUDIES.c.study_id)
    mine = query.where(STUDIES.c.study_id == bindparam("study"), STUDY_ATTRS.c.key == N_TRIALS)
    return mine.with_for_update(of=STUDIES)


@cache
def _beats(dialect: str) -> Select[Any]:
    query = select(HEARTBEATS.c.trial_id, HEARTBEATS.c.heartbeat)
    return query.where(among(HEARTBEATS.c.trial_id, "ids", dialect))


@cache
def _doubtful(dialect: str) -> Select[Any]:
    """Trials among the `ids` whose last sign of life came before `oldest`, or after `now`."""
    beat = HEARTBEATS.c.heartbeat
    query = select(HEARTBEATS.c.trial_id, beat).where(
        (beat < bindparam("oldest")) | (beat > bindparam("now"))
    )
    return query.where(among(HEARTBEATS.c.trial_id, "ids", dialect))
