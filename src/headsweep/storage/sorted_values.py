"""Values of competing trials in ascending order, while trials enter and leave."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Mapping


class SortedValues:
    """Values by trial and in order; one that is not a number does not compete."""

    def __init__(self) -> None:
        self._value_of: dict[int, float] = {}
        self.ascending: list[float] = []

    def enter(self, key: int, value: float) -> None:
        """Set the value of a trial, by the trial's id."""
        if self._value_of.get(key) == value or math.isnan(value):
            return
        self.leave(key)
        self._value_of[key] = value
        insort(self.ascending, value)

    def enter_unsorted(self, key: int, value: float) -> None:
        """Set the value of a trial that has none yet; call `sort` before reading."""
        if not math.isnan(value):
            self._value_of[key] = value
            self.ascending.append(value)

    def sort(self) -> None:
        """Put the values in order after `enter_unsorted`."""
        self.ascending.sort()

    def leave(self, key: int) -> None:
        """Remove a trial."""
        value = self._value_of.pop(key, None)
        if value is not None:
            del self.ascending[bisect_left(self.ascending, value)]

    def by_trial(self) -> Mapping[int, float]:
        """Return the values by trial id."""
        return self._value_of

    def nth_best(self, n: int) -> float:
        """Return the n-th best value, or the lowest of fewer; infinite if there is none."""
        best = self.ascending[-n:] if n else ()
        return best[0] if best else math.inf
