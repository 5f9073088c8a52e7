"""A worker's accounts: what it spends its time on, told to the study now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from headsweep.studies.worker_timings import WorkerTimings

if TYPE_CHECKING:
    from headsweep.engine.timings import Usage

TELL_EVERY_S = 10.0


class Accounts:
    """Adds up seconds and places beside what the engine itself counts.

    Args:
        usage: the engine's counters.
        tell: notes the worker's effort so far in the study.
    """

    def __init__(self, usage: Usage, tell: Callable[[WorkerTimings], None]) -> None:
        self._usage = usage
        self._tell = tell
        self._store_s = self._waiting_s = 0.0
        self._used_places = self._places = 0
        self._told_at = time.monotonic()

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Count the time inside as the storage's."""
        begun = time.perf_counter()
        yield
        self._store_s += time.perf_counter() - begun

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for other workers."""
        begun = time.perf_counter()
        yield
        self._waiting_s += time.perf_counter() - begun

    def epoch(self, used: int, places: int) -> None:
        """Note how many of all places were used in an epoch; tell the study when it is due."""
        self._used_places += used
        self._places += places
        if time.monotonic() - self._told_at >= TELL_EVERY_S:
            with self.storing():
                self.tell()

    def tell(self) -> None:
        """Tell the study all that was spent until now."""
        self._told_at = time.monotonic()
        self._tell(
            WorkerTimings(
                **asdict(self._usage),
                store_s=self._store_s,
                waiting_s=self._waiting_s,
                used_places=self._used_places,
                places=self._places,
            )
        )
