"""The clock that the store reads, in the hands of a test."""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from headsweep.storage.optuna_tables import utc_now


class Clock:
    """The time of a SQLite store's machine: set back, set forward, or let run."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def set_by(self, seconds: float) -> None:
        self.ahead_s += seconds

    def now(self) -> datetime.datetime:
        return utc_now() + datetime.timedelta(seconds=self.ahead_s)


@contextmanager
def held_clock() -> Iterator[Clock]:
    clock = Clock()
    with (
        patch("headsweep.storage.claims.utc_now", clock.now),
        patch("headsweep.storage.expiry.utc_now", clock.now),
        patch("headsweep.storage.batched_storage.utc_now", clock.now),
    ):
        yield clock
