"""SIGTERM and SIGHUP interrupt a command as Ctrl-C does, so that it removes its temporary files."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""From a scheduler or `kill`, and from a terminal that is closed."""


@contextmanager
def raised() -> Iterator[None]:
    """Raise KeyboardInterrupt at SIGTERM and SIGHUP while the block runs.

    Signals that are ignored stay ignored: `nohup` starts programs like that. Workers and launchers
    replace the handlers while they run.

    Yields:
        Nothing; outside the main thread no signal is handled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
    for number in handled:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
