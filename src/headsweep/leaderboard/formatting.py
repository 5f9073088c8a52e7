"""Numbers and tables as people read them; what is undefined is a dash."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

UNDEFINED = "–"


def number(value: float | str | None, digits: int = 3, *, signed: bool = False) -> str:
    """Format a number, or a cell of a CSV table.

    Returns:
        The number with so many decimals; a dash where it is None, NaN or empty.
    """
    if value is None or value == "" or not math.isfinite(float(value)):
        return UNDEFINED
    return f"{float(value):{'+' if signed else ''}.{digits}f}"


def interval(low: float | str | None, high: float | str | None, *, signed: bool = False) -> str:
    """Format an interval.

    Returns:
        `low to high`; a dash where either is undefined.
    """
    ends = [number(end, signed=signed) for end in (low, high)]
    return UNDEFINED if UNDEFINED in ends else " to ".join(ends)


def spread(value: float | str | None) -> str:
    """Format a standard deviation.

    Returns:
        `± value`; empty where it is undefined, as with one seed.
    """
    text = number(value)
    return "" if text == UNDEFINED else f"± {text}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; vertical bars in cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(_escaped, line))} |\n" for line in lines)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def listed(numbers: Iterable[int]) -> str:
    """Return numbers separated by commas."""
    return ", ".join(map(str, numbers))
