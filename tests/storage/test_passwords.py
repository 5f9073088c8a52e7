"""Database passwords work in every documented form and are never shown or stored."""

import logging
import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from headsweep.errors import StorageError
from headsweep.storage.connections import shown_url
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from tests.helpers.postgres import PASSWORD, Server
from tests.helpers.study_specs import make_spec

SECRETS = (PASSWORD, quote(PASSWORD, safe=""), quote_plus(PASSWORD), "s3cr", "p%ss", "wörd")
"""The password, its quoted forms, and pieces that a wrong parser would leave in a message."""


def in_the_url(server: Server, database: str, _: pytest.MonkeyPatch, folder: Path) -> str:
    return server.url(database)


def in_the_query(server: Server, database: str, _: pytest.MonkeyPatch, folder: Path) -> str:
    secret = quote_plus(PASSWORD)
    return f"{without_password(server, database)}?password={secret}&application_name=probe"


def in_the_environment(
    server: Server, database: str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> str:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    return without_password(server, database)


def in_a_pgpass_file(
    server: Server, database: str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> str:
    path = folder / "pgpass"
    escaped = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
    path.write_text(f"127.0.0.1:{server.port}:*:headsweep:{escaped}\n")
    path.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(path))
    return without_password(server, database)


WAYS = [in_the_url, in_the_query, in_the_environment, in_a_pgpass_file]


def without_password(server: Server, database: str) -> str:
    return f"postgresql://headsweep@127.0.0.1:{server.port}/{database}"


def assert_silent(*told: object) -> None:
    for text in map(str, told):
        assert not [secret for secret in SECRETS if secret in text], text


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_open_storage_with_a_password_works_and_hides_it(
    postgres: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    way,
) -> None:
    url = way(postgres, postgres.new_database(), monkeypatch, tmp_path)
    with caplog.at_level(logging.DEBUG):
        storage = open_storage(url, create=True)
        study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
        assert StoredStudy.open("probe", storage).spec.name == "probe"
    attrs = storage.get_study_user_attrs(study_id), storage.get_study_system_attrs(study_id)
    assert_silent(caplog.text, shown_url(url), attrs)
    for part in (storage, storage.database, storage.database.engine, storage.database.engine.url):
        assert_silent(part, repr(part))
    pickled = pickle.dumps(storage)
    assert not [secret for secret in SECRETS if secret.encode() in pickled]
    storage.database.close()
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    again = pickle.loads(pickled)  # noqa: S301
    assert again.get_study_name_from_id(study_id) == "probe"
    again.database.close()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_open_storage_when_the_database_is_missing_hides_the_password(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way
) -> None:
    """Neither the error with its traceback nor the output of the command with `--debug`."""
    url = way(postgres, "missing", monkeypatch, tmp_path)
    with pytest.raises(StorageError, match="does not exist") as refused:
        open_storage(url)
    assert_silent(refused.value, "".join(traceback.format_exception(refused.value)))
    ended = subprocess.run(
        [sys.executable, "-m", "headsweep", "status", "--debug"],
        env={**os.environ, "HEADSWEEP_STORAGE": url},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert "Traceback" in ended.stderr
    assert "does not exist" in ended.stderr
    assert_silent(ended.stdout, ended.stderr)


def test_open_storage_with_a_wrong_password_hides_it(postgres: Server) -> None:
    with pytest.raises(StorageError, match="authentication failed") as refused:
        open_storage(postgres.url("postgres", password=f"not {PASSWORD}"))
    assert_silent(refused.value)


@pytest.mark.parametrize(
    "password", [PASSWORD, "s3cr@t", "s3cr@p%ss@wörd", "s3cr:p%ss", "s3cr/p%ss"]
)
def test_open_storage_with_an_unquoted_password_hides_it(password: str) -> None:
    url = f"postgresql://user:{password}@127.0.0.1:1/studies"
    with pytest.raises(StorageError) as refused:
        open_storage(url)
    assert_silent(refused.value, shown_url(url))
    assert "@t" not in shown_url(url)
