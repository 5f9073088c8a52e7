"""One manifest of RAD-ChestCT's tables (Draelos et al. 2021, Zenodo 6406114).

`img{train,valid,test}_Abnormality_and_Location_Labels.csv` has the column `NoteAcc_DEID`, the name
of the scan and of its file, and a column `<abnormality>*<location>` of 0 and 1 for each of 84
abnormalities at 52 locations. `CT_Scan_Metadata_Complete_35747.csv` has `NoteAcc_DEID` and
`MRN_DEID`, the patient. An abnormality is positive where it is positive at any location.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headsweep.data.columns import LABEL_VALUES
from headsweep.data.ct_rate.prepare import Dropped, PathPattern, Prepared, Tables
from headsweep.data.tables import read_header, read_rows, read_table
from headsweep.errors import ManifestError

SCAN, PATIENT = "NoteAcc_DEID", "MRN_DEID"
AT = "*"
"""Stands between the abnormality and its location in the names of the label columns."""

PATIENT_COLUMN = "patient"
"""Column of the manifest that holds the patients, if the metadata are given."""


def is_rad_chestct(labels: Path) -> bool:
    """Return whether a table of labels is one of RAD-ChestCT's."""
    header = read_header(labels)
    return SCAN in header and any(AT in name for name in header)


def prepare_rad_chestct(tables: Tables, features: Sequence[PathPattern]) -> Prepared:
    """Turn the tables of one split into a manifest with a column for each abnormality.

    Args:
        tables: labels, metadata, and a list of scans to keep; the data set has no reports.
        features: one pattern for each column of feature paths.

    Returns:
        The manifest, and every row that did not reach it. Without metadata it names no patients.

    Raises:
        ManifestError: a table is missing or malformed, or a label is not 0 or 1.
    """
    dropped: list[Dropped] = []
    patients = None if tables.metadata is None else _column(tables.metadata, PATIENT)
    kept = None if tables.split is None else _column(tables.split, SCAN)
    scans, labels = _labels(tables.labels)
    rows: dict[str, tuple[str, ...]] = {}
    for scan, *cells in zip(scans, *labels.values(), strict=True):
        if scan in rows:
            again = f"it is listed more than once in {tables.labels.name}"
            dropped.append(Dropped(scan, "labels", again))
        elif kept is not None and scan not in kept:
            dropped.append(Dropped(scan, "split", "it is not in the list of scans"))
        elif patients is not None and scan not in patients:
            dropped.append(Dropped(scan, "metadata", "it is not in the table of metadata"))
        else:
            named = () if patients is None else (patients[scan],)
            paths = (pattern.of(scan) for pattern in features)
            rows[scan] = (scan, *paths, *cells, *named)
    columns = (pattern.column for pattern in features)
    header = ("volumename", *columns, *labels, *(() if patients is None else (PATIENT_COLUMN,)))
    return Prepared(header, tuple(rows.values()), tuple(dropped), {})


def _labels(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Return the scans of a table, and for each abnormality "0" or "1" of every scan.

    Raises:
        ManifestError: the table is malformed, or a label is not 0 or 1.
    """
    table = read_table(path)
    if table.faults:
        raise ManifestError(str(table.faults[0]))
    scans = table.cells[SCAN].tolist()
    positive: dict[str, NDArray[np.bool_]] = {}
    for name in (name for name in table.header if AT in name):
        values = table.cells[name].map(LABEL_VALUES)
        if values.isna().any():
            row = int(values.isna().to_numpy().argmax())
            raise ManifestError(
                f"{path}: a label must be 0 or 1, found {table.cells[name].iloc[row]!r} for "
                f"{name!r} of {scans[row]}"
            )
        abnormality = name.partition(AT)[0]
        at_location = values.to_numpy() == 1
        positive[abnormality] = positive.get(abnormality, at_location) | at_location
    return scans, {name: np.where(values, "1", "0").tolist() for name, values in positive.items()}


def _column(path: Path, name: str) -> dict[str, str]:
    """Return a column of a table by scan.

    Raises:
        ManifestError: the table lacks the column, or that of the scans.
    """
    rows = read_rows(path)
    for needed in (SCAN, name):
        if needed not in read_header(path):
            raise ManifestError(f"{path}:1: a table of RAD-ChestCT must have the column {needed!r}")
    return {row[SCAN]: row[name] for row in rows}
