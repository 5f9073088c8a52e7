"""Which study a process works on; every transaction that writes to a study checks it.

Ids do not identify a study: SQLite gives the ids of a deleted study and of its trials to the next
one, and a restored database gives them out again. A study therefore carries a random token.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, String, bindparam, literal_column, null, select

from headsweep.errors import StudyDeletedError
from headsweep.storage.attributes import TOKEN, plain
from headsweep.storage.bulk_writes import study_attr_rows, upsert
from headsweep.storage.optuna_tables import STUDIES, STUDY_ATTRS


@dataclass(frozen=True)
class StudyIdentity:
    """What tells a study from every other one that ever had its id.

    `token` is None for a study of stock Optuna, and for one of headsweep that no worker has joined
    since tokens exist. `instance` is the database it is in: another one after a restore.
    """

    study_id: int
    name: str
    token: str | None
    instance: str


def fetch_identity(connection: Connection, study_id: int, file_id: str) -> StudyIdentity | None:
    """Read the identity of the study that has an id now.

    Args:
        connection: in a transaction.
        study_id: id of the study.
        file_id: identifies the file of a SQLite database; empty for PostgreSQL.

    Returns:
        The identity, or None if there is no such study.
    """
    row = connection.execute(_identity(connection.dialect.name), {"study": study_id}).one_or_none()
    if row is None:
        return None
    token = None if row.token is None else str(plain(row.token, where=f"{row.study_name}:{TOKEN}"))
    return StudyIdentity(study_id, row.study_name, token, row.instance or file_id)


def check_identity(expected: StudyIdentity, found: StudyIdentity | None) -> StudyIdentity:
    """Compare the study that has an id now with the one that had it before.

    Returns:
        `found`, which may have been given its token meanwhile.

    Raises:
        StudyDeletedError: it is another study, or in another copy of the database.
    """
    name = f"study {expected.name!r}"
    if found is None:
        raise StudyDeletedError(f"{name} was deleted")
    if expected.token is not None and expected.token != found.token:
        raise StudyDeletedError(f"{name} was deleted")
    if found.name != expected.name:
        if expected.token is None:
            raise StudyDeletedError(f"{name} was deleted or renamed")
        raise StudyDeletedError(f"{name} was renamed to {found.name!r}")
    if found.instance != expected.instance:
        raise StudyDeletedError(
            f"the database of {name} was replaced or restored while this process used it; "
            "run the command again"
        )
    return found


def ensure_token(connection: Connection, identity: StudyIdentity) -> StudyIdentity:
    """Give a study its token unless it has one.

    Returns:
        The identity with the token.
    """
    if identity.token is not None:
        return identity
    token = secrets.token_hex(16)
    upsert(connection, {STUDY_ATTRS: study_attr_rows(identity.study_id, {TOKEN: token})})
    return replace(identity, token=token)


@cache
def _identity(dialect: str) -> Select[Any]:
    token = select(STUDY_ATTRS.c.value_json).where(
        STUDY_ATTRS.c.study_id == STUDIES.c.study_id, STUDY_ATTRS.c.key == TOKEN
    )
    # Dropping a database or restoring its tables gives them other object ids.
    instance = literal_column(
        "(SELECT oid::text FROM pg_database WHERE datname = current_database())"
        " || ':' || to_regclass('trials')::oid::text",
        String,
    )
    columns = (
        STUDIES.c.study_name,
        token.scalar_subquery().label("token"),
        (instance if dialect == "postgresql" else null()).label("instance"),
    )
    return select(*columns).where(STUDIES.c.study_id == bindparam("study"))
