"""Values of competing trials, kept in order while trials enter and leave."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Mapping


class SortedValues:
    """Who reached what; a value that is not a number does not compete."""

    def __init__(self) -> None:
        self._value_of: dict[int, float] = {}
        self.ascending: list[float] = []

    def enter(self, key: int, value: float) -> None:
        """Sets the value of a trial, by the trial's id."""
        if self._value_of.get(key) == value or math.isnan(value):
            return
        self.leave(key)
        self._value_of[key] = value
        insort(self.ascending, value)

    def leave(self, key: int) -> None:
        """Forgets a trial."""
        value = self._value_of.pop(key, None)
        if value is not None:
            del self.ascending[bisect_left(self.ascending, value)]

    def by_trial(self) -> Mapping[int, float]:
        """The values by trial id."""
        return self._value_of

    def bar(self, n: int) -> float:
        """The n-th best value, or the last where there are fewer; infinite where there is none."""
        best = self.ascending[-n:] if n else ()
        return best[0] if best else math.inf
