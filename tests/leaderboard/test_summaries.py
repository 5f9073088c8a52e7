"""Means, standard deviations and intervals; undefined values are left out and counted."""

import numpy as np
import pytest
from scipy.stats import norm

from headsweep.evaluation.predictions import Predictions
from headsweep.evaluation.rules import RULES
from headsweep.evaluation.summaries import (
    choose_thresholds,
    measure,
    report_of,
    retrieval_report,
    summarize,
    summarize_labels,
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


@pytest.mark.parametrize(("patients", "low"), [(10, 0.7411), (50, 0.9418), (1000, 0.9970)])
def test_summarize_labels_of_a_perfect_ranking_gives_a_one_sided_interval(patients, low):
    perfect, draws = np.ones((3, 1)), np.ones((50, 1))
    for area in (True, False):
        (found,) = summarize_labels(
            perfect, draws, np.array([float(patients)]), area=area, ranking=True
        )
        assert (found["mean"], found["ci_high"]) == (1.0, 1.0)
        assert found["ci_low"] == pytest.approx(low, abs=1e-4)
        # With so low a share of positives above all negatives, m of m are seen 5 times in 100.
        assert found["ci_low"] ** patients == pytest.approx(0.05)
    macro = summarize(np.ones(3), np.ones(50), patients, ranking=True)
    assert macro["ci_low"] == pytest.approx(low, abs=1e-4)


def test_summarize_labels_of_a_reversed_ranking_is_bounded_from_above():
    (found,) = summarize_labels(
        np.zeros((2, 1)), np.zeros((50, 1)), np.array([10.0]), area=True, ranking=True
    )
    assert (found["ci_low"], found["ci_high"]) == (0.0, pytest.approx(1 - 0.05**0.1))


def test_summarize_of_a_perfect_ranking_with_few_patients_or_old_rules_is_as_before():
    few = summarize(np.ones(3), np.ones(50), 9, ranking=True)
    assert (few["ci_low"], few["ci_high"]) == (None, None)
    old = summarize(np.ones(3), np.ones(50), 50, RULES[1], ranking=True)
    assert (old["ci_low"], old["ci_high"]) == (1.0, 1.0)


@pytest.mark.parametrize("distance", [4.0, 5.0])
def test_interval_of_a_perfect_ranking_holds_the_true_value(distance):
    truth = norm.cdf(distance / np.sqrt(2))
    rng, n_perfect = np.random.default_rng(0), 0
    targets = np.arange(60) < 12
    for _ in range(200):
        scores = rng.normal(size=60) + distance * targets
        if scores[targets].min() > scores[~targets].max():
            n_perfect += 1
            found = summarize(np.ones(1), np.ones(20), 12, ranking=True)
            assert found["ci_low"] <= truth <= found["ci_high"]
    assert n_perfect > 20
