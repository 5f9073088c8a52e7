"""CSV tables as pandas DataFrames of text, with the row numbers that a spreadsheet shows.

The records are split by Python's `csv` module: pandas fills up a row that is too short without
saying so, and does not report the row that is too long by its number.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from headsweep.atomic_files import reason, write_text
from headsweep.data.faults import Fault
from headsweep.errors import ManifestError, OutputError

SEPARATORS = (",", ";", "\t")
"""A table is read with the first of these that divides its header."""

_INDEX = re.compile(r"(Unnamed: [0-9]+)?")
"""Name of a column that a DataFrame's index became."""


@dataclass(frozen=True, eq=False)
class Table:
    """The cells of a CSV file as text without surrounding spaces.

    `header` has the names of the columns in the order of the file, those of unnamed index columns
    left out. `cells` has a row for each record that is as wide as the header; its index is the
    row's number in the file, where the header is row 1.
    """

    path: Path
    header: tuple[str, ...]
    cells: pd.DataFrame
    faults: tuple[Fault, ...]

    def take(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the cells of some columns, row by row."""
        return list(zip(*(self.cells[name].tolist() for name in names), strict=True))


def read_table(path: Path, *, kind: str = "table") -> Table:
    """Read a CSV file with a header, separated by commas, semicolons or tabs.

    Args:
        path: the file; UTF-8, with or without a byte order mark.
        kind: of table, for the errors.

    Returns:
        The table; records that are too short or too long are among its faults.

    Raises:
        ManifestError: the file is missing or cannot be read as CSV.
    """
    try:
        header, *records = _records(path) or [[]]
    except FileNotFoundError:
        raise ManifestError(f"{kind} not found: {path}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: a {kind} must be CSV text in UTF-8: {error}") from None
    names = [normalized(name) for name in header]
    faults, rows, sound = [], [], []
    for number, record in enumerate(records, start=2):
        if len(record) == len(header):
            rows.append(number)
            sound.append([cell.strip() for cell in record])
        elif record:
            message = f"a row must have {len(header)} cells, found {len(record)}"
            faults.append(Fault(path, number, message))
    cells = pd.DataFrame(sound, index=rows, columns=names, dtype=object)
    named = [_INDEX.fullmatch(name) is None for name in names]
    return Table(
        path, tuple(n for n in names if not _INDEX.fullmatch(n)), cells.loc[:, named], tuple(faults)
    )


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file with a header in which no record is too short or too long.

    Returns:
        The cells of every row by column.

    Raises:
        ManifestError: the file is missing, cannot be read as CSV, or has such a record.
    """
    table = read_table(path)
    if table.faults:
        raise ManifestError(str(table.faults[0]))
    return [
        {str(name): str(cell) for name, cell in row.items()}
        for row in table.cells.to_dict("records")
    ]


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a CSV file, which replaces an older one in one step.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, _text(header, rows))
    except OSError as error:
        raise OutputError(f"{path}: cannot write the file: {reason(error)}") from None


def read_header(path: Path) -> tuple[str, ...]:
    """Read the names of a CSV file's columns; no other row is read.

    Returns:
        The names without unnamed index columns; none when the file cannot be read as CSV.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = next(csv.reader(file, delimiter=_separator(path)), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return ()
    return tuple(name for name in map(normalized, line) if not _INDEX.fullmatch(name))


def normalized(name: str) -> str:
    """Return a column's name without surrounding and repeated spaces."""
    return " ".join(name.split())


def _text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    frame = pd.DataFrame(list(rows), columns=list(header), dtype=object)
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text


def _records(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file, strict=True, delimiter=_separator(path)))


def _separator(path: Path) -> str:
    """Return the first separator that divides the header; a comma when none does."""
    with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
        line = file.readline(csv.field_size_limit())
    for separator in SEPARATORS:
        if len(next(csv.reader([line], delimiter=separator), [])) > 1:
            return separator
    return ","
