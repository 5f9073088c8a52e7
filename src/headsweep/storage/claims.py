"""Claims of trials under the budget, and their heartbeats.

A claim is one transaction under the study's lock: expire lost trials, count finished ones, claim
new ones, write their first heartbeat. The budget is counted in trials that are COMPLETE, PRUNED or
RUNNING, and is therefore met exactly, however many workers claim at once.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Select, bindparam, func, null, select, update

from headsweep.errors import SearchError
from headsweep.json_text import parse_json
from headsweep.storage.attributes import FAILURE, HOST, N_TRIALS, REFUSED, WORKER
from headsweep.storage.bulk_writes import (
    attr_rows,
    heartbeat_rows,
    insert_trials,
    owned_trials,
    upsert,
)
from headsweep.storage.expiry import expire_trials
from headsweep.storage.optuna_tables import (
    HEARTBEATS,
    STUDIES,
    STUDY_ATTRS,
    TRIALS,
    USER_ATTRS,
    altered,
    among,
    bound_ids,
    frozen_trial,
    to_local,
    trial_id,
    utc_now,
)
from headsweep.storage.trial_cache import TrialCache
from headsweep.storage.trial_rows import fetch_trials

FOREIGN_GRACE_S = 600.0
"""A RUNNING trial without heartbeats belongs to another program, such as stock Optuna. It counts in
the budget for so many seconds after its start; if it still runs then, another trial is claimed."""


@dataclass(frozen=True)
class Claims:
    """The trials that a worker claimed, and whether the study may still need the worker."""

    trials: tuple[FrozenTrial, ...]
    others_running: int
    """RUNNING trials of other workers; each is retried if its worker crashes."""
    budget_left: int
    foreign: tuple[FrozenTrial, ...] = ()
    """RUNNING trials of other programs that count in the budget at present."""


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
    """Fail lost trials, then claim up to `n_wanted` within the budget, WAITING ones first.

    Args:
        connection: in a transaction under the study's lock.
        cache: the study's cache; it is up to date afterwards, except for the claimed trials.
        n_wanted: most trials to claim.
        worker: id of the worker.
        host: name of its machine.
        lease_s: how long a heartbeat is valid, in seconds.
        max_retries: how often a trial that lost its worker is run again.
        max_failures: most trials of the study that may fail because of an error of their own.

    Returns:
        The claimed trials and what is left.

    Raises:
        SearchError: more than `max_failures` trials failed because of an error of their own.
    """
    now, n_trials = _lock_study(connection, cache.study_id)
    cache.sync(connection)
    expired = expire_trials(connection, cache, now, lease_s=lease_s, max_retries=max_retries)
    if expired.any:
        cache.sync(connection)
    _stop_after_failures(cache, max_failures)
    running = cache.in_state(TrialState.RUNNING)
    foreign = [t for t in running if trial_id(t) in expired.without_heartbeat - cache.own]
    abandoned = {trial_id(trial) for trial in foreign if _is_abandoned(trial, now)}
    left = max(0, n_trials - cache.n_finished - len(running) + len(abandoned))
    waiting = cache.in_state(TrialState.WAITING)[: min(n_wanted, left)]
    started = _start_waiting(connection, [trial_id(trial) for trial in waiting], now)
    n_new = min(n_wanted, left) - len(waiting)
    trials = (*started, *_start_new(connection, cache, n_new, now))
    trials = _assign(connection, trials, now, worker=worker, host=host)
    if not trials:
        _drop_deleted(connection, cache)
    others = {trial_id(t) for t in cache.in_state(TrialState.RUNNING)} - cache.own - abandoned
    return Claims(
        trials,
        0 if trials else len(others),
        left - len(trials),
        tuple(trial for trial in foreign if trial_id(trial) not in abandoned),
    )


def _assign(
    connection: Connection,
    trials: Sequence[FrozenTrial],
    now: datetime.datetime,
    *,
    worker: str,
    host: str,
) -> tuple[FrozenTrial, ...]:
    """Write the worker of claimed trials, and their first heartbeat.

    Returns:
        The trials with their worker.
    """
    claimed = [trial_id(trial) for trial in trials]
    attrs = {WORKER: worker, HOST: host}
    upsert(
        connection,
        {
            USER_ATTRS: attr_rows(dict.fromkeys(claimed, attrs)),
            HEARTBEATS: heartbeat_rows(claimed, now),
        },
    )
    return tuple(altered(trial, user_attrs={**trial.user_attrs, **attrs}) for trial in trials)


def renew(connection: Connection, study_id: int, worker: str, trial_ids: Iterable[int]) -> None:
    """Write a heartbeat for each of these trials that this worker still runs."""
    owned = owned_trials(connection, study_id, dict.fromkeys(trial_ids, worker))
    now = database_now(connection)
    upsert(connection, {HEARTBEATS: heartbeat_rows(sorted(owned), now)})


def count_states(connection: Connection, study_id: int) -> dict[TrialState, int]:
    """Return the number of trials in each state, all states present."""
    query = (
        select(TRIALS.c.state, func.count())
        .where(TRIALS.c.study_id == study_id)
        .group_by(TRIALS.c.state)
    )
    counts = dict.fromkeys(TrialState, 0)
    counts.update((state, n) for state, n in connection.execute(query))
    return counts


def heartbeats(connection: Connection, trial_ids: Sequence[int]) -> dict[int, datetime.datetime]:
    """Return the last heartbeat of these trials, except those that stock Optuna runs."""
    if not trial_ids:
        return {}
    dialect = connection.dialect.name
    rows = connection.execute(_beats(dialect), {"ids": bound_ids(trial_ids, dialect)})
    return {row.trial_id: row.heartbeat for row in rows}


def database_now(connection: Connection) -> datetime.datetime:
    """Return naive UTC by the clock that all workers of the database share."""
    if connection.dialect.name == "sqlite":
        return utc_now()
    now = connection.exec_driver_sql("SELECT clock_timestamp() AT TIME ZONE 'UTC'").scalar_one()
    assert isinstance(now, datetime.datetime)
    return now


def _lock_study(connection: Connection, study_id: int) -> tuple[datetime.datetime, int]:
    """Lock the study's row, so that no other program adds trials.

    Returns:
        The time, naive UTC, and the study's budget.
    """
    row = connection.execute(_budget(connection.dialect.name), {"study": study_id}).one()
    return row.now or utc_now(), int(parse_json(row.value_json))


def _is_abandoned(trial: FrozenTrial, now: datetime.datetime) -> bool:
    """Return whether a trial of another program has run too long to count in the budget."""
    local_now = to_local(now)
    if trial.datetime_start is None or local_now is None:
        return True
    return abs((local_now - trial.datetime_start).total_seconds()) > FOREIGN_GRACE_S


def _start_waiting(
    connection: Connection, ids: Sequence[int], now: datetime.datetime
) -> list[FrozenTrial]:
    """Start those trials that are still WAITING, since stock Optuna does not take the study's lock.

    Returns:
        The trials that were started.
    """
    if not ids:
        return []
    dialect = connection.dialect.name
    started = connection.execute(
        update(TRIALS)
        .where(among(TRIALS.c.trial_id, "ids", dialect), TRIALS.c.state == TrialState.WAITING)
        .values(state=TrialState.RUNNING, datetime_start=now)
        .returning(TRIALS.c.trial_id),
        {"ids": bound_ids(ids, dialect)},
    )
    return fetch_trials(connection, list(started.scalars()))


def _start_new(
    connection: Connection, cache: TrialCache, n: int, now: datetime.datetime
) -> list[FrozenTrial]:
    first = cache.next_number
    ids = insert_trials(connection, cache.study_id, n, first, TrialState.RUNNING, now)
    return [
        frozen_trial(key, first + i, TrialState.RUNNING, to_local(now)) for i, key in enumerate(ids)
    ]


def _drop_deleted(connection: Connection, cache: TrialCache) -> None:
    """Remove RUNNING trials whose rows were deleted: they would count in the budget."""
    running = [trial_id(trial) for trial in cache.in_state(TrialState.RUNNING)]
    dialect = connection.dialect.name
    query = select(TRIALS.c.trial_id).where(among(TRIALS.c.trial_id, "ids", dialect))
    there = connection.execute(query, {"ids": bound_ids(running, dialect)}).scalars()
    cache.remove(set(running) - set(there) - cache.own)


def _stop_after_failures(cache: TrialCache, max_failures: int) -> None:
    failed = cache.in_state(TrialState.FAIL)
    failures = [t for t in failed if FAILURE in t.user_attrs and REFUSED not in t.user_attrs]
    if len(failures) > max_failures:
        last = failures[-1]
        raise SearchError(
            f"{len(failures)} trials of the study failed, more than {max_failures}; "
            f"the last is trial {last.number}: {last.user_attrs[FAILURE]}"
        )


# Statements are built once: building them takes as long as running them.


@cache
def _budget(dialect: str) -> Select[Any]:
    """Return the query that locks the study's row, as stock Optuna does, and reads the budget."""
    now = func.timezone("UTC", func.clock_timestamp()) if dialect == "postgresql" else null()
    query = select(now.label("now"), STUDY_ATTRS.c.value_json)
    query = query.join_from(STUDIES, STUDY_ATTRS, STUDY_ATTRS.c.study_id == STUDIES.c.study_id)
    mine = query.where(STUDIES.c.study_id == bindparam("study"), STUDY_ATTRS.c.key == N_TRIALS)
    return mine.with_for_update(of=STUDIES)


@cache
def _beats(dialect: str) -> Select[Any]:
    query = select(HEARTBEATS.c.trial_id, HEARTBEATS.c.heartbeat)
    return query.where(among(HEARTBEATS.c.trial_id, "ids", dialect))
