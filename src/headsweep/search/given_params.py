"""Params that a trial was given, by headsweep or by stock Optuna: whether they fit the space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    check_distribution_compatibility,
)
from optuna.trial import FrozenTrial

from headsweep.errors import TrialError

FIXED_PARAMS = "fixed_params"
"""Optuna's trial attribute: the params that `study.enqueue_trial` was called with."""
RELATIVE_TOLERANCE = 1e-9
"""A bound of a stepped range may differ from its last step by rounding."""


def check_given_params(
    trial: FrozenTrial, distributions: Mapping[str, BaseDistribution]
) -> tuple[str, ...]:
    """Check that the params a trial was given are in a study's space.

    Args:
        trial: as it was claimed, before anything was suggested.
        distributions: those of the space, by name.

    Returns:
        Names that were enqueued although the space does not have them; they are ignored.

    Raises:
        TrialError: a value or a distribution does not fit the space.
    """
    for name, distribution in trial.distributions.items():
        if name not in distributions:
            raise TrialError(f"{name!r} is not in the study's space")
        check_value(name, trial.params[name], distributions[name])
        try:
            check_distribution_compatibility(distributions[name], distribution)
        except ValueError:
            raise TrialError(
                f"{name}: its distribution must be {distributions[name]}, found {distribution}"
            ) from None
    fixed = trial.system_attrs.get(FIXED_PARAMS, {})
    if not isinstance(fixed, Mapping):
        raise TrialError(f"{FIXED_PARAMS}: must map names to values, found {_shown(fixed)}")
    for name, value in fixed.items():
        if name in distributions:
            check_value(name, value, distributions[name])
    return tuple(str(name) for name in fixed if name not in distributions)


def fits_space(trial: FrozenTrial, distributions: dict[str, BaseDistribution]) -> bool:
    """Return whether the params of a finished trial are in a study's space.

    Those of a trial that another program wrote may not.

    Args:
        trial: a finished trial.
        distributions: those of the space, by name. Equal objects of trials replace them, since
            the trials of a storage share these: they are compared by identity from then on.
    """
    for name, distribution in trial.distributions.items():
        expected = distributions.get(name)
        if expected is None:
            return False
        if expected is distribution:
            continue
        if expected == distribution:
            distributions[name] = distribution
            continue
        try:
            check_distribution_compatibility(expected, distribution)
            check_value(name, trial.params[name], expected)
        except (ValueError, TrialError):
            return False
    return True


def check_value(name: str, value: Any, distribution: BaseDistribution) -> None:
    """Check that a value lies in a distribution.

    Raises:
        TrialError: it does not.
    """
    if isinstance(distribution, CategoricalDistribution):
        if not any(_same(value, choice) for choice in distribution.choices):
            choices = ", ".join(map(repr, distribution.choices))
            raise TrialError(f"{name}: must be one of {choices}, found {_shown(value)}")
        return
    low, high = getattr(distribution, "low", -math.inf), getattr(distribution, "high", math.inf)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # Compared as they are: a huge integer is no float.
    if not number or not (math.inf > value > -math.inf):
        raise TrialError(f"{name}: must be a number from {low} to {high}, found {_shown(value)}")
    slack = RELATIVE_TOLERANCE * max(abs(low), abs(high))
    if not low - slack <= value <= high + slack:
        raise TrialError(f"{name}: must be from {low} to {high}, found {_shown(value)}")
    if isinstance(low, int) and not isinstance(value, int) and value != int(value):
        raise TrialError(f"{name}: must be an integer, found {_shown(value)}")


def _same(value: Any, choice: Any) -> bool:
    return type(value) is type(choice) and bool(value == choice)


def _shown(value: Any) -> str:
    return repr(value)[:60]
