"""`ensembles.csv`, `ensembles/`, and the section in `leaderboard.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headsweep.atomic_files import write_json, write_text
from headsweep.config.files import write_config
from headsweep.config.schema import Config
from headsweep.evaluation.paired_tests import COMPARED
from headsweep.heads.predictor import MODEL, Predictor, ensemble_of, save_predictor
from headsweep.leaderboard.added_rows import row_cells, write_row
from headsweep.leaderboard.ensembles.rows import ENSEMBLE, EnsembleRow, Ensembles, Heads
from headsweep.leaderboard.finalists import with_seed
from headsweep.leaderboard.formatting import interval, markdown_table, number
from headsweep.leaderboard.results import FinalistResult
from headsweep.leaderboard.table import Cell, to_csv

ENSEMBLES_TABLE, ENSEMBLES_COMPARED = "ensembles.csv", "ensembles/comparisons.json"
ENSEMBLE_FOLDER = f"ensembles/{ENSEMBLE}"
NOTE = (
    "These rows average the scores of heads and are not ranked. Members and weights of the "
    "ensemble were selected on valid (Caruana et al. 2004), so its value there is optimistic; "
    "optimism is the value on valid less that on test. The difference is the row's AUPRC less that "
    "of the best finalist, which is a mean over its seeds (paired bootstrap over patients; p after "
    "Holm)."
)


def heads_of(results: Sequence[FinalistResult]) -> list[Heads]:
    """Return the trained heads of finalists, and their predictions."""
    return [
        Heads(
            str(result.rank),
            tuple(seed.seed for seed in result.seeds),
            [seed.predictions for seed in result.seeds],
        )
        for result in results
    ]


def write_ensembles(ensembles: Ensembles, folder: Path) -> None:
    """Write the table, the comparisons and a folder for each row; nothing without rows."""
    if not ensembles.rows:
        return
    write_text(folder / ENSEMBLES_TABLE, to_csv(table_rows(ensembles)))
    for row in ensembles.rows:
        write_row(row, folder)
        write_json(folder / row.folder / "members.json", [asdict(member) for member in row.members])
    write_json(folder / ENSEMBLES_COMPARED, ensembles.compared)


def write_ensemble_predictor(
    ensembles: Ensembles, results: Sequence[FinalistResult], folder: Path, *, study: str
) -> None:
    """Write the selected ensemble as one predictor, with the config of the best finalist.

    The config says where the data are; training it trains the best finalist.
    """
    row = next((row for row in ensembles.rows if row.name == ENSEMBLE), None)
    if row is None:
        return
    heads = {
        (str(result.rank), seed.seed): seed.predictor for result in results for seed in result.seeds
    }
    predictor = joined(row, heads)
    save_predictor(predictor, folder / row.folder / MODEL)
    best = results[0]
    config: Config = with_seed(best.finalist.config, best.seeds[0].seed)
    path = folder / row.folder / "config.yaml"
    write_config(config, path, study=study, trial=best.finalist.trial, value=best.seeds[0].value)


def joined(row: EnsembleRow, heads: Mapping[tuple[str, int], Predictor]) -> Predictor:
    """Return a row as a predictor.

    Args:
        row: the ensemble.
        heads: trained heads by finalist and seed.

    Returns:
        The ensemble.
    """
    members = [heads[member.finalist, member.seed] for member in row.members]
    return ensemble_of(members, [member.weight for member in row.members])


def table_rows(ensembles: Ensembles) -> list[dict[str, Cell]]:
    """Return the rows of `ensembles.csv`."""
    return [
        {
            "row": row.name,
            "finalists": " ".join(dict.fromkeys(member.finalist for member in row.members)),
            "n_heads": len(row.members),
            **_metric_cells(row.metrics),
            **_difference_cells(row.name, ensembles.compared or {}),
        }
        for row in ensembles.rows
    ]


def _metric_cells(metrics: Mapping[str, Any]) -> dict[str, Cell]:
    """Return the metrics without spreads over seeds, and the optimism on every test split."""
    valid, *tests = metrics
    cells = row_cells(metrics)
    on_valid = metrics[valid]["auprc_macro"]["mean"]
    for test in tests:
        on_test = metrics[test]["auprc_macro"]["mean"]
        known = on_valid is not None and on_test is not None
        cells[f"{test}/auprc_macro_optimism"] = on_valid - on_test if known else None
    return cells


def _difference_cells(name: str, compared: Mapping[str, Any]) -> dict[str, Cell]:
    """Return by how much a row is better than the best finalist, on every test split."""
    cells: dict[str, Cell] = {}
    for split in list(compared)[1:]:
        for metric in COMPARED:
            found = next(one for one in compared[split][f"{metric}_macro"] if one["row"] == name)
            column = f"{split}/{metric}_macro_minus_best"
            cells[column] = found["difference"]
            for end in ("ci_low", "ci_high", "p", "p_holm"):
                cells[f"{column}_{end}"] = found[end]
    return cells


HEADER = (
    *("row", "split", "AUPRC", "95 % interval", "AUROC", "optimism"),
    *("minus best finalist", "95 % interval", "p (Holm)"),
)


def shown_lines(rows: Sequence[Mapping[str, Any]], splits: Sequence[str]) -> list[list[str]]:
    """Return the lines that people see, one for each row and test split, under `HEADER`.

    Args:
        rows: of `ensembles.csv`.
        splits: test splits.
    """
    lines, titles = [], titles_of(rows)
    for row in rows:
        for split in splits:
            value, gap = f"{split}/auprc_macro", f"{split}/auprc_macro_minus_best"
            ends = [row[f"{value}_ci_low"], row[f"{value}_ci_high"]]
            gap_ends = [row[f"{gap}_ci_low"], row[f"{gap}_ci_high"]]
            lines.append(
                [
                    *(titles[str(row["row"])], split, number(row[value]), interval(*ends)),
                    number(row[f"{split}/auroc_macro"]),
                    number(row[f"{value}_optimism"], signed=True),
                    *(number(row[gap], signed=True), interval(*gap_ends, signed=True)),
                    number(row[f"{gap}_p_holm"]),
                ]
            )
    return lines


def titles_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the names of the rows of `ensembles.csv` for people."""
    return {
        str(row["row"]): f"ensemble of {row['n_heads']} heads"
        if row["row"] == ENSEMBLE
        else f"mean of {row['n_heads']} seeds, finalist {row['finalists']}"
        for row in rows
    }


def ensembles_markdown(rows: Sequence[Mapping[str, Any]], splits: Sequence[str]) -> list[str]:
    """Return the section of `leaderboard.md`: a line for each row and test split.

    Args:
        rows: of `ensembles.csv`.
        splits: test splits.

    Returns:
        The section; nothing without rows.
    """
    if not rows:
        return []
    table = markdown_table(HEADER, shown_lines(rows, splits))
    return [f"## Ensembles\n\n{NOTE}\n\n{table}"]
