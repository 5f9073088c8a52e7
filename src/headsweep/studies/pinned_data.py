"""The fingerprints of the data that a study is searched on: written once, then compared."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from headsweep.errors import StudyError
from headsweep.studies.study_attributes import read_study_attrs, write_study_attrs

DATA = "headsweep:data"
"""Study attribute: fingerprints of the manifests and features that the study is searched on."""


def pin_data(connection: Connection, study_id: int, fingerprints: Mapping[str, str]) -> None:
    """Write the fingerprints of a study's data, or compare them with those it has.

    Args:
        connection: in a transaction under the study's lock.
        study_id: id of the study.
        fingerprints: of every manifest and feature matrix, by name.

    Raises:
        StudyError: the data differ from the study's.
    """
    pinned = read_study_attrs(connection, study_id).get(DATA)
    if pinned is None:
        write_study_attrs(connection, study_id, {DATA: dict(fingerprints)})
        return
    changed = [k for k in {*pinned, *fingerprints} if pinned.get(k) != fingerprints.get(k)]
    if changed:
        name = min(changed)
        raise StudyError(
            f"{name}: the data changed since the study began: its fingerprint was "
            f"{str(pinned.get(name))[:12]} and is {str(fingerprints.get(name))[:12]}"
        )
