"""Databases that are read-only, or were not made by Optuna."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from optuna.storages._rdb.storage import _VersionManager

from headsweep.errors import StorageError
from headsweep.settings import WorkerSettings
from headsweep.storage import optuna_tables
from headsweep.storage.optuna_tables import trial_id
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import join
from tests.helpers.postgres import UNPRIVILEGED, Server
from tests.helpers.study_specs import make_spec

ALEMBIC = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"
REVISION = "INSERT INTO alembic_version VALUES ('cbc13b556ace')"


@pytest.mark.parametrize("create", [False, True])
def test_open_storage_when_the_database_is_mlflows_says_so(
    tmp_path: Path, store_url: str, create: bool, postgres: Server
) -> None:
    """MLflow stores the version of its tables under the same name as Optuna."""
    if store_url.startswith("sqlite"):
        with closing(sqlite3.connect(tmp_path / "studies.db")) as connection, connection:
            connection.execute(ALEMBIC)
            connection.execute(REVISION)
    else:
        with psycopg.connect(store_url) as connection:
            connection.execute(ALEMBIC)
            connection.execute(REVISION)
    with pytest.raises(StorageError, match="belongs to another program, such as MLflow") as told:
        open_storage(store_url, create=create)
    assert "\n" not in str(told.value)


def test_head_version_from_the_migration_scripts_equals_optunas() -> None:
    folder = Path(optuna_tables.models.__file__).parent / "alembic" / "versions"
    manager = object.__new__(_VersionManager)
    manager.url = "sqlite://"
    assert optuna_tables._head_version(folder) == _VersionManager.get_head_version(manager)


def test_head_version_when_the_scripts_have_none_is_none(tmp_path: Path) -> None:
    assert optuna_tables._head_version(tmp_path) is None


@pytest.fixture
def finished(tmp_path: Path) -> Iterator[Path]:
    """A folder with a study whose owner has closed it and made it read-only."""
    folder = Path(f"/tmp/headsweep_read_only_{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    url = f"sqlite:///{folder}/studies.db"
    StoredStudy.create(make_spec(tmp_path, "study.n_trials=4"), url).close()
    with join("probe", url, WorkerSettings(), worker="one") as session:
        for trial in session.claim(2).trials:
            session.complete(trial_id(trial), 0.5, epochs=1)
        session.flush()
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


READ = """
import contextlib, io, os, sys
from headsweep.cli import main
arguments = {arguments!r}
# Import lazily loaded modules now, because the other user may not enter the checkout.
copied = [text.replace({folder!r}, {copy!r}) for text in arguments]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    main(copied)
if os.geteuid() == 0:
    os.setgid({user}); os.setuid({user})
main(arguments)
"""

DASHBOARD = """
import os, sys
from headsweep.cli.dashboard import application
from headsweep.studies.storages import open_storage
from wsgiref.util import setup_testing_defaults
for url in ({copy!r}, {folder!r}):
    for path in ("/api/studies", "/api/studies/1"):
        environ = dict(PATH_INFO=path, REQUEST_METHOD="GET", HTTP_ACCEPT_ENCODING="identity")
        setup_testing_defaults(environ)
        said = []
        app = application(open_storage("sqlite:///" + url + "/studies.db"))
        body = b"".join(app(environ, lambda s, h, *e: said.append(s)))
        print(said[0], b"probe" in body)
    if os.geteuid() == 0:
        os.setgid({user}); os.setuid({user})
"""


def as_reader(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python as a user who owns no files, in a folder that this user can enter."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/tmp", check=False
    )


def test_commands_on_a_read_only_folder_show_the_study(finished: Path, tmp_path: Path) -> None:
    """No file is written beside the database, and no table is locked."""
    url = f"sqlite:///{finished}/studies.db"
    copy = shutil.copytree(finished, tmp_path / "copy")
    (finished / "studies.db").chmod(0o444)
    finished.chmod(0o555)
    places = {"user": UNPRIVILEGED, "folder": str(finished), "copy": str(copy)}
    before = sorted(path.name for path in finished.iterdir())
    output = Path(f"/tmp/headsweep_export_{os.getpid()}")
    output.mkdir(mode=0o777, exist_ok=True)
    output.chmod(0o777)
    commands = {
        "status": ["status", "probe", "--storage", url],
        "export": ["export", "probe", "-o", f"{output}/best.yaml", "--storage", url],
    }
    for arguments in commands.values():
        ended = as_reader(READ.format(arguments=arguments, **places))
        assert (ended.returncode, ended.stderr) == (0, ""), arguments
        assert "probe" in ended.stdout or "trial 0" in ended.stdout
    shown = as_reader(DASHBOARD.format(**places))
    assert shown.stdout == "200 OK True\n" * 4, shown.stderr
    (output / "study.yaml").write_text((tmp_path / "study.yaml").read_text())
    grown = ["create", str(output / "study.yaml"), "--storage", url]
    refused = as_reader(READ.format(arguments=grown, **places))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "is read-only: this user cannot write" in refused.stderr
    shutil.rmtree(output)
    assert sorted(path.name for path in finished.iterdir()) == before


def test_read_only_folder_with_a_log_is_refused_in_one_line(finished: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{finished}/studies.db"
    copy = shutil.copytree(finished, tmp_path / "copy")
    (finished / "studies.db-wal").write_bytes(b"changes that were not applied")
    (finished / "studies.db-wal").chmod(0o444)
    (finished / "studies.db-shm").unlink(missing_ok=True)
    finished.chmod(0o555)
    ended = as_reader(
        READ.format(
            arguments=["status", "--storage", url],
            user=UNPRIVILEGED,
            folder=str(finished),
            copy=str(copy),
        )
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "cannot be read: its folder is read-only" in ended.stderr
