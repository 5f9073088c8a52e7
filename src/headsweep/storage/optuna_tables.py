"""Optuna's tables, and everything that knows Optuna's private parts.

The schema is Optuna's own (`optuna>=5.0,<5.1`), so that stock Optuna and optuna-dashboard read and
write the same database. Datetimes are naive UTC in it and naive local time in a trial.
"""

from __future__ import annotations

import datetime
import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _VersionManager
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy as FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Engine,
    Integer,
    Table,
    bindparam,
    func,
    inspect,
    orm,
    select,
)

from headsweep.errors import StorageError
from headsweep.json_text import parse_json
from headsweep.storage.connections import Database
from headsweep.storage.sqlite_files import DEFERRED

STUDIES: Table = models.StudyModel.__table__
STUDY_ATTRS: Table = models.StudyUserAttributeModel.__table__
STUDY_SYSTEM_ATTRS: Table = models.StudySystemAttributeModel.__table__
TRIALS: Table = models.TrialModel.__table__
PARAMS: Table = models.TrialParamModel.__table__
VALUES: Table = models.TrialValueModel.__table__
REPORTS: Table = models.TrialIntermediateValueModel.__table__
USER_ATTRS: Table = models.TrialUserAttributeModel.__table__
SYSTEM_ATTRS: Table = models.TrialSystemAttributeModel.__table__
DIRECTIONS: Table = models.StudyDirectionModel.__table__
HEARTBEATS: Table = models.TrialHeartbeatModel.__table__

RUNG_PREFIX = "completed_rung_"
"""System attributes in which successive halving keeps a trial's value at each rung."""


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
        self._version_manager = _version_manager(self.url, self.engine)
        # Optuna's own check reads on two connections at once; a worker has one.
        known = self._version_manager.get_head_version()
        found = self._version_manager.get_current_version()
        if found != known:
            raise StorageError(
                f"{self.url}: the tables must have Optuna's version {known}, found {found}"
            )

    def create_trial(self, study_id: int, template: FrozenTrial | None) -> FrozenTrial:
        """Create a trial as `create_new_trial` does.

        Returns:
            The trial.
        """
        return self._create_new_trial(study_id, template)

    def get_all_studies(self) -> list[FrozenStudy]:
        """Return all studies; unlike Optuna's own method, with limited nesting of attributes."""
        with self.engine.connect() as connection:
            studies = connection.execute(
                select(STUDIES.c.study_id, STUDIES.c.study_name).order_by(STUDIES.c.study_id)
            ).all()
            directions: defaultdict[int, list[StudyDirection]] = defaultdict(list)
            for key, direction in connection.execute(_ALL_DIRECTIONS):
                directions[key].append(direction)
            user, system = (
                _attrs_by_study(connection, table) for table in (STUDY_ATTRS, STUDY_SYSTEM_ATTRS)
            )
        return [
            FrozenStudy(
                study_name=name,
                direction=None,
                directions=directions[key],
                user_attrs=user[key],
                system_attrs=system[key],
                study_id=key,
            )
            for key, name in studies
        ]


def stock_storage(database: Database, *, create: bool) -> StockStorage:
    """Open Optuna's storage in a database; its tables are created by one process at a time.

    Returns:
        The storage.

    Raises:
        StorageError: the tables are missing and may not be created, or are of another version.
    """

    def opened() -> StockStorage:
        if not database.read(lambda connection: _is_made(connection, database.shown)):
            _make_tables(database, create=create)
        return StockStorage(database)

    return database.outlast(opened)


def _make_tables(database: Database, *, create: bool) -> None:
    with database.schema_lock() as engine:
        if not inspect(engine).has_table(models.VersionInfoModel.__tablename__):
            if not create:
                raise StorageError(f"{database.shown}: no studies there")
            models.BaseModel.metadata.create_all(engine)
        _version_manager(database.shown, engine)  # writes the version where there is none


class _Versions(_VersionManager):
    """Optuna's version manager, which finds the newest version without running 0.2 s of scripts."""

    def get_head_version(self) -> str:
        """Read the newest version of the tables off the text of Optuna's migration scripts.

        Returns:
            The version; Alembic is asked if the text does not tell exactly one.
        """
        found = _head_version(Path(models.__file__).parent / "alembic" / "versions")
        return found or super().get_head_version()


@cache
def _head_version(folder: Path) -> str | None:
    """Return the one revision in a folder of migration scripts that no other one follows."""
    revisions: dict[str, set[str]] = {"revision": set(), "down_revision": set()}
    for script in folder.glob("*.py"):
        for name, value in _REVISION.findall(script.read_text(encoding="utf-8")):
            revisions[name].add(value)
    heads = revisions["revision"] - revisions["down_revision"]
    return heads.pop() if len(heads) == 1 else None


_REVISION = re.compile(r"""^(revision|down_revision)\b[^=\n]*=\s*["']([^"']+)["']""", re.MULTILINE)


def _version_manager(url: str, engine: Engine) -> _Versions:
    # It writes on one connection while another one reads.
    deferred = engine.execution_options(**{DEFERRED: True})
    return _Versions(url, deferred, orm.scoped_session(orm.sessionmaker(bind=deferred)))


def _is_made(connection: Connection, shown: str) -> bool:
    """Return whether the tables are there and complete: Optuna writes their version last.

    Raises:
        StorageError: the database is another program's.
    """
    tables = inspect(connection)
    if not tables.has_table(_ALEMBIC):
        return False
    versions = connection.exec_driver_sql(f"SELECT version_num FROM {_ALEMBIC}").scalars().all()
    if versions and not tables.has_table(models.VersionInfoModel.__tablename__):
        raise StorageError(
            f"{shown} belongs to another program, such as MLflow: it has a table {_ALEMBIC} but "
            "none of Optuna's. Use a database of its own"
        )
    return bool(versions)


_ALEMBIC = "alembic_version"

_ALL_DIRECTIONS = select(DIRECTIONS.c.study_id, DIRECTIONS.c.direction).order_by(
    DIRECTIONS.c.study_id, DIRECTIONS.c.objective
)


def among(column: ColumnElement[int], name: str, dialect: str) -> ColumnElement[bool]:
    """Return whether a column is one of the ids that `bound_ids` binds to `name`, however many."""
    if dialect == "sqlite":
        ids = func.json_each(bindparam(name)).table_valued("value")
        return column.in_(select(ids.c.value))
    return column == func.any(bindparam(name, type_=ARRAY(Integer)))


def bound_ids(ids: Iterable[int], dialect: str) -> str | list[int]:
    """Return ids as one parameter of a statement, whose text does not depend on their number."""
    return json.dumps(list(ids)) if dialect == "sqlite" else list(ids)


def study_attrs(connection: Connection, table: Table, study_id: int) -> dict[str, Any]:
    """Return a study's attributes from the table of user or of system attributes."""
    rows = connection.execute(
        select(table.c.key, table.c.value_json).where(table.c.study_id == study_id)
    )
    return {key: parse_json(value) for key, value in rows}


def _attrs_by_study(connection: Connection, table: Table) -> Mapping[int, dict[str, Any]]:
    attrs: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    rows = connection.execute(select(table.c.study_id, table.c.key, table.c.value_json))
    for study_id, key, text in rows:
        attrs[study_id][key] = parse_json(text)
    return attrs


def stored_report(value: float) -> dict[str, Any]:
    """Return a report as the columns of its table."""
    stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(
        float(value)
    )
    return {"intermediate_value": stored, "intermediate_value_type": kind}


def stored_value(value: float) -> dict[str, Any]:
    """Return a trial's value as the columns of its table."""
    stored, kind = models.TrialValueModel.value_to_stored_repr(float(value))
    return {"value": stored, "value_type": kind}


def utc_now() -> datetime.datetime:
    """Return the time of this machine as naive UTC, which the tables use."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def to_local(utc: datetime.datetime | None) -> datetime.datetime | None:
    """Return naive UTC as a trial's naive local time."""
    return None if utc is None else utc + _utc_offset((utc - _EPOCH) // _QUARTER)


_EPOCH = datetime.datetime(1970, 1, 1)
_QUARTER = datetime.timedelta(minutes=15)


@lru_cache(maxsize=4096)
def _utc_offset(quarter: int) -> datetime.timedelta:
    """Return the offset of local time in a quarter of an hour: it changes at none else."""
    utc = (_EPOCH + quarter * _QUARTER).replace(tzinfo=datetime.UTC)
    return utc.astimezone().utcoffset() or datetime.timedelta(0)


def frozen_trial(
    trial_id: int,
    number: int,
    state: TrialState,
    start: datetime.datetime | None,
) -> FrozenTrial:
    """Return a trial without params, values and attributes."""
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


def altered(trial: FrozenTrial, **fields: Any) -> FrozenTrial:
    """Return a copy with some fields replaced."""
    copied = FrozenTrial.__new__(FrozenTrial)  # `copy.copy` takes ten times as long
    copied.__dict__.update(trial.__dict__)
    for name, value in fields.items():
        setattr(copied, name, value)
    return copied


class SearchStudy(Study):
    """A study that does not show some of its trials, to samplers and reports.

    Args:
        name: name of the study.
        storage: its storage.
        sampler: suggests params.
        pruner: as for Optuna's study.
        hidden: returns the ids of those trials.
    """

    def __init__(
        self,
        name: str,
        storage: BaseStorage,
        sampler: BaseSampler,
        pruner: BasePruner,
        *,
        hidden: Callable[[], Collection[int]],
    ) -> None:
        super().__init__(name, storage, sampler, pruner)
        self._hidden = hidden

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        hidden = self._hidden()
        return [t for t in trials if t._trial_id not in hidden] if hidden else trials


def forget_asked_trials(study: Study) -> None:
    """Clear the trials that a study caches between calls of `ask`."""
    study._thread_local.cached_all_trials = None


def set_system_attr(study: Study, trial: FrozenTrial, key: str, value: Any) -> None:
    """Write a system attribute of a running trial, as Optuna's own samplers do."""
    study._storage.set_trial_system_attr(trial._trial_id, key, value)


def id_of_study(study: FrozenStudy) -> int:
    """Return the id of a study in the database."""
    return study._study_id


def with_system_attrs(study: FrozenStudy, attrs: dict[str, Any]) -> FrozenStudy:
    """Return a copy of a study with other system attributes, and without user attributes."""
    return FrozenStudy(
        study_name=study.study_name,
        direction=None,
        directions=study.directions,
        user_attrs={},
        system_attrs=attrs,
        study_id=study._study_id,
    )


def trial_id(trial: FrozenTrial) -> int:
    """Return the id of a trial in the database, which is not its number in the study."""
    return trial._trial_id
