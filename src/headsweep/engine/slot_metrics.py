"""Validation metrics of slots, computed by several threads if training runs on a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headsweep.metrics.masking import has_blanks, labelled, prevalence
from headsweep.metrics.ranking import (
    auprc_skill,
    average_precision_and_auroc,
    balanced_accuracy,
    macro,
)
from headsweep.metrics.trial_metrics import trial_metrics

SLOTS_AT_ONCE = 8
"""Slots whose scores are ranked together.

Arrays of more slots fit neither a core's cache nor the memory that a process keeps between epochs:
at 104 slots of 18 labels and 3,039 rows, ranking takes half of the time it takes in one piece.
"""

Values = NDArray[np.float64]
Metrics = tuple[Values, Values, NDArray[np.float32], Values]


def slot_metrics(
    targets: NDArray[np.uint8],
    scores: Tensor,
    probabilities: Callable[[Tensor], Tensor],
    *,
    metrics: Sequence[str],
    ranks_logits: bool,
    threads: int,
) -> Metrics:
    """Compute macro AUPRC, macro AUROC, mean cross-entropy and the objective's metric of slots.

    A slot's metrics do not depend on the other slots, nor on the number of threads.

    Args:
        targets: validation labels `(n, c)`, `BLANK` where one is not known.
        scores: `(K, c, n)` on the CPU.
        probabilities: the label probabilities of scores.
        metrics: the objective's metric of every slot.
        ranks_logits: whether scores are ranked; else their probabilities are.
        threads: most threads to use.

    Returns:
        Four arrays `(K,)`, all but the cross-entropy NaN where a score is not finite. The last
        one is NaN too where the metric does not follow from the scores (`recall_at_10`).
    """
    threads = min(threads, os.cpu_count() or 1, len(scores))

    def measure(part: Tensor, named: Sequence[str]) -> list[Metrics]:
        starts = range(0, len(part), SLOTS_AT_ONCE)
        return [
            _metrics(
                targets,
                part[start : start + SLOTS_AT_ONCE],
                probabilities,
                named[start : start + SLOTS_AT_ONCE],
                ranks_logits=ranks_logits,
            )
            for start in starts
        ]

    if threads <= 1:
        found = measure(scores, metrics)
    else:
        parts = scores.tensor_split(threads)
        names = [list(part) for part in np.array_split(np.array(metrics), threads)]
        with ThreadPoolExecutor(threads) as pool:
            found = list(chain.from_iterable(pool.map(measure, parts, names)))
    auprc, auroc, losses, values = (np.concatenate(part) for part in zip(*found, strict=True))
    return auprc, auroc, losses, values


def best_metrics(
    targets: NDArray[np.uint8],
    scores: Tensor,
    probabilities: Callable[[Tensor], Tensor],
    *,
    ranks_logits: bool,
) -> dict[str, float]:
    """Compute all metrics that a study records for a trial.

    Args:
        targets: validation labels `(n, c)`.
        scores: `(c, n)` on the CPU, all finite.
        probabilities: the label probabilities of scores.
        ranks_logits: whether scores are ranked; else their probabilities are.

    Returns:
        The metrics by name.
    """
    one = scores[None]
    likely = probabilities(one).numpy().swapaxes(1, 2)
    ranking = one.numpy().swapaxes(1, 2) if ranks_logits else likely
    return {n: float(values[0]) for n, values in trial_metrics(targets, ranking, likely).items()}


def _metrics(
    targets: NDArray[np.uint8],
    on_cpu: Tensor,
    probabilities: Callable[[Tensor], Tensor],
    metrics: Sequence[str],
    *,
    ranks_logits: bool,
) -> Metrics:
    scores, likely = on_cpu.numpy(), probabilities(on_cpu).numpy()
    finite = np.asarray(np.isfinite(scores).all(axis=(1, 2)))
    ranking = scores if ranks_logits else likely
    if not finite.all():
        ranking = np.where(finite[:, None, None], ranking, np.float32(0))
    ranked = ranking.swapaxes(1, 2)
    auprc, auroc = average_precision_and_auroc(targets, ranked)
    losses = _cross_entropy(targets, likely)
    means = {"auprc_macro": macro(auprc), "auroc_macro": macro(auroc)}
    values = np.full(len(scores), np.nan)
    for metric in set(metrics):
        chosen = np.array([name == metric for name in metrics])
        if metric in means:
            values[chosen] = means[metric][chosen]
        elif metric == "auprc_skill":
            values[chosen] = macro(auprc_skill(auprc[chosen], prevalence(targets)))
        elif metric == "balanced_accuracy":
            values[chosen] = macro(balanced_accuracy(targets, ranked[chosen]))
    area, of_roc, objective = (
        np.where(finite, value, np.nan) for value in (*means.values(), values)
    )
    return area, of_roc, losses, objective


def _cross_entropy(targets: NDArray[np.uint8], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean cross-entropy `(K,)` of probabilities `(K, c, n)` and labels `(n, c)`."""
    hit = np.where(targets.T.astype(bool), scores, 1 - scores)
    of_entry = -np.log(np.maximum(hit, 1e-7)).reshape(len(scores), -1)
    if has_blanks(targets):
        # Row by row in memory, so that the order of a slot's sum does not depend on other slots.
        of_entry = np.compress(labelled(targets).T.ravel(), of_entry, axis=1)
    losses: NDArray[np.float32] = of_entry.mean(axis=1)
    return losses
