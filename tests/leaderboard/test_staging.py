"""`staging`: one process at a time writes a leaderboard; leftovers of a killed one are removed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headsweep import atomic_files
from headsweep.errors import OutputError
from headsweep.leaderboard.staging import staging
from headsweep.preflight import check_board_folder

STAGE = """
import sys, time
from pathlib import Path
from headsweep.leaderboard.staging import staging

print("starts", flush=True)
with staging(Path(sys.argv[1])) as folder:
    (folder / "half.txt").write_text("half")
    print("staged", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def stager(tmp_path) -> Iterator[subprocess.Popen[str]]:
    """A process that has started to write the leaderboard in `tmp_path`."""
    with subprocess.Popen(
        [sys.executable, "-c", STAGE, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["starts\n", "staged\n"]
        yield process
        process.kill()


def partial(folder: Path) -> list[Path]:
    return list(folder.glob(".partial-*"))


def test_staging_after_a_process_was_killed_removes_its_partial_folder(stager, tmp_path):
    stager.kill()
    stager.wait()
    (left,) = partial(tmp_path)
    assert (left / "half.txt").exists()
    with staging(tmp_path) as folder:
        assert partial(tmp_path) == [folder]
        (folder / "whole.txt").write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "whole.txt"}


def test_staging_while_another_process_writes_waits_for_it(stager, tmp_path):
    """A second process waits for the first, then replaces its files."""
    (first,) = partial(tmp_path)
    command = [sys.executable, "-c", STAGE, tmp_path]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as second:
        assert second.stdout is not None
        assert second.stdout.readline() == "starts\n"
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(timeout=1)
        assert partial(tmp_path) == [first]
        stager.communicate()
        assert second.wait(timeout=120) == 0
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "half.txt"}


def test_staging_replaces_a_file_by_a_folder_and_a_folder_by_a_file(tmp_path):
    """Before the fix, a file `finalists` ended a study with `Not a directory` after the search."""
    (tmp_path / "finalists").write_text("a user's file")
    (tmp_path / "report.html").mkdir()
    with staging(tmp_path) as folder:
        (folder / "finalists").mkdir()
        (folder / "report.html").write_text("new")
    assert (tmp_path / "finalists").is_dir()
    assert (tmp_path / "report.html").read_text() == "new"
    assert not partial(tmp_path)


@pytest.mark.parametrize(("name", "folder"), [("logs", False), (".lock", True)])
def test_check_board_folder_with_something_else_in_the_way_names_it(tmp_path, name, folder):
    """Before the fix, `.lock` was noticed after the search, and `logs` was an error of the work."""
    (tmp_path / name).mkdir() if folder else (tmp_path / name).touch()
    with pytest.raises(OutputError, match=f"{name}: a .* is where the"):
        check_board_folder(tmp_path)


def test_staging_when_the_body_raises_leaves_the_folder_unchanged(tmp_path):
    (tmp_path / "old.txt").write_text("old")
    with pytest.raises(FileNotFoundError), staging(tmp_path) as folder:
        (folder / "old.txt").with_name("new.txt").rename(folder / "old.txt")
    assert (tmp_path / "old.txt").read_text() == "old"
    assert not partial(tmp_path)


def test_staging_when_the_lock_is_a_link_or_a_pipe_is_refused(tmp_path):
    """Earlier versions created a file at the target of the link, and waited on a pipe."""
    out, lock, elsewhere = tmp_path / "out", tmp_path / "out" / ".lock", tmp_path / "elsewhere"
    out.mkdir()
    lock.symlink_to(elsewhere)
    with pytest.raises(OutputError, match="a symbolic link in place of the lock file"):
        staging(out).__enter__()
    assert not elsewhere.exists()
    elsewhere.write_text("kept")
    with pytest.raises(OutputError, match="a symbolic link in place of the lock file"):
        staging(out).__enter__()
    assert elsewhere.read_text() == "kept"
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(OutputError, match="cannot write to the folder"):
        staging(out).__enter__()
    assert list(out.iterdir()) == [lock]


def test_staging_syncs_all_files_together_before_they_are_moved(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(os, "fsync", lambda handle: events.append("fsync"))
    monkeypatch.setattr(
        atomic_files,
        "sync_file_system",
        lambda folder: events.append(("synced", sorted(p.name for p in folder.iterdir()))),
    )
    names = [f"{i}.txt" for i in range(5)]
    with staging(tmp_path) as folder:
        for name in names:
            atomic_files.write_text(folder / name, name)
        atomic_files.write_text(tmp_path / "elsewhere.txt", "is synced at once")
        assert not (tmp_path / names[0]).exists()
    assert events == ["fsync", ("synced", names)]
    assert all((tmp_path / name).read_text() == name for name in names)
    atomic_files.write_text(tmp_path / "later.txt", "again one by one")
    assert events[-1] == "fsync"


def test_sync_file_system_of_a_folder_that_is_missing_raises(tmp_path):
    atomic_files.sync_file_system(tmp_path)
    with pytest.raises(FileNotFoundError):
        atomic_files.sync_file_system(tmp_path / "missing")
