"""Attributes of studies and trials as the database holds them, to which anyone may write."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from headsweep.errors import StorageError

T = TypeVar("T", int, float, str)

MAX_TEXT = 10_000_000
"""No attribute is longer: the definition of a study has some thousand characters."""


def plain(text: Any, *, where: str) -> Any:
    """What an attribute's JSON text says.

    Raises:
        StorageError: it is no JSON.
    """
    try:
        if len(text) <= MAX_TEXT:
            return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        pass
    raise StorageError(f"{where}: an attribute must be JSON, found {str(text)[:40]!r}")


def typed(attrs: Mapping[str, Any], name: str, default: T, *, where: str) -> T:
    """An attribute of the type of `default`, which it is when it is absent; numbers are at least 0.

    Raises:
        StorageError: it is of another type, negative, or not finite.
    """
    value = attrs.get(name, default)
    kind = type(default)
    law = {int: "an integer of at least 0", float: "a number of at least 0", str: "text"}[kind]
    allowed = (int, float) if kind is float else (kind,)
    sound = isinstance(value, allowed) and not isinstance(value, bool)
    if sound and kind is not str:
        sound = 0 <= value < 2**53 and math.isfinite(value)
    if not sound:
        raise StorageError(f"{where}:{name}: must be {law}, found {str(value)[:40]!r}")
    return kind(value)
