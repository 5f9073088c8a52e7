"""How a worker spends its time, recorded in the study every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from headsweep.studies.worker_timings import WorkerTimings

if TYPE_CHECKING:
    from headsweep.engine.timings import Usage

RECORD_EVERY_S = 10.0


class TimeAccounts:
    """Adds the time spent on storage and waiting, and the use of slots, to the engine's counters.

    Args:
        usage: the engine's counters.
        record: writes the worker's timings so far to the study.
    """

    def __init__(self, usage: Usage, record: Callable[[WorkerTimings], None]) -> None:
        self._usage = usage
        self._record = record
        self._store_s = self._waiting_s = 0.0
        self._used_slots = self._slots = 0
        self._recorded_at = time.monotonic()

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Count the time inside the context as spent on the storage."""
        begun = time.perf_counter()
        yield
        self._store_s += time.perf_counter() - begun

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside the context as spent on waiting for other workers."""
        begun = time.perf_counter()
        yield
        self._waiting_s += time.perf_counter() - begun

    def add_epoch(self, used: int, slots: int) -> None:
        """Count the slots used in an epoch; every `RECORD_EVERY_S` seconds, record all timings."""
        self._used_slots += used
        self._slots += slots
        if time.monotonic() - self._recorded_at >= RECORD_EVERY_S:
            with self.storing():
                self.record()

    def record(self) -> None:
        """Write the timings so far to the study."""
        self._recorded_at = time.monotonic()
        self._record(
            WorkerTimings(
                **asdict(self._usage),
                store_s=self._store_s,
                waiting_s=self._waiting_s,
                used_places=self._used_slots,
                places=self._slots,
            )
        )
