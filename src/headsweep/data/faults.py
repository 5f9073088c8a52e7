"""A fault found in a manifest or a feature file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Fault:
    """One broken law and its place.

    `row` counts as a spreadsheet does: the header is row 1; None is the file as a whole. An
    `error` makes the data unfit for a study; a `warning` only costs numbers.
    """

    path: Path
    row: int | None
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = f"{self.path}" if self.row is None else f"{self.path}:{self.row}"
        return f"{place}: {self.message}"
