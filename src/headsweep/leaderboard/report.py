"""The report for people: one HTML file that holds everything, and its plots beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from headsweep.leaderboard.plots import (
    Plot,
    bars,
    intervals,
    learning_curves,
    optimisation_history,
    optimism,
    plot,
)
from headsweep.leaderboard.results import FinalistResult

METRIC_NAMES = {"auprc_macro": "macro AUPRC", "auroc_macro": "macro AUROC", "f1_macro": "macro F1"}
MAX_CURVES = 200
"""Learning curves drawn at most: more would hide each other."""


@dataclass(frozen=True)
class Section:
    """Plots under one title; `folded` is the line behind which they wait to be opened."""

    title: str
    text: str
    plots: Sequence[Plot]
    folded: str = ""


@dataclass(frozen=True)
class Cell:
    """A table cell: text, a second line, and a shade between 0 and 1."""

    text: str
    note: str = ""
    heat: float | None = None


def write_report(
    folder: Path,
    study: optuna.Study,
    results: Sequence[FinalistResult],
    provenance: Mapping[str, Any],
) -> None:
    """Write `report.html`, and each of its plots as SVG and PNG under `plots/`.

    Args:
        folder: the leaderboard's, which holds the finalists already.
        study: whose trials were searched.
        results: the finalists, best first.
        provenance: as `provenance.json` will hold it.
    """
    valid, *tests = results[0].metrics
    sections = [
        *_board_sections(results, tests),
        _optimism_section(results, valid, tests),
        _search_section(study),
    ]
    (folder / "plots").mkdir()
    for drawn in (one for section in sections for one in section.plots):
        drawn.save(folder / "plots")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("headsweep.leaderboard"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
    )
    page = environment.get_template("report.html").render(
        study=study.study_name,
        headline=_headline(provenance),
        board=_board(results, valid, tests),
        sections=[section for section in sections if section.plots],
        heat=[_label_table(results, test) for test in tests],
        best_config=(folder / results[0].folder / "config.yaml").read_text(encoding="utf-8"),
        facts=list(_facts(provenance)),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def _headline(provenance: Mapping[str, Any]) -> str:
    openings = provenance["test_openings"]
    first = openings[0]
    text = (
        f"{provenance['n_trials_searched']} trials searched, "
        f"{len(provenance['finalists'])} finalists confirmed with {len(provenance['seeds'])} "
        f"seeds; test opened {first['when']} for trials {_listed(first['trials'])}"
    )
    for again in openings[1:]:
        text += f"; opened again {again['when']} for {_listed(again['trials'])}: {again['why']}"
    return text + "."


def _board(results: Sequence[FinalistResult], valid: str, tests: Sequence[str]) -> dict[str, Any]:
    columns = [(test, metric) for test in tests for metric in METRIC_NAMES]
    header = ["rank", "trial", "head", "features", f"{valid} AUPRC"]
    header += [f"{test} {METRIC_NAMES[metric]}" for test, metric in columns]
    rows = []
    for result in results:
        config = result.finalist.config
        row = [str(result.rank), str(result.finalist.trial), config.head.kind]
        cells = [Cell(text) for text in (*row, config.features.input)]
        on_valid = result.metrics[valid]["auprc_macro"]
        cells.append(Cell(_number(on_valid["mean"]), f"± {_number(on_valid['std'])}"))
        for test, metric in columns:
            value = result.metrics[test][metric]
            low, high = _number(value["ci_low"]), _number(value["ci_high"])
            cells.append(Cell(_number(value["mean"]), f"{low} to {high}"))
        rows.append(cells)
    note = (
        "Means over seeds. On valid ± is the standard deviation over seeds; on test the interval "
        "is the 95 % percentile interval over resampled patients. F1 uses thresholds chosen on "
        "valid."
    )
    return {"header": header, "rows": rows, "note": note}


def _board_sections(results: Sequence[FinalistResult], tests: Sequence[str]) -> Iterator[Section]:
    names = [_name(result) for result in results]
    for test in tests:
        facts = results[0].metrics[test]
        plots = []
        for metric in ("auprc_macro", "auroc_macro"):
            values = [result.metrics[test][metric] for result in results]
            draw = partial(
                intervals,
                names=names,
                means=[_nan(value["mean"]) for value in values],
                lows=[_nan(value["ci_low"]) for value in values],
                highs=[_nan(value["ci_high"]) for value in values],
                xlabel=METRIC_NAMES[metric],
            )
            caption = f"{METRIC_NAMES[metric]} on {test}, mean over seeds with 95 % interval"
            height = _height(names)
            plots.append(plot(f"board-{test}-{metric}", caption, draw, height_in=height))
        text = (
            f"{facts['n_rows']} rows, {facts['n_patients']} patients, "
            f"{facts['n_labels_used']} labels with both classes."
        )
        yield Section(f"Intervals on {test}", text, plots)


def _optimism_section(
    results: Sequence[FinalistResult], valid: str, tests: Sequence[str]
) -> Section:
    names = [_name(result) for result in results]
    plots = []
    for test in tests:
        stages = [
            [result.finalist.value for result in results],
            [_nan(result.metrics[valid]["auprc_macro"]["mean"]) for result in results],
            [_nan(result.metrics[test]["auprc_macro"]["mean"]) for result in results],
        ]
        draw = partial(
            optimism,
            names=names,
            stages=("best of search\non valid", "mean over seeds\non valid", f"test\n{test}"),
            values=np.array(stages).T,
        )
        plots.append(plot(f"optimism-{test}", f"from the search to {test}", draw))
    text = (
        "The best of many trials on valid is optimistic. Means over fresh seeds on valid, and the "
        "value on test, show by how much."
    )
    return Section("Optimism", text, plots)


def _search_section(study: optuna.Study) -> Section:
    trials = study.get_trials(deepcopy=False)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    pruned = [t for t in trials if t.state == TrialState.PRUNED and t.intermediate_values]
    history = partial(
        optimisation_history,
        complete=([t.number for t in complete], [_nan(t.value) for t in complete]),
        pruned=([t.number for t in pruned], [_curve(t)[1][-1] for t in pruned]),
    )
    curves = partial(
        learning_curves,
        complete=[_curve(t) for t in complete if t.intermediate_values][:MAX_CURVES],
        pruned=[_curve(t) for t in pruned][:MAX_CURVES],
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
    return Section("Search", "", plots)


def _importance(study: optuna.Study, complete: Sequence[FrozenTrial]) -> dict[str, float]:
    """Importance of the parameters that all complete trials share; empty when it has no meaning.

    PED-ANOVA asks which parameters tell the best tenth from the rest, so it needs differing values.
    """
    if len(complete) < 10 or len({trial.value for trial in complete}) < 2:
        return {}
    shared = set.intersection(*(set(trial.params) for trial in complete))
    varied = [name for name in sorted(shared) if len({str(t.params[name]) for t in complete}) > 1]
    if not varied:
        return {}
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), params=varied)


def _label_table(results: Sequence[FinalistResult], test: str) -> dict[str, Any]:
    by_label = results[0].metrics[test]["per_label"]
    rows = []
    for label, facts in by_label.items():
        values = [result.metrics[test]["per_label"][label]["auprc"]["mean"] for result in results]
        cells = [Cell(label), Cell(str(facts["support"])), Cell(f"{facts['prevalence']:.3f}")]
        rows.append(cells + [Cell(_number(v), heat=None if v is None else 0.6 * v) for v in values])
    header = ["label", "positives", "prevalence", *(_name(result) for result in results)]
    return {"title": f"AUPRC per label on {test}", "header": header, "rows": rows}


def _facts(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "study fingerprint", provenance["study_fingerprint"]
    yield "commit", provenance["commit"] or "not a checkout"
    for name, value in provenance["machine"].items():
        yield name, str(value)
    yield "packages", ", ".join(f"{name} {v}" for name, v in provenance["packages"].items())
    yield "data fingerprint", provenance["data_fingerprint"]
    for split, prints in provenance["data"].items():
        features = ", ".join(f"{name} {value[:12]}" for name, value in prints["features"].items())
        yield f"data: {split}", f"manifest {prints['manifest'][:12]}, {features}"


def _curve(trial: FrozenTrial) -> tuple[list[float], list[float]]:
    epochs = sorted(trial.intermediate_values)
    return [float(e) for e in epochs], [trial.intermediate_values[e] for e in epochs]


def _name(result: FinalistResult) -> str:
    return f"{result.rank}: trial {result.finalist.trial}"


def _height(names: Sequence[str]) -> float:
    return 1.2 + 0.3 * len(names)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _nan(value: float | None) -> float:
    return np.nan if value is None else value


def _listed(trials: Sequence[int]) -> str:
    return ", ".join(map(str, trials))
