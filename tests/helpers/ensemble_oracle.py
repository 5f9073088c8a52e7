"""Ensemble selection as plain loops over scikit-learn's average precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

Array = NDArray[np.float64]


def macro_ap(targets: NDArray[np.uint8], scores: Array) -> float:
    """Mean of scikit-learn's average precision over the labels with both classes."""
    labels = [j for j, y in enumerate(targets.T) if 0 < y.sum() < len(y)]
    return float(np.mean([average_precision_score(targets[:, j], scores[:, j]) for j in labels]))


def plain_selection(
    targets: NDArray[np.uint8], members: Array, n_bags: int, share: float, n_rounds: int, seed: int
) -> Array:
    """Caruana et al. (2004), a model at a time."""
    rng = np.random.default_rng(seed)
    weights = np.zeros(len(members))
    for _ in range(n_bags):
        drawn = rng.choice(len(members), int(np.ceil(share * len(members))), replace=False)
        bag, chosen, best = sorted(drawn), [], (-1.0, 0)
        for size in range(1, n_rounds + 1):
            values = []
            for i in bag:
                total = np.zeros(members.shape[1:])
                for j in [*chosen, i]:
                    total = total + members[j]
                mean = (total / size).astype(members.dtype)
                values.append(round(macro_ap(targets, mean), 12))
            chosen.append(bag[values.index(max(values))])
            if max(values) > best[0]:
                best = (max(values), size)
        kept = chosen[: best[1]]
        weights += np.array([kept.count(i) / len(kept) for i in range(len(members))])
    return weights / n_bags
