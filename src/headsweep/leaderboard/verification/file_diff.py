"""Differences between a file of a leaderboard and the same file computed again."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
from numpy.typing import NDArray

from headsweep.config.files import read_config
from headsweep.config.schema import to_dict
from headsweep.config.values import differences
from headsweep.errors import ConfigError
from headsweep.json_text import parse_json


@dataclass(frozen=True)
class Difference:
    """One value that differs: where in the file, both values, and by how much (inf: not a number).

    `found` is the value in the leaderboard, `expected` the value that was computed again.
    """

    position: str
    found: Any
    expected: Any
    size: float

    def __str__(self) -> str:
        amount = f", largest difference {self.size:.3g}" if math.isfinite(self.size) else ""
        return f"{self.position} is {self.found}, expected {self.expected}{amount}"


def largest_difference(found: Path, expected: Path) -> Difference | None:
    """Return the largest difference of two files of one kind; None if they are equal.

    A file that is missing or unreadable differs as a whole.
    """
    try:
        differences = list(_COMPARE[found.suffix](found, expected))
    except (
        *(OSError, ValueError, TypeError, KeyError),
        *(csv.Error, pa.ArrowException, safetensors.SafetensorError, ConfigError),
    ) as error:
        return Difference("file", str(error), "a readable file", math.inf)
    return max(differences, key=lambda difference: difference.size, default=None)


def _json(found: Path, expected: Path) -> Iterator[Difference]:
    yield from _plain("", parse_json(found.read_text()), parse_json(expected.read_text()))


def _plain(position: str, found: Any, expected: Any) -> Iterator[Difference]:
    """Yield the leaves of plain data that differ."""
    for inner, ours, theirs in differences(found, expected, position):
        yield Difference(inner, ours, theirs, _distance(ours, theirs))


def _csv(found: Path, expected: Path) -> Iterator[Difference]:
    yield from _plain("", _cells(found), _cells(expected))


def _cells(path: Path) -> dict[str, dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        f"row {i}": {str(name): _number(cell) for name, cell in row.items()}
        for i, row in enumerate(rows, start=1)
    }


def _parquet(found: Path, expected: Path) -> Iterator[Difference]:
    ours, theirs = pq.read_table(found), pq.read_table(expected)
    if ours.column_names != theirs.column_names or len(ours) != len(theirs):
        a, b = (f"{len(table)} rows of {table.column_names}" for table in (ours, theirs))
        yield Difference("shape", a, b, math.inf)
        return
    for name in ours.column_names:
        column, other = ours[name].to_numpy(), theirs[name].to_numpy()
        position = _farthest(column, other)
        if position is not None:
            (row,) = position
            volume = ours["volumename"][int(row)]
            distance = _distance(column[row], other[row])
            yield Difference(f"{name} of {volume}", column[row], other[row], distance)


def _safetensors(found: Path, expected: Path) -> Iterator[Difference]:
    with (
        safetensors.safe_open(found, framework="np") as ours,
        safetensors.safe_open(expected, framework="np") as theirs,
    ):
        yield from _plain("metadata", ours.metadata(), theirs.metadata())
        yield from _plain("tensors", sorted(ours.keys()), sorted(theirs.keys()))
        for name in sorted({*ours.keys()} & {*theirs.keys()}):
            tensor, other = ours.get_tensor(name), theirs.get_tensor(name)
            if tensor.shape != other.shape:
                yield Difference(f"shape of {name}", tensor.shape, other.shape, math.inf)
                continue
            position = _farthest(tensor, other)
            if position is not None:
                a, b = tensor[position], other[position]
                yield Difference(f"{name}{list(map(int, position))}", a, b, _distance(a, b))


def _text(found: Path, expected: Path) -> Iterator[Difference]:
    ours, theirs = found.read_text(encoding="utf-8"), expected.read_text(encoding="utf-8")
    if ours != theirs:
        lines = zip(ours.splitlines(), theirs.splitlines(), strict=False)
        changed = ((i, a, b) for i, (a, b) in enumerate(lines, start=1) if a != b)
        line, a, b = next(changed, (0, "other length", "the same length"))
        yield Difference(f"line {line}", repr(a), repr(b), math.inf)


def _config(found: Path, expected: Path) -> Iterator[Difference]:
    """Compare exported configs; config keys that were added since have their default values."""
    texts = [path.read_text(encoding="utf-8") for path in (found, expected)]
    if texts[0] != texts[1]:
        heads = [text.partition("\n")[0] for text in texts]
        yield from _plain("line 1", *heads)
        yield from _plain("", *(to_dict(read_config(path)) for path in (found, expected)))


_COMPARE: dict[str, Callable[[Path, Path], Iterator[Difference]]] = {
    ".json": _json,
    ".csv": _csv,
    ".md": _text,
    ".yaml": _config,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
}


def _farthest(found: NDArray[Any], expected: NDArray[Any]) -> tuple[np.intp, ...] | None:
    """Return the index of the largest difference of two arrays of one shape; None if equal."""
    differs = found != expected
    if np.issubdtype(found.dtype, np.inexact):
        differs &= ~(np.isnan(found) & np.isnan(expected))
    if not differs.any():
        return None
    size = differs.astype(np.float64)
    if np.issubdtype(found.dtype, np.number) and np.issubdtype(expected.dtype, np.number):
        gap = np.abs(found.astype(np.float64) - expected.astype(np.float64))
        size = np.where(differs, np.where(np.isnan(gap), np.inf, gap), -1.0)
    return np.unravel_index(np.argmax(size), size.shape)


def _distance(found: Any, expected: Any) -> float:
    numbers = (int, float, np.number)
    if isinstance(found, numbers) and isinstance(expected, numbers):
        gap = abs(float(found) - float(expected))
        return math.inf if math.isnan(gap) else gap  # what is no number is within no tolerance
    return math.inf


def _number(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell
