"""Being told to stop: the first signal drains, the second ends at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from headsweep.settings import LAUNCHER_VARIABLE

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stop:
    """Whether the worker was told to stop."""

    def __init__(self) -> None:
        self._told = threading.Event()
        launcher = os.environ.get(LAUNCHER_VARIABLE, "")
        self._launcher = int(launcher) if launcher.isdigit() else None

    @property
    def asked(self) -> bool:
        """True after a signal, or when the launcher is gone."""
        gone = self._launcher is not None and os.getppid() != self._launcher
        return self._told.is_set() or gone

    def wait(self, timeout_s: float) -> None:
        """Sleeps, but wakes at a signal."""
        self._told.wait(timeout_s)

    def hear(self, number: int, _: FrameType | None) -> None:
        """The signal handler."""
        if self._told.is_set():
            os._exit(128 + number)
        self._told.set()


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Within it, signals are heard; outside the main thread, only the launcher's end is."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.hear) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
