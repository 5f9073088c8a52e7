"""Rows beside the ranked table: what references and ensembles have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from headsweep.atomic_files import write_json
from headsweep.evaluation.paired_tests import COMPARED, compare_first
from headsweep.evaluation.predictions import Predictions, write_predictions
from headsweep.evaluation.rules import Rules
from headsweep.evaluation.summaries import Thresholds, mean_patients
from headsweep.evaluation.thresholds_file import THRESHOLDS, plain_thresholds
from headsweep.leaderboard.table import Cell, added_cells, metric_cells, unseen_cells
from headsweep.metrics.bootstrap import rarer_class_patients
from headsweep.metrics.ranking import Metric


class AddedRow(Protocol):
    """A row with one score for each volume and label; mappings are by split, valid first."""

    @property
    def name(self) -> str:
        """Name in the table and in comparisons."""

    @property
    def folder(self) -> str:
        """The row's folder within the leaderboard's."""

    @property
    def predictions(self) -> Mapping[str, Predictions]:
        """Scores and labels."""

    @property
    def thresholds(self) -> Thresholds:
        """Thresholds chosen on valid."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Content of `metrics.json`."""

    @property
    def draws(self) -> Mapping[str, Mapping[str, Metric]]:
        """Macro values on the resamples."""


def compare_with_best(
    best: Mapping[str, Any],
    best_draws: Mapping[str, Mapping[str, Metric]],
    rows: Sequence[AddedRow],
    rules: Rules,
) -> dict[str, Any]:
    """Compare the best finalist with every row, by the paired bootstrap.

    Args:
        best: metrics of the best finalist by split.
        best_draws: its macro metrics on the resamples.
        rows: the rows.
        rules: of the board.

    Returns:
        By split and metric a pair for each row, as `comparisons.json` holds those of finalists;
        `a` is the best finalist. Empty without rows.
    """
    compared: dict[str, Any] = {}
    for split in best if rows else ():
        first = rows[0].predictions[split]
        patients = mean_patients(rarer_class_patients(first.targets, first.patients))
        compared[split] = {}
        for metric in COMPARED:
            macro = f"{metric}_macro"
            compared[split][macro] = compare_first(
                ["1", *(row.name for row in rows)],
                [one[split][macro]["mean"] for one in (best, *(row.metrics for row in rows))],
                [one[split][metric] for one in (best_draws, *(row.draws for row in rows))],
                patients,
                rules,
            )
    return compared


def row_cells(metrics: Mapping[str, Any]) -> dict[str, Cell]:
    """Return the cells that repeat a row's `metrics.json`; there are no seeds to spread."""
    valid = next(iter(metrics))
    cells = metric_cells(metrics, valid) | added_cells(metrics, valid) | unseen_cells(metrics)
    return {name: cell for name, cell in cells.items() if not name.endswith("_std")}


def write_row(row: AddedRow, board: Path) -> None:
    """Write a row's predictions, metrics and thresholds into its folder."""
    folder = board / row.folder
    for name, predictions in row.predictions.items():
        write_predictions(predictions, folder / "predictions" / f"{name}.parquet")
    write_json(folder / "metrics.json", row.metrics)
    first = next(iter(row.predictions.values()))
    write_json(folder / THRESHOLDS, plain_thresholds(row.thresholds, first.labels, first.name))
