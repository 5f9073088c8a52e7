"""Means, standard deviations and intervals; undefined values are left out and counted."""

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from headsweep.evaluation.predictions import Predictions
from headsweep.evaluation.rules import RULES
from headsweep.evaluation.split_metrics import report_of, retrieval_report
from headsweep.evaluation.summaries import (
    choose_thresholds,
    mean_patients,
    measure,
    summarize,
    summarize_labels,
)
from headsweep.leaderboard.results import plain_thresholds
from headsweep.metrics.bootstrap import bound_of_perfect, intervals, logit_intervals
from headsweep.metrics.ranking import macro
from headsweep.metrics.score_intervals import auprc_intervals, auroc_intervals


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


def bound(mean: float, patients: float) -> tuple[np.ndarray, np.ndarray]:
    return bound_of_perfect(np.array([mean]), np.array([float(patients)]), 0.95)


@pytest.mark.parametrize(("patients", "low"), [(10, 0.7411), (50, 0.9418), (1000, 0.9970)])
def test_summarize_labels_of_a_perfect_ranking_gives_a_one_sided_interval(patients, low):
    perfect, draws = np.ones((3, 1)), np.ones((50, 1))
    (found,) = summarize_labels(
        perfect, draws, np.array([float(patients)]), extremes=bound(1.0, patients)
    )
    assert (found["mean"], found["ci_high"]) == (1.0, 1.0)
    assert found["ci_low"] == pytest.approx(low, abs=1e-4)
    # With so low a share of positives above all negatives, m of m are seen 5 times in 100.
    assert found["ci_low"] ** patients == pytest.approx(0.05)
    macro = summarize(np.ones(3), np.ones(50), patients, extremes=bound(1.0, patients))
    assert macro["ci_low"] == pytest.approx(low, abs=1e-4)


def test_summarize_labels_of_a_reversed_ranking_is_bounded_from_above():
    (found,) = summarize_labels(
        np.zeros((2, 1)), np.zeros((50, 1)), np.array([10.0]), extremes=bound(0.0, 10)
    )
    assert (found["ci_low"], found["ci_high"]) == (0.0, pytest.approx(1 - 0.05**0.1))


def test_summarize_of_a_perfect_ranking_with_few_patients_or_old_rules_is_as_before():
    few = summarize(np.ones(3), np.ones(50), 9, extremes=bound(1.0, 9))
    assert (few["ci_low"], few["ci_high"]) == (None, None)
    old = summarize(np.ones(3), np.ones(50), 50, RULES[1], extremes=bound(1.0, 50))
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
            found = summarize(np.ones(1), np.ones(20), 12, extremes=bound(1.0, 12))
            assert found["ci_low"] <= truth <= found["ci_high"]
    assert n_perfect > 20


def scored(logits: np.ndarray, targets: np.ndarray, *, rows_of_patient: int = 2) -> Predictions:
    """Return predictions of one label with logits."""
    n = len(targets)
    return Predictions(
        "test",
        tuple(f"v_{i}" for i in range(n)),
        tuple(f"p_{i // rows_of_patient}" for i in range(n)),
        ("a",),
        targets[:, None].astype(np.uint8),
        expit(logits.astype(np.float64))[:, None],
        logits[:, None].astype(np.float32),
    )


def test_report_of_a_perfect_head_gives_every_ratio_an_interval_with_width():
    targets = np.arange(120) < 40
    one = scored(np.where(targets, 2.0, -2.0), targets)
    report = report_of(measure([one], [choose_thresholds(one)], n_resamples=20))
    label = report["per_label"]["a"]
    # 20 patients with the label, who are the called ones, and 40 without it.
    low = {20: 0.05 ** (1 / 20), 40: 0.05 ** (1 / 40)}
    skill = (low[20] - 1 / 3) / (2 / 3)
    names = {"auprc": low[20], "auroc": low[20], "auprc_skill": skill}
    for suffix in ("", "_youden"):
        names |= {f"{name}{suffix}": low[20] for name in ("f1", "precision", "sensitivity")}
        names[f"specificity{suffix}"] = low[40]
    for name, expected in names.items():
        for summary in (label[name], report[f"{name}_macro"]):
            assert (summary["mean"], summary["ci_high"]) == (1.0, 1.0), name
            assert summary["ci_low"] == pytest.approx(expected), name


def test_report_of_a_head_that_finds_nothing_bounds_its_ratios_from_above():
    targets = np.arange(120) < 40
    one = scored(np.where(targets, -2.0, 2.0), targets)
    cuts = choose_thresholds(scored(np.where(targets, 2.0, -2.0), targets))
    label = report_of(measure([one], [cuts], n_resamples=20))["per_label"]["a"]
    most = 1 - 0.05 ** (1 / 20)
    ends = {"sensitivity": most, "f1": 2 * most / (1 + most), "precision": 1 - 0.05 ** (1 / 40)}
    for name, expected in ends.items():
        assert (label[name]["mean"], label[name]["ci_low"]) == (0.0, 0.0)
        assert label[name]["ci_high"] == pytest.approx(expected), name


def test_report_by_earlier_rules_leaves_perfect_ratios_without_width():
    targets = np.arange(120) < 40
    one = scored(np.where(targets, 2.0, -2.0), targets)
    measured = measure([one], [choose_thresholds(one, RULES[2])], n_resamples=20)
    label = report_of(measured, RULES[2])["per_label"]["a"]
    assert (label["f1"]["ci_low"], label["f1"]["ci_high"]) == (1.0, 1.0)
    assert label["auroc"]["ci_low"] < 1.0


def test_choose_thresholds_of_logits_whose_probabilities_are_equal_tells_rows_apart():
    targets = np.arange(40) < 10
    one = scored(np.where(targets, 60.0, 40.0), targets, rows_of_patient=1)
    assert len(set(one.scores.ravel())) == 1
    assert choose_thresholds(one).f1.tolist() == [60.0]
    now, before = (
        measure([one], [choose_thresholds(one, rules)], n_resamples=5).values["specificity"].item()
        for rules in (RULES[3], RULES[2])
    )
    assert (now, before) == (1.0, 0.0)
    plain = plain_thresholds(choose_thresholds(one), ["a"], "valid")
    assert plain == {
        "f1": {"a": 1.0}, "youden": {"a": 1.0}, "f1_logit": {"a": 60.0}, "youden_logit": {"a": 60.0}
    }  # fmt: skip


def test_report_by_version_3_keeps_its_intervals_and_its_least_patients():
    rng = np.random.default_rng(4)
    few = predictions(1)
    targets = few.targets.copy()
    targets[:, 1] = np.isin(np.arange(120) // 2, [0, 3, 9, 20, 33, 41])  # six patients
    one = Predictions(
        **{**vars(few), "targets": targets, "scores": rng.random((120, 3)).astype(np.float32)}
    )
    measured = measure([one], [choose_thresholds(one)], n_resamples=200)
    now, before = (report_of(measured, RULES[version]) for version in (4, 3))
    assert before["per_label"]["b"]["auroc"]["ci_low"] is None
    assert now["per_label"]["b"]["auroc"]["ci_low"] < now["per_label"]["b"]["auroc"]["mean"]
    assert now["per_label"]["b"]["f1"]["ci_low"] is None
    for name, compute in (("auroc", logit_intervals), ("auprc", intervals)):
        draws = measured.draws[name]
        low, high = compute(measured.values[name][0], draws, measured.patients, 0.95)
        for j, label in ((0, "a"), (2, "c")):
            kept = before["per_label"][label][name]
            assert (kept["ci_low"], kept["ci_high"]) == (low[j], high[j])
            assert kept != now["per_label"][label][name]
    assert before["auprc_macro"] != now["auprc_macro"]
    assert before["auroc_macro"] == now["auroc_macro"]
    later = report_of(measured, RULES[5])
    assert later["auroc_macro"] != now["auroc_macro"]
    assert later["auprc_macro"] == now["auprc_macro"]
    for name, compute in (("auroc", auroc_intervals), ("auprc", auprc_intervals)):
        own, draws = measured.values[name][0], measured.draws[name]
        for report, student in ((now, False), (later, True)):
            low, high = compute(own, draws, *measured.class_patients, 0.95, student=student)
            for j, label in enumerate("abc"):
                kept = report["per_label"][label][name]
                assert (kept["ci_low"], kept["ci_high"]) == (low[j], high[j])
    for name in ("f1", "auprc_skill", "brier"):
        assert before["per_label"]["a"][name] == now["per_label"]["a"][name]


def test_summarize_labels_equals_numpy_on_each_label_exactly():
    values = np.random.default_rng(0).random((17, 5))
    summaries = summarize_labels(values, None, np.full(5, 20.0))
    assert [one["mean"] for one in summaries] == [column.mean() for column in values.T]
    assert [one["std"] for one in summaries] == [column.std(ddof=1) for column in values.T]


@pytest.mark.parametrize("version", RULES)
def test_report_of_all_metrics_together_equals_the_summary_of_each_alone(version):
    rules, by_seed = RULES[version], [predictions(seed, empty_label=True) for seed in (1, 2, 3)]
    measured = measure(by_seed, [choose_thresholds(p, rules) for p in by_seed], n_resamples=200)
    report, n = report_of(measured, rules), 0
    for name, draws in measured.draws.items():
        if name in ("auroc", "auprc"):  # have intervals of their own
            continue
        values, patients = measured.values[name], measured.patients_of(name, rules)
        alone = summarize_labels(values, draws, patients, rules)
        of_macro = summarize(
            macro(values), measured.macro_draws[name], mean_patients(patients), rules
        )
        assert report[f"{name}_macro"] == of_macro
        assert [report["per_label"][label][name] for label in "abc"] == alone
        n += of_macro["ci_low"] is not None
    assert n == 10
