"""The tape: an endless, seeded sequence of permutations of the training rows.

All slots of a group read the same rows at the same time, so that one gather and one matrix
product are enough for all of them. Position `p` of the tape is one epoch; a trial that entered at
position `p` is replayed by entering there again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def permutation(seed: int, position: int, n: int) -> Tensor:
    """Return row indices `(n,)` of the tape's epoch `position`.

    Argsort of a raw Philox stream (Salmon et al. 2011), which no version of NumPy changes.
    """
    stream = np.random.Philox(key=[seed, position])
    return torch.from_numpy(np.argsort(stream.random_raw(n), kind="stable"))


def batch_bounds(n: int, batch_size: int) -> list[tuple[int, int]]:
    """Return start and end of every minibatch of an epoch over `n` rows.

    The last batch is shorter if `batch_size` does not divide `n`; a last batch of a single row
    is left out, since batch statistics and contrastive losses need two.
    """
    bounds = [(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] == 1:
        bounds.pop()
    return bounds


def batches(seed: int, position: int, n: int, batch_size: int) -> Iterator[Tensor]:
    """Return the minibatches `(b,)` of row indices of one epoch."""
    order = permutation(seed, position, n)
    for start, end in batch_bounds(n, batch_size):
        yield order[start:end]
