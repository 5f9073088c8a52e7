"""Training rows of linear heads, gathered once for all slots that read them.

With few slots for each input variant, gathering and transposing a row takes longer than its
products. Minibatches of all batch sizes are consecutive rows of one permutation, so those
of 1,024 rows, of 256 and of 64 are parts of the same gathered rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from headsweep.engine.inputs import Inputs, Variant

VECTOR_BLOCK = 32
"""Elements that PyTorch's CPU kernels take at a time, at most: two AVX-512 registers."""

ROWS_AT_ONCE = 1024
"""Rows that are gathered at once for smaller batch sizes."""

MOST_ROWS = 4096
"""Largest batch size whose rows others share, so that these stay in a CPU's cache."""


@dataclass(frozen=True)
class Rows:
    """A minibatch of `length` rows, padded with zeros to `b`, a number of whole vectors."""

    length: int
    x: Mapping[Variant, Tensor]
    """Inputs `(b, d)`."""
    transposed: Mapping[Variant, Tensor]
    """The same, `(d, b)`."""
    targets: Tensor
    """Labels `(c, b)`."""
    labelled: Tensor | None = None
    """`(c, b)`, 1 where a label is known, 0 where it is blank; None where none is blank."""

    def parts(self, length: int) -> list[Rows]:
        """Return the consecutive minibatches of another length, whole vectors that fill these."""
        if length == self.length:
            return [self]
        return [
            Rows(
                length,
                {variant: x[start : start + length] for variant, x in self.x.items()},
                {v: x[:, start : start + length] for v, x in self.transposed.items()},
                self.targets[:, start : start + length],
                None if self.labelled is None else self.labelled[:, start : start + length],
            )
            for start in range(0, self.length, length)
        ]


class RowBuffers:
    """Memory into which rows are gathered, reused from step to step."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self._rows: dict[int, Rows] = {}
        self._labels: dict[int, Tensor] = {}

    def gather(self, rows: Tensor, variants: Iterable[Variant]) -> Rows:
        """Return training rows `(b,)` in each of the variants; valid until the next call."""
        length, targets = len(rows), self.inputs.targets
        whole = length + in_whole_vectors(length)[1]
        if length not in self._rows:
            self._rows[length] = Rows(length, {}, {}, targets.new_zeros(targets.shape[1], whole))
            self._labels[length] = targets.new_zeros(length, targets.shape[1])
        buffers, labels = self._rows[length], self._labels[length]
        torch.index_select(targets, 0, rows, out=labels)
        buffers.targets[:, :length].copy_(labels.T)
        x, transposed = dict(buffers.x), dict(buffers.transposed)
        for variant in variants:
            matrix = self.inputs.matrix(variant, valid=False)
            if variant not in x:
                x[variant] = matrix.new_zeros(whole, matrix.shape[1])
                transposed[variant] = matrix.new_zeros(matrix.shape[1], whole)
            torch.index_select(matrix, 0, rows, out=x[variant][:length])
            transposed[variant].copy_(x[variant].T)
        known = buffers.labelled
        if self.inputs.labelled is not None:
            torch.index_select(self.inputs.labelled, 0, rows, out=labels)
            known = torch.zeros_like(buffers.targets) if known is None else known
            known[:, :length].copy_(labels.T)
        self._rows[length] = Rows(length, x, transposed, buffers.targets, known)
        return self._rows[length]

    def clear(self) -> None:
        """Free the memory."""
        self._rows.clear()
        self._labels.clear()


def sharing_sizes(batch_sizes: Iterable[int]) -> list[list[int]]:
    """Return batch sizes that can share gathered rows, each a divisor of those before it."""
    sharing: list[list[int]] = []
    for size in sorted(batch_sizes, reverse=True):
        whole = size % VECTOR_BLOCK == 0
        fits = (s for s in sharing if whole and s[0] <= MOST_ROWS and s[-1] % size == 0)
        found = next(fits, None)
        if found is None:
            sharing.append([size])
        else:
            found.append(size)
    return sharing


def rows_at_once(batch_size: int, left: int) -> int:
    """Return how many of the rows that are left to gather at once: whole minibatches."""
    if batch_size % VECTOR_BLOCK:
        return batch_size
    return batch_size * max(1, min(left, ROWS_AT_ONCE) // batch_size)


def in_whole_vectors(length: int) -> tuple[int, int]:
    """Return how many zeros go before and after so many elements, to leave no remainder.

    Vector kernels compute a remainder at the very end by scalar code, with other bits; whether a
    slot is there depends on the other slots.
    """
    return 0, -length % VECTOR_BLOCK
