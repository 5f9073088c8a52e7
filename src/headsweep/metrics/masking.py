"""Blank labels: entries of a target matrix that nobody has labelled.

Targets are uint8: 0, 1, or `BLANK`. Every metric of a label leaves out the rows in which it is
blank.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BLANK = 255
"""Value of a target that is neither 0 nor 1: unknown."""

Targets = NDArray[np.uint8] | NDArray[np.bool_]


def has_blanks(targets: Targets) -> bool:
    """Return whether any target is blank."""
    return bool(targets.dtype == np.uint8 and targets.max(initial=0) == BLANK)


def labelled(targets: Targets) -> NDArray[np.bool_]:
    """Return which targets are not blank, in the shape of the targets."""
    return np.asarray(targets != BLANK)


def labelled_counts(targets: Targets) -> NDArray[np.int64]:
    """Return how many rows of each label are not blank, (n, c) → (c,)."""
    return np.asarray(labelled(targets).sum(axis=0), np.int64)


def positive_counts(targets: Targets) -> NDArray[np.int64]:
    """Return how many rows of each label are positive, (n, c) → (c,)."""
    return np.asarray((targets == 1).sum(axis=0), np.int64)


def prevalence(targets: Targets) -> NDArray[np.float64]:
    """Return the share of positives among the labelled rows, (n, c) → (c,); NaN without any."""
    known = labelled_counts(targets)
    share = np.full(known.shape, np.nan)
    np.divide(positive_counts(targets), known, out=share, where=known > 0)
    return share


def wholly_blank(labels: Sequence[str], targets: Targets) -> list[str]:
    """Return the labels that no row has."""
    return [label for label, rows in zip(labels, labelled_counts(targets), strict=True) if not rows]
