"""A study's progress in the terminal: one live line, or plain lines when nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from headsweep.studies.summary import Summary

PLAIN_EVERY_S = 10.0


def line(summary: Summary) -> str:
    """What there is to tell of a study in one line."""
    states = summary.states
    parts = [
        f"{states['COMPLETE']} complete, {states['PRUNED']} pruned, {states['RUNNING']} running"
    ]
    if states["WAITING"]:
        parts.append(f"{states['WAITING']} waiting")
    if states["FAIL"]:
        parts.append(f"{states['FAIL']} failed")
    if summary.best_value is not None:
        parts.append(f"best {summary.best_value:.4f}")
    parts.append(f"{summary.trials_per_minute:.0f} trials/min")
    if summary.minutes_left:
        parts.append(f"{_duration(summary.minutes_left)} left")
    return " · ".join(parts)


def saved(summary: Summary) -> str:
    """How much work pruning and early stopping saved."""
    return (
        f"{summary.share_not_trained:.0%} of the epochs not trained "
        f"({summary.epochs_trained} of {summary.epochs_planned} were)"
    )


@contextmanager
def shown() -> Iterator[Callable[[Summary], None]]:
    """Yields the function that shows a summary, on standard error."""
    if not sys.stderr.isatty():
        yield _PlainLines().show
        return
    columns = (BarColumn(bar_width=10), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("search", total=None, text="starting workers")

        def show(summary: Summary) -> None:
            bar.update(task, total=summary.n_trials, completed=summary.finished, text=line(summary))

        yield show


class _PlainLines:
    """One line every few seconds, and one at the end."""

    def __init__(self) -> None:
        self._next = 0.0
        self._ended = False

    def show(self, summary: Summary) -> None:
        done = summary.finished >= summary.n_trials
        if not self._ended and (done or time.monotonic() >= self._next):
            self._next = time.monotonic() + PLAIN_EVERY_S
            self._ended = done
            print(
                f"{summary.finished}/{summary.n_trials} trials: {line(summary)}",
                file=sys.stderr,
                flush=True,
            )


def _duration(minutes: float) -> str:
    seconds = round(60 * minutes)
    if seconds < 60:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
