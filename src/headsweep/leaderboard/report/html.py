"""The report: one self-contained HTML file, and its plots as files beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from headsweep.atomic_files import write_text
from headsweep.evaluation.paired_tests import SIGNIFICANCE
from headsweep.leaderboard.cohorts import HEADER, cells
from headsweep.leaderboard.ensembles.rows import Ensembles
from headsweep.leaderboard.feature_health import health_table
from headsweep.leaderboard.formatting import interval, listed, number, spread
from headsweep.leaderboard.provenance import search_of
from headsweep.leaderboard.references.rows import ComparedReferences
from headsweep.leaderboard.report.ensembles import ensemble_table
from headsweep.leaderboard.report.page import Cell, TableCard, render
from headsweep.leaderboard.report.references import reference_table
from headsweep.leaderboard.report.sections import (
    METRIC_NAMES,
    Section,
    curve_sections,
    row_name,
)
from headsweep.leaderboard.results import FinalistResult
from headsweep.leaderboard.table import unseen_cells

NOTE = (
    "Macro means over labels and seeds. On valid, ± is the standard deviation over seeds; below "
    "each value on test is its 95 % interval over resampled patients. The tied rank is "
    "one more than the number of finalists that are significantly better (AUPRC, Holm). F1 uses "
    "thresholds chosen on valid."
)


def write_report(
    folder: Path,
    study: optuna.Study,
    results: Sequence[FinalistResult],
    compared: Mapping[str, Any],
    provenance: Mapping[str, Any],
    references: ComparedReferences,
    ensembles: Ensembles,
    health: Mapping[str, Mapping[str, Any]],
    drawn: Sequence[Section],
) -> None:
    """Write `report.html`, and its plots under `plots/`.

    Args:
        folder: the leaderboard's, which holds the finalists already.
        study: whose trials were searched.
        results: the finalists, best first.
        compared: paired comparisons, as `comparisons.json` holds them.
        provenance: as `provenance.json` will hold it.
        references: rows that were not searched.
        ensembles: rows that average heads.
        health: of the features, as `feature_health.json` holds it.
        drawn: sections of the search and the finalists.
    """
    valid, *tests = results[0].metrics
    sections = [
        *drawn,
        *(curves for test in tests[:1] for curves in curve_sections(results[0], test)),
    ]
    (folder / "plots").mkdir()
    for figure in (one for section in sections for one in section.plots):
        figure.save(folder / "plots")
    page = render(
        "report.html",
        title=study.study_name,
        headline=_headline(provenance),
        boards=[_board(results, compared[test]["rank_with_ties"], valid, test) for test in tests],
        note=NOTE,
        sections=[section for section in sections if section.plots],
        tables=[
            _cohort_table(provenance["cohorts"]),
            *(reference_table(references, valid, test) for test in tests if references.rows),
            *(ensemble_table(ensembles, valid, test) for test in tests if ensembles.rows),
            *(_comparison_table(compared[test], test) for test in tests if len(results) > 1),
            *(_label_table(results, test) for test in tests),
            *(
                _subgroup_table(results[0], test)
                for test in tests
                if "subgroups" in results[0].metrics[test]
            ),
            health_table(health),
        ],
        best_config=(folder / results[0].folder / "config.yaml").read_text(encoding="utf-8"),
        facts=list(_facts(provenance)),
    )
    write_text(folder / "report.html", page)


def _headline(provenance: Mapping[str, Any]) -> str:
    openings = provenance["test_openings"]
    first = openings[0]
    text = (
        f"{provenance['n_trials_searched']} trials searched, "
        f"{len(provenance['finalists'])} finalists confirmed with {len(provenance['seeds'])} "
        f"seeds; test opened {first['when']} for trials {listed(first['trials'])}"
    )
    for again in openings[1:]:
        text += f"; opened again {again['when']} for {listed(again['trials'])}: {again['why']}"
    for split, count in provenance.get("rows_left_out", {}).items():
        text += f"; {count} rows were left out of {split} (data.shared_content=drop)"
    search = search_of(provenance)
    folds = provenance.get("cross_validation", {}).get("note", "")
    return f"{text}. {' '.join(filter(None, (folds, search.note if search else '')))}".rstrip()


def _board(
    results: Sequence[FinalistResult], ranks: Mapping[str, int], valid: str, test: str
) -> TableCard:
    """Return the table of the leaderboard on one test split; `ranks` are those with ties."""
    retrieves = "retrieval" in results[0].metrics[test]
    header = ["finalist", "tied rank", f"{valid} AUPRC", "AUPRC", "AUROC", "F1"]
    header += ["recall@10"] if retrieves else []
    unseen = unseen_cells({test: results[0].metrics[test]}).get(f"{test}/unseen_rows")
    header += [] if unseen is None else ["AUPRC on unseen content"]
    rows = []
    for result in results:
        config, metrics = result.finalist.config, result.metrics[test]
        on_valid = result.metrics[valid]["auprc_macro"]
        row = [
            Cell(row_name(result), f"{config.head.kind}, {result.inputs}"),
            Cell(str(ranks[str(result.rank)])),
            Cell(number(on_valid["mean"]), spread(on_valid["std"])),
        ]
        row += [_estimate(metrics[metric]) for metric in METRIC_NAMES]
        if retrieves:
            row.append(Cell(number(metrics["retrieval"]["recall_at_10"])))
        if unseen is not None:
            on_unseen = unseen_cells({test: metrics})
            name = f"{test}/unseen_auprc_macro"
            ends = (on_unseen[f"{name}_ci_{end}"] for end in ("low", "high"))
            row.append(Cell(number(on_unseen[name]), interval(*ends)))
        rows.append(row)
    facts = results[0].metrics[test]
    text = (
        f"{facts['n_rows']} rows, {facts['n_patients']} patients, "
        f"{facts['n_labels_used']} labels with both classes."
    )
    if unseen is not None:
        text += (
            f" Train holds neither report nor features of {unseen} rows, the unseen content; "
            "other rows share one of them with a row of another patient in train."
        )
    absent = sum(one.get("n_rows") == 0 for one in facts["per_label"].values())
    if absent:
        text += f" {absent} labels that the cohort lacks are left out of the macro means."
    return TableCard(f"Leaderboard on {test}", text, header, rows)


def _estimate(summary: Mapping[str, float | None]) -> Cell:
    return Cell(number(summary["mean"]), interval(summary["ci_low"], summary["ci_high"]))


def _cohort_table(cohorts: Sequence[Mapping[str, Any]]) -> TableCard:
    text = "Labels that some row has; blank ones among these weigh nothing and are not measured."
    rows = [list(map(Cell, row)) for row in cells(cohorts)]
    return TableCard("Cohorts", text, list(HEADER.values()), rows)


def _comparison_table(compared: Mapping[str, Any], test: str) -> TableCard:
    rows = []
    for pair in compared["auprc_macro"]:
        found = [
            number(pair["difference"], signed=True),
            interval(pair["ci_low"], pair["ci_high"], signed=True),
        ]
        found += [number(pair[name]) for name in ("p", "p_holm", "p_bh")]
        shade = 0.35 if pair["p_holm"] is not None and pair["p_holm"] <= SIGNIFICANCE else None
        title = f"{pair['a']} against {pair['b']}"
        rows.append([Cell(title), *(Cell(text, heat=shade) for text in found)])
    return TableCard(
        f"Differences in macro AUPRC on {test}",
        "Paired bootstrap over patients; shaded differences are significant after Holm.",
        ["finalists", "difference", "95 % interval", "p", "Holm", "Benjamini-Hochberg"],
        rows,
    )


def _label_table(results: Sequence[FinalistResult], test: str) -> TableCard:
    by_label = results[0].metrics[test]["per_label"]
    n_rows = results[0].metrics[test]["n_rows"]
    masked = any("n_rows" in facts for facts in by_label.values())
    rows = []
    for label, facts in by_label.items():
        values = [result.metrics[test]["per_label"][label]["auprc"]["mean"] for result in results]
        cells = [Cell(label), Cell(str(facts["support"])), Cell(number(facts["prevalence"]))]
        cells += [Cell(str(facts.get("n_rows", n_rows)))] if masked else []
        rows.append(cells + [Cell(number(v), heat=None if v is None else 0.6 * v) for v in values])
    header = ["label", "positives", "prevalence", *(["rows used"] if masked else [])]
    header += [row_name(result) for result in results]
    worst = results[0].metrics[test]["worst_label"]
    text = f"The worst label of the best finalist is {worst}." if worst else "No AUPRC is defined."
    return TableCard(f"AUPRC per label on {test}", text, header, rows)


def _subgroup_table(result: FinalistResult, test: str) -> TableCard:
    rows = []
    for attribute, groups in result.metrics[test]["subgroups"].items():
        for group, metrics in groups.items():
            counts = [str(metrics[name]) for name in ("n_rows", "n_patients", "n_labels_used")]
            row = [Cell(group, attribute), *map(Cell, counts)]
            row += [_estimate(metrics[metric]) for metric in ("auprc_macro", "auroc_macro")]
            rows.append(row)
    text = f"{row_name(result)}. AUPRC depends on prevalence, which differs between subgroups."
    header = ["subgroup", "rows", "patients", "labels", "AUPRC", "AUROC"]
    return TableCard(f"Subgroups on {test}", text, header, rows)


def _facts(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "study fingerprint", provenance["study_fingerprint"]
    search = search_of(provenance)
    if search is not None and search.slots_per_step and search.us_per_slot_step:
        yield "search: slots a step", f"{search.slots_per_step:.1f}"
        yield "search: microseconds a slot-step", f"{search.us_per_slot_step:,.0f}"
    yield "commit", provenance["commit"] or "not a checkout"
    for name, value in provenance["machine"].items():
        yield name, str(value)
    yield "packages", ", ".join(f"{name} {v}" for name, v in provenance["packages"].items())
    yield "data fingerprint", provenance["data_fingerprint"]
    for split, prints in provenance["data"].items():
        features = ", ".join(f"{name} {value[:12]}" for name, value in prints["features"].items())
        yield f"data: {split}", f"manifest {prints['manifest'][:12]}, {features}"
