"""Read trials from Optuna's tables: all of a study, those with given ids, or new rows."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Double,
    Integer,
    Row,
    Select,
    String,
    Table,
    and_,
    bindparam,
    cast,
    literal,
    null,
    select,
    union_all,
)

from headsweep.errors import StorageError
from headsweep.json_text import check_nesting, parse_json
from headsweep.storage.optuna_tables import (
    PARAMS,
    REPORTS,
    SYSTEM_ATTRS,
    TRIALS,
    USER_ATTRS,
    VALUES,
    among,
    bound_ids,
    to_local,
)

MANY_TRIALS = 20_000
"""Reading so many trials takes seconds, so it is logged."""
LOG_EVERY_S = 1.0

_logger = logging.getLogger(__name__)

Marks = dict[str, int]
"""For each kind of details, the highest primary key seen."""


@dataclass
class Details:
    """One trial's rows in the tables other than `trials`."""

    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    values: dict[int, float] = field(default_factory=dict)
    reports: dict[int, float] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)


def fetch_all_trials(connection: Connection, study_id: int) -> tuple[list[FrozenTrial], Marks]:
    """Read all trials of a study; for a large study, progress is logged.

    Returns:
        The trials in the order of their numbers, and the marks after which later rows are new.
    """
    rows = connection.execute(select(TRIALS).where(TRIALS.c.study_id == study_id)).all()
    details: defaultdict[int, Details] = defaultdict(Details)
    marks = dict.fromkeys(_MARKS, 0)
    logged = time.monotonic()
    for i, query in enumerate(_DETAILS):
        if len(rows) >= MANY_TRIALS and (i == 0 or time.monotonic() - logged > LOG_EVERY_S):
            logged = time.monotonic()
            share = i / len(_DETAILS)
            _logger.warning(
                "Notice: reading %d trials of the study: %.0f %%", len(rows), 100 * share
            )
        of_study = query.join(TRIALS, TRIALS.c.trial_id == query.selected_columns.trial)
        mine = of_study.where(TRIALS.c.study_id == study_id).order_by("id")
        _gather(connection.execute(mine), details, marks)
    trials = [_frozen_trial(row, details[row.trial_id]) for row in rows]
    return sorted(trials, key=lambda trial: trial.number), marks


def fetch_trials(connection: Connection, trial_ids: Collection[int]) -> list[FrozenTrial]:
    """Return the trials with these ids, in the order of the ids."""
    if not trial_ids:
        return []
    ids = {"ids": bound_ids(trial_ids, connection.dialect.name)}
    trials, queried = _by_ids(connection.dialect.name)
    details: defaultdict[int, Details] = defaultdict(Details)
    _gather(connection.execute(queried, ids).all(), details, {})
    return [_frozen_trial(row, details[row.trial_id]) for row in connection.execute(trials, ids)]


def fetch_details_after(
    connection: Connection, study_id: int, marks: Marks
) -> tuple[dict[int, Details], Marks]:
    """Read the details of a study's trials that were written after `marks`.

    Returns:
        The details by trial id, and the new marks.
    """
    details: defaultdict[int, Details] = defaultdict(Details)
    seen = dict(marks)
    rows = connection.execute(_INCREMENT, {"study": study_id, **marks}).all()
    _gather(rows, details, seen)
    return details, seen


def fetch_changed(
    connection: Connection,
    study_id: int,
    *,
    after: int,
    running: Iterable[int],
    waiting: Iterable[int],
) -> Sequence[Row[Any]]:
    """Return rows of trials with ids beyond `after`, and of those no longer RUNNING or WAITING."""
    dialect = connection.dialect.name
    ids = {"running": bound_ids(running, dialect), "waiting": bound_ids(waiting, dialect)}
    query = _changed(dialect)
    return connection.execute(query, {"study": study_id, "after": after, **ids}).all()


def values_in_order(values: Mapping[int, float]) -> Sequence[float] | None:
    """Return a trial's values in the order of objectives; None if it has none."""
    return [values[objective] for objective in sorted(values)] or None


def _frozen_trial(row: Row[Any], details: Details) -> FrozenTrial:
    if not isinstance(row.number, int):
        raise StorageError(f"trial with id {row.trial_id}: its number is not an integer")
    return FrozenTrial(
        number=row.number,
        state=row.state,
        value=None,
        values=values_in_order(details.values),
        datetime_start=to_local(row.datetime_start),
        datetime_complete=to_local(row.datetime_complete),
        params=details.params,
        distributions=details.distributions,
        user_attrs=details.user_attrs,
        system_attrs=details.system_attrs,
        intermediate_values=details.reports,
        trial_id=row.trial_id,
    )


def _gather(rows: Iterable[Row[Any]], details: defaultdict[int, Details], marks: Marks) -> None:
    """Add rows of details to those of their trials, and move the marks behind them.

    Raises:
        StorageError: a row is not one that Optuna writes.
    """
    for row in rows:
        kind, key, trial, name, number, value, text = tuple(row)
        marks[kind] = key
        detail = details[trial]
        try:
            if kind == _PARAM:
                distribution = _distribution(text)
                detail.distributions[name] = distribution
                detail.params[name] = distribution.to_external_repr(value)
            elif kind == _REPORT:
                detail.reports[number] = _number(value, text)
            elif kind == _VALUE:
                detail.values[number] = _number(value, text)
            elif kind == _USER_ATTR:
                detail.user_attrs[name] = parse_json(text)
            else:
                detail.system_attrs[name] = parse_json(text)
        except (TypeError, ValueError, LookupError):
            raise StorageError(
                f"trial with id {trial}: its {kind} {name if name is not None else number} must be "
                f"one that Optuna writes, found {str(value if text is None else text)[:40]!r}"
            ) from None


def _number(value: Any, kind: str) -> float:
    return float(value) if kind == "FINITE" else _NOT_FINITE[kind]


@lru_cache(maxsize=4096)
def _distribution(text: str) -> BaseDistribution:
    check_nesting(text)
    return json_to_distribution(text)


# Statements are built once: building them takes as long as running them.

_PARAM, _REPORT, _VALUE, _USER_ATTR, _SYSTEM_ATTR = _MARKS = (
    *("param", "report", "value"),
    *("user_attr", "system_attr"),
)
_NOT_FINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}


def _rows_of(
    kind: str,
    table: Table,
    *,
    name: ColumnElement[Any] | None = None,
    number: ColumnElement[Any] | None = None,
    value: ColumnElement[Any] | None = None,
    text: ColumnElement[Any],
) -> Select[Any]:
    """Return the query of a table of details, with the same columns for all tables."""
    return select(
        literal(kind, String).label("kind"),
        next(iter(table.primary_key.columns)).label("id"),
        table.c.trial_id.label("trial"),
        cast(name if name is not None else null(), String).label("name"),
        cast(number if number is not None else null(), Integer).label("number"),
        cast(value if value is not None else null(), Double).label("value"),
        cast(text, String).label("text"),
    )


_DETAILS = (
    _rows_of(
        _PARAM,
        PARAMS,
        name=PARAMS.c.param_name,
        value=PARAMS.c.param_value,
        text=PARAMS.c.distribution_json,
    ),
    _rows_of(
        _REPORT,
        REPORTS,
        number=REPORTS.c.step,
        value=REPORTS.c.intermediate_value,
        text=REPORTS.c.intermediate_value_type,
    ),
    _rows_of(
        _VALUE,
        VALUES,
        number=VALUES.c.objective,
        value=VALUES.c.value,
        text=VALUES.c.value_type,
    ),
    _rows_of(_USER_ATTR, USER_ATTRS, name=USER_ATTRS.c.key, text=USER_ATTRS.c.value_json),
    _rows_of(_SYSTEM_ATTR, SYSTEM_ATTRS, name=SYSTEM_ATTRS.c.key, text=SYSTEM_ATTRS.c.value_json),
)


def _study_of(trial: ColumnElement[int]) -> ColumnElement[int]:
    """Return the study of a row's trial as a subquery for each row.

    Query planners estimate that a third of a table is beyond a mark; with a join, they would
    therefore read all trials.
    """
    return select(TRIALS.c.study_id).where(TRIALS.c.trial_id == trial).scalar_subquery()


_INCREMENT = union_all(
    *(
        query.where(
            query.selected_columns.id > bindparam(kind),
            _study_of(query.selected_columns.trial) == bindparam("study"),
        )
        for kind, query in zip(_MARKS, _DETAILS, strict=True)
    )
).order_by("id")


@cache
def _by_ids(dialect: str) -> tuple[Select[Any], CompoundSelect[Any]]:
    """Return the queries of trials and of their details, by the ids of the trials."""
    trials = select(TRIALS).where(among(TRIALS.c.trial_id, "ids", dialect))
    details = (q.where(among(q.selected_columns.trial, "ids", dialect)) for q in _DETAILS)
    return trials.order_by(TRIALS.c.trial_id), union_all(*details).order_by("id")


@cache
def _changed(dialect: str) -> CompoundSelect[Any]:
    """Return the query of `fetch_changed`: three by id, since with OR SQLite reads all trials."""
    key, state = TRIALS.c.trial_id, TRIALS.c.state
    conditions = (
        key > bindparam("after"),
        and_(among(key, "running", dialect), state != TrialState.RUNNING),
        and_(among(key, "waiting", dialect), state != TrialState.WAITING),
    )
    # `+ 0` prevents the use of the study's index, which would lead to all of its trials.
    of_study = TRIALS.c.study_id + 0 == bindparam("study")
    queries = (select(TRIALS).where(of_study, condition) for condition in conditions)
    return union_all(*queries).order_by("trial_id")
