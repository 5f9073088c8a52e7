"""Ensembles of the finalists of several finished studies, from their stored predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headsweep.errors import OutputError, VerificationError
from headsweep.evaluation.summaries import choose_thresholds
from headsweep.leaderboard.board_order import order_of
from headsweep.leaderboard.ensembles.rows import Ensembles, Heads, build_ensembles
from headsweep.leaderboard.ensembles.stored import read_heads
from headsweep.leaderboard.results import measure_seeds
from headsweep.leaderboard.table import FINGERPRINT_SHOWN
from headsweep.metrics.ensemble_selection import Selection

Row = dict[str, str]


def ensemble_of_boards(boards: Sequence[tuple[Path, Sequence[Row]]]) -> Ensembles:
    """Average the seeds of every study's best finalist, and select an ensemble of all heads.

    Every row is compared with the best finalist of all studies on valid. Of a single study, every
    finalist gets a row with the mean of its seeds.

    Args:
        boards: folder and rows of each leaderboard, best finalist first.

    Returns:
        The rows; finalists are named by study and rank, of a single study by rank.

    Raises:
        OutputError: the boards are of different data.
        VerificationError: predictions cannot be read, or are not of the same rows.
    """
    _refuse_other_data(boards)
    several = len(boards) > 1
    by_board = [
        [
            read_heads(folder, row, f"{row['study']}/{row['rank']}" if several else row["rank"])
            for row in rows
        ]
        for folder, rows in boards
    ]
    heads = [one for found in by_board for one in found]
    _refuse_other_rows(heads)
    values = order_of([(rows[0], folder) for folder, rows in boards]).values
    best = by_board[list(values).index(max(values))][0]
    valid = next(iter(best.predictions[0]))
    thresholds = [choose_thresholds(by_split[valid]) for by_split in best.predictions]
    measured = measure_seeds(best.predictions, thresholds, [{}] * len(thresholds), {})
    means_of = [found[0].finalist for found in by_board] if several else None
    return build_ensembles(heads, measured, Selection(), means_of=means_of)


def _refuse_other_data(boards: Sequence[tuple[Path, Sequence[Row]]]) -> None:
    (folder, rows), *others = boards
    data = rows[0]["data_fingerprint"]
    for other, found in others:
        if found[0]["data_fingerprint"] != data:
            shown = [name[:FINGERPRINT_SHOWN] for name in (data, found[0]["data_fingerprint"])]
            raise OutputError(
                f"{other}: an ensemble needs leaderboards on the same data; {folder} is on "
                f"{shown[0]}, this one on {shown[1]}"
            )


def _refuse_other_rows(heads: Sequence[Heads]) -> None:
    first = heads[0].predictions[0]
    for one in heads:
        found = one.predictions[0]
        if any(
            name not in found
            or (found[name].volumes, found[name].labels) != (was.volumes, was.labels)
            for name, was in first.items()
        ):
            raise VerificationError(
                f"{one.finalist}: its predictions are of other rows or labels than those of "
                f"{heads[0].finalist}"
            )
