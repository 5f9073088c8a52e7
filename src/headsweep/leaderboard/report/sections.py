"""Sections of the report: the figures and the data that each one draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from headsweep.leaderboard.report.drawing_process import Figures
from headsweep.leaderboard.report.plots import (
    Plot,
    bars,
    drawn_plot,
    intervals,
    learning_curves,
    optimism,
    optimization_history,
    plot,
    small_plot,
    value_slice,
)
from headsweep.leaderboard.report.unit_square import pr_curves, reliability_curves, roc_curves
from headsweep.leaderboard.results import FinalistResult, objective_figure
from headsweep.metrics.calibration import reliability
from headsweep.metrics.masking import labelled
from headsweep.metrics.thresholds import operating_curve
from headsweep.metrics.trial_metrics import TITLES

METRIC_NAMES = {"auprc_macro": "macro AUPRC", "auroc_macro": "macro AUROC", "f1_macro": "macro F1"}
MAX_CURVES = 200
"""Largest number of learning curves in a plot; more would cover each other."""


@dataclass(frozen=True)
class Section:
    """Plots under one title; `folded` is the line that opens them when clicked."""

    title: str
    text: str
    plots: Sequence[Plot]
    folded: str = ""


def result_sections(results: Sequence[FinalistResult]) -> Iterator[Section]:
    """Yield intervals of the finalists, and their values from the search to test."""
    valid, *tests = results[0].metrics
    yield from board_sections(results, tests)
    yield optimism_section(results, valid, tests)


def drawn_by(figures: Figures, sections: Iterable[Section]) -> list[Section]:
    """Return the sections; `figures` draws their plots from now on."""
    return [replace(section, plots=figures.drawn(section.plots)) for section in sections]


def board_sections(results: Sequence[FinalistResult], tests: Sequence[str]) -> Iterator[Section]:
    """Yield intervals of all finalists, for every test split."""
    names = [row_name(result) for result in results]
    for test in tests:
        plots = []
        for metric in ("auprc_macro", "auroc_macro"):
            values = [result.metrics[test][metric] for result in results]
            draw = partial(
                intervals,
                names=names,
                means=[or_nan(value["mean"]) for value in values],
                lows=[or_nan(value["ci_low"]) for value in values],
                highs=[or_nan(value["ci_high"]) for value in values],
                xlabel=METRIC_NAMES[metric],
            )
            caption = f"{METRIC_NAMES[metric]} on {test}, mean over seeds with 95 % interval"
            height = _height(names)
            plots.append(plot(f"board-{test}-{metric}", caption, draw, height_in=height))
        yield Section(f"Intervals on {test}", "", plots)


def optimism_section(
    results: Sequence[FinalistResult], valid: str, tests: Sequence[str]
) -> Section:
    """Return values from the search to test, for every test split."""
    names = [row_name(result) for result in results]
    metric = results[0].finalist.config.training.metric
    plots = []
    for test in tests:
        stages = [
            [result.finalist.value for result in results],
            [or_nan(objective_figure(result.metrics[valid], metric)) for result in results],
            [or_nan(objective_figure(result.metrics[test], metric)) for result in results],
        ]
        draw = partial(
            optimism,
            names=names,
            stages=("best of search\non valid", "mean over seeds\non valid", f"test\n{test}"),
            values=np.array(stages).T,
            metric=TITLES[metric],
        )
        plots.append(plot(f"optimism-{test}", f"from the search to {test}", draw))
    text = (
        "The best of many trials on valid is optimistic. Means over fresh seeds on valid, and the "
        "value on test, show by how much."
    )
    return Section("Optimism", text, plots)


def search_sections(study: optuna.Study) -> Iterator[Section]:
    """Yield plots of the search: values, learning curves, parameters."""
    trials = study.get_trials(deepcopy=False)
    (name,) = study.metric_names or ("val/auprc_macro",)
    metric = TITLES.get(name.removeprefix("val/"), name)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    pruned = [t for t in trials if t.state == TrialState.PRUNED and t.intermediate_values]
    history = partial(
        optimization_history,
        complete=([t.number for t in complete], [or_nan(t.value) for t in complete]),
        pruned=([t.number for t in pruned], [_curve(t)[1][-1] for t in pruned]),
        metric=metric,
    )
    curves = partial(
        learning_curves,
        complete=[_curve(t) for t in complete if t.intermediate_values][:MAX_CURVES],
        pruned=[_curve(t) for t in pruned][:MAX_CURVES],
        metric=metric,
    )
    states = f"{len(complete)} complete and {len(pruned)} pruned trials"
    plots = [
        plot("history", states, history),
        plot("learning-curves", "learning curves on valid; grey trials were pruned", curves),
    ]
    importance = _importance(study, complete)
    if importance:
        names, values = list(importance), list(importance.values())
        draw = partial(bars, names=names, values=values, xlabel="importance")
        caption = "parameter importance (PED-ANOVA over complete trials)"
        plots.append(plot("importance", caption, draw, height_in=_height(names)))
    yield Section("Search", "", plots)
    slices = list(_slices(complete, metric))
    text = "Value of the complete trials against each parameter."
    yield Section("Slices", text, slices, f"{len(slices)} parameters")


def _importance(study: optuna.Study, complete: Sequence[FrozenTrial]) -> dict[str, float]:
    """Return the importance of the parameters of all complete trials; empty if undefined.

    PED-ANOVA measures which parameters separate the best tenth of the trials from the others, so it
    needs values that differ.
    """
    if len(complete) < 10 or len({trial.value for trial in complete}) < 2:
        return {}
    shared = set.intersection(*(set(trial.params) for trial in complete))
    varied = [name for name in sorted(shared) if len({str(t.params[name]) for t in complete}) > 1]
    if not varied:
        return {}
    # Imports scikit-learn's forests, which PED-ANOVA does not use.
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), params=varied)


def curve_sections(result: FinalistResult, test: str) -> Iterator[Section]:
    """Yield PR, ROC and reliability curves of a finalist, a plot per label, a line per seed."""
    predictions = [seed.predictions[test] for seed in result.seeds]
    targets = predictions[0].targets
    pr, roc, calibration = [], [], []
    for j, label in enumerate(result.labels):
        positives = int((targets[:, j] == 1).sum())
        rows = int(labelled(targets[:, j]).sum())
        caption = f"{label} ({positives} of {rows})"
        points = [operating_curve(one.targets[:, j], one.ranking[:, j])[1] for one in predictions]
        if 0 < positives < rows:
            svg = pr_curves(points, positives / rows)
            pr.append(drawn_plot(f"pr-{test}-{j}", caption, svg))
            roc.append(drawn_plot(f"roc-{test}-{j}", caption, roc_curves(points)))
        if not rows:
            continue
        bins = [reliability(one.targets[:, j], one.scores[:, j], 10) for one in predictions]
        svg = reliability_curves(bins)
        calibration.append(drawn_plot(f"reliability-{test}-{j}", caption, svg))
    text = f"{row_name(result)}, one line a seed; in brackets the positives."
    folded = f"{len(result.labels)} labels"
    yield Section(f"Precision and recall on {test}", text, pr, folded)
    yield Section(f"ROC on {test}", text, roc, folded)
    yield Section(f"Reliability on {test}", text, calibration, folded)


def row_name(result: FinalistResult) -> str:
    """Return the name of a finalist in tables and plots."""
    return f"{result.rank}: trial {result.finalist.trial}"


def or_nan(value: float | None) -> float:
    """Return the value for plots, NaN for None."""
    return np.nan if value is None else value


def _slices(complete: Sequence[FrozenTrial], metric: str) -> Iterator[Plot]:
    """Yield value against every parameter that took more than one value."""
    for name in sorted({name for trial in complete for name in trial.params}):
        trials = [trial for trial in complete if name in trial.params]
        distribution = trials[0].distributions[name]
        log = isinstance(distribution, FloatDistribution | IntDistribution) and distribution.log
        found = [trial.params[name] for trial in trials]
        names: list[str] = []
        if isinstance(distribution, CategoricalDistribution):
            chosen = [choice for choice in distribution.choices if choice in found]
            found, names = [chosen.index(value) for value in found], [str(c) for c in chosen]
        if len(set(found)) > 1:
            draw = partial(
                value_slice,
                found=found,
                values=[or_nan(trial.value) for trial in trials],
                names=names,
                log=log,
                metric=metric,
            )
            yield small_plot(f"slice-{name}", name, draw)


def _curve(trial: FrozenTrial) -> tuple[list[float], list[float]]:
    epochs = sorted(trial.intermediate_values)
    return [float(e) for e in epochs], [trial.intermediate_values[e] for e in epochs]


def _height(names: Sequence[str]) -> float:
    return 1.2 + 0.3 * len(names)
