#!/usr/bin/env python3
"""Time retrieval of 20,000 rows among themselves: in blocks, and a row at a time.

Two loops take a sample of the queries one by one on the same core; their time for all queries is
extrapolated. One computes everything with NumPy; the other, as published scripts do, sorts and
counts in Python what NumPy's product gave. Times are of the processor, in one thread.

Takes about two minutes.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from headsweep.metrics.alignment import (
    RELEVANCES,
    Gallery,
    Relevance,
    report_to_volume,
    retrieve,
    volume_to_volume,
)


def make(n: int, width: int, n_labels: int) -> tuple[NDArray[np.float32], Gallery]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n, width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    scans = [f"scan {i // 2}" for i in range(n)]
    targets = (rng.random((n, n_labels)) < 0.2).astype(np.uint8)
    return rows, Gallery(scans, None, targets)


def row_by_row(
    rows: NDArray[np.float32], gallery: Gallery, relevance: Relevance, sample: int
) -> NDArray[np.float64]:
    """Return average precision and NDCG of the first `sample` queries."""
    scans = np.unique(np.asarray(gallery.scans), return_inverse=True)[1]
    rank = np.arange(1, len(rows) + 1)
    discount = 1 / np.log2(1 + rank)
    values = []
    for i in range(sample):
        own = scans == scans[i]
        if relevance == "same_scan":
            relevant, left_out = own, np.zeros(len(rows), bool)
        elif relevance == "same_labels":
            relevant, left_out = (gallery.targets == gallery.targets[i]).all(axis=1), own.copy()
        else:
            relevant, left_out = (gallery.targets & gallery.targets[i]).any(axis=1), own.copy()
        left_out[i] = True
        similarity = np.where(left_out, -np.inf, rows @ rows[i])
        relevant &= ~left_out
        hits = relevant[np.lexsort((relevant, -similarity))]
        total = hits.sum()
        if not total:
            values.append((np.nan, np.nan))
            continue
        found = np.cumsum(hits)
        precision = (hits * found / rank).sum() / total
        values.append((precision, (hits * discount).sum() / discount[:total].sum()))
    return np.array(values)


def in_python(rows: NDArray[np.float32], gallery: Gallery, sample: int) -> list[float]:
    """Return average precision of the first `sample` queries by `same_scan`, ranked in Python."""
    values = []
    for i in range(sample):
        similarity = (rows @ rows[i]).tolist()
        others = (j for j in range(len(rows)) if j != i)
        ranked = sorted(others, key=similarity.__getitem__, reverse=True)
        found, precision = 0, 0.0
        for rank, j in enumerate(ranked, start=1):
            if gallery.scans[j] == gallery.scans[i]:
                found += 1
                precision += found / rank
        values.append(precision / found)
    return values


def seconds(work: Callable[[], object]) -> tuple[float, object]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--sample", type=int, default=200, help="queries of the row-by-row loop")
    parser.add_argument("--no-loop", action="store_true")
    options = parser.parse_args()
    rows, gallery = make(options.rows, options.width, 18)
    looped = 0.0
    for relevance in RELEVANCES:
        fast, values = seconds(lambda r=relevance: retrieve(rows, rows, gallery, (r,), within=True))
        print(f"{relevance}: {fast:.1f} s in blocks", end="")
        if not options.no_loop:
            slow, due = seconds(lambda r=relevance: row_by_row(rows, gallery, r, options.sample))
            slow *= options.rows / options.sample
            looped += slow
            values = values[relevance]
            found = np.stack([values["average_precision"], values["ndcg"]], axis=1)
            gap = np.nanmax(np.abs(found[: options.sample] - due))
            print(f", {slow:.0f} s row by row: {slow / fast:.0f}x, differ by {gap:.1e}", end="")
        if relevance == "same_scan" and not options.no_loop:
            slow, ranked = seconds(lambda: in_python(rows, gallery, options.sample))
            slow *= options.rows / options.sample
            gap = np.abs(found[: options.sample, 0] - ranked).max()
            print(f", {slow:.0f} s in Python: {slow / fast:.0f}x, differ by {gap:.1e}", end="")
        print(flush=True)
    together, _ = seconds(lambda: retrieve(rows, rows, gallery, RELEVANCES, within=True))
    print(f"all three, as align does them: {together:.1f} s in blocks", end="")
    if not options.no_loop:
        print(f", {looped:.0f} s row by row: {looped / together:.0f}x", end="")
    print()
    print(f"ctclip_report_to_volume: {seconds(lambda: report_to_volume(rows, rows))[0]:.1f} s")
    fast = seconds(lambda: volume_to_volume(rows, gallery.targets))[0]
    print(f"ctclip_volume_to_volume: {fast:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
