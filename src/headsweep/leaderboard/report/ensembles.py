"""The ensembles in the report: metrics, optimism, difference to the best finalist, members."""

from __future__ import annotations

from headsweep.evaluation.paired_tests import SIGNIFICANCE
from headsweep.leaderboard.ensembles.files import NOTE, table_rows, titles_of
from headsweep.leaderboard.ensembles.rows import EnsembleRow, Ensembles
from headsweep.leaderboard.formatting import interval, number
from headsweep.leaderboard.report.page import Cell, TableCard

MAX_FINALISTS = 3
"""Finalists that are named below a row, those with the largest share first."""


def ensemble_table(ensembles: Ensembles, valid: str, test: str) -> TableCard:
    """Return the table of the ensembles on one test split; significant gains are shaded."""
    rows = []
    found = table_rows(ensembles)
    titles = titles_of(found)
    for row, cells in zip(ensembles.rows, found, strict=True):
        figures = {name: cell for name, cell in cells.items() if isinstance(cell, float)}
        gap = f"{test}/auprc_macro_minus_best"
        p, difference = figures.get(f"{gap}_p_holm"), figures.get(gap)
        better = p is not None and p <= SIGNIFICANCE and (difference or 0) > 0
        ends = (figures.get(f"{gap}_ci_low"), figures.get(f"{gap}_ci_high"))
        line = [
            Cell(titles[row.name], _shares(row)),
            Cell(number(row.metrics[valid]["auprc_macro"]["mean"])),
        ]
        for metric in ("auprc_macro", "auroc_macro", "f1_macro"):
            one = row.metrics[test][metric]
            line.append(Cell(number(one["mean"]), interval(one["ci_low"], one["ci_high"])))
        line += [
            Cell(number(figures.get(f"{test}/auprc_macro_optimism"), signed=True)),
            Cell(
                number(difference, signed=True),
                interval(*ends, signed=True),
                heat=0.35 if better else None,
            ),
            Cell(number(p)),
        ]
        rows.append(line)
    header = ["ensemble", f"{valid} AUPRC", "AUPRC", "AUROC", "F1", "optimism"]
    header += ["minus best finalist", "p (Holm)"]
    return TableCard(f"Ensembles on {test} (not ranked)", NOTE, header, rows)


def _shares(row: EnsembleRow) -> str:
    """Return the share of each finalist in a row, the largest first; "" of one finalist."""
    shares: dict[str, float] = {}
    for member in row.members:
        shares[member.finalist] = shares.get(member.finalist, 0.0) + member.weight
    if len(shares) == 1:
        return ""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    listed = [f"finalist {name} {share:.0%}" for name, share in ordered[:MAX_FINALISTS]]
    more = f" and {len(ordered) - MAX_FINALISTS} more" if len(ordered) > MAX_FINALISTS else ""
    return ", ".join(listed) + more
