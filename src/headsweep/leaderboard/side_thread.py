"""Work in a second thread, which does not keep the process from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def start_aside(work: Callable[[], T]) -> Future[T]:
    """Start work in a daemon thread; Ctrl-C ends the process without waiting for it.

    Returns:
        Its result, or the exception that it raised.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # raised where the result is read
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="beside", daemon=True).start()
    return future
