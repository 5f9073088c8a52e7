"""Splitting rows by group, with the labels' prevalence kept: train and valid, or K folds.

The aim is that of iterative stratification (Sechidis, Tsoumakas & Vlahavas 2011, "On the
stratification of multi-label data"), for groups of rows instead of single rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from headsweep.errors import ManifestError

SWEEPS = 4


def split_by_group(
    groups: Sequence[Hashable], targets: NDArray[np.uint8], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Choose the rows of the smaller side of a stratified split.

    Args:
        groups: the group (patient) of every row; a group is never divided.
        targets: shape (n, c), 0, 1 or `BLANK`; blank labels do not count.
        fraction: share of rows that the side should hold.
        seed: of the order in which equal groups are placed.

    Returns:
        A mask of the rows.

    Raises:
        ManifestError: there are fewer than two groups, so one side would be empty.
    """
    in_smaller: NDArray[np.bool_] = (
        stratified_parts(groups, targets, (1 - fraction, fraction), seed) == 1
    )
    return in_smaller


def group_folds(
    groups: Sequence[Hashable], targets: NDArray[np.uint8], folds: int, seed: int
) -> NDArray[np.int64]:
    """Return the fold 0 … folds - 1 of every row; arguments and errors as for `split_by_group`."""
    return stratified_parts(groups, targets, (1 / folds,) * folds, seed)


def stratified_parts(
    groups: Sequence[Hashable], targets: NDArray[np.uint8], shares: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """Divide rows into parts that hold given shares of the rows and of each label.

    Greedy descent on the imbalance, the sum over parts and labels of
    ((wanted - held) / total) ** 2, where rows weigh as much as all labels together. Groups that
    weigh most (rare labels, many rows) go first; the many light ones even out what they leave;
    further sweeps move single groups as long as that helps.

    Returns:
        The part of every row.

    Raises:
        ManifestError: there are fewer groups than parts.
    """
    group_of_row = _numbered(groups)
    n_groups, n_parts = int(group_of_row.max(initial=-1)) + 1, len(shares)
    if n_groups < n_parts:
        raise ManifestError(
            f"a split into {n_parts} parts by patient needs as many patients, found {n_groups}"
        )
    # Positives of each label in each group; the last column counts rows.
    counts = np.zeros((n_groups, targets.shape[1] + 1), np.int64)
    np.add.at(counts[:, :-1], group_of_row, targets == 1)
    counts[:, -1] = np.bincount(group_of_row, minlength=n_groups)

    totals = np.maximum(counts.sum(axis=0), 1)
    held = counts / totals
    held[:, -1] *= np.sqrt(max(targets.shape[1], 1))
    missing = np.outer(shares, held.sum(axis=0))
    part_of_group = np.full(n_groups, -1, np.int64)
    shuffled = np.random.default_rng(seed).permutation(n_groups)
    # Tiers of weight, powers of 2: the seed decides the order within one.
    tier = np.floor(np.log2((held**2).sum(axis=1)))
    order = shuffled[np.argsort(-tier[shuffled], kind="stable")]
    for sweep in range(SWEEPS):
        for group in order:
            if sweep > 0:
                missing[part_of_group[group]] += held[group]
            part_of_group[group] = np.argmax(missing @ held[group])  # steepest descent
            missing[part_of_group[group]] -= held[group]
    _fill_empty_parts(part_of_group, counts[:, -1], n_parts)
    return part_of_group[group_of_row]


def linked_groups(groups: Sequence[Hashable], *keys: Sequence[Hashable]) -> NDArray[np.int64]:
    """Join groups wherever two of them share a value.

    Args:
        groups: the group (patient) of every row.
        keys: for each kind of key (report, feature row) the key of every row; None links nothing.

    Returns:
        The number of every row's joined group: 0, 1, … by first appearance.
    """
    parent: dict[Hashable, Hashable] = {}

    def root(node: Hashable) -> Hashable:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for kind, values in enumerate(keys):
        for group, value in zip(groups, values, strict=True):
            if value is not None:
                parent[root(("key", kind, value))] = root(("group", group))
    return _numbered([root(("group", group)) for group in groups])


def _numbered(groups: Iterable[Hashable]) -> NDArray[np.int64]:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)


def _fill_empty_parts(part_of_group: NDArray[np.int64], rows: NDArray[np.int64], n: int) -> None:
    """Move the smallest group of the part with most groups into each empty part."""
    for part in range(n):
        if not (part_of_group == part).any():
            fullest = np.argmax(np.bincount(part_of_group, minlength=n))
            members = np.flatnonzero(part_of_group == fullest)
            part_of_group[members[np.argmin(rows[members])]] = part
