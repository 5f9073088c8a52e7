"""Params that a user enqueues: checked against the space, completed by the defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from headsweep.arguments import refuse_no_mapping
from headsweep.config.inputs import INPUT, joined_input
from headsweep.config.messages import unknown_key
from headsweep.config.values import value_at
from headsweep.errors import StudyError
from headsweep.search.space import distribution, is_active, suggestion_order
from headsweep.search.spec import StudySpec


def complete_params(params: Mapping[str, Any], spec: StudySpec, *, where: str) -> dict[str, Any]:
    """Check params of one trial and fill in what they leave out.

    A key that is left out gets the base config's value if that lies in the space; otherwise the
    sampler suggests it. So `{}` is the study's default config.

    Args:
        params: values by keys of the space; lists may be given for list-valued choices.
        spec: the study's definition.
        where: names the params in errors.

    Returns:
        The params as Optuna stores them.

    Raises:
        StudyError: a key is not searched or does not apply, or a value is outside its range.
    """
    refuse_no_mapping(where, params, "{'training.learning_rate': 0.01}", StudyError)
    for name in params:
        if name not in spec.space:
            searched = ", ".join(spec.space)
            raise StudyError(
                f"{where}: {unknown_key(name, tuple(spec.space))} Searched are {searched}"
            )
    complete: dict[str, Any] = {}
    for name in suggestion_order(spec.space, where=where):
        dimension = spec.space[name]
        if not is_active(dimension, complete, spec.config):
            if name in params:
                raise StudyError(f"{where}: {name} is not searched with these other params")
            continue
        if name in params:
            value = joined_input(params[name]) if name == INPUT else params[name]
            complete[name] = _stored(value, distribution(dimension), f"{where}: {name}")
        else:
            default = _stored(value_at(spec.config, name), distribution(dimension), None)
            if default is not None:
                complete[name] = default
    return complete


def split_by_fit(
    trials: Mapping[int, Mapping[str, Any]], spec: StudySpec
) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Separate params that fit a study's space from those that do not.

    Args:
        trials: params of another study's trials by their numbers.
        spec: the study's definition.

    Returns:
        The params that fit, and for each of the others why it does not.
    """
    fitting, misfits = [], []
    for number, params in trials.items():
        try:
            complete_params(params, spec, where=f"trial {number}")
        except StudyError as error:
            misfits.append(str(error))
        else:
            fitting.append(params)
    return fitting, misfits


def _stored(value: Any, allowed: BaseDistribution, where: str | None) -> Any:
    """Return a value as Optuna stores it; None if it is outside of its range and `where` is None.

    Raises:
        StudyError: the value is outside of its range, and `where` is given.
        TypeError: the distribution is none of Optuna's three.
    """
    if isinstance(value, list | tuple):
        value = json.dumps(list(value))
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # NumPy's numbers
        value = value.item()
    match allowed:
        case CategoricalDistribution(choices=choices):
            same = [c for c in choices if type(c) is type(value) and c == value]
            equal = [c for c in choices if c == value and not isinstance(c, bool)]
            found = [*same, *equal]
            if found:
                return found[0]
            expected = f"one of {', '.join(map(repr, choices))}"
        case FloatDistribution() | IntDistribution():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            inside = number and allowed.low <= value <= allowed.high  # so it is finite
            whole = inside and (isinstance(allowed, FloatDistribution) or value == int(value))
            if whole and allowed._contains(float(value)):
                return float(value) if isinstance(allowed, FloatDistribution) else int(value)
            step = f" in steps of {allowed.step}" if allowed.step not in (None, 1) else ""
            expected = f"between {allowed.low} and {allowed.high}{step}"
        case _:
            raise TypeError(f"unknown distribution {type(allowed).__name__}")
    if where is None:
        return None
    raise StudyError(f"{where} must be {expected}, found {value!r}")
