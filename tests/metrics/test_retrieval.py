"""Instance recall: which rows count as correct, and which count as competitors."""

import numpy as np
import pytest

from headsweep.metrics.retrieval import instance_ranks, recall_at


def unit(*angles_deg: float) -> np.ndarray:
    radians = np.deg2rad(angles_deg)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_instance_ranks_count_closer_rows_of_other_scans():
    queries, gallery = unit(0, 50, 90), unit(20, 5, 80)
    np.testing.assert_array_equal(instance_ranks(queries, gallery, ["a", "b", "c"]), [2, 3, 1])


def test_instance_ranks_take_best_reconstruction_of_same_scan():
    queries, gallery = unit(0, 10, 40), unit(50, 8, 30)
    np.testing.assert_array_equal(instance_ranks(queries, gallery, ["a", "a", "b"]), [1, 1, 2])


def test_instance_ranks_with_duplicate_report_do_not_count_it():
    queries, gallery = unit(0, 90), unit(30, 10)
    scans = ["a", "b"]
    np.testing.assert_array_equal(instance_ranks(queries, gallery, scans), [2, 2])
    np.testing.assert_array_equal(instance_ranks(queries, gallery, scans, ["same"] * 2), [1, 1])


def test_instance_ranks_of_constant_features_are_worst():
    same = unit(*[30.0] * 20)
    ranks = instance_ranks(same, same, [str(i) for i in range(20)])
    assert recall_at(ranks, 10) == 0
    assert recall_at(ranks, 20) == 1


def test_instance_ranks_in_blocks_equal_loop():
    rng = np.random.default_rng(0)
    queries, gallery = (rng.normal(size=(2, 1100, 8))).astype(np.float32)
    scans = [str(i // 2) for i in range(1100)]
    ranks = instance_ranks(queries, gallery, scans)
    for i in rng.choice(1100, 50, replace=False):
        similarity = gallery @ queries[i]
        own = np.array([scan == scans[i] for scan in scans])
        assert ranks[i] == 1 + (similarity[~own] >= similarity[own].max()).sum()


def test_recall_of_real_features_equals_published_value(real_reports):
    def load(view: str) -> np.ndarray:
        folder = real_reports / "features" / view
        manifest = (real_reports / "manifests/test_manual_all.csv").read_text().splitlines()[1:]
        names = [line.split(",")[0] for line in manifest]
        return np.concatenate([np.load(folder / f"{name}.npz")["arr"] for name in names])

    image, text = load("image"), load("text")
    scans = [str(i) for i in range(len(image))]
    assert recall_at(instance_ranks(image, text, scans), 10) == pytest.approx(0.165)
    image, text = (x - x.mean(axis=0) for x in (image, text))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    assert recall_at(instance_ranks(image, text, scans), 10) == pytest.approx(0.35)
