"""Self-contained HTML pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2


@dataclass(frozen=True)
class Cell:
    """A table cell: text, a second line, and a shade between 0 and 1."""

    text: str
    note: str = ""
    heat: float | None = None


@dataclass(frozen=True)
class TableCard:
    """A table under its title, with a sentence before it."""

    title: str
    text: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def render(template: str, **values: Any) -> str:
    """Return the page of a template."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("headsweep.leaderboard"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**values)
