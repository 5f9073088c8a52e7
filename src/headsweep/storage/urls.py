"""Storage URLs: which are accepted, and how they are shown without a password."""

from __future__ import annotations

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from headsweep.errors import StorageError


def shown_url(url: URL | str) -> str:
    """Return a storage URL as it may be shown: without password or query."""
    try:
        parsed = _split(url)
    except (ArgumentError, ValueError):
        return "the storage URL"
    return parsed.set(query={}).render_as_string(hide_password=True)


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
        if "\0" in url:
            raise ValueError("no file's name holds this")
    except (ArgumentError, ValueError):
        # The text may hold a password, so it is not shown.
        raise StorageError(
            "a storage URL must read sqlite:///FILE or postgresql://…, found other text"
        ) from None
    if parsed.drivername in ("postgresql", "postgresql+psycopg"):
        query = dict(parsed.query)
        given = query.pop("password", parsed.password)
        password = given if isinstance(given, str) or given is None else given[-1]
        return parsed.set(drivername="postgresql+psycopg", query=query, password=password)
    in_a_file = parsed.database not in (None, "", ":memory:") and not parsed.query
    if parsed.drivername in ("sqlite", "sqlite+pysqlite") and in_a_file:
        return parsed
    raise StorageError(
        f"{shown_url(parsed)}: a storage must be sqlite:///FILE or postgresql://…, "
        f"found {parsed.drivername}"
    )


def _split(url: URL | str) -> URL:
    """Split a URL into its parts; an `@` in a password that was not quoted belongs to it."""
    parsed = make_url(url)
    if parsed.host and "@" in (parsed.database or ""):
        raise ArgumentError("the password must be quoted")
    tail, at, host = (parsed.host or "").rpartition("@")
    return parsed.set(password=f"{parsed.password}@{tail}", host=host) if at else parsed
