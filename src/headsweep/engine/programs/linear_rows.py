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
    """A minibatch of `length` rows, padded with zeros to `b`, a number of whole vectors.

    The tensors are views, as the products of a step need them: to make them anew in every step
    would take longer than the products of a slot.
    """

    length: int
    x: Mapping[Variant, Tensor]
    """Inputs `(b, d)`."""
    transposed: Mapping[Variant, Tensor]
    """`(d, b)`, a view of the same memory."""
    features_first: Mapping[Variant, Tensor]
    """`(b, d)`, copies stored feature by feature, of the variants that need one."""
    targets: Tensor
    """Labels `(c, b)`."""
    share: Tensor
    """Share `()` of an entry in the mean of the loss, if all labels are known."""
    labelled: Tensor | None = None
    """`(c, b)`, 1 where a label is known, 0 where it is blank; None where none is blank."""


class GatheredRows:
    """Memory for so many training rows, from which minibatches of several sizes are read."""

    def __init__(self, inputs: Inputs, length: int) -> None:
        self.inputs, self.length = inputs, length
        targets = inputs.targets
        whole = length + in_whole_vectors(length)[1]
        self.x: dict[Variant, Tensor] = {}
        self.features_first: dict[Variant, Tensor] = {}
        self.targets = targets.new_zeros(targets.shape[1], whole)
        self.labelled = None if inputs.labelled is None else torch.zeros_like(self.targets)
        self._labels = targets.new_zeros(length, targets.shape[1])
        self._parts: dict[int, list[Rows]] = {}

    def fill(self, rows: Tensor, variants: Mapping[Variant, bool]) -> None:
        """Gather training rows `(b,)`; variants that are not named keep their old rows.

        Args:
            rows: indices of the rows.
            variants: those to gather, and whether a copy stored feature by feature is needed.
        """
        for matrix, by_label in (
            (self.inputs.targets, self.targets),
            (self.inputs.labelled, self.labelled),
        ):
            if matrix is not None and by_label is not None:
                torch.index_select(matrix, 0, rows, out=self._labels)
                by_label[:, : self.length].copy_(self._labels.T)
        for variant, features_first in variants.items():
            matrix = self.inputs.matrix(variant, valid=False)
            whole, width = self.targets.shape[1], matrix.shape[1]
            if variant not in self.x:
                self.x[variant] = matrix.new_zeros(whole, width)
                self._parts.clear()
            torch.index_select(matrix, 0, rows, out=self.x[variant][: self.length])
            if features_first:
                if variant not in self.features_first:
                    self.features_first[variant] = matrix.new_zeros(width, whole)
                    self._parts.clear()
                self.features_first[variant].copy_(self.x[variant].T)

    def parts(self, length: int) -> list[Rows]:
        """Return the consecutive minibatches of a length: all rows, or vectors that fill them."""
        if length not in self._parts:
            whole = self.targets.shape[1] if length == self.length else length
            starts = range(0, self.length, length)
            self._parts[length] = [self._part(length, slice(s, s + whole)) for s in starts]
        return self._parts[length]

    def _part(self, length: int, rows: slice) -> Rows:
        n_labels = len(self.targets)
        return Rows(
            length,
            {variant: x[rows] for variant, x in self.x.items()},
            {variant: x[rows].T for variant, x in self.x.items()},
            {variant: x[:, rows].T for variant, x in self.features_first.items()},
            self.targets[:, rows],
            self.targets.new_tensor(1 / (length * n_labels)),
            None if self.labelled is None else self.labelled[:, rows],
        )


class RowBuffers:
    """Memory into which rows are gathered, reused from step to step."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self._gathered: dict[int, GatheredRows] = {}

    def gather(self, rows: Tensor, variants: Mapping[Variant, bool]) -> GatheredRows:
        """Return training rows, valid until the next call; see `GatheredRows.fill`."""
        length = len(rows)
        if length not in self._gathered:
            self._gathered[length] = GatheredRows(self.inputs, length)
        self._gathered[length].fill(rows, variants)
        return self._gathered[length]

    def clear(self) -> None:
        """Free the memory."""
        self._gathered.clear()


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
