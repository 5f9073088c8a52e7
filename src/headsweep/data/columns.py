"""What the columns of a manifest hold: volumes, features, labels, reports, metadata."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from headsweep.config.data_sections import BlankLabels, ColumnsConfig, ManifestColumns
from headsweep.config.messages import nearest
from headsweep.data.ct_rate.names import LABELS, METADATA_COLUMNS, REPORT_COLUMNS
from headsweep.metrics.masking import BLANK

LABEL_VALUES = {
    "0": 0,
    "1": 1,
    "0.0": 0,
    "1.0": 1,
    "False": 0,
    "True": 1,
    "false": 0,
    "true": 1,
    "FALSE": 0,
    "TRUE": 1,
}
"""Spellings of a label; pandas writes `1.0` once a column has held a missing value."""

BLANK_CELLS = dict.fromkeys(("", "nan", "NaN", "NA", "N/A", "null", "None"), BLANK)
"""Spellings of a label that is not known."""


def label_columns(
    header: Sequence[str], columns: ColumnsConfig, target_labels: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Choose the label columns of a table.

    Args:
        header: names of its columns.
        columns: names of the columns that hold something else.
        target_labels: the labels asked for, in this order; None chooses the CT-RATE labels that
            the header has or, when it has none, every column that may be a label.

    Returns:
        The names of the label columns.
    """
    if target_labels is not None:
        return tuple(" ".join(label.split()) for label in target_labels)
    known = tuple(name for name in header if name in LABELS)
    return known or candidates(header, columns)


def candidates(header: Sequence[str], columns: ColumnsConfig) -> tuple[str, ...]:
    """Return the columns that may be labels: those that hold no path, name, report or metadata."""
    other = {columns.volume, columns.patient, columns.scan, *REPORT_COLUMNS, *METADATA_COLUMNS}
    other |= set(columns.feature_columns().values())
    return tuple(name for name in header if name not in other and not name.endswith("_path"))


def unused_labels(
    cells: pd.DataFrame,
    columns: ColumnsConfig,
    labels: Sequence[str],
    blank_labels: BlankLabels = "refuse",
) -> tuple[str, ...]:
    """Return the columns that hold 0 and 1 like a label, but are none of `labels`.

    With `mask`, columns that also have blank cells are among them.
    """
    blank = BLANK_CELLS.keys() if blank_labels == "mask" else set[str]()
    return tuple(
        name
        for name in candidates([str(name) for name in cells.columns], columns)
        if name not in labels
        and (values := set(cells[name]) - blank) <= LABEL_VALUES.keys()
        and {LABEL_VALUES[value] for value in values} == {0, 1}
    )


def feature_columns(header: Sequence[str], columns: ColumnsConfig) -> dict[str, str]:
    """Return the column of feature paths of every input that the header has."""
    named = columns.feature_columns()
    return {name: column for name, column in named.items() if column in header}


def columns_of_header(header: Sequence[str]) -> ManifestColumns:
    """Return the usual columns, with every other `NAME_path` of a header as an input.

    For work on rows and labels alone, without a config that names the inputs.
    """
    usual = set(ColumnsConfig().feature_columns().values())
    paths = [name for name in header if name.endswith("_path") and name not in usual]
    return ManifestColumns(inputs=tuple((name.removesuffix("_path"), name) for name in paths))


def distinct_inputs(columns: ColumnsConfig) -> tuple[str, ...]:
    """Return the names of the inputs, without built-in ones that share a named one's column."""
    by_column = {column: name for name, column in columns.feature_columns().items()}
    return tuple(by_column.values())


def missing_column(name: str, key: str, header: Sequence[str]) -> str:
    """Return the sentence that names an absent column, and the config key that names another.

    Args:
        name: of the column that a manifest must have.
        key: config key that decides the name.
        header: names of the columns that it has.
    """
    by_case = [other for other in header if other.casefold() == name.casefold()]
    if key != "training.target_labels" and by_case:
        hint = f" To use {by_case[0]!r}, set {key}={by_case[0]}."
    else:
        hint = nearest(name, header) or f" {key} names another."
    return f"column not found: {name!r} among {', '.join(header) or 'none'}.{hint}"
