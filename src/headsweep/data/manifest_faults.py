"""Faults of a manifest: in its header, its names, its labels and its feature paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from headsweep.config.data_sections import BlankLabels, ColumnsConfig
from headsweep.config.schema import escapes
from headsweep.data.columns import BLANK_CELLS, LABEL_VALUES, feature_columns, missing_column
from headsweep.data.ct_rate.names import VOLUME_NAME, volume_of
from headsweep.data.faults import Fault
from headsweep.data.tables import Table

MASK_HINT = "; data.blank_labels=mask leaves blank cells out of loss and metrics"


def header_faults(table: Table, columns: ColumnsConfig, labels: Sequence[str]) -> list[Fault]:
    """Return the faults of a header: columns that are missing, or there twice."""
    wanted = [(columns.volume, "data.columns.volume")]
    wanted += [
        (name, key)
        for name, key in (
            (columns.patient, "data.columns.patient"),
            (columns.scan, "data.columns.scan"),
        )
        if name is not None
    ]
    wanted += [(label, "training.target_labels") for label in labels]
    faults = [
        Fault(table.path, 1, missing_column(name, key, table.header))
        for name, key in wanted
        if name not in table.header
    ]
    for names, kind in ((table.header, "columns"), (labels, "target labels")):
        doubles = sorted(name for name, count in Counter(names).items() if count > 1)
        if doubles:
            message = f"{kind} must have distinct names, found {doubles} twice"
            faults.append(Fault(table.path, 1, message))
    if not feature_columns(table.header, columns):
        named = columns.feature_columns()
        message = (
            "a manifest must have a column of feature paths, "
            f"{' or '.join(map(repr, named.values()))}: "
            f"{' and '.join(map(columns.key_of, named))} name them"
        )
        faults.append(Fault(table.path, 1, message))
    return faults


def row_faults(
    table: Table, columns: ColumnsConfig, labels: Sequence[str], blank_labels: BlankLabels
) -> tuple[list[Fault], list[Fault]]:
    """Return the faults of single rows, and the warnings of the whole file."""
    faults, warnings = _name_faults(table, columns)
    for label in labels:
        cells = table.cells[label]
        allowed = LABEL_VALUES if blank_labels == "refuse" else LABEL_VALUES | BLANK_CELLS
        for row, cell in cells[~cells.isin(allowed)].items():
            message = f"a label must be 0 or 1, found {cell!r} in column {label!r}"
            message += MASK_HINT if cell in BLANK_CELLS else ""
            faults.append(Fault(table.path, row_number(row), message))
    for column in feature_columns(table.header, columns).values():
        for row, cell in table.cells[column].items():
            if escapes(cell):
                message = (
                    f"{column} must be relative to paths.data_root and stay inside it, "
                    f"found {cell!r}"
                )
                faults.append(Fault(table.path, row_number(row), message))
    at_fault = {fault.row for fault in faults}
    first: dict[str, int] = {}
    for row, cell in table.cells[columns.volume].items():
        if row in at_fault:
            continue
        volume, number = volume_of(cell), row_number(row)
        if volume in first:
            message = f"a volume must be in one row, found {volume!r} also in row {first[volume]}"
            faults.append(Fault(table.path, number, message))
        first.setdefault(volume, number)
    return faults, warnings


def _name_faults(table: Table, columns: ColumnsConfig) -> tuple[list[Fault], list[Fault]]:
    """Return the faults of names of volumes, patients and scans, and a warning of unknown ones.

    Names that do not follow CT-RATE's pattern are faults beside names that do: they are probably
    misspelled. If no name follows it, each is its own patient.
    """
    faults: list[Fault] = []
    for name in filter(None, (columns.volume, columns.patient, columns.scan)):
        empty = table.cells.index[table.cells[name] == ""]
        faults += [Fault(table.path, row_number(i), f"{name} must not be empty") for i in empty]
    names = table.cells[columns.volume].map(volume_of)
    for row, name in names[names.map(_is_no_name).astype(bool)].items():
        message = f"{columns.volume} must be a name without '/' or control characters"
        faults.append(Fault(table.path, row_number(row), f"{message}, found {name!r}"))
    if columns.patient is not None or faults:
        return faults, []
    follow = names.map(lambda name: VOLUME_NAME.fullmatch(name) is not None).astype(bool)
    others = names[~follow & (names != "")]
    if others.empty:
        return faults, []
    if follow.any():
        for row, name in others.items():
            message = (
                f"{columns.volume} must read <split>_<patient>_<scan>_<reconstruction>, such as "
                f"valid_53_a_1, as other rows do, found {name!r}; or name the column of the "
                "patients with data.columns.patient"
            )
            faults.append(Fault(table.path, row_number(row), message))
        return faults, []
    message = (
        f"names such as {others.iloc[0]!r} do not say which patient they belong to, so every row "
        "is taken as a patient of its own; data.columns.patient names the column of the patients"
    )
    return faults, [Fault(table.path, None, message, severity="warning")]


def _is_no_name(volume: str) -> bool:
    return "/" in volume or not volume.isprintable()


def row_number(row: object) -> int:
    """Return an entry of a table's index, which holds the numbers of the rows in the file."""
    assert isinstance(row, int)
    return row
