"""A full disk under SQLite: one error line, no damage, and the study can be continued."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from tests.helpers.curves import CurveEngine, work_here
from tests.helpers.disks import mount
from tests.helpers.exact_budget import assert_exact
from tests.helpers.study_specs import make_spec

BUDGET = 400
WORKER = """
import sys
import sqlalchemy
from headsweep.cli import exits
from tests.helpers.curves import work_as_process

@sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
def limit(connection, _):
    connection.execute(f"PRAGMA max_page_count = {sys.argv[2]}")

try:
    work_as_process("probe", sys.argv[1], {"slots": 8, "lease_s": 1.0})
except Exception as error:
    print(exits.line(error), file=sys.stderr)
    sys.exit(exits.exit_code(error))
"""


@dataclass(frozen=True)
class Disk:
    """A folder for a database whose file may have at most `pages` pages."""

    folder: Path
    pages: int
    enlarge: Callable[[], None]


@pytest.fixture(params=["file system", "file"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A disk that fills, in two ways: a file system of 600 kB, where one may be mounted, and a file
    that SQLite itself may not let grow beyond 300 kB; otherwise the second way twice.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "file system" and mount(folder, "600k"):
        yield Disk(folder, 10**9, lambda: assert_true(mount(folder, "64m")))
        subprocess.run(["umount", "--lazy", folder], check=True)
    else:
        yield Disk(folder, 300_000 // 4096, lambda: None)


def assert_true(condition: bool) -> None:
    assert condition


def test_worker_when_the_disk_is_full_exits_with_one_line_and_loses_no_trial(
    tmp_path: Path, disk: Disk
) -> None:
    file = disk.folder / "studies.db"
    url = f"sqlite:///{file}"
    storage = open_storage(url, create=True)
    study_id = StoredStudy.create(make_spec(tmp_path, f"study.n_trials={BUDGET}"), storage).study_id
    storage.database.close()

    worker = subprocess.run(
        [sys.executable, "-c", WORKER, url, str(disk.pages)], capture_output=True, text=True
    )
    assert worker.returncode == 2, worker.stderr
    (told,) = worker.stderr.splitlines()
    assert told.startswith(f"cannot use {url}: ")
    assert "database or disk is full" in told or "disk I/O error" in told

    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    before = finished(url)
    assert 0 < len(before) < BUDGET

    disk.enlarge()
    work_here(url, CurveEngine(slots=32), lease_s=10.0)
    storage = open_storage(url)
    assert_exact(storage.get_all_trials(study_id), BUDGET)
    assert StoredStudy.open("probe", storage).summary().states["FAIL"] == 0
    storage.database.close()
    assert finished(url).items() >= before.items()


def finished(url: str) -> dict[int, object]:
    """Return the finished trials by number. This works on a full disk too."""
    storage = open_storage(url)
    trials = storage.get_all_trials(1, deepcopy=False)
    storage.database.close()
    return {t.number: t for t in trials if t.state.name in ("COMPLETE", "PRUNED")}
