"""A study's progress: a bar in a terminal or notebook, a line every few seconds elsewhere."""

from __future__ import annotations

import datetime
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from headsweep.errors import HeadsweepError
from headsweep.progress import duration, in_notebook, is_interactive, progress_bar
from headsweep.studies.summary import Summary

PLAIN_EVERY_S = 10.0
REFRESH_S = 1.0
LAST_REFRESH_S = 5.0
"""How long to wait at the end for a refresh that hangs in an outage."""


def line(summary: Summary) -> str:
    """Return the progress of a study in one line."""
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
        parts.append(f"{duration(60 * summary.minutes_left)} left")
    return " · ".join(parts)


def stopped(summary: Summary) -> str:
    """Return why a search stopped before its budget was spent, as text; "" if it did not."""
    after = f"{summary.finished} of {summary.n_trials} trials"
    match summary.stopped_by:
        case "timeout":
            return f"stopped by the time limit after {after}; the same command continues"
        case "patience":
            return f"stopped after {after}: no better one in the last study.patience trials"
        case None:
            return ""


def _expected_end(summary: Summary) -> str:
    if not summary.minutes_left or summary.finished >= summary.n_trials:
        return ""
    end = datetime.datetime.now() + datetime.timedelta(minutes=summary.minutes_left)
    return f" (ends about {end:%H:%M})"


def saved(summary: Summary) -> str:
    """Return how much work pruning and early stopping saved, as text."""
    return (
        f"{summary.share_not_trained:.0%} of the epochs not trained "
        f"({summary.epochs_trained} of {summary.epochs_planned} were)"
    )


@contextmanager
def shown(*, visible: bool = True) -> Iterator[Callable[[Summary], None]]:
    """Show a study's progress on standard error while the block runs.

    Args:
        visible: whether anything is shown at all.

    Yields:
        The function that shows a summary.
    """
    if visible and not is_interactive() and not in_notebook():
        yield _PlainLines().show
        return
    with progress_bar("search", None, visible=visible) as bar:
        bar.update(0, text="starting workers")
        yield lambda summary: bar.update(
            summary.finished, total=summary.n_trials, text=line(summary) + _expected_end(summary)
        )


@contextmanager
def refreshed(refresh: Callable[[], None]) -> Iterator[None]:
    """Call a function about once a second, in a thread, while the block runs.

    An outage of the storage only delays the next call; other code reports the outage.

    Args:
        refresh: called until the block ends; an error of headsweep is skipped.

    Yields:
        Nothing.
    """
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():
            with suppress(HeadsweepError):
                refresh()
            over.wait(REFRESH_S)

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(LAST_REFRESH_S)


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
            done_of_all = f"{summary.finished}/{summary.n_trials} trials"
            text = f"{done_of_all}: {line(summary)}{_expected_end(summary)}"
            with suppress(OSError, ValueError):  # standard error is closed
                print(text, file=sys.stderr, flush=True)
