"""Comparison of a leaderboard's files with what follows from its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headsweep.errors import VerificationError
from headsweep.leaderboard.table import Cell
from headsweep.leaderboard.verification.file_diff import largest_difference


def check_file(recorded: Path, again: Path) -> None:
    """Compare a file of a leaderboard with the same file computed again.

    Raises:
        VerificationError: they differ.
    """
    difference = largest_difference(recorded, again)
    if difference is not None:
        raise VerificationError(f"{recorded}: does not agree with the predictions: {difference}")


def check_row(path: Path, row: Mapping[str, str], cells: Mapping[str, Cell]) -> None:
    """Compare cells of a row of a table, which is text, with the same cells computed again.

    Raises:
        VerificationError: a cell differs.
    """
    for name, value in cells.items():
        if row.get(name) != ("" if value is None else str(value)):
            raise VerificationError(
                f"{path}: does not agree with the metrics: "
                f"{name} is {row.get(name)}, expected {value}"
            )
