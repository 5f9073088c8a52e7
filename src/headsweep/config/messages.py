"""Sentences that several checks of configs, study files and data share."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Return the sentence that refuses an unknown key and names the nearest known one."""
    return f"unknown key {key!r}.{nearest(key, known)}"


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the question that names the known name nearest to `name`; "" if none is near."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
