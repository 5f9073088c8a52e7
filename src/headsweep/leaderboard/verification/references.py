"""Compute the figures of the reference rows again from their predictions."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headsweep.atomic_files import write_json
from headsweep.evaluation.predictions import read_seeds
from headsweep.evaluation.rules import Rules
from headsweep.evaluation.subgroups import Attributes, content_alone
from headsweep.evaluation.thresholds_file import plain_thresholds
from headsweep.leaderboard.added_rows import compare_with_best, row_cells
from headsweep.leaderboard.references.files import (
    REFERENCES_COMPARED,
    difference_cells,
)
from headsweep.leaderboard.references.reading import REFERENCES_TABLE, read_references
from headsweep.leaderboard.references.rows import measured, row_names
from headsweep.leaderboard.verification.agreement import check_file, check_row
from headsweep.metrics.ranking import Metric


def recompute_references(
    folder: Path,
    names: Sequence[str],
    splits: Sequence[str],
    best: Mapping[str, Any],
    best_draws: Mapping[str, Mapping[str, Metric]],
    subgroups: Mapping[str, Attributes],
    rules: Rules,
) -> None:
    """Compare metrics, comparisons and table of the references with their predictions.

    Args:
        folder: of the leaderboard.
        names: of its references; without any, nothing is read.
        splits: names of the splits, valid first.
        best: metrics of the best finalist by split.
        best_draws: its macro metrics on the resamples.
        subgroups: of the rows, by split.
        rules: of the board.

    Raises:
        VerificationError: something differs; names the file and the largest difference.
    """
    if not names:
        return
    content = {split: content_alone(attributes) for split, attributes in subgroups.items()}
    rows = []
    for name in row_names(names):
        place = folder / "references" / name
        predictions = {
            split: read_seeds([place / "predictions" / f"{split}.parquet"], place)[0]
            for split in splits
        }
        rows.append(measured(name, "", predictions, content, rules))
    compared = compare_with_best(best, best_draws, rows, rules)
    table = {row["reference"]: row for row in read_references(folder)}
    with tempfile.TemporaryDirectory() as temporary:
        again = Path(temporary) / "again.json"
        for row in rows:
            place = folder / row.folder
            labels = row.predictions[splits[0]].labels
            for file, expected in (
                ("thresholds.json", plain_thresholds(row.thresholds, labels, splits[0])),
                ("metrics.json", row.metrics),
            ):
                write_json(again, expected)
                check_file(place / file, again)
            cells = row_cells(row.metrics) | difference_cells(row.name, compared)
            check_row(folder / REFERENCES_TABLE, table.get(row.name, {}), cells)
        write_json(again, compared)
        check_file(folder / REFERENCES_COMPARED, again)
