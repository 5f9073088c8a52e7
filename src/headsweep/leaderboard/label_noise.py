"""A board under other labels of the same rows: metrics of every row, and how ranks move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from numpy.typing import NDArray

from headsweep.config.files import read_config
from headsweep.data.other_labels import read_other_labels
from headsweep.evaluation.predictions import Predictions, read_seeds
from headsweep.evaluation.rules import Rules
from headsweep.evaluation.split_metrics import report_of
from headsweep.evaluation.summaries import choose_thresholds, measure
from headsweep.leaderboard.ensembles.stored import split_names
from headsweep.leaderboard.formatting import interval, markdown_table, number
from headsweep.leaderboard.merge import TableRow, read_board
from headsweep.leaderboard.provenance import read_provenance, rules_of
from headsweep.metrics.masking import labelled

if TYPE_CHECKING:
    import pandas as pd

SHOWN = ("auprc_macro", "auroc_macro", "f1_macro")
EXTRA_ROWS = ("references", "ensembles")
"""Folders whose subfolders are rows beside the finalists."""


@dataclass(frozen=True)
class LabelChange:
    """How often one label differs between the board and the other file, on one split."""

    label: str
    n_known: int
    """Rows in which both have the label."""
    n_removed: int
    """1 on the board, 0 in the file."""
    n_added: int
    """0 on the board, 1 in the file."""

    @property
    def share(self) -> float:
        """Share of the rows in which the label differs; 0 without rows."""
        return (self.n_removed + self.n_added) / self.n_known if self.n_known else 0.0


@dataclass(frozen=True)
class NoisyRow:
    """A row of the board under both labels; metrics are those of `metrics.json`."""

    name: str
    own: Mapping[str, Any]
    other: Mapping[str, Any]
    own_rank: int
    """Rank by macro AUPRC on this split."""
    other_rank: int


@dataclass(frozen=True)
class SplitNoise:
    """One split under both labels."""

    split: str
    n_rows: int
    n_rows_differing: int
    labels: Sequence[LabelChange]
    rows: Sequence[NoisyRow]

    @property
    def summary(self) -> str:
        """A sentence with the shares of rows and entries that differ, and how ranks move."""
        known = sum(one.n_known for one in self.labels)
        changed = sum(one.n_removed + one.n_added for one in self.labels)
        moved = sum(row.own_rank != row.other_rank for row in self.rows)
        return (
            f"{self.split}: {self.n_rows_differing} of {self.n_rows} rows "
            f"({self.n_rows_differing / self.n_rows:.1%}) and {changed} of {known} entries "
            f"({changed / known:.2%}) have other labels; {moved} of {len(self.rows)} ranks move"
        )


@dataclass(frozen=True)
class LabelNoise:
    """A board under both labels."""

    splits: Sequence[SplitNoise]

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each split and row of the board, with metrics under both labels."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "split": one.split,
                    "row": row.name,
                    "rank": row.own_rank,
                    "rank_other_labels": row.other_rank,
                    **_cells(row.own, ""),
                    **_cells(row.other, "_other_labels"),
                }
                for one in self.splits
                for row in one.rows
            ]
        )

    def labels_dataframe(self) -> pd.DataFrame:
        """Return a row for each split and label, with how often it differs."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "split": one.split,
                    "label": label.label,
                    "n_rows": label.n_known,
                    "n_removed": label.n_removed,
                    "n_added": label.n_added,
                    "share": label.share,
                }
                for one in self.splits
                for label in one.labels
            ]
        )

    def to_markdown(self) -> str:
        """Return sentences and tables."""
        parts = []
        for one in self.splits:
            parts += [f"{one.summary}.\n", markdown_table(ROWS_HEADER, row_lines(one))]
            parts.append(markdown_table(LABELS_HEADER, label_lines(one)))
        return "\n".join(parts)


ROWS_HEADER = (
    *("row", "rank", "rank, other labels", "AUPRC", "AUPRC, other labels"),
    *("AUROC", "AUROC, other labels"),
)
LABELS_HEADER = ("label", "rows", "1 to 0", "0 to 1", "differ")


def row_lines(one: SplitNoise) -> list[list[str]]:
    """Return the lines of a split under `ROWS_HEADER`."""
    lines = []
    for row in one.rows:
        line = [row.name, str(row.own_rank), str(row.other_rank)]
        for metric in ("auprc_macro", "auroc_macro"):
            for found in (row.own[metric], row.other[metric]):
                ends = interval(found["ci_low"], found["ci_high"])
                line.append(f"{number(found['mean'])} ({ends})")
        lines.append(line)
    return lines


def label_lines(one: SplitNoise) -> list[list[str]]:
    """Return the lines of a split under `LABELS_HEADER`."""
    return [
        [x.label, str(x.n_known), str(x.n_removed), str(x.n_added), f"{x.share:.1%}"]
        for x in one.labels
    ]


def label_noise(folder: Path, file: Path) -> LabelNoise:
    """Measure every row of a board again under other labels of the same rows.

    Uses the stored predictions. Thresholds stay those that were chosen on valid under the board's
    own labels. No file is written.

    Args:
        folder: of the leaderboard.
        file: CSV file with a column of volume names and a column for each label of the board. It
            may hold any splits, but each of them as a whole, and other rows.

    Returns:
        Every split whose rows the file holds.

    Raises:
        OutputError: the folder holds no leaderboard.
        ManifestError: the file cannot be read, lacks a label or rows, or has the same labels.
        VerificationError: the board's predictions cannot be read.
    """
    rows = list(_rows_of(folder, read_board(folder)))
    rules = rules_of(read_provenance(folder))
    _, first = rows[0]
    columns = read_config(folder / "finalists" / "1" / "config.yaml").data.columns
    other = read_other_labels(file, columns, next(iter(first.values()))[0].labels)
    targets = {
        name: found
        for name, by_seed in first.items()
        if (found := other.targets_of(name, by_seed[0].volumes)) is not None
    }
    other.refuse_nothing_new({name: first[name][0].targets for name in targets}, targets)
    return LabelNoise([_split(name, rows, found, rules) for name, found in targets.items()])


BySplit = Mapping[str, Sequence[Predictions]]
"""Predictions of each seed of a row, by split, valid first."""


def _rows_of(folder: Path, board: Sequence[TableRow]) -> Iterator[tuple[str, BySplit]]:
    """Yield name and predictions of the finalists, then of the rows beside them."""
    names = split_names(folder / Path(board[0]["config"]).parent)
    for row in board:
        place = folder / Path(row["config"]).parent
        seeds = sorted(place.glob("seed_*/predictions"))
        by_split = {n: read_seeds([s / f"{n}.parquet" for s in seeds], place) for n in names}
        yield f"{row['rank']}: trial {row['trial']}", by_split
    for kind in EXTRA_ROWS:
        for place in sorted((folder / kind).glob("*/predictions")):
            by_split = {n: read_seeds([place / f"{n}.parquet"], place) for n in names}
            yield place.parent.name, by_split


def _split(
    name: str, rows: Sequence[tuple[str, BySplit]], other: NDArray[np.uint8], rules: Rules
) -> SplitNoise:
    """Return all rows on one split, measured under both labels."""
    first = rows[0][1][name][0]
    metrics = [_under_both(by_split, name, other, rules) for _, by_split in rows]
    ranks = [_ranks([found[i]["auprc_macro"]["mean"] for found in metrics]) for i in (0, 1)]
    known = labelled(first.targets) & labelled(other)
    removed = known & (first.targets == 1) & (other == 0)
    added = known & (first.targets == 0) & (other == 1)
    counts = zip(known.sum(axis=0), removed.sum(axis=0), added.sum(axis=0), strict=True)
    return SplitNoise(
        name,
        len(first.volumes),
        int((removed | added).any(axis=1).sum()),
        [
            LabelChange(label, *map(int, numbers))
            for label, numbers in zip(first.labels, counts, strict=True)
        ],
        [
            NoisyRow(title, *found, *rank)
            for (title, _), found, *rank in zip(rows, metrics, *ranks, strict=True)
        ],
    )


def _under_both(
    by_split: BySplit, name: str, other: NDArray[np.uint8], rules: Rules
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the metrics of a row on a split under its own labels and the others."""
    valid = next(iter(by_split.values()))
    thresholds = [choose_thresholds(seed, rules) for seed in valid]
    own = by_split[name]
    changed = [replace(seed, targets=other) for seed in own]
    one, two = (report_of(measure(seeds, thresholds), rules) for seeds in (own, changed))
    return one, two


def _ranks(values: Sequence[float | None]) -> list[int]:
    """Return ranks of values, best first; equal ones share a rank, undefined ones are last."""
    found = [-np.inf if value is None else value for value in values]
    return [int(rank) for rank in scipy.stats.rankdata([-value for value in found], method="min")]


def _cells(metrics: Mapping[str, Any], suffix: str) -> dict[str, float | None]:
    return {
        f"{metric}{end}{suffix}": metrics[metric][field]
        for metric in SHOWN
        for end, field in (("", "mean"), ("_ci_low", "ci_low"), ("_ci_high", "ci_high"))
    }
