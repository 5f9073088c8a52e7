"""Retrieval between two views of the same scans, each definition under its own name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

INSTANCE_RECALL = "instance-recall/1"
"""Recall@K: share of queries whose own scan is among the first K of the gallery.

A query ranks its scan by the most similar of the scan's rows. Only rows of other scans, with
another report, can rank before it; equal similarity counts against the query.
"""

_QUERIES_PER_BLOCK = 512


def instance_ranks(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    scans: Sequence[str],
    reports: Sequence[str] | None = None,
) -> NDArray[np.int64]:
    """Rank (from 1) each query's own scan, as `INSTANCE_RECALL` defines it.

    Args:
        queries: (n, d) unit-length projections of one view.
        gallery: (n, d) unit-length projections of the other view of the same rows.
        scans: scan of each row; the reconstructions of a scan share one.
        reports: text of each row; a duplicate report is no negative.

    Returns:
        Ranks (n,).
    """
    scan = np.unique(np.asarray(scans), return_inverse=True)[1]
    report = scan if reports is None else np.unique(np.asarray(reports), return_inverse=True)[1]
    ranks = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), _QUERIES_PER_BLOCK):
        block = slice(start, start + _QUERIES_PER_BLOCK)
        similarity = queries[block] @ gallery.T
        own = scan[block, None] == scan
        negative = ~own & (report[block, None] != report)
        best = np.where(own, similarity, -np.inf).max(axis=1, keepdims=True)
        ranks[block] = 1 + ((similarity >= best) & negative).sum(axis=1)
    return ranks


def recall_at(ranks: NDArray[np.int64], k: int) -> float:
    """Return the share of the queries whose rank is at most `k`."""
    return float((ranks <= k).mean())
