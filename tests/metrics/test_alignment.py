"""Retrieval metrics equal their definition computed query by query, with ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headsweep.metrics import alignment
from headsweep.metrics.alignment import (
    JACCARD_AT,
    RECALL_AT,
    RELEVANCES,
    Gallery,
    Relevance,
    pair_similarity,
    report_to_volume,
    resampled_means,
    retrieve,
    volume_to_volume,
)
from headsweep.metrics.bootstrap import patient_resamples

Rows = NDArray[np.float32]
EXACT = {"rtol": 0, "atol": 1e-6, "equal_nan": True}


@pytest.fixture(params=["counted", "sorted"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test with both ranking algorithms, for any number of relevant rows."""
    monkeypatch.setattr(alignment, "_COUNTED", 10**9 if request.param == "counted" else 0)


def make(n: int, seed: int, *, tied: bool) -> tuple[Rows, Rows, Gallery]:
    """Return two views of scans with 1 to 3 reconstructions; `tied` makes equal similarities."""
    rng = np.random.default_rng(seed)
    if tied:
        # Four of 16 entries are ±1/2: every product is a multiple of 1/4, exact in any order.
        views = np.zeros((2, n, 16), dtype=np.float32)
        for row in views.reshape(-1, 16):
            row[rng.choice(16, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    else:
        views = rng.normal(size=(2, n, 24)).astype(np.float32)
        views[1] += views[0]
        views /= np.linalg.norm(views, axis=2, keepdims=True)
    scan = np.repeat(np.arange(n), rng.integers(1, 4, size=n))[:n]
    labels = np.asfortranarray((rng.random((n, 5)) < 0.25).astype(np.uint8)[scan])
    texts = [f"report {i}" for i in rng.integers(0, n, size=n)]
    texts[0] = ""
    reports = [texts[i] for i in scan]
    return views[0], views[1], Gallery([f"scan {i}" for i in scan], reports, labels)


def same_report(gallery: Gallery, i: int, j: int) -> bool:
    if gallery.reports is None or not gallery.reports[i]:
        return gallery.scans[i] == gallery.scans[j]
    return gallery.reports[i] == gallery.reports[j]


def standing(gallery: Gallery, relevance: str, i: int, j: int, *, within: bool) -> str:
    """Return whether row j is relevant to query i, irrelevant, or left out."""
    own = gallery.scans[i] == gallery.scans[j]
    if within and i == j:
        return "left out"
    if relevance == "same_scan":
        if own:
            return "relevant"
        return "left out" if same_report(gallery, i, j) else "irrelevant"
    if within and own:
        return "left out"
    a, b = gallery.targets[i], gallery.targets[j]
    found = (a == b).all() if relevance == "same_labels" else (a & b).any()
    return "relevant" if found else "irrelevant"


def by_definition(
    queries: Rows, candidates: Rows, gallery: Gallery, relevance: str, *, within: bool
) -> dict[str, list[float]]:
    """Return each metric per query from its ranked list; among ties, irrelevant rows come first."""
    values: dict[str, list[float]] = {name: [] for name in alignment.METRICS}
    similarity = queries @ candidates.T
    for i in range(len(queries)):
        standings = [
            standing(gallery, relevance, i, j, within=within) for j in range(len(candidates))
        ]
        kept = [j for j, what in enumerate(standings) if what != "left out"]
        kept.sort(key=lambda j: (-similarity[i, j], standings[j] == "relevant"))
        ranks = [r for r, j in enumerate(kept, start=1) if standings[j] == "relevant"]
        if not ranks:
            for of_metric in values.values():
                of_metric.append(np.nan)
            continue
        for k in RECALL_AT:
            values[f"recall@{k}"].append(float(ranks[0] <= k))
        values["reciprocal_rank"].append(1 / ranks[0])
        precisions = [hits / r for hits, r in enumerate(ranks, start=1)]
        values["average_precision"].append(sum(precisions) / len(ranks))
        best = sum(1 / np.log2(1 + r) for r in range(1, len(ranks) + 1))
        values["ndcg"].append(sum(1 / np.log2(1 + r) for r in ranks) / best)
    return values


@pytest.mark.parametrize("within", [False, True], ids=["between views", "within a view"])
@pytest.mark.parametrize("tied", [False, True], ids=["random", "tied"])
@pytest.mark.parametrize("relevance", RELEVANCES)
def test_retrieve_by_every_relevance_equals_definition(relevance, tied, within):
    for seed in range(3):
        first, second, gallery = make(90, seed, tied=tied)
        candidates = first if within else second
        found = retrieve(first, candidates, gallery, RELEVANCES, within=within)[relevance]
        expected = by_definition(first, candidates, gallery, relevance, within=within)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, **EXACT, err_msg=name)


def first_of(similarity: NDArray[np.float32], k: int) -> list[int]:
    """Return the first k rows in CT-CLIP's ranking: a stable sort, largest first."""
    return [j for j, _ in sorted(enumerate(similarity), key=lambda x: x[1], reverse=True)[:k]]


@pytest.mark.parametrize("tied", [False, True], ids=["random", "tied"])
def test_report_to_volume_equals_ct_clip_definition(tied):
    for seed in range(3):
        volumes, reports, _ = make(120, seed, tied=tied)
        found = report_to_volume(reports, volumes)
        similarity = reports @ volumes.T
        for k in RECALL_AT:
            expected = [float(i in first_of(row, k)) for i, row in enumerate(similarity)]
            np.testing.assert_array_equal(found[f"recall@{k}"], expected)


@pytest.mark.parametrize("tied", [False, True], ids=["random", "tied"])
def test_volume_to_volume_equals_ct_clip_definition(tied):
    for seed in range(3):
        volumes, _, gallery = make(120, seed, tied=tied)
        labels = gallery.targets
        found = volume_to_volume(volumes, labels)
        labelled = [i for i in range(len(volumes)) if labels[i].any()]
        printed: list[float] = []
        for k in JACCARD_AT:
            means = []
            for i in range(len(volumes)):
                near = [labelled[j] for j in first_of(volumes[i] @ volumes[labelled].T, k)]
                ratios = [
                    (labels[i] & labels[j]).sum() / (labels[i] | labels[j]).sum() for j in near
                ]
                means.append(np.mean(ratios))
            np.testing.assert_allclose(found[f"jaccard@{k}"], means, **EXACT)
            printed += means  # the published script does not reset its list for the next K
            assert found[f"as_published@{k}"].mean() == pytest.approx(np.mean(printed), abs=1e-6)


@pytest.mark.parametrize("tied", [False, True], ids=["random", "tied"])
def test_pair_similarity_equals_definition(tied):
    first, second, gallery = make(70, 5, tied=tied)
    found = pair_similarity(first, second, gallery)
    similarity = first.astype(np.float64) @ second.T.astype(np.float64)
    np.testing.assert_allclose(found["paired_similarity"], similarity.diagonal(), **EXACT)
    for i in range(len(first)):
        others = [
            similarity[i, j]
            for j in range(len(first))
            if gallery.scans[i] != gallery.scans[j] and not same_report(gallery, i, j)
        ]
        assert found["unpaired_similarity"][i] == pytest.approx(np.mean(others), abs=1e-6)


def test_pair_similarity_without_other_scan_or_report_has_nan_unpaired():
    rows = np.eye(3, dtype=np.float32)
    one_scan = Gallery(["a"] * 3, None, np.zeros((3, 1), dtype=np.uint8))
    one_report = Gallery(["a", "b", "c"], ["same"] * 3, np.zeros((3, 1), dtype=np.uint8))
    for gallery in (one_scan, one_report):
        found = pair_similarity(rows, rows, gallery)
        assert np.isnan(found["unpaired_similarity"]).all()
        assert found["paired_similarity"].tolist() == [1, 1, 1]


def one(
    queries: Rows, candidates: Rows, gallery: Gallery, relevance: Relevance, *, within: bool = False
) -> dict[str, NDArray[np.float64]]:
    """Return the result of `retrieve` for one relevance."""
    return retrieve(queries, candidates, gallery, (relevance,), within=within)[relevance]


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), relevance=st.sampled_from(RELEVANCES), blocks=st.integers(1, 200))
def test_retrieve_with_other_block_size_or_row_order_is_equal(seed, relevance, blocks):
    first, second, gallery = make(60, seed, tied=True)
    whole = one(first, second, gallery, relevance)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "_CELLS_PER_BLOCK", blocks)
        blocked = one(first, second, gallery, relevance)
    order = np.random.default_rng(seed).permutation(60)
    shuffled = Gallery(
        [gallery.scans[i] for i in order],
        [gallery.reports[i] for i in order],
        gallery.targets[order],
    )
    again = one(first[order], second[order], shuffled, relevance)
    for name, values in whole.items():
        np.testing.assert_array_equal(blocked[name], values)
        np.testing.assert_allclose(again[name], values[order], **EXACT)


def test_retrieve_with_equal_similarities_ranks_relevant_row_last():
    rows = np.ones((4, 1), dtype=np.float32)
    gallery = Gallery(["a", "b", "c", "d"], None, np.zeros((4, 1), dtype=np.uint8))
    found = one(rows, rows, gallery, "same_scan")
    assert found["reciprocal_rank"].tolist() == [0.25] * 4
    assert found["recall@1"].tolist() == [0] * 4


def test_retrieve_with_negative_zero_treats_it_as_zero():
    rows = np.array([[1, 0], [0, -1], [0, 1]], dtype=np.float32)
    gallery = Gallery(["a", "b", "c"], None, np.array([[1], [1], [0]], dtype=np.uint8))
    queries = np.array([[-0.0, 0.0]] * 3, dtype=np.float32)
    found = one(queries, rows, gallery, "shared_label")
    assert found["reciprocal_rank"][0] == 0.5


def test_retrieve_for_query_without_relevant_row_returns_nan():
    first, _, gallery = make(20, 3, tied=False)
    alone = Gallery([str(i) for i in range(20)], None, gallery.targets)
    found = one(first, first, alone, "same_scan", within=True)
    assert all(np.isnan(values).all() for values in found.values())


def test_retrieve_with_more_than_32_labels_compares_all():
    rows = np.eye(3, dtype=np.float32)
    targets = np.zeros((3, 40), dtype=np.uint8)
    targets[[0, 2], 39] = 1
    gallery = Gallery(["a", "b", "c"], None, targets)
    found = one(rows, rows, gallery, "shared_label", within=True)
    assert np.isfinite(found["ndcg"]).tolist() == [True, False, True]


def test_resampled_means_draw_whole_patients_and_skip_undefined_queries():
    rng = np.random.default_rng(0)
    patients = [f"p{i}" for i in rng.integers(0, 12, size=50)]
    values = rng.random(50)
    values[[3, 7]] = np.nan
    keys = sorted(set(patients))
    counts = patient_resamples(keys, 40, 1)
    found = resampled_means({"ndcg": values}, patients, counts)["ndcg"]
    by_row = patient_resamples(patients, 40, 1)
    for draw, weights in zip(found, by_row, strict=True):
        drawn = np.repeat(values, weights)
        assert draw == pytest.approx(np.nanmean(drawn))
