"""Storage URLs: which are accepted, and how they are shown without a password."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from headsweep.errors import StorageError


def shown_url(url: URL | str) -> str:
    """Return a storage URL without password and query, so that it can be shown."""
    try:
        parsed = _split(url)
    except (ArgumentError, ValueError):
        return "the storage URL"
    return parsed.set(query={}).render_as_string(hide_password=True)


def sqlite_url(file: Path) -> str:
    """Return the URL of a SQLite file, in which `%`, `?` and the like of its path are quoted."""
    return URL.create("sqlite", database=str(file)).render_as_string()


def parse_url(url: str) -> URL:
    """Parse a storage URL.

    Args:
        url: `sqlite:///FILE`, `postgresql://…` or `postgresql+psycopg://…`.

    Returns:
        The URL with the driver that headsweep uses.

    Raises:
        StorageError: the URL is of another kind.
    """
    try:
        parsed = _split(url)
        readable = "\0" not in url
    except (ArgumentError, ValueError):
        readable = False
    if not readable:
        # The text may contain a password, so it is not shown.
        raise StorageError(
            "a storage URL must read sqlite:///FILE or postgresql://…, found other text"
        )
    if parsed.drivername in ("postgresql", "postgresql+psycopg"):
        query = dict(parsed.query)
        given = query.pop("password", parsed.password)
        password = given if isinstance(given, str) or given is None else given[-1]
        return parsed.set(drivername="postgresql+psycopg", query=query, password=password)
    if parsed.get_backend_name() == "sqlite" and "?" in url:  # SQLAlchemy drops some
        raise StorageError(
            f"{shown_url(parsed)}: a SQLite URL must not have options after `?`; write %3F for a "
            "`?` of the file's name"
        )
    in_a_file = parsed.database not in (None, "", ":memory:")
    if parsed.drivername in ("sqlite", "sqlite+pysqlite") and in_a_file:
        return parsed
    raise StorageError(
        f"{shown_url(parsed)}: unsupported storage {parsed.drivername!r}; use sqlite:///FILE "
        "or postgresql://…"
    )


def _split(url: URL | str) -> URL:
    """Split a URL into its parts; an unquoted `@` may be part of the password.

    Returns:
        The URL.

    Raises:
        ArgumentError: an unquoted `/` of the password would be shown as the database's name.
    """
    parsed = make_url(url)
    if parsed.host and "@" in (parsed.database or ""):
        raise ArgumentError("the password must be quoted")
    tail, at, host = (parsed.host or "").rpartition("@")
    return parsed.set(password=f"{parsed.password}@{tail}", host=host) if at else parsed
