"""Metrics and table of a leaderboard computed again from its predictions alone."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headsweep.errors import VerificationError
from headsweep.leaderboard.compare import largest_difference
from headsweep.leaderboard.comparisons import compare_rows
from headsweep.leaderboard.predictions import Predictions, read_predictions, read_ranks
from headsweep.leaderboard.provenance import COMPARISONS
from headsweep.leaderboard.results import Ranks, measure_seeds, plain_thresholds, write_json
from headsweep.leaderboard.statistics import choose_thresholds
from headsweep.leaderboard.subgroups import SUBGROUPS, read_subgroups_of
from headsweep.leaderboard.table import Cell, metric_cells


def recompute(folder: Path) -> str:
    """Compare metrics and comparisons with the predictions, and the table with the metrics.

    Returns:
        A line that says what was compared.

    Raises:
        VerificationError: something differs; names the file and the largest difference.
    """
    rows = _read_rows(folder / "leaderboard.csv")
    finalists = [folder / Path(row["config"]).parent for row in rows]
    splits = _read_json(finalists[0] / "metrics.json")
    subgroups = {name: read_subgroups_of(folder / SUBGROUPS, name) for name in splits}
    with tempfile.TemporaryDirectory() as temporary:
        again = Path(temporary) / "again.json"
        measured = []
        for finalist, row in zip(finalists, rows, strict=True):
            predictions = _read_seeds(finalist)
            valid = next(iter(predictions[0]))
            thresholds = [choose_thresholds(seed[valid]) for seed in predictions]
            for place, chosen in zip(_seed_folders(finalist), thresholds, strict=True):
                write_json(plain_thresholds(chosen, predictions[0][valid].labels), again)
                _check(place / "thresholds.json", again)
            ranks = _read_ranks(finalist)
            metrics, draws = measure_seeds(predictions, thresholds, ranks, subgroups)
            write_json(metrics, again)
            _check(finalist / "metrics.json", again)
            _check_row(folder / "leaderboard.csv", row, metric_cells(metrics, valid))
            measured.append((row["rank"], predictions, metrics, draws))
        names, predictions_of, metrics_of, draws_of = zip(*measured, strict=True)
        write_json(compare_rows(names, predictions_of, metrics_of, draws_of), again)
        _check(folder / COMPARISONS, again)
    return f"metrics of {len(rows)} finalists follow from their predictions"


def _read_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise VerificationError(f"{path}: a leaderboard must be readable, found {error}") from None


def _seed_folders(finalist: Path) -> list[Path]:
    places = finalist.glob("seed_*")
    return sorted(places, key=lambda place: int(place.name.removeprefix("seed_")))


def _read_seeds(finalist: Path) -> list[dict[str, Predictions]]:
    """Predictions of each seed by split, in the order of `metrics.json`."""
    splits = _read_json(finalist / "metrics.json")
    return [
        {name: read_predictions(place / "predictions" / f"{name}.parquet") for name in splits}
        for place in _seed_folders(finalist)
    ]


def _read_ranks(finalist: Path) -> list[dict[str, Ranks]]:
    return [
        {path.stem: read_ranks(path) for path in (place / "retrieval").glob("*.parquet")}
        for place in _seed_folders(finalist)
    ]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VerificationError(f"{path}: the file must be readable, found {error}") from None


def _check(recorded: Path, again: Path) -> None:
    difference = largest_difference(recorded, again)
    if difference is not None:
        raise VerificationError(
            f"{recorded}: figures must follow from the predictions, {difference}"
        )


def _check_row(path: Path, row: Mapping[str, str], cells: Mapping[str, Cell]) -> None:
    for name, value in cells.items():
        if row.get(name) != ("" if value is None else str(value)):
            raise VerificationError(
                f"{path}: the table must follow from the metrics, "
                f"found {name} = {row.get(name)} where {value} is expected"
            )
