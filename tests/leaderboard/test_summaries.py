"""Means, standard deviations and intervals; undefined values are left out and counted."""

import numpy as np
import pytest

from headsweep.evaluation.predictions import Predictions
from headsweep.evaluation.summaries import (
    choose_thresholds,
    measure,
    report_of,
    retrieval_report,
    summarize,
)


def predictions(seed: int, *, n: int = 120, empty_label: bool = False) -> Predictions:
    targets = (np.random.default_rng(0).random((n, 3)) < 0.3).astype(np.uint8)
    if empty_label:
        targets[:, 1] = 0
    noise = np.random.default_rng(seed).random((n, 3))
    return Predictions(
        "test",
        tuple(f"v_{i}" for i in range(n)),
        tuple(f"p_{i // 2}" for i in range(n)),
        ("a", "b", "c"),
        targets,
        (0.4 * targets + 0.6 * noise).astype(np.float32),
    )


def test_summarize_returns_mean_sample_deviation_and_percentiles():
    found = summarize(np.array([0.4, 0.5, 0.6]), np.arange(1001) / 1000, patients=10**9)
    assert found == {
        "mean": pytest.approx(0.5),
        "std": pytest.approx(0.1),
        "ci_low": pytest.approx(0.025),
        "ci_high": pytest.approx(0.975),
    }


def test_summarize_of_one_seed_or_undefined_values_returns_none():
    assert summarize(np.array([0.5]), None, 9)["std"] is None
    assert set(summarize(np.array([np.nan, np.nan]), np.array([0.1]), 9).values()) == {None}


def test_report_when_a_label_has_no_positives_leaves_it_out_of_macro():
    by_seed = [predictions(seed, empty_label=True) for seed in (1, 2)]
    report = report_of(measure(by_seed, [choose_thresholds(p) for p in by_seed], n_resamples=50))
    assert report["n_labels_used"] == 2
    labels = report["per_label"]
    assert labels["b"]["auprc"]["mean"] is None
    assert labels["b"]["f1"]["mean"] is None
    mean = (labels["a"]["auprc"]["mean"] + labels["c"]["auprc"]["mean"]) / 2
    assert report["auprc_macro"]["mean"] == pytest.approx(mean)
    assert report["worst_label"] in ("a", "c")


def test_measure_of_two_seeds_averages_them_within_each_resample():
    pair = [predictions(1), predictions(2)]
    thresholds = [choose_thresholds(p) for p in pair]
    together = measure(pair, thresholds, n_resamples=40).macro_draws["auroc"]
    alone = [
        measure([p], [t], n_resamples=40).macro_draws["auroc"]
        for p, t in zip(pair, thresholds, strict=True)
    ]
    np.testing.assert_allclose(together, np.mean(alone, axis=0))


def test_report_of_constant_and_perfect_scores_has_skill_zero_and_one():
    one = predictions(1)
    perfect = Predictions(**{**vars(one), "scores": one.targets.astype(np.float32)})
    constant = Predictions(**{**vars(one), "scores": np.full((120, 3), 0.5, np.float32)})
    for scored, skill in ((perfect, 1.0), (constant, 0.0)):
        report = report_of(measure([scored], [choose_thresholds(scored)], n_resamples=20))
        assert report["auprc_skill_macro"]["mean"] == pytest.approx(skill)


def test_retrieval_report_of_two_seeds_averages_recall_in_both_directions():
    near = {"visual_to_text": np.array([1, 1]), "text_to_visual": np.array([1, 60])}
    far = {"visual_to_text": np.array([7, 60]), "text_to_visual": np.array([60, 60])}
    report = retrieval_report([near, far])
    assert report["definition"] == "instance-recall/1"
    assert (report["recall_at_1"], report["recall_at_10"]) == (0.5, 0.75)
    assert report["text_to_visual"]["recall_at_50"] == 0.25
