"""The table of references, read from the folder of a leaderboard."""

from __future__ import annotations

import csv
from pathlib import Path

from headsweep.errors import VerificationError
from headsweep.leaderboard.provenance import read_provenance
from headsweep.leaderboard.references.chosen import recorded_names

REFERENCES_TABLE = "references.csv"


def read_references(folder: Path) -> list[dict[str, str]]:
    """Read the rows of `references.csv`, cells as text.

    Returns:
        The rows; none on boards without references.

    Raises:
        VerificationError: the file is missing or cannot be read.
    """
    path = folder / REFERENCES_TABLE
    if not recorded_names(read_provenance(folder)):
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise VerificationError(f"{path}: cannot read the references: {error}") from None
    if any("reference" not in row or None in row or None in row.values() for row in rows):
        raise VerificationError(f"{path}: cannot read the references: wrong columns")
    return rows
