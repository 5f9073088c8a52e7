"""The leaderboard as a table with one row per finalist: CSV for programs, Markdown for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headsweep.atomic_files import write_text
from headsweep.evaluation.rules import CURRENT, Rules
from headsweep.evaluation.subgroups import CONTENT, UNSEEN
from headsweep.leaderboard.formatting import UNDEFINED, markdown_table, number
from headsweep.leaderboard.provenance import StudyFacts
from headsweep.leaderboard.results import FinalistResult

Cell = str | int | float | None
Row = Mapping[str, Cell]

METRICS = ("auprc_macro", "auroc_macro", "f1_macro")
SPREADS = {"": "mean", "_std": "std", "_ci_low": "ci_low", "_ci_high": "ci_high"}
FINGERPRINT_SHOWN = 12
"""Characters of a fingerprint that are shown."""

INPUTS = "inputs"
"""Column that names the encoders and the widths of their features; older boards lack it."""

ADDED = ("val/auroc_macro", "val/auroc_macro_std")
"""Columns that boards of earlier versions lack."""

N_FOLDS = "n_folds"
"""Column of boards whose values on valid are out-of-fold."""


def leaderboard_row(
    result: FinalistResult, study: StudyFacts, valid: str, data_fingerprint: str
) -> dict[str, Cell]:
    """Return the row of a finalist; `valid` names the split on which it was chosen."""
    config = result.finalist.config
    return {
        "rank": result.rank,
        "study": study.name,
        "head": config.head.kind,
        "features": config.features.input,
        "trial": result.finalist.trial,
        "n_seeds": len(result.seeds),
        **metric_cells(result.metrics, valid),
        "n_trials_searched": study.n_trials_searched,
        "config": f"{result.folder}/config.yaml",
        "data_fingerprint": data_fingerprint,
        **(added_cells(result.metrics, valid) if study.rules.valid_auroc else {}),
        **({INPUTS: result.inputs} if study.states_inputs else {}),
        **unseen_cells(result.metrics),
        **({N_FOLDS: folds.folds.count} if (folds := study.cross_validation) else {}),
    }


def metric_cells(metrics: Mapping[str, Any], valid: str) -> dict[str, Cell]:
    """Return the cells that repeat a row's `metrics.json`; `valid` names the search's split."""
    on_valid = metrics[valid]["auprc_macro"]
    cells = {"val/auprc_macro": on_valid["mean"], "val/auprc_macro_std": on_valid["std"]}
    for stem in (stem for stem in metrics if stem != valid):
        for metric in METRICS:
            for suffix, field in SPREADS.items():
                cells[f"{stem}/{metric}{suffix}"] = metrics[stem][metric][field]
    return cells


def added_cells(metrics: Mapping[str, Any], valid: str) -> dict[str, Cell]:
    """Return the cells after those of the first version of the table."""
    on_valid = metrics[valid]["auroc_macro"]
    return dict(zip(ADDED, (on_valid["mean"], on_valid["std"]), strict=True))


def unseen_cells(metrics: Mapping[str, Any]) -> dict[str, Cell]:
    """Return the cells of unseen content, for each split that shares content with train."""
    cells: dict[str, Cell] = {}
    for stem, measured in metrics.items():
        groups = measured.get("subgroups", {}).get(CONTENT)
        if groups is not None:
            unseen = groups.get(UNSEEN, {})
            cells[f"{stem}/unseen_rows"] = unseen.get("n_rows", 0)
            for metric in ("auprc_macro", "auroc_macro"):
                found = unseen.get(metric, {})
                cells[f"{stem}/unseen_{metric}"] = found.get("mean")
                for end in ("ci_low", "ci_high"):
                    cells[f"{stem}/unseen_{metric}_{end}"] = found.get(end)
    return cells


def write_tables(
    rows: Sequence[Row],
    folder: Path,
    rules: Rules = CURRENT,
    *,
    note: str = "",
    sections: Sequence[str] = (),
) -> None:
    """Write `leaderboard.csv`, floats in full and undefined ones empty, and `leaderboard.md`.

    Args:
        rows: of the table, best first.
        folder: of the leaderboard.
        rules: of the board.
        note: a sentence below the table in `leaderboard.md`.
        sections: Markdown at the end of `leaderboard.md`.
    """
    write_text(folder / "leaderboard.csv", to_csv(rows))
    undefined = UNDEFINED if rules.valid_auroc else "-"
    parts = [to_markdown(rows, undefined), *([f"{note}\n"] if note else []), *sections]
    write_text(folder / "leaderboard.md", "\n".join(parts))


def to_csv(rows: Sequence[Row]) -> str:
    """Return a CSV table of the rows, floats in full and undefined ones empty."""
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def to_markdown(rows: Sequence[Row], undefined: str = UNDEFINED) -> str:
    """Return a Markdown table of the rows, floats to four decimals."""
    header = list(rows[0])
    return markdown_table(
        header, [[_shown(name, row[name], undefined) for name in header] for row in rows]
    )


def _shown(name: str, cell: Cell, undefined: str) -> str:
    if cell is None:
        return undefined
    if name == "data_fingerprint":
        return str(cell)[:FINGERPRINT_SHOWN]
    return number(cell, 4) if isinstance(cell, float) else str(cell)
