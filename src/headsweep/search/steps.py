"""Points of a stepped range as exact decimals: 0 to 0.3 in steps of 0.1 has 0.3, not 0.30…04.

A float is read as the shortest decimal that represents it, as it is written in a study file. The
arithmetic uses decimals, and only the result is converted to a float.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Context, Decimal, localcontext
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

MAX_STEPS = 10**15
"""Most steps of a range: a float holds the number of each."""
_EXACT = Context(prec=700)
"""Digits that hold any sum of two floats: the widest spans 1.8e308 to 4.9e-324."""


def n_points(low: float, high: float, step: float) -> int:
    """Return how many of `low`, `low + step`, … are at most `high`."""
    with _exact():
        return int((_decimal(high) - _decimal(low)) // _decimal(step)) + 1


def point(low: float, step: float, index: int) -> float:
    """Return the float nearest to the decimal `low + index * step`."""
    with _exact():
        return float(_decimal(low) + index * _decimal(step))


def last_point(low: float, high: float, step: float) -> float:
    """Return the largest point that is at most `high`."""
    return point(low, step, n_points(low, high, step) - 1)


def on_step(distribution: BaseDistribution, value: Any) -> Any:
    """Return the point that a drawn value stands for; without steps, the value itself.

    Args:
        distribution: the distribution that the value was drawn from.
        value: within half a step of a point.
    """
    if isinstance(distribution, IntDistribution):
        return int(value)
    if not isinstance(distribution, FloatDistribution) or distribution.step is None:
        return value
    low, high, step = distribution.low, distribution.high, distribution.step
    return min(max(point(low, step, round((value - low) / step)), low), high)


def _decimal(value: float) -> Decimal:
    return Decimal(repr(float(value)))


@contextmanager
def _exact() -> Iterator[None]:
    with localcontext(_EXACT):
        yield
