"""Optuna's tables, and their rows as trials: with `tpe`, all that knows Optuna's private parts.

The schema is Optuna's own (`optuna>=5.0,<5.1`), so that stock Optuna and optuna-dashboard read and
write the same database. Datetimes lie in it as naive UTC and are naive local time in a trial.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _VersionManager
from optuna.study._frozen import FrozenStudy as FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Row, Table, inspect, orm, select, true

from headsweep.errors import StorageError
from headsweep.studies.database import DEFERRED, Database

STUDIES: Table = models.StudyModel.__table__
STUDY_ATTRS: Table = models.StudyUserAttributeModel.__table__
TRIALS: Table = models.TrialModel.__table__
PARAMS: Table = models.TrialParamModel.__table__
VALUES: Table = models.TrialValueModel.__table__
REPORTS: Table = models.TrialIntermediateValueModel.__table__
USER_ATTRS: Table = models.TrialUserAttributeModel.__table__
SYSTEM_ATTRS: Table = models.TrialSystemAttributeModel.__table__
HEARTBEATS: Table = models.TrialHeartbeatModel.__table__
DETAILS = (PARAMS, VALUES, REPORTS, USER_ATTRS, SYSTEM_ATTRS)

RUNG_PREFIX = "completed_rung_"
"""System attributes in which successive halving keeps a trial's value at each rung."""

IDS_PER_QUERY = 500

Marks = dict[str, int]
"""For each table of details, the highest primary key seen."""


class StockStorage(RDBStorage):
    """Optuna's own storage on our engine, whose transactions begin as ours do."""

    def __init__(self, database: Database) -> None:
        self.engine_kwargs = {}
        self.url = database.shown
        self.skip_compatibility_check = False
        self.heartbeat_interval = None
        self.grace_period = None
        self.heartbeat_stale_trial_callback = None
        self.failed_trial_callback = None
        self.engine = database.engine
        self.scoped_session = orm.scoped_session(orm.sessionmaker(bind=self.engine))
        # The version manager writes on one connection while another one reads.
        deferred = self.engine.execution_options(**{DEFERRED: True})
        sessions = orm.scoped_session(orm.sessionmaker(bind=deferred))
        self._version_manager = _VersionManager(self.url, deferred, sessions)
        self._version_manager.check_table_schema_compatibility()

    def create_trial(self, study_id: int, template: FrozenTrial | None) -> FrozenTrial:
        """Creates a trial as `create_new_trial` does; all of it."""
        return self._create_new_trial(study_id, template)


def stock_storage(database: Database, *, create: bool) -> StockStorage:
    """Optuna's storage in a database; its tables are made by one process at a time.

    Raises:
        StorageError: the tables are missing and may not be made, or are of another version.
    """

    def opened() -> StockStorage:
        with database.schema_lock():
            if not inspect(database.engine).has_table(models.VersionInfoModel.__tablename__):
                if not create:
                    raise StorageError(
                        f"{database.shown}: the storage must hold studies, found none"
                    )
                models.BaseModel.metadata.create_all(database.engine)
            return StockStorage(database)

    try:
        return database.outlast(opened)
    except RuntimeError as error:
        raise StorageError(f"{database.shown}: {error}") from None


@dataclass
class Details:
    """What the tables beside `trials` hold of one trial."""

    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    values: dict[int, float] = field(default_factory=dict)
    reports: dict[int, float] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)


def fetch_all_trials(connection: Connection, study_id: int) -> tuple[list[FrozenTrial], Marks]:
    """All trials of a study in the order of their numbers, and the marks to go on from."""
    rows = connection.execute(select(TRIALS).where(TRIALS.c.study_id == study_id)).all()
    details, marks = fetch_details_after(connection, study_id, {})
    trials = [_frozen_trial(row, details.get(row.trial_id, Details())) for row in rows]
    return sorted(trials, key=lambda trial: trial.number), marks


def fetch_trials(connection: Connection, trial_ids: Iterable[int]) -> list[FrozenTrial]:
    """The trials of these ids, in the order of their ids."""
    trials = []
    ids = sorted(trial_ids)
    for start in range(0, len(ids), IDS_PER_QUERY):
        chunk = ids[start : start + IDS_PER_QUERY]
        rows = connection.execute(
            select(TRIALS).where(TRIALS.c.trial_id.in_(chunk)).order_by(TRIALS.c.trial_id)
        ).all()
        details: dict[int, Details] = {}
        for table in DETAILS:
            query = select(table).where(table.c.trial_id.in_(chunk))
            for row in connection.execute(query.order_by(_primary_key(table))):
                _add_row(details.setdefault(row.trial_id, Details()), table, row)
        trials += [_frozen_trial(row, details.get(row.trial_id, Details())) for row in rows]
    return trials


def fetch_details_after(
    connection: Connection, study_id: int, marks: Marks
) -> tuple[dict[int, Details], Marks]:
    """Details of a study's trials that were written after `marks`, by trial id; the new marks."""
    details: dict[int, Details] = {}
    seen = {table.name: marks.get(table.name, 0) for table in DETAILS}
    for table in DETAILS:
        key = _primary_key(table)
        query = (
            select(table)
            .join(TRIALS, TRIALS.c.trial_id == table.c.trial_id)
            .where(key > marks[table.name] if table.name in marks else true())
            # From a mark on there are few rows: the sum keeps planners from the study's index.
            .where((TRIALS.c.study_id + 0 if marks else TRIALS.c.study_id) == study_id)
            .order_by(key)
        )
        for row in connection.execute(query):
            _add_row(details.setdefault(row.trial_id, Details()), table, row)
            seen[table.name] = row[0]
    return details, seen


def stored_report(value: float) -> dict[str, Any]:
    """A report as the columns of its table."""
    stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
    return {"intermediate_value": stored, "intermediate_value_type": kind}


def stored_value(value: float) -> dict[str, Any]:
    """A trial's value as the columns of its table."""
    stored, kind = models.TrialValueModel.value_to_stored_repr(value)
    return {"value": stored, "value_type": kind}


def utc_now() -> datetime.datetime:
    """The time of this machine as the tables hold it."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def to_utc(local: datetime.datetime | None) -> datetime.datetime | None:
    """A trial's naive local time as naive UTC."""
    return local.astimezone(datetime.UTC).replace(tzinfo=None) if local else None


def to_local(utc: datetime.datetime | None) -> datetime.datetime | None:
    """Naive UTC as a trial's naive local time."""
    return utc.replace(tzinfo=datetime.UTC).astimezone().replace(tzinfo=None) if utc else None


def frozen_trial(
    trial_id: int,
    number: int,
    state: TrialState,
    start: datetime.datetime | None,
) -> FrozenTrial:
    """A trial that has nothing but its state yet."""
    return FrozenTrial(
        number=number,
        state=state,
        value=None,
        datetime_start=start,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=trial_id,
    )


def forget_asked_trials(study: Study) -> None:
    """Makes a study read its trials again; between `ask`s it would keep those it saw."""
    study._thread_local.cached_all_trials = None


def trial_id(trial: FrozenTrial) -> int:
    """The key of a trial in the database, unlike its number in the study."""
    return trial._trial_id


def values_in_order(values: Mapping[int, float]) -> Sequence[float] | None:
    """A trial's values by objective as a sequence; None when there are none."""
    return [values[objective] for objective in sorted(values)] or None


def _frozen_trial(row: Row[Any], details: Details) -> FrozenTrial:
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


def _add_row(details: Details, table: Table, row: Row[Any]) -> None:
    if table is PARAMS:
        distribution = _distribution(row.distribution_json)
        details.distributions[row.param_name] = distribution
        details.params[row.param_name] = distribution.to_external_repr(row.param_value)
    elif table is REPORTS:
        details.reports[row.step] = (
            models.TrialIntermediateValueModel.stored_repr_to_intermediate_value(
                row.intermediate_value, row.intermediate_value_type
            )
        )
    elif table is VALUES:
        details.values[row.objective] = models.TrialValueModel.stored_repr_to_value(
            row.value, row.value_type
        )
    elif table is USER_ATTRS:
        details.user_attrs[row.key] = json.loads(row.value_json)
    else:
        details.system_attrs[row.key] = json.loads(row.value_json)


@lru_cache(maxsize=4096)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _primary_key(table: Table) -> Any:
    return next(iter(table.primary_key.columns))
