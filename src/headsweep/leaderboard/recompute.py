"""Metrics and table of a leaderboard computed again from its predictions alone."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path

import numpy as np

from headsweep.errors import VerificationError
from headsweep.leaderboard.compare import largest_difference
from headsweep.leaderboard.predictions import Predictions, read_predictions, read_ranks
from headsweep.leaderboard.results import measure_seeds, write_json
from headsweep.leaderboard.statistics import Thresholds
from headsweep.leaderboard.table import METRICS, SPREADS


def recompute(folder: Path) -> None:
    """Compare `metrics.json` with the predictions beside it, and the table with `metrics.json`.

    Raises:
        VerificationError: something differs; names the file and the largest difference.
    """
    with (folder / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        finalist = folder / Path(row["config"]).parent
        with tempfile.TemporaryDirectory() as temporary:
            again = Path(temporary) / "metrics.json"
            write_json(metrics_from_predictions(finalist), again)
            difference = largest_difference(finalist / "metrics.json", again)
        if difference is not None:
            raise VerificationError(
                f"{finalist / 'metrics.json'}: metrics must follow from the predictions, "
                f"{difference}"
            )
        _check_row(folder / "leaderboard.csv", row, finalist)


def metrics_from_predictions(finalist: Path) -> dict[str, object]:
    """What `metrics.json` of a finalist's folder must hold."""
    recorded = json.loads((finalist / "metrics.json").read_text(encoding="utf-8"))
    places = sorted(finalist.glob("seed_*"), key=lambda place: int(place.name[5:]))
    predictions: list[dict[str, Predictions]] = []
    for place in places:
        files = {path.stem: path for path in (place / "predictions").glob("*.parquet")}
        predictions.append({name: read_predictions(files[name]) for name in recorded})
    labels = next(iter(predictions[0].values())).labels
    thresholds = [read_thresholds(place / "thresholds.json", labels) for place in places]
    ranks = [
        {path.stem: read_ranks(path) for path in (place / "retrieval").glob("*.parquet")}
        for place in places
    ]
    return measure_seeds(predictions, thresholds, ranks)[0]


def read_thresholds(path: Path, labels: tuple[str, ...]) -> Thresholds:
    """Thresholds of one seed, in the order of `labels`."""
    plain = json.loads(path.read_text(encoding="utf-8"))
    f1, youden = (
        np.array([plain[kind][label] for label in labels], dtype=np.float64)
        for kind in ("f1", "youden")
    )
    return Thresholds(f1, youden)


def _check_row(path: Path, row: dict[str, str], finalist: Path) -> None:
    recorded = json.loads((finalist / "metrics.json").read_text(encoding="utf-8"))
    for stem in recorded:
        for metric in METRICS:
            for suffix, field in SPREADS.items():
                name = f"{stem}/{metric}{suffix}"
                value = recorded[stem][metric][field]
                if name in row and row[name] != ("" if value is None else str(value)):
                    raise VerificationError(
                        f"{path}: the table must follow from the metrics, "
                        f"found {name} = {row[name]} where {value} is expected"
                    )
