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
        grace_s: time in seconds for the worker to end after the first signal; after that the
            process is ended, and its leases expire.
    """

    def __init__(self, grace_s: float = 30.0) -> None:
        self.signal_number: int | None = None
        """The first signal received; None if there was none, even if the launcher is gone."""
        self._received = threading.Event()
        self._grace_s = grace_s
        self._deadline: threading.Timer | None = None
        launcher = os.environ.get(LAUNCHER_VARIABLE, "")
        self._launcher = int(launcher) if launcher.isdigit() else None

    @property
    def requested(self) -> bool:
        """Whether a signal was received, or the launcher is gone."""
        gone = self._launcher is not None and os.getppid() != self._launcher
        return self._received.is_set() or gone

    def wait(self, timeout_s: float) -> None:
        """Sleep until a signal arrives or the timeout has passed."""
        self._received.wait(timeout_s)

    def handle(self, number: int, _: FrameType | None) -> None:
        """Handle a signal."""
        if self._received.is_set():
            os._exit(128 + number)
        self.signal_number = number
        self._received.set()
        self._deadline = threading.Timer(self._grace_s, os._exit, (128 + number,))
        self._deadline.daemon = True
        self._deadline.start()

    def cancel_deadline(self) -> None:
        """Cancel the deadline, since the worker ended in time."""
        if self._deadline is not None:
            self._deadline.cancel()


class _StopInProcess(Stop):
    """The same for a worker in the caller's process, which is never ended from here."""

    def __init__(self) -> None:
        super().__init__()
        self._launcher = None

    def handle(self, number: int, _: FrameType | None) -> None:
        """Handle SIGINT: the first drains, the second interrupts.

        Raises:
            KeyboardInterrupt: at the second signal.
        """
        if self._received.is_set():
            raise KeyboardInterrupt
        self.signal_number = number
        self._received.set()


@contextmanager
def stop_in_process() -> Iterator[Stop]:
    """Let Ctrl-C drain a worker that runs in the caller's process; a second one interrupts it.

    Yields:
        Whether the worker was asked to stop; outside the main thread it never is.
    """
    stop = _StopInProcess()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, stop.handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stop_on_signals(grace_s: float) -> Iterator[Stop]:
    """Handle signals until the context is left.

    Args:
        grace_s: time in seconds for the worker to end after the first signal.

    Yields:
        Whether the worker was asked to stop. Outside the main thread no signal is handled, but the
        end of the launcher is still noticed.
    """
    stop = Stop(grace_s)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # Signals that are ignored stay ignored: `nohup` starts programs like that.
    handled = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop.handle) for number in handled}
    try:
        yield stop
    finally:
        stop.cancel_deadline()
        for number, handler in before.items():
            signal.signal(number, handler)
