"""Exit code and one-line message of a failed command, for each kind of error."""

from __future__ import annotations

import errno
import sqlite3
import sys
from pathlib import Path

import click
import pytest
from sqlalchemy.exc import OperationalError, PendingRollbackError

from headsweep.cli import exits
from headsweep.errors import ConfigError, StorageError

SAID = [
    (ConfigError("a:\n  b"), 2, "a: b"),
    (StorageError("postgresql://me:secret@host/db: down"), 2, "postgresql://me:***@host/db: down"),
    (click.UsageError("what?"), 2, "what? (see 'headsweep --help')"),
    (click.ClickException("no"), 1, "no"),
    (
        OSError(errno.ENOSPC, "No space left on device", "a.csv"),
        1,
        "No space left on device: a.csv",
    ),
    (OSError(errno.ENAMETOOLONG, "File name too long", "a"), 2, "File name too long: a"),
    (OSError("odd"), 1, "odd"),
    (
        OperationalError("SELECT 1", {}, sqlite3.OperationalError("disk I/O error")),
        1,
        "the storage failed: disk I/O error",
    ),
    (PendingRollbackError("rolled back"), 1, "the storage failed: rolled back"),
    (ZeroDivisionError("by zero"), 1, "ZeroDivisionError: by zero (--debug shows where)"),
    (ValueError("\x1b[2J"), 1, "ValueError: \\x1b[2J (--debug shows where)"),
]


@pytest.mark.parametrize(("error", "code", "line"), SAID, ids=lambda value: type(value).__name__)
def test_error_of_every_kind_gives_its_exit_code_and_line(
    error: Exception, code: int, line: str
) -> None:
    assert (exits.exit_code(error), exits.line(error)) == (code, line)


def test_line_when_the_current_folder_was_deleted_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the fix: `Error: No such file or directory`, without a name."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError) as raised:
        Path.cwd()
    assert exits.line(raised.value) == "the current folder no longer exists"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a (postgresql://me:pw@host:5432/db), b", "a (postgresql://me:***@host:5432/db), b"),
        ("postgresql://me:p@w:x/y@host", "postgresql://me:***@host"),
        ("http://:pw@host and s3://me@host:1", "http://:***@host and s3://me@host:1"),
        ("'x://a:b@c' \"y://d:e@f\"", "'x://a:***@c' \"y://d:***@f\""),
        ("host=h password = pw user=u", "host=h password = *** user=u"),
        ("https://host/a:b", "https://host/a:b"),
        ("me@host: https://x:8", "me@host: https://x:8"),
    ],
)
def test_redact_hides_passwords_and_nothing_else(text: str, shown: str) -> None:
    assert exits.redact(text) == shown


def test_line_of_a_long_error_is_cut() -> None:
    """The time must not grow quadratically, which took minutes for each of these texts."""
    for text in ("x", "a://:", "a://b:c@ ", "password "):
        line = exits.line(ConfigError(text * (200_000 // len(text))))
        assert len(line) == 2001
        assert line.startswith(text.partition("c@")[0])
        assert line.endswith("…")


def test_line_without_sqlalchemy_loaded_does_not_load_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "sqlalchemy.exc")
    assert exits.line(KeyError("a")) == "KeyError: 'a' (--debug shows where)"
