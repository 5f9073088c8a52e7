"""A progress bar on standard error: in a terminal, in a notebook, nowhere else.

Output may fail at any time (a closed terminal, a full disk, a notebook whose kernel lost its
client). The bar then stops drawing; the work that it shows goes on.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

DRAW_EVERY_S = 0.1
BAR_WIDTH = 20
_WIDEST = 200

Draw = Callable[[str], None]


def is_interactive() -> bool:
    """Return whether standard error is a terminal."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except (OSError, ValueError):  # closed
        return False


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


class ProgressBar:
    """A bar with a count and a text, redrawn at most ten times a second.

    Args:
        title: what is counted.
        total: how many items there are; None while that is not known.
        draw: shows one line in place of the one before; None shows nothing.
    """

    def __init__(self, title: str, total: int | None, draw: Draw | None) -> None:
        self._title, self._total, self._draw = title, total, draw
        self._completed, self._text = 0, ""
        self._began_at = time.monotonic()
        self._next_draw = 0.0

    def advance(self, count: int = 1) -> None:
        """Count further items as done."""
        self.update(self._completed + count)

    def update(self, completed: int, *, total: int | None = None, text: str | None = None) -> None:
        """Set how many items are done.

        Args:
            completed: number of items that are done.
            total: number of all items, if it changed.
            text: shown after the count; None keeps the present one.
        """
        self._completed = completed
        self._total = total if total is not None else self._total
        self._text = text if text is not None else self._text
        if self._draw is not None and (self._is_full() or time.monotonic() >= self._next_draw):
            self._next_draw = time.monotonic() + DRAW_EVERY_S
            try:
                self._draw(self.line())
            except (OSError, ValueError):
                self._draw = None

    def line(self) -> str:
        """Return the bar as one line of text."""
        if not self._total:
            return " ".join(filter(None, (self._title, self._text)))
        filled = min(BAR_WIDTH, BAR_WIDTH * self._completed // self._total)
        bar = "#" * filled + "-" * (BAR_WIDTH - filled)
        text = self._text or self._time_left()
        return f"{self._title} [{bar}] {self._completed}/{self._total} {text}".strip()

    def _is_full(self) -> bool:
        return self._total is not None and self._completed >= self._total

    def _time_left(self) -> str:
        if not self._completed or not self._total or self._is_full():
            return ""
        elapsed_s = time.monotonic() - self._began_at
        return f"{duration(elapsed_s * (self._total - self._completed) / self._completed)} left"


@contextmanager
def progress_bar(title: str, total: int | None, *, visible: bool = True) -> Iterator[ProgressBar]:
    """Show a progress bar while the block runs.

    Args:
        title: what is counted.
        total: number of items; None while that is not known.
        visible: whether the bar is drawn where a person can see it.

    Yields:
        The bar.
    """
    draw, end = _drawing() if visible else (None, lambda: None)
    try:
        yield ProgressBar(title, total, draw)
    finally:
        with suppress(OSError, ValueError):
            end()


def duration(seconds: float) -> str:
    """Return a duration as people say it: in seconds, minutes or hours."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 3600 else f"{whole / 3600:.1f} h"


def _drawing() -> tuple[Draw | None, Callable[[], None]]:
    """Return how to draw a line here, or None, and what to do at the end."""
    if in_notebook():
        return _NotebookLine().draw, lambda: None
    if is_interactive():
        line = _TerminalLine()
        return line.draw, line.end
    return None, lambda: None


class _TerminalLine:
    """One line that is written again and again."""

    def __init__(self) -> None:
        self._stream = sys.stderr
        self._length = 0

    def draw(self, text: str) -> None:
        width = min(shutil.get_terminal_size((80, 24)).columns, _WIDEST) - 1
        shown = text if len(text) <= width else text[: width - 1] + "~"
        shown = shown.encode(self._stream.encoding or "utf-8", "replace").decode(
            self._stream.encoding or "utf-8"
        )
        self._stream.write(f"\r{shown.ljust(min(self._length, width))}")
        self._stream.flush()
        self._length = len(shown)

    def end(self) -> None:
        if self._length:
            self._stream.write("\n")
            self._stream.flush()


class _NotebookLine:
    """One output of a cell, updated in place."""

    def __init__(self) -> None:
        self._handle: Any = None

    def draw(self, text: str) -> None:
        display = importlib.import_module("IPython.display").display
        bundle = {"text/plain": text}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)
