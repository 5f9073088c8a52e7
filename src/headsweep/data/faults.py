"""A fault of a manifest or a feature file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Fault:
    """Something wrong with the data, and where.

    `row` counts as a spreadsheet does: the header is row 1; None is the file as a whole. With an
    `error` the data cannot be used for a study; a `warning` does not stop one.
    """

    path: Path
    row: int | None
    message: str
    severity: Severity = "error"

    def __str__(self) -> str:
        location = f"{self.path}" if self.row is None else f"{self.path}:{self.row}"
        return f"{location}: {self.message}"
