"""Sentences that several checks of configs and study files share."""

from __future__ import annotations

import difflib


def unknown_key(key: str, known: tuple[str, ...]) -> str:
    """The sentence that refuses an unknown key and names the nearest known one."""
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"; the nearest known key is {nearest[0]!r}" if nearest else ""
    return f"every key must be known, found {key!r}{hint}"
