"""Checks of arguments of the Python API: counts, seconds, collections, arrays."""

from __future__ import annotations

import math
import operator
import os
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
        InputError: it is no array, one of complex numbers or dates, or one with masked entries.
    """
    if np.ma.is_masked(values):
        raise error(f"{name} must not have masked entries; fill them, or leave their rows out")
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as problem:
        raise error(f"{name} must be an array of numbers: {problem}") from None
    if array.dtype.kind in "cmM":
        raise error(f"{name} must be real numbers, found {array.dtype}")
    return array


def finite_matrix(
    name: str, values: Any, error: type[InputError], *, rows: str = "row"
) -> NDArray[np.float32]:
    """Return features that the caller gave, in float32; see `as_array`.

    Args:
        name: of the argument, for errors.
        values: what the caller gave.
        error: class of the error to raise.
        rows: names the rows in errors, as in `row:17`.

    Returns:
        A matrix of finite numbers, which may share the caller's memory.

    Raises:
        InputError: they are not finite numbers of two axes; names the first entry that is not.
    """
    array = as_array(name, values, error)
    if array.dtype.kind in "USV":
        raise error(f"{name} must be numbers, found {array.dtype}")
    if array.ndim != 2:
        raise error(f"{name} must have shape (rows, width), found {array.shape}")
    try:
        with np.errstate(over="ignore"):
            matrix = np.ascontiguousarray(array, dtype=np.float32)
    except (TypeError, ValueError) as problem:
        raise error(f"{name} must be numbers: {problem}") from None
    if not (finite := np.isfinite(matrix)).all():
        row, column = np.argwhere(~finite)[0]
        raise error(
            f"{rows}:{row}: features must be finite, found {matrix[row, column]} in "
            f"{name}[{row}, {column}]"
        )
    return matrix


def refuse_no_path(name: str, value: Any, error: type[InputError] = ConfigError) -> None:
    """Refuse an argument that is no path; see `refuse_other_types`."""
    refuse_other_types(name, value, (str, os.PathLike), "a path", error)
