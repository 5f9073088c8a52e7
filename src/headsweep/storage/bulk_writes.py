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
    Select,
    Table,
    Text,
    bindparam,
    cast,
    column,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from headsweep.storage.optuna_tables import (
    HEARTBEATS,
    PARAMS,
    REPORTS,
    STUDY_ATTRS,
    SYSTEM_ATTRS,
    TRIALS,
    USER_ATTRS,
    VALUES,
    among,
    bound_ids,
    stored_report,
    stored_value,
)

Rows = Mapping[Table, Sequence[Mapping[str, Any]]]
"""By table; the rows of one table have the same columns."""

KEYS: Mapping[Table, tuple[str, ...]] = {
    STUDY_ATTRS: ("study_id", "key"),
    TRIALS: ("trial_id",),
    PARAMS: ("trial_id", "param_name"),
    REPORTS: ("trial_id", "step"),
    VALUES: ("trial_id", "objective"),
    USER_ATTRS: ("trial_id", "key"),
    SYSTEM_ATTRS: ("trial_id", "key"),
    HEARTBEATS: ("trial_id",),
}
"""The columns that no two rows of a table share."""


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
    ends = {key: change.end for key, change in kept.items() if change.end is not None}
    upsert(connection, {**detail_rows(kept), **end_rows(ends, now)})
    return frozenset(changes.keys() - running)


def lock_running(connection: Connection, trial_ids: Iterable[int]) -> frozenset[int]:
    """The ids of those trials that are RUNNING, locked until the transaction ends."""
    dialect = connection.dialect.name
    rows = connection.execute(_running(dialect), {"ids": bound_ids(trial_ids, dialect)})
    return frozenset(rows.scalars())


def detail_rows(changes: Mapping[int, Changes]) -> Rows:
    """Params, reports and attributes."""
    return {
        PARAMS: [
            {
                "trial_id": key,
                "param_name": name,
                "param_value": float(value),
                "distribution_json": distribution_to_json(distribution),
            }
            for key, change in changes.items()
            for name, (value, distribution) in change.params.items()
        ],
        REPORTS: [
            {"trial_id": key, "step": step, **stored_report(value)}
            for key, change in changes.items()
            for step, value in change.reports.items()
        ],
        USER_ATTRS: attr_rows({key: c.user_attrs for key, c in changes.items()}),
        SYSTEM_ATTRS: attr_rows({key: c.system_attrs for key, c in changes.items()}),
    }


def end_rows(
    ends: Mapping[int, tuple[TrialState, Sequence[float]]], now: datetime.datetime
) -> Rows:
    """The final states and values of trials that are there."""
    return {
        VALUES: [
            {"trial_id": key, "objective": objective, **stored_value(value)}
            for key, (_, values) in ends.items()
            for objective, value in enumerate(values)
        ],
        TRIALS: [
            {"trial_id": key, "state": state.name, "datetime_complete": now}
            for key, (state, _) in ends.items()
        ],
    }


def attr_rows(attrs: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """User or system attributes by trial id."""
    return [
        {"trial_id": key, "key": name, "value_json": json.dumps(value)}
        for key, values in attrs.items()
        for name, value in values.items()
    ]


def heartbeat_rows(trial_ids: Iterable[int], now: datetime.datetime) -> list[dict[str, Any]]:
    """Signs of life at `now`."""
    return [{"trial_id": key, "heartbeat": now} for key in trial_ids]


def upsert(connection: Connection, rows: Rows) -> None:
    """Inserts rows of several tables, or overwrites those of the same key.

    PostgreSQL gets them in one statement, with a document for each table: an array for each column
    takes twice as long, and a row at a time three times. The calls of SQLite are cheap.
    """
    shapes = tuple((table, tuple(some[0])) for table, some in rows.items() if some)
    if not shapes:
        return
    if connection.dialect.name == "sqlite":
        for table, names in shapes:
            connection.execute(_upsert_row(table, names), list(rows[table]))
        return
    documents = {
        table.name: json.dumps(rows[table], default=_as_text, allow_nan=False)
        for table, _ in shapes
    }
    connection.execute(_upsert_documents(shapes), documents)


def _as_text(value: Any) -> str:
    """What PostgreSQL reads as an enumeration or a timestamp."""
    return str(value.name if isinstance(value, Enum) else value)


# Statements are made once: their making costs as much as their running.


@cache
def _upsert_row(table: Table, names: tuple[str, ...]) -> sqlite.Insert:
    insert = sqlite.insert(table)
    return insert.on_conflict_do_update(
        index_elements=list(KEYS[table]),
        set_={name: insert.excluded[name] for name in names if name not in KEYS[table]},
    )


@cache
def _upsert_documents(shapes: tuple[tuple[Table, tuple[str, ...]], ...]) -> postgresql.Insert:
    first, *others = (_upsert_document(table, names) for table, names in shapes)
    return first.add_cte(*(other.cte() for other in others))


def _upsert_document(table: Table, names: tuple[str, ...]) -> postgresql.Insert:
    columns = (column(name, table.c[name].type) for name in names)
    document = func.json_to_recordset(cast(bindparam(table.name, type_=Text), JSON))
    rows = document.table_valued(*columns).render_derived(with_types=True)
    insert = postgresql.insert(table).from_select(names, select(rows))
    return insert.on_conflict_do_update(
        index_elements=list(KEYS[table]),
        set_={name: insert.excluded[name] for name in names if name not in KEYS[table]},
    )


@cache
def _running(dialect: str) -> Select[Any]:
    query = select(TRIALS.c.trial_id).where(
        among(TRIALS.c.trial_id, "ids", dialect), TRIALS.c.state == TrialState.RUNNING
    )
    # Locks nothing under SQLite, whose transactions exclude each other.
    return query.order_by(TRIALS.c.trial_id).with_for_update()
