"""JSON from databases and files that others may have written.

The standard parser recurses into every nested list and object. A text of thousands of brackets
fills the stack; a garbage collection that begins there cannot run its finalizers, so connections
stay open and Python prints a traceback for each, before the parser raises `RecursionError`.
"""

from __future__ import annotations

import json
import re
from typing import Any

MOST_NESTED = 100
"""Lists and objects within each other, at most; what headsweep and Optuna write has below ten."""

_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)
"""A string, also one that does not end, or a bracket."""


def parse_json(text: str) -> Any:
    """Parse a JSON text whose nesting is limited.

    Args:
        text: JSON.

    Returns:
        The value.

    Raises:
        ValueError: it is not JSON, or nested deeper than `MOST_NESTED`.
        TypeError: it is no text.
    """
    check_nesting(text)
    return json.loads(text)  # noqa: TID251


def check_nesting(text: str) -> None:
    """Check how deep a JSON text is nested.

    Args:
        text: JSON, not parsed yet.

    Raises:
        ValueError: it is nested deeper than `MOST_NESTED`.
    """
    if text.count("[") + text.count("{") <= MOST_NESTED:
        return
    depth = 0
    for token in _TOKENS.finditer(text):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
        if depth > MOST_NESTED:
            raise ValueError(f"JSON must not be nested deeper than {MOST_NESTED}")
