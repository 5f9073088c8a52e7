"""Attributes of studies and trials: their names, and how to read what anyone may have written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from headsweep.errors import StorageError
from headsweep.json_text import parse_json

T = TypeVar("T", int, float, str)

N_TRIALS = "headsweep:n_trials"
"""Study attribute: the budget, apart from the definition since it may grow."""
TOKEN = "headsweep:token"
"""Study attribute: random text that no other study has."""

WORKER = "worker"
"""Trial attribute: id of the worker that runs or ran the trial."""
HOST = "host"
"""Trial attribute: the machine on which that worker runs or ran."""
RETRY_OF = "retry_of"
"""Trial attribute: the number of the trial that this one runs again."""
RETRIES = "retries"
"""Trial attribute: how often the trial lost its worker by a crash."""
LOST = "lost"
"""Trial attribute: why the worker of a trial that is run again stopped running it."""
FAILURE = "failure"
"""Trial attribute: why a trial failed by itself."""
REFUSED = "refused"
"""Trial attribute: true if the trial failed since its params, set by another program, do not fit
the study's space. Such trials do not count towards the limit of failed trials."""

MAX_TEXT = 10_000_000
"""Most characters of an attribute; the definition of a study has some thousand."""


def plain(text: Any, *, where: str) -> Any:
    """Parse the JSON text of an attribute.

    Args:
        text: as the database holds it.
        where: names the attribute in the error.

    Returns:
        The value.

    Raises:
        StorageError: it is not JSON.
    """
    try:
        if len(text) <= MAX_TEXT:
            return parse_json(text)
    except (TypeError, ValueError):
        pass
    raise StorageError(f"{where}: this attribute is not JSON: {str(text)[:40]!r}")


def typed(attrs: Mapping[str, Any], name: str, default: T, *, where: str) -> T:
    """Read an attribute that has the type of `default`; numbers are at least 0.

    Args:
        attrs: by name.
        name: name of the attribute.
        default: its value if it is absent.
        where: names the study or trial in the error.

    Returns:
        The value.

    Raises:
        StorageError: it is of another type, negative, or not finite.
    """
    value = attrs.get(name, default)
    kind = type(default)
    expected = {int: "an integer of at least 0", float: "a number of at least 0", str: "text"}[kind]
    allowed = (int, float) if kind is float else (kind,)
    valid = isinstance(value, allowed) and not isinstance(value, bool)
    if valid and kind is not str:
        valid = 0 <= value < 2**53 and math.isfinite(value)
    if not valid:
        raise StorageError(f"{where}:{name}: must be {expected}, found {str(value)[:40]!r}")
    return kind(value)
