"""Writing what happened to many trials in a few statements."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import TrialState
from sqlalchemy import (
    JSON,
    Connection,
    Executable,
    Select,
    Table,
    Text,
    Update,
    bindparam,
    cast,
    column,
    func,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from headsweep.studies.schema import (
    HEARTBEATS,
    PARAMS,
    REPORTS,
    SYSTEM_ATTRS,
    TRIALS,
    USER_ATTRS,
    VALUES,
    among,
    bound_ids,
    stored_report,
    stored_value,
)


@dataclass
class Changes:
    """What is to be written of one trial."""

    params: dict[str, tuple[float, BaseDistribution]] = field(default_factory=dict)
    """Optuna's internal representation, and the distribution."""
    reports: dict[int, float] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)
    end: tuple[TrialState, Sequence[float]] | None = None


def write_changes(
    connection: Connection, changes: Mapping[int, Changes], now: datetime.datetime
) -> frozenset[int]:
    """Writes the changes of all trials that are still RUNNING; the ids of the others.

    Trials that end do so at `now`, naive UTC.

    A trial that another process finished meanwhile keeps what that process wrote.
    """
    running = lock_running(connection, changes)
    kept = {key: change for key, change in changes.items() if key in running}
    write_details(connection, kept)
    end_trials(connection, {key: c.end for key, c in kept.items() if c.end is not None}, now)
    return frozenset(changes.keys() - running)


def write_details(connection: Connection, changes: Mapping[int, Changes]) -> None:
    """Writes params, reports and attributes, whatever the state of the trials."""
    upsert(
        connection,
        PARAMS,
        ("trial_id", "param_name"),
        [
            {
                "trial_id": key,
                "param_name": name,
                "param_value": float(value),
                "distribution_json": distribution_to_json(distribution),
            }
            for key, change in changes.items()
            for name, (value, distribution) in change.params.items()
        ],
    )
    upsert(
        connection,
        REPORTS,
        ("trial_id", "step"),
        [
            {"trial_id": key, "step": step, **stored_report(value)}
            for key, change in changes.items()
            for step, value in change.reports.items()
        ],
    )
    write_attrs(connection, USER_ATTRS, {key: c.user_attrs for key, c in changes.items()})
    write_attrs(connection, SYSTEM_ATTRS, {key: c.system_attrs for key, c in changes.items()})


def lock_running(connection: Connection, trial_ids: Iterable[int]) -> frozenset[int]:
    """The ids of those trials that are RUNNING, locked until the transaction ends."""
    dialect = connection.dialect.name
    rows = connection.execute(_running(dialect), {"ids": bound_ids(trial_ids, dialect)})
    return frozenset(rows.scalars())


def end_trials(
    connection: Connection,
    ends: Mapping[int, tuple[TrialState, Sequence[float]]],
    now: datetime.datetime,
) -> None:
    """Gives trials their final states and values."""
    values = [
        {"trial_id": key, "objective": objective, **stored_value(value)}
        for key, (_, values) in ends.items()
        for objective, value in enumerate(values)
    ]
    upsert(connection, VALUES, ("trial_id", "objective"), values)
    dialect = connection.dialect.name
    for state in {state for state, _ in ends.values()}:
        ids = bound_ids([key for key, (end, _) in ends.items() if end == state], dialect)
        connection.execute(_ending(dialect), {"ids": ids, "end": state, "now": now})


def write_attrs(
    connection: Connection, table: Table, attrs: Mapping[int, Mapping[str, Any]]
) -> None:
    """Writes user or system attributes by trial id."""
    rows = [
        {"trial_id": key, "key": name, "value_json": json.dumps(value)}
        for key, values in attrs.items()
        for name, value in values.items()
    ]
    upsert(connection, table, ("trial_id", "key"), rows)


def write_heartbeats(connection: Connection, trial_ids: Iterable[int], now: Any) -> None:
    """Says that these trials are alive at `now`."""
    rows = [{"trial_id": key, "heartbeat": now} for key in trial_ids]
    upsert(connection, HEARTBEATS, ("trial_id",), rows)


def upsert(
    connection: Connection, table: Table, key: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Inserts rows, or overwrites those of the same key."""
    if not rows:
        return
    dialect = connection.dialect.name
    statement = _upsert(dialect, table, tuple(key), tuple(rows[0]))
    if dialect == "sqlite":
        connection.execute(statement, [dict(row) for row in rows])
    else:
        connection.execute(statement, {"rows": json.dumps(rows, default=_as_text, allow_nan=False)})


def _as_text(value: Any) -> str:
    """What PostgreSQL reads as an enumeration or a timestamp."""
    return str(value.name if isinstance(value, Enum) else value)


# Statements are made once: their making costs as much as their running.


@cache
def _upsert(dialect: str, table: Table, key: tuple[str, ...], names: tuple[str, ...]) -> Executable:
    """One row at a time for SQLite, whose calls are cheap; for PostgreSQL all as one document.

    There an array for each column takes twice as long, and a row at a time three times.
    """
    if dialect == "sqlite":
        insert: sqlite.Insert | postgresql.Insert = sqlite.insert(table)
    else:
        columns = (column(name, table.c[name].type) for name in names)
        document = func.json_to_recordset(cast(bindparam("rows", type_=Text), JSON))
        rows = document.table_valued(*columns).render_derived(with_types=True)
        insert = postgresql.insert(table).from_select(names, select(rows))
    overwritten = {name: insert.excluded[name] for name in names if name not in key}
    return insert.on_conflict_do_update(index_elements=list(key), set_=overwritten)


@cache
def _running(dialect: str) -> Select[Any]:
    query = select(TRIALS.c.trial_id).where(
        among(TRIALS.c.trial_id, "ids", dialect), TRIALS.c.state == TrialState.RUNNING
    )
    # Locks nothing under SQLite, whose transactions exclude each other.
    return query.order_by(TRIALS.c.trial_id).with_for_update()


@cache
def _ending(dialect: str) -> Update:
    end: dict[str, Any] = {"state": bindparam("end"), "datetime_complete": bindparam("now")}
    return update(TRIALS).where(among(TRIALS.c.trial_id, "ids", dialect)).values(end)
