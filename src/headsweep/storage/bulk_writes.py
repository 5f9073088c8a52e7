"""Write the changes of many trials in a few statements."""

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
    insert,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from headsweep.storage.attributes import WORKER
from headsweep.storage.optuna_tables import (
    HEARTBEATS,
    PARAMS,
    REPORTS,
    STUDY_ATTRS,
    STUDY_SYSTEM_ATTRS,
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
    STUDY_SYSTEM_ATTRS: ("study_id", "key"),
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
    """Changes of one trial that are not written yet."""

    params: dict[str, tuple[float, BaseDistribution]] = field(default_factory=dict)
    """Optuna's internal representation, and the distribution."""
    reports: dict[int, float] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)
    end: tuple[TrialState, Sequence[float]] | None = None


def write_changes(
    connection: Connection,
    study_id: int,
    changes: Mapping[int, Changes],
    workers: Mapping[int, str | None],
    now: datetime.datetime,
) -> frozenset[int]:
    """Write the changes of all trials that are still RUNNING in this study by these workers.

    A trial that another process has ended or taken over keeps what that process wrote.

    Args:
        connection: in a transaction.
        study_id: id of the trials' study.
        changes: by trial id.
        workers: the worker of each trial; None is any.
        now: when trials end, naive UTC.

    Returns:
        Ids of the trials that were not written.
    """
    owned = lock_owned(connection, study_id, {key: workers.get(key) for key in changes})
    written = {key: change for key, change in changes.items() if key in owned}
    ends = {key: change.end for key, change in written.items() if change.end is not None}
    upsert(connection, {**detail_rows(written), **end_rows(ends, now)})
    return frozenset(changes.keys() - owned)


def lock_running(connection: Connection, study_id: int, trial_ids: Iterable[int]) -> frozenset[int]:
    """Lock those of a study's trials that are RUNNING until the transaction ends.

    Returns:
        Their ids.
    """
    return lock_owned(connection, study_id, dict.fromkeys(trial_ids))


def lock_owned(
    connection: Connection, study_id: int, workers: Mapping[int, str | None]
) -> frozenset[int]:
    """Lock those trials that these workers run in this study until the transaction ends.

    Args:
        connection: in a transaction.
        study_id: id of the trials' study.
        workers: the worker of each trial, by trial id; None is any.

    Returns:
        Ids of the trials that are RUNNING in this study and have the worker that is expected.
    """
    return _owned(connection, study_id, workers, locked=True)


def owned_trials(
    connection: Connection, study_id: int, workers: Mapping[int, str | None]
) -> frozenset[int]:
    """Find trials as `lock_owned` does, without locking them.

    Returns:
        Their ids.
    """
    return _owned(connection, study_id, workers, locked=False)


def _owned(
    connection: Connection, study_id: int, workers: Mapping[int, str | None], *, locked: bool
) -> frozenset[int]:
    dialect = connection.dialect.name
    query = _running(dialect, locked=locked)
    rows = connection.execute(query, {"study": study_id, "ids": bound_ids(workers, dialect)})
    return frozenset(
        row.trial_id
        for row in rows
        if workers[row.trial_id] is None or row.worker == json.dumps(workers[row.trial_id])
    )


def insert_trials(
    connection: Connection,
    study_id: int,
    n: int,
    first_number: int,
    state: TrialState,
    start: datetime.datetime | None,
) -> list[int]:
    """Add `n` empty trials numbered from `first_number`.

    Returns:
        Their ids in that order.
    """
    if n <= 0:
        return []
    rows = [
        {"study_id": study_id, "number": first_number + i, "state": state, "datetime_start": start}
        for i in range(n)
    ]
    return list(connection.execute(_NEW_TRIALS, rows).scalars())


def detail_rows(changes: Mapping[int, Changes]) -> Rows:
    """Return rows of params, reports and attributes."""
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
    """Return rows of the final states and values of existing trials."""
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
    """Return rows of user or system attributes, which are given by trial id."""
    return [
        {"trial_id": key, "key": name, "value_json": json.dumps(value)}
        for key, values in attrs.items()
        for name, value in values.items()
    ]


def study_attr_rows(study_id: int, attrs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return rows of a study's user or system attributes."""
    return [
        {"study_id": study_id, "key": name, "value_json": json.dumps(value)}
        for name, value in attrs.items()
    ]


def heartbeat_rows(trial_ids: Iterable[int], now: datetime.datetime) -> list[dict[str, Any]]:
    """Return rows of heartbeats of time `now`."""
    return [{"trial_id": key, "heartbeat": now} for key in trial_ids]


def upsert(connection: Connection, rows: Rows) -> None:
    """Insert rows of several tables, or overwrite those with the same key.

    On PostgreSQL this is one statement with a JSON document for each table: an array for each
    column takes twice as long, and single rows take three times as long. Calls of SQLite are cheap.
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
    """Return text that PostgreSQL reads as an enumeration or a timestamp."""
    return str(value.name if isinstance(value, Enum) else value)


# Statements are built once: building them takes as long as running them.

_NEW_TRIALS = insert(TRIALS).returning(TRIALS.c.trial_id, sort_by_parameter_order=True)


@cache
def _upsert_row(table: Table, names: tuple[str, ...]) -> sqlite.Insert:
    new = sqlite.insert(table)
    return new.on_conflict_do_update(
        index_elements=list(KEYS[table]),
        set_={name: new.excluded[name] for name in names if name not in KEYS[table]},
    )


@cache
def _upsert_documents(shapes: tuple[tuple[Table, tuple[str, ...]], ...]) -> postgresql.Insert:
    first, *others = (_upsert_document(table, names) for table, names in shapes)
    return first.add_cte(*(other.cte() for other in others))


def _upsert_document(table: Table, names: tuple[str, ...]) -> postgresql.Insert:
    columns = (column(name, table.c[name].type) for name in names)
    document = func.json_to_recordset(cast(bindparam(table.name, type_=Text), JSON))
    rows = document.table_valued(*columns).render_derived(with_types=True)
    new = postgresql.insert(table).from_select(names, select(rows))
    return new.on_conflict_do_update(
        index_elements=list(KEYS[table]),
        set_={name: new.excluded[name] for name in names if name not in KEYS[table]},
    )


@cache
def _running(dialect: str, *, locked: bool) -> Select[Any]:
    worker = select(USER_ATTRS.c.value_json).where(
        USER_ATTRS.c.trial_id == TRIALS.c.trial_id, USER_ATTRS.c.key == WORKER
    )
    query = select(TRIALS.c.trial_id, worker.scalar_subquery().label("worker")).where(
        among(TRIALS.c.trial_id, "ids", dialect),
        TRIALS.c.study_id + 0 == bindparam("study"),  # by the ids, not by the study's index
        TRIALS.c.state == TrialState.RUNNING,
    )
    ordered = query.order_by(TRIALS.c.trial_id)
    # SQLite ignores FOR UPDATE: its transactions exclude each other.
    return ordered.with_for_update(of=TRIALS) if locked else ordered
