"""The references in the report: their metrics, and by how much the search beats each."""

from __future__ import annotations

from headsweep.evaluation.paired_tests import SIGNIFICANCE
from headsweep.leaderboard.formatting import interval, number
from headsweep.leaderboard.references.files import NOTE, pair_with
from headsweep.leaderboard.references.rows import ComparedReferences
from headsweep.leaderboard.report.page import Cell, TableCard


def reference_table(references: ComparedReferences, valid: str, test: str) -> TableCard:
    """Return the table of the references on one test split; significant gains are shaded."""
    rows = []
    for row in references.rows:
        pair = pair_with(row.name, references.compared[test]["auprc_macro"])
        gap = number(pair["difference"], signed=True)
        ends = interval(pair["ci_low"], pair["ci_high"], signed=True)
        better = pair["p_holm"] is not None and pair["p_holm"] <= SIGNIFICANCE
        shade = 0.35 if better and pair["difference"] > 0 else None
        cells = [
            Cell(row.title, "" if row.features == "none" else row.features),
            Cell(number(row.metrics[valid]["auprc_macro"]["mean"])),
        ]
        for metric in ("auprc_macro", "auroc_macro", "f1_macro"):
            found = row.metrics[test][metric]
            cells.append(Cell(number(found["mean"]), interval(found["ci_low"], found["ci_high"])))
        rows.append([*cells, Cell(gap, ends, heat=shade), Cell(number(pair["p_holm"]))])
    header = ["reference", f"{valid} AUPRC", "AUPRC", "AUROC", "F1"]
    header += ["best finalist minus reference", "p (Holm)"]
    return TableCard(f"References on {test} (not searched)", NOTE, header, rows)
