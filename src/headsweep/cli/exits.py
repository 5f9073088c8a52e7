"""How a failed command ends: one line on stderr, without passwords, and an exit code."""

from __future__ import annotations

import errno
import pathlib
import re
import sys

import click

from headsweep.errors import HeadsweepError

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

MAX_CHARACTERS = 2000
"""Maximum length of an error's line."""

_WORD = re.compile(r"[^\s'\"]+")
_LOGIN = re.compile(r"\b\w+://[^:/@]*:")
_QUERY_PASSWORD = re.compile(r"((?:password|passwd|pwd|passfile)\s*=\s*)[^\s&'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Return the text with every password of a URL or of a connection string replaced by `***`."""
    return _QUERY_PASSWORD.sub(r"\1***", _WORD.sub(_without_password, text))


def _without_password(word: re.Match[str]) -> str:
    """Return a word with the password of its URL removed; takes linear time."""
    before, at, after = word[0].rpartition("@")
    login = _LOGIN.search(before)
    return f"{before[: login.end()]}***{at}{after}" if login else word[0]


def printable(text: str) -> str:
    """Return the text with every control character, which a terminal could obey, spelled out."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def exit_code(error: Exception) -> int:
    """Return the exit code of the command that ended with `error`."""
    if isinstance(error, HeadsweepError | click.ClickException):
        return error.exit_code
    named = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
    return BAD_INPUT if named else FAILED


def line(error: Exception) -> str:
    """Return one line that describes the error, shortened, since values from files may be long."""
    text = printable(redact(" ".join(_message(error).split()))[: MAX_CHARACTERS + 1])
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"


def _message(error: Exception) -> str:
    if isinstance(error, HeadsweepError):
        return str(error)
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "headsweep"
        return f"{error.format_message()} (see '{command} --help')"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, OSError):
        if error.errno == errno.ENOENT and not error.filename and not _is_somewhere():
            return "the current folder no longer exists"
        file = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{file}"
    if _is_database_error(error):
        return f"the storage failed: {getattr(error, 'orig', None) or error}"
    return f"{type(error).__name__}: {error} (--debug shows where)"


def _is_somewhere() -> bool:
    """Return whether the current folder exists."""
    try:
        pathlib.Path.cwd()
    except FileNotFoundError:
        return False
    return True


def _is_database_error(error: Exception) -> bool:
    """Return whether SQLAlchemy raised the error, without importing SQLAlchemy."""
    exc = sys.modules.get("sqlalchemy.exc")
    return exc is not None and isinstance(error, exc.SQLAlchemyError)
