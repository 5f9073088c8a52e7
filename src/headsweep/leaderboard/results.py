"""Results of a finalist and its folder: config, metrics, weights, thresholds, predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headsweep.atomic_files import write_json
from headsweep.config.files import write_config
from headsweep.data.dataset import Split
from headsweep.evaluation.predictions import (
    Predictions,
    predict,
    retrieval_ranks,
    write_predictions,
    write_ranks,
)
from headsweep.evaluation.rules import CURRENT, Rules
from headsweep.evaluation.split_metrics import report_of, retrieval_report
from headsweep.evaluation.subgroups import Attributes, subgroup_report
from headsweep.evaluation.summaries import (
    Thresholds,
    choose_thresholds,
    measure,
)
from headsweep.evaluation.thresholds_file import THRESHOLDS, plain_thresholds
from headsweep.heads.predictor import Predictor, save_predictor
from headsweep.leaderboard.finalists import Confirmed, Finalist, with_seed
from headsweep.metrics.ranking import Metric, average_precision, macro

Ranks = Mapping[str, NDArray[np.int64]]
Measurement = tuple[dict[str, Any], dict[str, Mapping[str, Metric]]]
"""Metrics by split in the form of `metrics.json`, and macro values on the resamples."""


@dataclass(frozen=True, eq=False)
class SeedResult:
    """One seed of a finalist: predictions and ranks by split, valid first.

    `ranks` is empty unless the head retrieves.
    """

    seed: int
    predictor: Predictor
    thresholds: Thresholds
    predictions: Mapping[str, Predictions]
    ranks: Mapping[str, Ranks]

    @property
    def value(self) -> float:
        """Macro AUPRC on valid."""
        valid = next(iter(self.predictions.values()))
        return float(macro(average_precision(valid.targets, valid.ranking[None])).item())


@dataclass(frozen=True, eq=False)
class FinalistResult:
    """A finalist with its seeds, its metrics by split, and macro metrics on the resamples (B,)."""

    rank: int
    finalist: Finalist
    seeds: tuple[SeedResult, ...]
    metrics: Mapping[str, Any]
    draws: Mapping[str, Mapping[str, Metric]]

    @property
    def folder(self) -> str:
        """The finalist's folder within the study's."""
        return f"finalists/{self.rank}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of every array."""
        return self.seeds[0].predictor.spec.labels

    @property
    def inputs(self) -> str:
        """The inputs that the head reads, with their widths: `ct_clip (512) + colipri (256)`."""
        widths = self.seeds[0].predictor.inputs
        return " + ".join(f"{name} ({width})" for name, width in widths.items())


def evaluate(
    confirmed: Sequence[Confirmed],
    valid: Split,
    tests: Sequence[Split],
    subgroups: Mapping[str, Attributes],
    rules: Rules = CURRENT,
) -> list[FinalistResult]:
    """Predict and measure confirmed finalists on valid and on every test split.

    Args:
        confirmed: the finalists with their seeds, best first.
        valid: validation split.
        tests: test splits.
        subgroups: of each test split's rows.
        rules: of the board.

    Returns:
        The finalists with their ranks, predictions and metrics.
    """
    predicted = [
        tuple(_evaluate_seed(one, index, valid, tests, rules) for index in range(len(one.seeds)))
        for one in confirmed
    ]

    measurements = [
        measure_seeds(
            [seed.predictions for seed in seeds],
            [seed.thresholds for seed in seeds],
            [seed.ranks for seed in seeds],
            subgroups,
            rules,
        )
        for seeds in predicted
    ]
    return [
        FinalistResult(rank, one.finalist, seeds, *measurement)
        for rank, (one, seeds, measurement) in enumerate(
            zip(confirmed, predicted, measurements, strict=True), start=1
        )
    ]


def measure_seeds(
    predictions: Sequence[Mapping[str, Predictions]],
    thresholds: Sequence[Thresholds],
    ranks: Sequence[Mapping[str, Ranks]],
    subgroups: Mapping[str, Attributes],
    rules: Rules = CURRENT,
) -> Measurement:
    """Measure a finalist on every split, in the form of `metrics.json`.

    Args:
        predictions: of each seed, by split.
        thresholds: of each seed.
        ranks: of each seed, by split; empty unless the head retrieves.
        subgroups: of the rows, by split, where there are any.
        rules: of the board.

    Returns:
        The metrics, and by split and metric the macro values on the resamples (B,).
    """
    metrics: dict[str, Any] = {}
    draws: dict[str, Mapping[str, Metric]] = {}
    # One after another: on two threads no gain was seen.
    for name in predictions[0]:
        by_seed = [by_split[name] for by_split in predictions]
        measured = measure(by_seed, thresholds)
        metrics[name] = report_of(measured, rules)
        draws[name] = measured.macro_draws
        if ranks[0]:
            metrics[name]["retrieval"] = retrieval_report([by_split[name] for by_split in ranks])
        if subgroups.get(name):
            metrics[name]["subgroups"] = subgroup_report(by_seed, subgroups[name], rules)
    return metrics, draws


def write_result(result: FinalistResult, folder: Path, *, study: str) -> None:
    """Write a finalist's folder; each `seed_<s>/` holds everything needed to use that head."""
    finalist = result.finalist
    config, trial = finalist.config, finalist.trial
    path = folder / "config.yaml"
    write_config(config, path, study=study, trial=trial, value=finalist.value)
    write_json(folder / "metrics.json", result.metrics)
    for seed in result.seeds:
        place = folder / f"seed_{seed.seed}"
        for name, predictions in seed.predictions.items():
            write_predictions(predictions, place / "predictions" / f"{name}.parquet")
        for name, ranks in seed.ranks.items():
            write_ranks(ranks, seed.predictions[name], place / "retrieval" / f"{name}.parquet")
        own, path = with_seed(config, seed.seed), place / "config.yaml"
        write_config(own, path, study=study, trial=trial, value=seed.value)
        chosen_on = next(iter(seed.predictions))
        write_json(place / THRESHOLDS, plain_thresholds(seed.thresholds, result.labels, chosen_on))
        save_predictor(seed.predictor, place / "model.safetensors")


def _evaluate_seed(
    one: Confirmed, index: int, valid: Split, tests: Sequence[Split], rules: Rules
) -> SeedResult:
    """Predict test with one of a finalist's heads.

    Returns:
        The results of that seed.
    """
    predictor, on_valid = one.predictors[index], one.valid[index]
    predictions = {valid.name: on_valid}
    predictions |= {test.name: predict(predictor, test, rules) for test in tests}
    ranks: dict[str, Ranks] = {}
    if predictor.retrieves:
        own = one.valid_ranks[index] if one.valid_ranks else retrieval_ranks(predictor, valid)
        ranks = {valid.name: own}
        ranks |= {test.name: retrieval_ranks(predictor, test) for test in tests}
    return SeedResult(
        one.seeds[index], predictor, choose_thresholds(on_valid, rules), predictions, ranks
    )


def objective_figure(metrics: Mapping[str, Any], metric: str) -> float | None:
    """Return the figure of `metrics.json` that is nearest to a study's metric on one split.

    Balanced accuracy is that at the thresholds chosen on valid: on valid, the study's own metric.

    Args:
        metrics: of one split.
        metric: `training.metric`.

    Returns:
        The mean over seeds; None where it is undefined.
    """
    if metric == "recall_at_10":
        recall: float | None = metrics.get("retrieval", {}).get(metric)
        return recall
    names = {
        "auprc_skill": ("auprc_skill_macro",),
        "balanced_accuracy": ("sensitivity_youden_macro", "specificity_youden_macro"),
    }.get(metric, (metric,))
    means = [metrics[name]["mean"] for name in names]
    return None if None in means else float(sum(means) / len(means))
