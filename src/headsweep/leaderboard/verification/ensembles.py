"""Select the ensemble of a board again from its predictions, and compare its files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from headsweep.evaluation.rules import Rules
from headsweep.evaluation.subgroups import Attributes
from headsweep.heads.predictor import MODEL, load_predictor, save_predictor
from headsweep.leaderboard.ensembles.files import joined, write_ensembles
from headsweep.leaderboard.ensembles.rows import ENSEMBLE, Best, Heads, build_ensembles
from headsweep.leaderboard.verification.agreement import check_file
from headsweep.metrics.ensemble_selection import Selection


def recompute_ensembles(
    folder: Path,
    selection: Selection | None,
    heads: Sequence[Heads],
    best: Best,
    subgroups: Mapping[str, Attributes],
    rules: Rules,
) -> None:
    """Compare every file of the ensembles with what follows from the finalists' files.

    Args:
        folder: of the leaderboard.
        selection: how its ensemble was selected; None reads nothing.
        heads: the finalists' heads and predictions.
        best: metrics of the best finalist, and its macro values on the resamples.
        subgroups: of the rows, by split, where there are any.
        rules: of the board.

    Raises:
        VerificationError: something differs; names the file and the largest difference.
        FeatureError: a model cannot be read.
    """
    if selection is None:
        return
    ensembles = build_ensembles(heads, best, selection, rules, subgroups=subgroups)
    with tempfile.TemporaryDirectory() as temporary:
        again = Path(temporary)
        write_ensembles(ensembles, again)
        for row in ensembles.rows:
            if row.name == ENSEMBLE:
                models = {
                    (one.finalist, one.seed): load_predictor(
                        folder / f"finalists/{one.finalist}/seed_{one.seed}"
                    )
                    for one in row.members
                }
                save_predictor(joined(row, models), again / row.folder / MODEL)
        for path in sorted(again.rglob("*")):
            if path.is_file():
                check_file(folder / path.relative_to(again), path)
