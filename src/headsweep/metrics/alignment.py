"""Retrieval within and between views of the same scans, with one named definition per question.

Protocols (every result has the name and version):

- `same_scan/1`: rows of the query's scan are relevant; rows of other scans with the same report
  are left out.
- `same_labels/1`: rows with the same label vector are relevant.
- `shared_label/1`: rows that have a label in common with the query are relevant.
- `ctclip_report_to_volume/1`: only the row paired with the query is relevant, nothing is left out
  (`report_to_volume` of Hamamci et al., CT-CLIP).
- `ctclip_volume_to_volume/1`: mean Jaccard index of the label sets of the query and of the first K
  rows that have a label; the query itself is among them (`volume_to_volume` of CT-CLIP).

Within one view the query itself is left out and, for labels, so are all rows of its scan, except
in CT-CLIP's protocol. A query without a relevant row has no value and is counted.

Ties: in the first three protocols, rows of equal similarity are ordered as is worst for the query,
irrelevant rows first. In CT-CLIP's protocols they keep the order of the gallery, as in CT-CLIP.

Recall@K is the share of queries with a relevant row among the first K; average precision divides
by all relevant rows; NDCG has binary gains, discount log2(1 + rank), and no cut-off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headsweep.metrics.ranking import Metric

Relevance = Literal["same_scan", "same_labels", "shared_label"]
RELEVANCES: tuple[Relevance, ...] = ("same_scan", "same_labels", "shared_label")
REPORT_TO_VOLUME, VOLUME_TO_VOLUME = "ctclip_report_to_volume", "ctclip_volume_to_volume"
VERSION = 1

RECALL_AT = (1, 5, 10, 50, 100)
JACCARD_AT = (1, 5, 10, 50)
METRICS = (*(f"recall@{k}" for k in RECALL_AT), "reciprocal_rank", "average_precision", "ndcg")
"""Metrics that `retrieve` computes for every query."""

# 64 MiB of similarities: enough queries at once for the matrix product to run at full speed.
_CELLS_PER_BLOCK = 1 << 24
# Up to so many relevant rows, counting the rows before each is faster than sorting all.
_COUNTED = 16

Rows = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Gallery:
    """Scans, reports and labels of the rows that are searched; queries are the same rows.

    Attributes:
        scans: scan id of each row, length n.
        reports: text of each row, or None; an empty text equals no other.
        targets: (n, c), 0 or 1.
    """

    scans: Sequence[str]
    reports: Sequence[str] | None
    targets: NDArray[np.uint8]


def retrieve(
    queries: Rows,
    candidates: Rows,
    gallery: Gallery,
    relevances: Sequence[Relevance],
    *,
    within: bool,
) -> dict[str, dict[str, Metric]]:
    """Compute recall@K, reciprocal rank, average precision and NDCG of every query.

    Args:
        queries: (n, d) unit rows of one view.
        candidates: (n, d) unit rows of the view that is searched.
        gallery: scans, reports and labels of the rows of both.
        relevances: which rows are relevant; all use the same similarities.
        within: both views are one, so that a query must not retrieve itself.

    Returns:
        Values (n,) by relevance and metric; NaN for queries without a relevant row.
    """
    known = _Known.of(gallery)
    values = np.empty((len(relevances), len(METRICS), len(queries)))
    if relevances:
        for block, similarity in _similarities(queries, candidates):
            for i, row in enumerate(similarity, start=block.start):
                for relevance, found in zip(relevances, values, strict=True):
                    relevant, left_out = known.relevant_and_left_out(i, relevance, within=within)
                    found[:, i] = _ranked(row.copy(), relevant, left_out)
    return {
        relevance: dict(zip(METRICS, found, strict=True))
        for relevance, found in zip(relevances, values, strict=True)
    }


def report_to_volume(reports: Rows, volumes: Rows) -> dict[str, Metric]:
    """Compute CT-CLIP's report → volume retrieval: whether row i is among the first K of query i.

    Args:
        reports: (n, d).
        volumes: (n, d).

    Returns:
        Values (n,) by metric.
    """
    ranks = np.empty(len(reports), dtype=np.int64)
    for block, similarity in _similarities(reports, volumes):
        rows = np.arange(block.start, block.stop)
        own = similarity[rows - block.start, rows][:, None]
        before = np.arange(len(volumes)) < rows[:, None]
        ranks[block] = 1 + ((similarity > own) | ((similarity == own) & before)).sum(axis=1)
    return {f"recall@{k}": (ranks <= k).astype(np.float64) for k in RECALL_AT}


def volume_to_volume(volumes: Rows, targets: NDArray[np.uint8]) -> dict[str, Metric]:
    """Compute CT-CLIP's volume → volume retrieval: mean label Jaccard of the first K.

    `as_published@K` is the mean over all smaller K and this one, as the published script prints it,
    since it never clears its list of ratios.

    Args:
        volumes: (n, d) unit rows.
        targets: (n, c), 0 or 1.

    Returns:
        Values (n,) by metric; NaN where no row has a label.
    """
    labelled = np.flatnonzero(targets.any(axis=1))
    jaccard = np.full((len(JACCARD_AT), len(volumes)), np.nan)
    for block, similarity in _similarities(volumes, volumes[labelled]):
        nearest = labelled[_first(similarity, max(JACCARD_AT))]
        both = (targets[block, None] & targets[nearest]).sum(axis=2, dtype=np.int64)
        either = (targets[block, None] | targets[nearest]).sum(axis=2, dtype=np.int64)
        for i, k in enumerate(JACCARD_AT):
            jaccard[i, block] = (both / either)[:, :k].mean(axis=1)
    published = np.cumsum(jaccard, axis=0) / np.arange(1, len(JACCARD_AT) + 1)[:, None]
    return {f"jaccard@{k}": jaccard[i] for i, k in enumerate(JACCARD_AT)} | {
        f"as_published@{k}": published[i] for i, k in enumerate(JACCARD_AT)
    }


def pair_similarity(queries: Rows, candidates: Rows, gallery: Gallery) -> dict[str, Metric]:
    """Compute the similarity of every query to its own row, and its mean over rows of other scans.

    Rows of other scans with the same report are left out. NaN where there is no such row.

    Args:
        queries: (n, d) unit rows of one view.
        candidates: (n, d) unit rows of another view.
        gallery: scans, reports and labels of the rows of both.

    Returns:
        Values (n,) by name.
    """
    scan, report, _ = _integers(gallery)
    pairs = np.unique(np.stack([scan, report]), axis=1, return_inverse=True)[1]
    both = pairs.ravel().astype(np.int32)
    others = candidates.sum(axis=0, dtype=np.float64) - _group_sums(candidates, scan)
    count = len(scan) - _group_sizes(scan) - _group_sizes(report) + _group_sizes(both)
    others += _group_sums(candidates, both) - _group_sums(candidates, report)
    exact = queries.astype(np.float64)
    total = np.einsum("nd,nd->n", exact, others)
    return {
        "paired_similarity": np.einsum("nd,nd->n", exact, candidates.astype(np.float64)),
        "unpaired_similarity": np.where(count > 0, total, np.nan) / np.maximum(count, 1),
    }


def resampled_means(
    values: Mapping[str, Metric], patients: Sequence[str], counts: NDArray[np.int32]
) -> dict[str, Metric]:
    """Compute the mean of each metric on resamples of the queries' patients; the gallery is fixed.

    Args:
        values: (n,) by metric; NaN is left out.
        patients: patient of each row, length n.
        counts: (B, P), how often each patient is drawn, in sorted order.

    Returns:
        (B,) by metric; NaN where a resample holds no value.
    """
    patient = np.unique(np.asarray(patients), return_inverse=True)[1]
    weights = counts.astype(np.float64)  # converted once, not in every product
    means = {}
    for name, value in values.items():
        defined = np.isfinite(value)
        sums = np.bincount(patient, np.where(defined, value, 0), counts.shape[1])
        sizes = np.bincount(patient, defined, counts.shape[1])
        drawn = weights @ sizes
        means[name] = np.where(drawn > 0, weights @ sums, np.nan) / np.maximum(drawn, 1)
    return means


@dataclass(frozen=True, eq=False)
class _Known:
    """Scans, reports and labels of the rows as integers that are equal where the rows are."""

    scan: NDArray[np.int32]
    report: NDArray[np.int32]
    labels: NDArray[np.int32]
    words: NDArray[np.uint32]
    """Label vectors as bits, (words, n): two rows share a label where they share a bit."""

    @classmethod
    def of(cls, gallery: Gallery) -> _Known:
        """Return the integers of the rows of a gallery."""
        return cls(*_integers(gallery), _words(gallery.targets))

    def relevant_and_left_out(
        self, i: int, relevance: Relevance, *, within: bool
    ) -> tuple[Mask, Mask]:
        """Return rows that are relevant to query `i`, and rows that are left out, (n,) each."""
        own = self.scan == self.scan[i]
        if relevance == "same_scan":
            relevant, left_out = own.copy(), (self.report == self.report[i]) & ~own
        else:
            left_out = own if within else np.zeros_like(own)
            if relevance == "same_labels":
                relevant = self.labels == self.labels[i]
            else:
                relevant = (self.words[0] & self.words[0, i]) != 0
                for word in self.words[1:]:
                    relevant |= (word & word[i]) != 0
        left_out[i] |= within
        relevant &= ~left_out
        return relevant, left_out


def _ranked(similarity: Rows, relevant: Mask, left_out: Mask) -> tuple[float, ...]:
    """Return the metrics of one query in the order of `METRICS`; overwrites `similarity` (n,)."""
    total = np.count_nonzero(relevant)
    if not total:
        return (np.nan,) * len(METRICS)
    ranks = _ranks_by_counting if total <= _COUNTED else _ranks_by_sorting
    rank = ranks(similarity, relevant, left_out)
    gain, ideal = _gains(len(similarity))
    return (
        *(float(rank[0] <= k) for k in RECALL_AT),
        1 / float(rank[0]),
        float((np.arange(1, total + 1) / rank).mean()),
        float(gain[rank - 1].sum() / ideal[total - 1]),
    )


def _ranks_by_counting(similarity: Rows, relevant: Mask, left_out: Mask) -> NDArray[np.int64]:
    """Return ranks of the relevant rows, best first; overwrites `similarity` (n,)."""
    found = np.sort(similarity[relevant])[::-1]
    np.copyto(similarity, -np.inf, where=relevant | left_out)
    before = [np.count_nonzero(similarity >= bound) for bound in found]
    return np.array(before) + np.arange(1, len(found) + 1)


def _ranks_by_sorting(similarity: Rows, relevant: Mask, left_out: Mask) -> NDArray[np.int64]:
    """Return ranks of the relevant rows, best first; overwrites `similarity` (n,).

    The bits of a non-negative float order like integers, those of a negative one in reverse; a
    cosine's, below 2 even after rounding, stay below 2^30 in magnitude. So the doubled integer has
    its lowest bit free for relevance, and one sort orders both.
    """
    similarity += 0.0  # -0 and 0 have different bits; -0 + 0 is 0
    keys = similarity.view(np.int32)
    keys ^= (keys >> 31) & 0x7FFFFFFF
    keys *= 2
    keys += ~relevant
    keys[left_out] = np.iinfo(np.int32).min + 1  # odd, so irrelevant, and behind all others
    keys.sort()
    return len(keys) - np.flatnonzero((keys & 1) == 0)[::-1]


@lru_cache(maxsize=1)
def _gains(width: int) -> tuple[Metric, Metric]:
    """Return the gain of a relevant row at each rank, and the maximum for each number of them."""
    gain = 1 / np.log2(1 + np.arange(1, width + 1))
    return gain, np.cumsum(gain)


def _first(similarity: Rows, k: int) -> NDArray[np.int64]:
    """Return the columns of the `k` largest of each row, largest first, of equals the leftmost."""
    width = similarity.shape[1]
    k = min(k, width)
    nearest = np.empty((len(similarity), k), dtype=np.int64)
    for i, row in enumerate(similarity):
        # The k-th largest value may be tied: of its equals only the leftmost are taken.
        bound = np.partition(row, width - k)[width - k]
        columns = np.flatnonzero(row >= bound)
        nearest[i] = columns[np.argsort(-row[columns], kind="stable")[:k]]
    return nearest


def _similarities(queries: Rows, candidates: Rows) -> Iterator[tuple[slice, Rows]]:
    """Yield blocks of queries with their similarities to all candidates, in one buffer."""
    if not len(candidates):
        return
    step = max(1, _CELLS_PER_BLOCK // len(candidates))
    buffer = np.empty((min(step, len(queries)), len(candidates)), dtype=np.float32)
    for start in range(0, len(queries), step):
        block = slice(start, min(start + step, len(queries)))
        out = buffer[: block.stop - block.start]
        yield block, np.matmul(queries[block], candidates.T, out=out)


def _integers(
    gallery: Gallery,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Return scans, reports and label vectors as integers, equal where those are."""
    scan = np.unique(np.asarray(gallery.scans), return_inverse=True)[1]
    labels = np.unique(gallery.targets, axis=0, return_inverse=True)[1].ravel()
    report = scan
    if gallery.reports is not None:
        texts = [
            f"text {text}" if text else f"scan {scan}"
            for text, scan in zip(gallery.reports, gallery.scans, strict=True)
        ]
        report = np.unique(np.asarray(texts), return_inverse=True)[1]
    return scan.astype(np.int32), report.astype(np.int32), labels.astype(np.int32)


def _words(targets: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return label vectors as bits, (words, n): two rows share a label where they share a bit."""
    packed = np.packbits(targets.astype(bool), axis=1)
    padded = np.pad(packed, [(0, 0), (0, -packed.shape[1] % 4)])
    return np.ascontiguousarray(np.ascontiguousarray(padded).view(np.uint32).T)


def _group_sums(rows: Rows, group: NDArray[np.int32]) -> Metric:
    """Return for each row the sum `(n, d)` over the rows of its group."""
    sums = np.zeros((group.max() + 1, rows.shape[1]))
    np.add.at(sums, group, rows)
    return np.asarray(sums[group])


def _group_sizes(group: NDArray[np.int32]) -> NDArray[np.int64]:
    return np.bincount(group)[group]
