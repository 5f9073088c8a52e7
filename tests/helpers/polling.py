"""Looks again and again, in a thread of its own, while a block runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def polling(look: Callable[[], None], *, every_s: float) -> Iterator[None]:
    """Calls `look` at least once, and until the block ends; what it raises fails the test."""
    over = threading.Event()

    def work() -> None:
        look()
        while not over.wait(every_s):
            look()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
