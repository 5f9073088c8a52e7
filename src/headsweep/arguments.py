"""Checks of arguments of the Python API: counts, seconds, collections, arrays."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headsweep.errors import ConfigError, InputError

MOST = 10_000
"""Largest number of workers, slots and the like, as on the command line."""
MOST_TRIALS = 10**9
MOST_SECONDS = 10 * 365 * 86400


def whole_number(name: str, value: Any, *, least: int = 1, most: int = MOST) -> int:
    """Return a count that the caller gave; NumPy's integers are accepted, True is not.

    Raises:
        ConfigError: it is no whole number, or outside of its range.
    """
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        raise ConfigError(f"{name} must be a whole number from {least} to {most}, found {value!r}")
    return number


def optional_whole_number(name: str, value: Any, *, least: int = 1, most: int = MOST) -> int | None:
    """Return None for None, and otherwise what `whole_number` returns."""
    return None if value is None else whole_number(name, value, least=least, most=most)


def optional_seconds(name: str, value: Any) -> float | None:
    """Return a duration that the caller gave; None for None.

    Raises:
        ConfigError: it is no number of seconds greater than 0.
    """
    if value is None:
        return None
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 < value <= MOST_SECONDS:
        raise ConfigError(
            f"{name} must be seconds, greater than 0 and at most 10 years, found {value!r}"
        )
    return float(value)


def refuse_other_types(
    name: str,
    value: Any,
    types: type | tuple[type, ...],
    expected: str,
    error: type[InputError] = ConfigError,
) -> None:
    """Refuse an argument of another type.

    Raises:
        InputError: `error`, which says what was expected.
    """
    if not isinstance(value, types):
        raise error(f"{name} must be {expected}, found {type(value).__name__}")


def refuse_no_mapping(name: str, value: Any, example: str, error: type[InputError]) -> None:
    """Refuse an argument that holds no values by name; see `refuse_other_types`."""
    refuse_other_types(name, value, Mapping, f"a dict such as {example}", error)


def as_array(name: str, values: Any, error: type[InputError]) -> NDArray[Any]:
    """Return an array of what the caller gave: an array, lists, a DataFrame, or a tensor.

    A tensor may be on a GPU, require gradients or be of type bfloat16, which NumPy lacks.

    Raises:
        InputError: it is no array, or one of complex numbers.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as problem:
        raise error(f"{name} must be an array of numbers: {problem}") from None
    if array.dtype.kind == "c":
        raise error(f"{name} must be real numbers, found {array.dtype}")
    return array
