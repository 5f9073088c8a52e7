"""AUPRC and AUROC of every slot and label from one sort, equal to scikit-learn's, ties included.

Instead of sorting indices, each score is packed with its label into one unsigned integer whose
order is the order of the scores. Sorting plain integers is vectorised in NumPy, and the sorted
array is sufficient for both metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headsweep.metrics.masking import Targets, has_blanks, labelled

Scores = NDArray[np.floating[Any]]
Metric = NDArray[np.float64]

# A block's keys and counts fit a core's second-level cache.
_CELLS_PER_BLOCK = 1 << 16


def average_precision(targets: Targets, scores: Scores) -> Metric:
    """Return average precision; arguments as in `average_precision_and_auroc`."""
    return average_precision_and_auroc(targets, scores)[0]


def auroc(targets: Targets, scores: Scores) -> Metric:
    """Return ROC areas; arguments as in `average_precision_and_auroc`."""
    return average_precision_and_auroc(targets, scores)[1]


def average_precision_and_auroc(targets: Targets, scores: Scores) -> tuple[Metric, Metric]:
    """Compute average precision and area under the ROC curve, as scikit-learn defines them.

    Average precision is the step-wise sum of precision over recall, equal scores entering
    together; the ROC area is trapezoidal, so a tied pair counts one half.

    Args:
        targets: (n, c), 0, 1 or `BLANK`; each label's rows that are blank are left out.
        scores: (K, n, c) finite logits or probabilities; only their order matters, and -0.0 equals
            0.0. Float32 is fastest; float64 is ranked exactly, after one more sort.

    Returns:
        Two (K, c) arrays, NaN where a label lacks positives or lacks negatives.

    Raises:
        ValueError: the shapes do not agree, or a score is no float or not finite.
    """
    precision, area = _by_label(targets, scores, _areas, n_metrics=2)
    return precision, area


def balanced_accuracy(targets: Targets, scores: Scores) -> Metric:
    """Compute the largest balanced accuracy, (sensitivity + specificity) / 2, of any threshold.

    The threshold is chosen on these very scores (that of Youden's index), so it describes how well
    they can be separated, not how a threshold that was frozen before performs.

    Args:
        targets: as in `average_precision_and_auroc`.
        scores: as there.

    Returns:
        A (K, c) array, NaN where a label lacks positives or lacks negatives.
    """
    (best,) = _by_label(targets, scores, lambda keys: (_balanced_accuracy(keys),), n_metrics=1)
    return best


def ranking_metrics(targets: Targets, scores: Scores) -> tuple[Metric, Metric, Metric]:
    """Return average precision, ROC area and balanced accuracy, (K, c) each, from one sort."""
    ap, area, balanced = _by_label(
        targets, scores, lambda keys: (*_areas(keys), _balanced_accuracy(keys)), n_metrics=3
    )
    return ap, area, balanced


def auprc_skill(auprc: Metric, prevalence: Metric) -> Metric:
    """Rescale average precision so that chance is 0 and a perfect ranking 1.

    It is (AP - prevalence) / (1 - prevalence): the average precision of a random ranking is about
    the prevalence, so labels of different prevalence become comparable.

    Args:
        auprc: average precision (..., c).
        prevalence: share of positives, (c,) or of the same shape.

    Returns:
        The rescaled values, NaN where all rows are positive.
    """
    absent = np.where(prevalence < 1, 1 - prevalence, np.nan)
    return np.asarray((auprc - prevalence) / absent)


def _by_label(
    targets: Targets,
    scores: Scores,
    measure: Callable[[NDArray[np.unsignedinteger]], tuple[Metric, ...]],
    *,
    n_metrics: int,
) -> tuple[Metric, ...]:
    """Measure each slot's sorted scores, label by label.

    Args:
        targets: (n, c).
        scores: (K, n, c).
        measure: from sorted keys (r, n) to metrics (r,) each.
        n_metrics: how many metrics it returns.

    Returns:
        The metrics, (K, c) each, NaN where a label lacks positives or negatives.

    Raises:
        ValueError: the shapes do not agree, or a score is no float or not finite.
    """
    _refuse(targets, scores)
    if has_blanks(targets):
        return _on_known_rows(targets, scores, measure, n_metrics=n_metrics)
    if not np.can_cast(scores.dtype, np.float32):
        scores = _ordinal(scores)
    slots, n, c = scores.shape
    measured = [np.full(slots * c, np.nan) for _ in range(n_metrics)]
    positives = targets.sum(axis=0, dtype=np.int64)
    defined = np.flatnonzero((positives > 0) & (positives < n))
    if defined.size:
        labels = np.ascontiguousarray(targets.T[defined], dtype=np.uint8)
        by_label = np.ascontiguousarray(scores.transpose(0, 2, 1)[:, defined], dtype=np.float32)
        rows = by_label.reshape(slots * defined.size, n)
        row_label = np.tile(np.arange(defined.size), slots)
        place = (np.arange(slots)[:, None] * c + defined).ravel()
        step = max(1, _CELLS_PER_BLOCK // n)
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            keys = descending_keys(rows[block], labels[row_label[block]])
            keys.sort(axis=1)
            for values, part in zip(measured, measure(keys), strict=True):
                values[place[block]] = part
    return tuple(values.reshape(slots, c) for values in measured)


def _on_known_rows(
    targets: Targets,
    scores: Scores,
    measure: Callable[[NDArray[np.unsignedinteger]], tuple[Metric, ...]],
    *,
    n_metrics: int,
) -> tuple[Metric, ...]:
    """Return the metrics of each label on the rows that have it, (K, c) each."""
    metrics = np.full((n_metrics, len(scores), targets.shape[1]), np.nan)
    known = labelled(targets)
    for j in np.flatnonzero(known.any(axis=0)):
        rows = known[:, j]
        column = slice(j, j + 1)
        metrics[:, :, column] = _by_label(
            targets[rows, column], scores[:, rows, column], measure, n_metrics=n_metrics
        )
    return tuple(metrics)


def macro(per_label: Metric) -> Metric:
    """Return the mean over the defined labels, (K, c) → (K,); NaN where no label is defined."""
    if per_label.shape[-1] and np.isfinite(per_label).all():
        # Summed as `nansum` does, which copies: the order of a sum depends on the array's layout.
        return np.asarray(np.array(per_label).sum(axis=-1) / per_label.shape[-1])
    defined = n_defined(per_label)
    mean = np.full(defined.shape, np.nan)
    np.divide(np.nansum(per_label, axis=-1), defined, out=mean, where=defined > 0)
    return mean


def n_defined(per_label: Metric) -> NDArray[np.int64]:
    """Return the number of labels whose metric is defined, (K, c) → (K,)."""
    return np.asarray(np.isfinite(per_label).sum(axis=-1), dtype=np.int64)


def _ordinal(scores: Scores) -> NDArray[np.float32]:
    """Return float32 scores in the order of wider ones: how many distinct values lie below each.

    Raises:
        ValueError: more rows than float32 can count.
    """
    slots, n, c = scores.shape
    if n > 1 << 24:
        raise ValueError(f"float64 scores can have at most {1 << 24} rows, found {n}")
    order = np.empty((slots, n, c), np.float32)
    for k in range(slots):
        for j in range(c):
            order[k, :, j] = np.unique(scores[k, :, j], return_inverse=True)[1]
    return order


def descending_keys(
    scores: NDArray[np.float32], labels: NDArray[np.uint8]
) -> NDArray[np.unsignedinteger]:
    """Return integers whose ascending order is the descending order of the scores.

    The label is the lowest bit, so 31 bits are left for the score in a 32-bit key. Scores of both
    signs need 64-bit keys only if they span too many magnitudes (`_levels`).
    """
    scores = scores + np.float32(0)  # turns -0.0 into 0.0
    bits = scores.view(np.uint32)
    if scores.min(initial=0) >= 0:
        np.invert(bits, out=bits)
        np.left_shift(bits, 1, out=bits)
        return np.bitwise_or(bits, labels, out=bits)
    levels = _levels(bits)
    top, bottom = int(levels.max()), int(levels.min())
    if top - bottom < 1 << 31:
        keys = np.subtract(np.int32(top), levels, out=levels).view(np.uint32)
        np.left_shift(keys, 1, out=keys)
        return np.bitwise_or(keys, labels, out=keys)
    return ((np.int64(top) - levels).astype(np.uint64) << np.uint64(1)) | labels


def _levels(bits: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Return integers in the order of finite floats, given as their bits without -0.0.

    Read as an integer, the bit pattern of a non-negative float grows with the float. Magnitudes
    below the smallest that occurs are skipped, so that most sets of scores span fewer than 2**31
    levels.
    """
    magnitude = bits & np.uint32((1 << 31) - 1)
    below = (magnitude - np.uint32(1)).min()  # zeros wrap around to the largest integer
    np.maximum(magnitude, below, out=magnitude)
    levels: NDArray[np.int32] = np.subtract(magnitude, below, out=magnitude).view(np.int32)
    sign = bits.view(np.int32) >> 31
    np.bitwise_xor(levels, sign, out=levels)
    np.subtract(levels, sign, out=levels)
    return levels


def _areas(keys: NDArray[np.unsignedinteger]) -> tuple[Metric, Metric]:
    """Return average precision and ROC area of each row of sorted keys, (r, n) → (r,), (r,).

    Row by row in the order of the keys: AP is the mean over positives of TP / rank, the ROC area
    the mean over negatives of TP / P. Within equal scores the keys put negatives first; there a
    positive takes TP and rank of the group's end, a negative half of the group's positives.
    """
    r, n = keys.shape
    label = (keys & keys.dtype.type(1)).astype(np.int32)
    true = np.cumsum(label, axis=1, dtype=np.int32)
    positives = true[:, -1].astype(np.float64)
    precision = (label * true) * (1 / np.arange(1, n + 1))
    area = true.sum(axis=1, dtype=np.float64) - positives * (positives + 1) / 2

    tied = np.zeros((r, n), dtype=np.bool_)
    np.less_equal(keys[:, 1:] ^ keys[:, :-1], 1, out=tied[:, :-1])
    at = np.flatnonzero(tied)
    if at.size:
        end = _group_ends(at)
        at_true, end_true = true.ravel()[at], true.ravel()[end]
        precision.ravel()[at] = label.ravel()[at] * end_true / (end % n + 1)
        halves = (1 - label.ravel()[at]) * (end_true - at_true) / 2
        area += np.bincount(at // n, weights=halves, minlength=r)
    return precision.sum(axis=1) / positives, area / (positives * (n - positives))


def _balanced_accuracy(keys: NDArray[np.unsignedinteger]) -> Metric:
    """Return the largest balanced accuracy of each row of sorted keys, (r, n) → (r,).

    A threshold is at the end of a group of equal scores; calling nothing has 1/2.
    """
    n = keys.shape[1]
    true = np.cumsum((keys & keys.dtype.type(1)).astype(np.int32), axis=1, dtype=np.int32)
    positives = true[:, -1:].astype(np.float64)
    gain = true / positives - (np.arange(1, n + 1) - true) / (n - positives)
    gain[:, :-1][(keys[:, 1:] ^ keys[:, :-1]) <= 1] = 0.0  # within equal scores
    return np.asarray((1 + gain.max(axis=1, initial=0.0)) / 2)


def _group_ends(at: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the last index of the equal scores, for each index tied with its successor."""
    closes = np.flatnonzero(np.diff(at, append=at[-1] + 2) > 1)
    return np.repeat(at[closes] + 1, np.diff(closes, prepend=-1))


def _refuse(targets: Targets, scores: Scores) -> None:
    if scores.ndim != 3 or targets.shape != scores.shape[1:]:
        raise ValueError(
            "scores (K, n, c) must agree with targets (n, c), "
            f"found {scores.shape} and {targets.shape}"
        )
    if not np.can_cast(scores.dtype, np.float64):
        raise ValueError(f"scores must be floats, found {scores.dtype}")
    if not np.isfinite(scores).all():
        slot, row, label = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(
            f"scores must be finite, found {scores[slot, row, label]} "
            f"at slot {slot}, row {row}, label {label}"
        )
