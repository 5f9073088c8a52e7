"""Compute metrics and table of a leaderboard again from its predictions."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from headsweep.atomic_files import write_json
from headsweep.errors import VerificationError
from headsweep.evaluation.paired_tests import compare_rows
from headsweep.evaluation.predictions import Predictions, read_ranks, read_seeds
from headsweep.evaluation.subgroups import SUBGROUPS, read_subgroups_of
from headsweep.evaluation.summaries import choose_thresholds
from headsweep.evaluation.thresholds_file import THRESHOLDS, plain_thresholds
from headsweep.json_text import parse_json
from headsweep.leaderboard.ensembles.chosen import recorded_selection
from headsweep.leaderboard.ensembles.rows import Heads
from headsweep.leaderboard.merge import read_board
from headsweep.leaderboard.provenance import COMPARISONS, read_provenance, rules_of
from headsweep.leaderboard.references.chosen import recorded_names
from headsweep.leaderboard.results import Ranks, measure_seeds
from headsweep.leaderboard.table import added_cells, metric_cells, unseen_cells
from headsweep.leaderboard.verification.agreement import check_file, check_row
from headsweep.leaderboard.verification.ensembles import recompute_ensembles
from headsweep.leaderboard.verification.references import recompute_references


def recompute(folder: Path) -> str:
    """Compare metrics and comparisons with the predictions, and the table with the metrics.

    Returns:
        A line that says what was compared.

    Raises:
        VerificationError: something differs; names the file and the largest difference.
        OutputError: there is no leaderboard, or none that headsweep wrote.
    """
    rows = read_board(folder)
    recorded = read_provenance(folder)
    rules = rules_of(recorded)
    finalists = [folder / Path(row["config"]).parent for row in rows]
    splits = _splits(finalists[0])
    for finalist in finalists[1:]:
        if (found := _splits(finalist)) != splits:
            raise VerificationError(
                f"{finalist / 'metrics.json'}: its splits differ from the first finalist's: {found}"
            )
    subgroups = {name: read_subgroups_of(folder / SUBGROUPS, name) for name in splits}
    with tempfile.TemporaryDirectory() as temporary:
        again = Path(temporary) / "again.json"
        measured = []
        for finalist, row in zip(finalists, rows, strict=True):
            predictions = _read_seeds(finalist)
            valid = next(iter(predictions[0]))
            thresholds = [choose_thresholds(seed[valid], rules) for seed in predictions]
            for place, chosen in zip(_seed_folders(finalist), thresholds, strict=True):
                write_json(again, plain_thresholds(chosen, predictions[0][valid].labels, valid))
                check_file(place / THRESHOLDS, again)
            ranks = _read_ranks(finalist)
            metrics, draws = measure_seeds(predictions, thresholds, ranks, subgroups, rules)
            write_json(again, metrics)
            check_file(finalist / "metrics.json", again)
            cells = metric_cells(metrics, valid)
            if rules.valid_auroc:
                cells |= added_cells(metrics, valid) | unseen_cells(metrics)
            check_row(folder / "leaderboard.csv", row, cells)
            measured.append((row["rank"], predictions, metrics, draws))
        names, predictions_of, metrics_of, draws_of = zip(*measured, strict=True)
        write_json(again, compare_rows(names, predictions_of, metrics_of, draws_of, rules))
        check_file(folder / COMPARISONS, again)
        names = recorded_names(recorded)
        best = (metrics_of[0], draws_of[0])
        recompute_references(folder, names, splits, *best, subgroups, rules)
        heads = [
            Heads(row["rank"], tuple(map(_seed, _seed_folders(finalist))), predictions)
            for finalist, row, (_, predictions, *_) in zip(finalists, rows, measured, strict=True)
        ]
        recompute_ensembles(folder, recorded_selection(recorded), heads, best, subgroups, rules)
    return f"metrics of {len(rows)} finalists agree with their predictions"


def _splits(finalist: Path) -> list[str]:
    """Return the names of the splits that a finalist was measured on, valid first.

    Raises:
        VerificationError: the metrics are not by split.
    """
    path = finalist / "metrics.json"
    splits = _read_json(path)
    if not isinstance(splits, dict) or not splits or any(set(name) & {*"/\0"} for name in splits):
        raise VerificationError(f"{path}: the metrics are not by the names of splits")
    return list(splits)


def _seed_folders(finalist: Path) -> list[Path]:
    folders = [p for p in finalist.glob("seed_*") if p.name.removeprefix("seed_").isdecimal()]
    return sorted(folders, key=_seed)


def _seed(folder: Path) -> int:
    return int(folder.name.removeprefix("seed_"))


def _read_seeds(finalist: Path) -> list[dict[str, Predictions]]:
    """Return predictions of each seed by split, in the order of `metrics.json`."""
    folders = [folder / "predictions" for folder in _seed_folders(finalist)]
    by_split = {
        name: read_seeds([folder / f"{name}.parquet" for folder in folders], finalist)
        for name in _splits(finalist)
    }
    return [{name: seeds[i] for name, seeds in by_split.items()} for i in range(len(folders))]


def _read_ranks(finalist: Path) -> list[dict[str, Ranks]]:
    return [
        {path.stem: read_ranks(path) for path in (folder / "retrieval").glob("*.parquet")}
        for folder in _seed_folders(finalist)
    ]


def _read_json(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VerificationError(f"{path}: cannot read the file: {error}") from None
