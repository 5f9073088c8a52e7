"""Validation metrics of slots, computed by several threads if training runs on a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsweep.metrics.ranking import average_precision_and_auroc, macro

SLOTS_AT_ONCE = 8
"""Slots whose scores are ranked together.

Arrays of more slots fit neither a core's cache nor the memory that a process keeps between epochs:
at 104 slots of 18 labels and 3,039 rows, ranking takes half of the time it takes in one piece.
"""

Metrics = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]


def slot_metrics(
    targets: NDArray[np.uint8],
    scores: Tensor,
    probabilities: Callable[[Tensor], Tensor],
    *,
    ranks_logits: bool,
    threads: int,
) -> Metrics:
    """Compute macro AUPRC, macro AUROC and mean cross-entropy of every slot.

    A slot's metrics do not depend on the other slots, nor on the number of threads.

    Args:
        targets: validation labels `(n, c)`.
        scores: `(K, c, n)` on the CPU.
        probabilities: the label probabilities of scores.
        ranks_logits: whether scores are ranked; else their probabilities are.
        threads: most threads to use.

    Returns:
        Three arrays `(K,)`; AUPRC and AUROC are NaN where a score is not finite.
    """
    threads = min(threads, os.cpu_count() or 1, len(scores))

    def measure(part: Tensor) -> list[Metrics]:
        return [
            _metrics(targets, some, probabilities, ranks_logits=ranks_logits)
            for some in torch.split(part, SLOTS_AT_ONCE)
        ]

    if threads <= 1:
        found = measure(scores)
    else:
        with ThreadPoolExecutor(threads) as pool:
            found = list(chain.from_iterable(pool.map(measure, scores.tensor_split(threads))))
    auprc, auroc, losses = zip(*found, strict=True)
    return np.concatenate(auprc), np.concatenate(auroc), np.concatenate(losses)


def _metrics(
    targets: NDArray[np.uint8],
    on_cpu: Tensor,
    probabilities: Callable[[Tensor], Tensor],
    *,
    ranks_logits: bool,
) -> Metrics:
    scores, likely = on_cpu.numpy(), probabilities(on_cpu).numpy()
    finite = np.asarray(np.isfinite(scores).all(axis=(1, 2)))
    ranking = scores if ranks_logits else likely
    ranked = np.where(finite[:, None, None], ranking, np.float32(0)).swapaxes(1, 2)
    auprc, auroc = average_precision_and_auroc(targets, ranked)
    losses = _cross_entropy(targets, likely)
    return np.where(finite, macro(auprc), np.nan), np.where(finite, macro(auroc), np.nan), losses


def _cross_entropy(targets: NDArray[np.uint8], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean cross-entropy `(K,)` of probabilities `(K, c, n)` and labels `(n, c)`."""
    hit = np.where(targets.T.astype(bool), scores, 1 - scores)
    losses: NDArray[np.float32] = (
        -np.log(np.maximum(hit, 1e-7)).reshape(len(scores), -1).mean(axis=1)
    )
    return losses
