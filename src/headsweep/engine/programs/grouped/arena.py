"""Memory of all slots of a program: one arena for weights and moments, one for inputs."""

from __future__ import annotations

import bisect
from collections.abc import Callable

import torch
from torch import Tensor

from headsweep.engine.inputs import Variant
from headsweep.engine.programs.grouped.records import UNIT, units


class WeightArena:
    """Weights, both moments and best weights of all slots, at the same offsets of four tensors.

    Offsets and sizes count units of 16 floats.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.capacity = 0
        self.weights, self.firsts, self.seconds, self.best = (
            torch.zeros(0, device=device) for _ in range(4)
        )
        self._free: list[tuple[int, int]] = []
        """Start and size of every gap, in order."""

    def allocate(self, size: int) -> int:
        """Reserve memory, and grow if no gap is large enough.

        Returns:
            The offset of the reserved part.
        """
        for i, (start, gap) in enumerate(self._free):
            if gap >= size:
                self._free[i : i + 1] = [(start + size, gap - size)] if gap > size else []
                return start
        self._grow(size)
        return self.allocate(size)

    def release(self, start: int, size: int) -> None:
        """Free memory."""
        i = bisect.bisect(self._free, (start, size))
        self._free.insert(i, (start, size))
        for j in (i + 1, i):
            if 0 < j < len(self._free) and sum(self._free[j - 1]) == self._free[j][0]:
                (first, one), (_, other) = self._free[j - 1 : j + 1]
                self._free[j - 1 : j + 1] = [(first, one + other)]

    def part(self, arena: Tensor, start: int, size: int) -> Tensor:
        """Return a slot's part of one of the four tensors."""
        return arena[start * UNIT : (start + size) * UNIT]

    def _grow(self, size: int) -> None:
        """Grow by `size`, one tensor after another, so that little memory is allocated twice."""
        before = self.capacity
        after = max(2 * before, before + size)
        for name in ("weights", "firsts", "seconds", "best"):
            setattr(self, name, _longer(getattr(self, name), after * UNIT))
        self.capacity = after
        self.release(before, after - before)


class InputArena:
    """Rows of one split in every variant that a slot reads, one matrix after another."""

    def __init__(self, matrix: Callable[[Variant], Tensor], device: torch.device) -> None:
        self._matrix = matrix
        self.data = torch.zeros(0, device=device)
        self.offsets: dict[Variant, tuple[int, int]] = {}
        """Offset and width of a row of every matrix, in units."""

    def add(self, variant: Variant) -> None:
        """Copy the rows of a variant, if it is new; rows are padded with zeros."""
        if variant in self.offsets:
            return
        rows = self._matrix(variant)
        width, before = units(rows.shape[1]), len(self.data)
        self.data = _longer(self.data, before + len(rows) * width * UNIT)
        copy = self.data[before:].view(len(rows), width * UNIT)
        copy[:, : rows.shape[1]].copy_(rows)
        self.offsets[variant] = before // UNIT, width


def _longer(tensor: Tensor, length: int) -> Tensor:
    longer = tensor.new_zeros(length)
    longer[: len(tensor)].copy_(tensor)
    return longer
