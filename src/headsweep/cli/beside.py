"""References and ensembles in a terminal: a line for each, a column for each split."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headsweep.errors import VerificationError
from headsweep.leaderboard.ensembles.files import ENSEMBLES_TABLE, titles_of
from headsweep.leaderboard.ensembles.rows import ENSEMBLE, MEAN_OF_SEEDS
from headsweep.leaderboard.formatting import number
from headsweep.leaderboard.merge import stems_of
from headsweep.leaderboard.references.reading import REFERENCES_TABLE, read_references
from headsweep.leaderboard.references.rows import TITLES

WIDTH = 100
"""Most characters of a line."""
LEGEND = "AUPRC, and AUPRC minus the best finalist's (*: the 95% CI excludes 0)"


@dataclass(frozen=True)
class Row:
    """One row beside the ranked table.

    Attributes:
        title: its name for people.
        values: AUPRC by split.
        differences: to the best finalist by split, with both ends of its interval.
    """

    title: str
    values: Mapping[str, float | None]
    differences: Mapping[str, Sequence[float | None]]


def reference_rows(folder: Path) -> list[Row]:
    """Return the references of a board; none on boards without them.

    Raises:
        VerificationError: the table cannot be read.
    """
    found = read_references(folder)
    try:
        return [_reference(cells) for cells in found]
    except (KeyError, ValueError) as error:
        raise VerificationError(
            f"{folder / REFERENCES_TABLE}: cannot read the references: {error!r}"
        ) from None


def stored_ensembles(folder: Path) -> list[Row]:
    """Return the mean of the best finalist's seeds and the ensemble of a board, if it has them.

    Raises:
        VerificationError: the table cannot be read.
    """
    path = folder / ENSEMBLES_TABLE
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return ensemble_rows([r for r in rows if r["row"] in (ENSEMBLE, f"{MEAN_OF_SEEDS}1")])
    except (OSError, ValueError, TypeError, csv.Error, KeyError) as error:
        raise VerificationError(f"{path}: cannot read the ensembles: {error!r}") from None


def ensemble_rows(ensembles: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return rows of `ensembles.csv`."""
    titles = titles_of(ensembles)
    rows = []
    for cells in ensembles:
        gaps = {}
        for split in stems_of(cells):
            gap = f"{split}/auprc_macro_minus_best"
            ends = (gap, f"{gap}_ci_low", f"{gap}_ci_high")
            gaps[split] = [_figure(cells[name]) for name in ends]
        rows.append(Row(titles[str(cells["row"])], _values(cells), gaps))
    return rows


def _reference(cells: Mapping[str, str]) -> Row:
    gaps = {}
    for split in stems_of(cells):
        # The table has the best finalist less the reference; here it is the other way round.
        gap = f"{split}/auprc_macro_best_minus_reference"
        figures = [_figure(cells[name]) for name in (gap, f"{gap}_ci_high", f"{gap}_ci_low")]
        gaps[split] = [None if figure is None else -figure for figure in figures]
    name = cells["reference"]
    return Row(TITLES.get(name, name), _values(cells), gaps)


def beside_tables(
    best: Mapping[str, str], rows: Sequence[Row], width: int = WIDTH
) -> list[tuple[list[str], list[list[str]]]]:
    """Return headers and lines of tables, as many as it takes to fit the width.

    Args:
        best: row of the best finalist in `leaderboard.csv`.
        rows: the others.
        width: most characters of a line.

    Returns:
        The tables; none without rows.
    """
    if not rows:
        return []
    splits = stems_of(best)
    titles = ["best finalist", *(row.title for row in rows)]
    columns = [
        [split, number(best[f"{split}/auprc_macro"]), *(_cell(row, split) for row in rows)]
        for split in splits
    ]
    first = ["not ranked", *titles]
    tables, group = [], [first]
    for column in columns:
        if len(group) > 1 and _width([*group, column]) > width:
            tables.append(group)
            group = [first]
        group.append(column)
    return [_transposed(group) for group in [*tables, group]]


def _values(cells: Mapping[str, Any]) -> dict[str, float | None]:
    return {split: _figure(cells[f"{split}/auprc_macro"]) for split in stems_of(cells)}


def _figure(cell: Any) -> float | None:
    return None if cell in (None, "") else float(cell)


def _cell(row: Row, split: str) -> str:
    difference, low, high = row.differences[split]
    if difference is None:
        return number(row.values[split])
    excludes_zero = low is not None and high is not None and not low <= 0 <= high
    star = "*" if excludes_zero else ""
    return f"{number(row.values[split])} {number(difference, signed=True)}{star}"


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) for column in columns) + 2 * (len(columns) - 1)


def _transposed(columns: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    header, *lines = ([*cells] for cells in zip(*columns, strict=True))
    return header, lines
