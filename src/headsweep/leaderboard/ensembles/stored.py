"""The heads of a finalist, from the files of its leaderboard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headsweep.config.schema import escapes
from headsweep.errors import VerificationError
from headsweep.evaluation.predictions import Predictions, read_seeds
from headsweep.json_text import parse_json
from headsweep.leaderboard.ensembles.rows import Heads


def read_heads(folder: Path, row: Mapping[str, str], name: str) -> Heads:
    """Read the predictions of a finalist's heads on all splits.

    Args:
        folder: of the leaderboard.
        row: of its table.
        name: of the finalist.

    Returns:
        The heads.

    Raises:
        VerificationError: the predictions cannot be read.
    """
    finalist = folder / Path(row["config"]).parent
    seeds = sorted(
        int(path.name.removeprefix("seed_"))
        for path in finalist.glob("seed_*")
        if path.name.removeprefix("seed_").isdecimal()
    )
    by_split = {
        split: read_seeds(
            [finalist / f"seed_{seed}/predictions/{split}.parquet" for seed in seeds], finalist
        )
        for split in split_names(finalist)
    }
    predictions: list[dict[str, Predictions]] = [
        {split: found[i] for split, found in by_split.items()} for i in range(len(seeds))
    ]
    return Heads(name, tuple(seeds), predictions)


def split_names(finalist: Path) -> list[str]:
    """Read the names of the splits that a finalist was measured on, valid first.

    Returns:
        The names.

    Raises:
        VerificationError: the metrics cannot be read, or are not by split.
    """
    path = finalist / "metrics.json"
    try:
        metrics = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VerificationError(f"{path}: cannot read metrics: {error}") from None
    if not isinstance(metrics, dict) or any(escapes(n) or set(n) & {*"/*?["} for n in metrics):
        raise VerificationError(f"{path}: the metrics are not by the names of splits")
    return list(metrics)
