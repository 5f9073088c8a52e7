"""A study's space as Optuna sees it: distributions, conditions, suggestion, the grid."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from headsweep.config.schema import Config
from headsweep.config.values import value_at
from headsweep.errors import StudyError
from headsweep.json_text import parse_json
from headsweep.search.spec import (
    CategoricalDimension,
    Choice,
    Dimension,
    FloatDimension,
    IntDimension,
)
from headsweep.search.steps import n_points, point

MAX_GRID_POINTS = 100_000
"""Optuna stores all points in memory."""


def distribution(dimension: Dimension) -> BaseDistribution:
    """Return Optuna's distribution of a dimension.

    A list among the choices becomes its JSON text, and a stepped range ends at its last step.

    Raises:
        TypeError: the dimension is of an unknown class.
    """
    match dimension:
        case FloatDimension():
            return FloatDistribution(
                dimension.low, dimension.last, log=dimension.log, step=dimension.step
            )
        case IntDimension():
            return IntDistribution(
                dimension.low, dimension.last, log=dimension.log, step=dimension.step
            )
        case CategoricalDimension():
            return CategoricalDistribution([_stored(choice) for choice in dimension.choices])
    raise TypeError(f"unknown dimension {type(dimension).__name__}")


def suggestion_order(space: Mapping[str, Dimension], *, where: str) -> tuple[str, ...]:
    """Order the keys of `space` such that each follows those that its conditions name.

    Returns:
        The keys in that order.

    Raises:
        StudyError: the conditions depend on each other in a cycle.
    """
    order: list[str] = []
    pending = dict(space)
    while pending:
        ready = [k for k, d in pending.items() if not any(other in pending for other in d.when)]
        if not ready:
            raise StudyError(
                f"{where}: conditions depend on each other in a cycle: {list(pending)}"
            )
        order += ready
        for key in ready:
            del pending[key]
    return tuple(order)


def is_active(dimension: Dimension, params: Mapping[str, Any], config: Config) -> bool:
    """Return whether every condition holds, given params and the base config."""
    return all(
        _plain(params.get(key, value_at(config, key))) in [_plain(v) for v in values]
        for key, values in dimension.when.items()
    )


def lacks_params(trial: FrozenTrial, space: Mapping[str, Dimension], config: Config) -> bool:
    """Return whether a finished trial has no value for an active dimension.

    A trial that another program wrote may lack some; it says nothing of the base config's value.
    """
    if len(trial.distributions) == len(space):
        return False
    missing = (key for key in space if key not in trial.distributions)
    return any(is_active(space[key], trial.params, config) for key in missing)


def suggest(trial: optuna.Trial, space: Mapping[str, Dimension], config: Config) -> dict[str, Any]:
    """Suggest every active dimension in order.

    Returns:
        The params as Optuna stores them.
    """
    params: dict[str, Any] = {}
    for key in suggestion_order(space, where="space"):
        if not is_active(space[key], params, config):
            continue
        match distribution(space[key]):
            case FloatDistribution(low=low, high=high, log=log, step=step):
                params[key] = trial.suggest_float(key, low, high, log=log, step=step)
            case IntDistribution(low=low, high=high, log=log, step=step):
                params[key] = trial.suggest_int(key, low, high, log=log, step=step)
            case CategoricalDistribution(choices=choices):
                params[key] = trial.suggest_categorical(key, choices)
    return params


def grid(space: Mapping[str, Dimension], *, where: str) -> dict[str, list[Any]]:
    """List the values of every dimension, for the grid sampler.

    Returns:
        Values by key.

    Raises:
        StudyError: a dimension has no finite set of values, or is conditional, or there are more
            than `MAX_GRID_POINTS`.
    """
    values: dict[str, list[Any]] = {}
    size = 1
    for key, dimension in space.items():
        if dimension.when:
            raise StudyError(f"{where}: a grid search supports no conditions, but {key} has one")
        points: Sequence[Any]
        match dimension:
            case CategoricalDimension():
                points = [_stored(choice) for choice in dimension.choices]
            case IntDimension(log=False):
                points = range(dimension.low, dimension.high + 1, dimension.step)
            case FloatDimension(low=low, high=high, step=float(step)):
                n = min(n_points(low, high, step), MAX_GRID_POINTS + 1)
                points = [point(low, step, index) for index in range(n)]
            case _:
                found = "on a logarithmic scale" if dimension.type == "int" else "without a step"
                raise StudyError(
                    f"{where}: a grid needs a finite list of values, but {key} is {found}. "
                    "List its values as the choices of a categorical key"
                )
        size *= len(points)
        if size > MAX_GRID_POINTS:
            raise StudyError(
                f"{where}: a grid must have at most {MAX_GRID_POINTS} points, found more with {key}"
            )
        values[key] = list(points)
    return values


def _stored(choice: Choice) -> bool | int | float | str | None:
    return json.dumps(list(choice)) if isinstance(choice, tuple) else choice


def _plain(value: Any) -> Any:
    """Return a value in the form in which values are compared: JSON text of a list as a list."""
    if isinstance(value, str) and value[:1] == "[":
        return parse_json(value)
    return list(value) if isinstance(value, tuple) else value
