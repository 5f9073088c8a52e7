"""Read and write user attributes of a study within a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from headsweep.storage.attributes import plain
from headsweep.storage.bulk_writes import study_attr_rows, upsert
from headsweep.storage.optuna_tables import STUDY_ATTRS


def read_study_attrs(
    connection: Connection, study_id: int, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Read user attributes of a study.

    Args:
        connection: in a transaction.
        study_id: id of the study.
        names: of the attributes; None reads all.

    Returns:
        The attributes that exist.

    Raises:
        StorageError: an attribute is not JSON.
    """
    query = select(STUDY_ATTRS.c.key, STUDY_ATTRS.c.value_json).where(
        STUDY_ATTRS.c.study_id == study_id
    )
    if names is not None:
        query = query.where(STUDY_ATTRS.c.key.in_(names))
    rows = connection.execute(query)
    return {name: plain(value, where=f"study {study_id}:{name}") for name, value in rows}


def write_study_attrs(connection: Connection, study_id: int, attrs: Mapping[str, Any]) -> None:
    """Write user attributes of a study, over those of the same names.

    Args:
        connection: in a transaction.
        study_id: id of the study.
        attrs: by name.
    """
    upsert(connection, {STUDY_ATTRS: study_attr_rows(study_id, attrs)})
