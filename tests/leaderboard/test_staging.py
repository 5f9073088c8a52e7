"""A leaderboard's folder is written by one process at a time, and a killed one leaves no trace."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headsweep.errors import OutputError
from headsweep.leaderboard.finalize import staging

pytestmark = pytest.mark.slow

STAGE = """
import sys, time
from pathlib import Path
from headsweep.leaderboard.finalize import staging

with staging(Path(sys.argv[1])) as folder:
    (folder / "half.txt").write_text("half")
    print("staged", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def stager(tmp_path) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun to write the leaderboard in `tmp_path`."""
    with subprocess.Popen(
        [sys.executable, "-c", STAGE, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "staged\n"
        yield process
        process.kill()


def partial(folder: Path) -> list[Path]:
    return list(folder.glob(".partial-*"))


def test_what_a_killed_process_left_goes_at_the_next_start(stager, tmp_path):
    stager.kill()
    stager.wait()
    (left,) = partial(tmp_path)
    assert (left / "half.txt").exists()
    with staging(tmp_path) as folder:
        assert partial(tmp_path) == [folder]
        (folder / "whole.txt").write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "whole.txt"}


def test_the_folder_of_a_living_process_is_left_alone(stager, tmp_path):
    """A second start waits, then replaces what the first wrote."""
    (first,) = partial(tmp_path)
    command = [sys.executable, "-c", STAGE, tmp_path]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as second:
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(timeout=8)
        assert partial(tmp_path) == [first]
        stager.communicate()
        assert second.wait(timeout=120) == 0
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "half.txt"}


def test_a_failure_within_leaves_the_folder_as_it_was(tmp_path):
    (tmp_path / "old.txt").write_text("old")
    with pytest.raises(FileNotFoundError), staging(tmp_path) as folder:
        (folder / "old.txt").with_name("new.txt").rename(folder / "old.txt")
    assert (tmp_path / "old.txt").read_text() == "old"
    assert not partial(tmp_path)


def test_a_link_or_a_pipe_in_place_of_the_lock_is_refused(tmp_path):
    """Before, the link was followed: a file appeared where it points. A pipe was waited for."""
    out, lock, elsewhere = tmp_path / "out", tmp_path / "out" / ".lock", tmp_path / "elsewhere"
    out.mkdir()
    lock.symlink_to(elsewhere)
    with pytest.raises(OutputError, match="found a symbolic link in place of the lock file"):
        staging(out).__enter__()
    assert not elsewhere.exists()
    elsewhere.write_text("kept")
    with pytest.raises(OutputError, match="found a symbolic link in place of the lock file"):
        staging(out).__enter__()
    assert elsewhere.read_text() == "kept"
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(OutputError, match="cannot write to the folder"):
        staging(out).__enter__()
    assert list(out.iterdir()) == [lock]
