"""Signals: the first one drains the worker within a grace time, the second ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from headsweep.settings import LAUNCHER_VARIABLE

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
    if hasattr(signal, name)
)
"""SIGUSR1 is sent by Slurm before a time limit, SIGHUP when a terminal is closed."""


class Stop:
    """Whether the worker was asked to stop.

    Args:
        grace_s: how long the worker may take to end after that; its leases run out otherwise.
    """

    def __init__(self, grace_s: float = 30.0) -> None:
        self.told_by: int | None = None
        """The signal that told the worker to stop; None before, or when its launcher is gone."""
        self._told = threading.Event()
        self._grace_s = grace_s
        self._deadline: threading.Timer | None = None
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
        """Handle a signal."""
        if self._told.is_set():
            os._exit(128 + number)
        self.told_by = number
        self._told.set()
        self._deadline = threading.Timer(self._grace_s, os._exit, (128 + number,))
        self._deadline.daemon = True
        self._deadline.start()

    def forget(self) -> None:
        """Cancel the deadline, since the worker ended in time."""
        if self._deadline is not None:
            self._deadline.cancel()


class _StopHere(Stop):
    """Stop of a worker in somebody's own process, which must never be ended from here."""

    def __init__(self) -> None:
        super().__init__()
        self._launcher = None

    def hear(self, number: int, _: FrameType | None) -> None:
        """Handle SIGINT: the first drains, the second interrupts.

        Raises:
            KeyboardInterrupt: at the second signal.
        """
        if self._told.is_set():
            raise KeyboardInterrupt
        self.told_by = number
        self._told.set()


@contextmanager
def stop_in_process() -> Iterator[Stop]:
    """Let Ctrl-C drain a worker that runs in the caller's process; a second one interrupts it.

    Yields:
        Whether the worker was asked to stop; outside the main thread it never is.
    """
    stop = _StopHere()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, stop.hear)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stop_on_signals(grace_s: float) -> Iterator[Stop]:
    """Within it, signals are handled; outside the main thread only the launcher's end is."""
    stop = Stop(grace_s)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # What is ignored stays ignored: `nohup` starts programs so.
    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop.hear) for number in heard}
    try:
        yield stop
    finally:
        stop.forget()
        for number, handler in before.items():
            signal.signal(number, handler)
