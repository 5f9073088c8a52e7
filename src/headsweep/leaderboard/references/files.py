"""`references.csv`, `references/` and the section in `leaderboard.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headsweep.atomic_files import write_json, write_text
from headsweep.evaluation.paired_tests import COMPARED
from headsweep.leaderboard.added_rows import row_cells, write_row
from headsweep.leaderboard.formatting import interval, markdown_table, number
from headsweep.leaderboard.references.reading import REFERENCES_TABLE
from headsweep.leaderboard.references.rows import TITLES, ComparedReferences
from headsweep.leaderboard.table import Cell, to_csv

REFERENCES_COMPARED = "references/comparisons.json"
NOTE = (
    "References are not searched and not ranked; they read the input of the best finalist. The "
    "difference is the best finalist's AUPRC less the reference's (paired bootstrap over "
    "patients; p after Holm)."
)


def write_references(references: ComparedReferences, folder: Path) -> None:
    """Write the table, the comparisons, and a folder for each reference; nothing without any."""
    if not references.rows:
        return
    write_text(folder / REFERENCES_TABLE, to_csv(table_rows(references)))
    for row in references.rows:
        write_row(row, folder)
    write_json(folder / REFERENCES_COMPARED, references.compared)


def table_rows(references: ComparedReferences) -> list[dict[str, Cell]]:
    """Return the rows of `references.csv`."""
    return [
        {
            "reference": row.name,
            "features": row.features,
            **row_cells(row.metrics),
            **difference_cells(row.name, references.compared),
        }
        for row in references.rows
    ]


def difference_cells(name: str, compared: Mapping[str, Any]) -> dict[str, Cell]:
    """Return by how much the best finalist is better than a reference, on every test split."""
    cells: dict[str, Cell] = {}
    for split in list(compared)[1:]:
        for metric in COMPARED:
            pair = pair_with(name, compared[split][f"{metric}_macro"])
            column = f"{split}/{metric}_macro_best_minus_reference"
            cells[column] = pair["difference"]
            for end in ("ci_low", "ci_high", "p", "p_holm"):
                cells[f"{column}_{end}"] = pair[end]
    return cells


def pair_with(name: str, pairs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the comparison of the best finalist with one reference."""
    return next(pair for pair in pairs if pair["b"] == name)


def references_markdown(references: ComparedReferences, splits: Sequence[str]) -> list[str]:
    """Return the section of `leaderboard.md`: a line for each reference and test split.

    Returns:
        The section; nothing without references.
    """
    if not references.rows:
        return []
    header = ["reference", "split", "AUPRC", "95 % interval", "AUROC", "F1"]
    header += ["best finalist minus reference", "95 % interval", "p (Holm)"]
    lines = []
    for row in table_rows(references):
        for split in splits:
            gap = f"{split}/auprc_macro_best_minus_reference"
            lines.append(
                [
                    TITLES.get(str(row["reference"]), str(row["reference"])),
                    split,
                    number(row[f"{split}/auprc_macro"]),
                    interval(
                        row[f"{split}/auprc_macro_ci_low"], row[f"{split}/auprc_macro_ci_high"]
                    ),
                    number(row[f"{split}/auroc_macro"]),
                    number(row[f"{split}/f1_macro"]),
                    number(row[gap], signed=True),
                    interval(row[f"{gap}_ci_low"], row[f"{gap}_ci_high"], signed=True),
                    number(row[f"{gap}_p_holm"]),
                ]
            )
    return [f"## References\n\n{NOTE}\n\n{markdown_table(header, lines)}"]
