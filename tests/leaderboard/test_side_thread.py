"""Work beside the main thread: its result, its error, and a process that does not wait for it."""

import subprocess
import sys

import pytest

from headsweep.leaderboard.side_thread import start_aside


def test_start_aside_returns_the_result() -> None:
    assert start_aside(lambda: 6 * 7).result(timeout=10) == 42


def test_start_aside_of_work_that_fails_raises_its_error_where_it_is_read() -> None:
    with pytest.raises(ZeroDivisionError):
        start_aside(lambda: 1 // 0).result(timeout=10)


def test_process_that_is_interrupted_does_not_wait_for_the_thread() -> None:
    program = (
        "import time\n"
        "from headsweep.leaderboard.side_thread import start_aside\n"
        "start_aside(lambda: time.sleep(60))\n"
        "raise KeyboardInterrupt\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=50)
    assert b"KeyboardInterrupt" in ended.stderr
