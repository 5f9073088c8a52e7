"""Several finished studies on one board, ranked only where they share their data."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headsweep.config.schema import escapes
from headsweep.errors import OutputError
from headsweep.evaluation.paired_tests import compare_macro, ranks_with_ties
from headsweep.evaluation.predictions import read_seeds
from headsweep.evaluation.summaries import finite, mean_patients, shared_resamples
from headsweep.leaderboard.board_order import OBJECTIVE_COLUMNS, order_of, with_values
from headsweep.leaderboard.ensembles.across import ensemble_of_boards
from headsweep.leaderboard.ensembles.files import (
    HEADER,
    ensembles_markdown,
    shown_lines,
    table_rows,
)
from headsweep.leaderboard.ensembles.files import NOTE as ENSEMBLES_NOTE
from headsweep.leaderboard.ensembles.rows import Ensembles
from headsweep.leaderboard.formatting import interval, markdown_table, number, spread
from headsweep.leaderboard.provenance import check_contained
from headsweep.leaderboard.report.page import Cell, TableCard, render
from headsweep.leaderboard.table import (
    ADDED,
    FINGERPRINT_SHOWN,
    INPUTS,
    METRICS,
    N_FOLDS,
    SPREADS,
)
from headsweep.metrics.bootstrap import rarer_class_patients, resampled_ranking
from headsweep.metrics.ranking import Metric, average_precision, macro

if TYPE_CHECKING:
    import pandas as pd

TableRow = dict[str, str]

TEXTS = ("rank", "study", "head", "features", "trial", "n_seeds", "config", "data_fingerprint")
"""Columns that every leaderboard has and that hold no figure."""

WHOLE = ("rank", "trial", "n_seeds", "n_trials_searched")
"""Columns that hold whole numbers."""

NOTE = (
    "Ranks are those on valid, where rows were chosen. Below each value on test is its 95 % "
    "interval over resampled patients. A tied rank is one more than the number of rows "
    "that are significantly better on that split (AUPRC, paired bootstrap, Holm). Boards on "
    "different data are never ranked together."
)


@dataclass(frozen=True)
class Board:
    """Rows that share manifests and labels, best on valid first, with the columns of the table.

    Rows of studies with another metric than AUPRC are ordered by it, and have a column with it, if
    all of them have the same one. `rank` counts within the board. Between studies,
    `<stem>/tied_rank` is one more than the number of rows that are significantly better on that
    test split (macro AUPRC, paired bootstrap, Holm).
    """

    data_fingerprint: str
    rows: Sequence[TableRow]
    note: str = ""
    """By what the rows are ordered, where it is not AUPRC alone."""


@dataclass(frozen=True)
class Merged:
    """Boards on different data; rows of one board can be compared with each other."""

    boards: Sequence[Board]
    ensembles: Sequence[Mapping[str, Any]] = ()
    """Rows that average heads, in the form of `ensembles.csv`; never ranked."""
    left_out: Sequence[str] = ()
    """Finalists without logits, which cannot be averaged with the others."""

    @property
    def remark(self) -> str:
        """A sentence that says which finalists are not in the ensemble, if any."""
        if not self.left_out:
            return ""
        return f"Without logits, and so not in the ensemble: {', '.join(self.left_out)}."

    def to_dataframe(self) -> pd.DataFrame:
        """Return all boards as one DataFrame; `data_fingerprint` tells them apart."""
        return frame_of([row for board in self.boards for row in board.rows])

    def to_csv(self) -> str:
        """Return all boards as one CSV table; the ensembles are its last rows, without a rank."""
        return to_csv(self.boards, self.ensembles)

    def to_markdown(self) -> str:
        """Return a Markdown table for each board."""
        stems = stems_of(self.boards[0].rows[0])
        sections = ensembles_markdown(self.ensembles, stems)
        remark = [f"{self.remark}\n"] if self.remark else []
        return "\n".join([to_markdown(self.boards), *sections, *remark])

    def to_html(self) -> str:
        """Return a page that needs no other file."""
        return to_html(self.boards, self.ensembles)

    def to_table(self) -> str:
        """Return an HTML table for each test split of each board, without a page around them."""
        cards = [_card(board, stem) for board in self.boards for stem in stems_of(board.rows[0])]
        return render("tables_only.html", boards=cards)

    def _repr_html_(self) -> str:
        return self.to_table()


def frame_of(rows: Sequence[TableRow]) -> pd.DataFrame:
    """Return rows of `leaderboard.csv` as a DataFrame: whole numbers, floats and texts."""
    import pandas as pd

    frame = pd.DataFrame([{**row} for row in rows])
    for name in frame.columns:
        if name in WHOLE or name.endswith("/tied_rank"):
            frame[name] = frame[name].astype("int64")
        elif name not in (*TEXTS, INPUTS):
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
    return frame


def read_board(folder: Path) -> list[TableRow]:
    """Read the rows of one finished study from its `leaderboard.csv`.

    Returns:
        The rows, cells as text.

    Raises:
        OutputError: the folder holds no leaderboard, an empty one, or one that names files outside
            of it.
        VerificationError: it holds a link out of it.
    """
    check_contained(folder)
    path = folder / "leaderboard.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise OutputError(f"leaderboard not found: {path}") from None
    except (OSError, ValueError, csv.Error) as error:
        raise OutputError(f"{path}: cannot read the leaderboard: {error}") from None
    if not rows:
        raise OutputError(f"{path}: the leaderboard has no rows")
    for line, row in enumerate(rows, start=2):
        if (fault := _fault(row)) is not None:
            raise OutputError(f"{path}:{line}: {fault}")
    if len({row["rank"] for row in rows}) < len(rows):
        raise OutputError(f"{path}: a rank occurs twice")
    return rows


def _fault(row: TableRow) -> str | None:
    """Return what is wrong with a row of a leaderboard, if anything."""
    if None in row or None in row.values():
        return "the row has another number of cells than the header"
    stems = stems_of(row)
    figures = ["val/auprc_macro", "val/auprc_macro_std"]
    figures += [f"{s}/{metric}{end}" for s in stems for metric in METRICS for end in SPREADS]
    for name in (*TEXTS, *figures):
        if name not in row:
            return f"column {name!r} is missing"
    optional = [name for name in row if name in ADDED or "/unseen_" in name]
    for name in (*figures, *optional):
        if not _is_figure(row[name]):
            return f"{name} must be a finite number or empty, found {row[name]!r}"
    if not row["val/auprc_macro"]:
        return "val/auprc_macro is empty"
    for name in (row["config"], *stems):
        if escapes(name) or (name in stems and set(name) & {*"/\\*?["}):
            return f"{name!r} is not a file name inside of the leaderboard's folder"
    return None


def _is_figure(cell: str) -> bool:
    try:
        return not cell or math.isfinite(float(cell))
    except ValueError:
        return False


def merge(folders: Sequence[Path], *, ensemble: bool = False) -> Merged:
    """Merge finished studies.

    Args:
        folders: of the leaderboards.
        ensemble: average heads of all of them, which must then be on the same data.

    Returns:
        All finalists of one study; of several, the best of each, on one board for each set of data.

    Raises:
        OutputError: a folder holds no leaderboard, or one on other data, with `ensemble`.
        VerificationError: its predictions cannot be read.
    """
    averaged = Ensembles()
    if ensemble:
        averaged = ensemble_of_boards([(folder, read_board(folder)) for folder in folders])
    extra = (table_rows(averaged), averaged.left_out)
    if len(folders) == 1:
        rows = read_board(folders[0])
        order = order_of([(row, folders[0]) for row in rows])
        board = Board(rows[0]["data_fingerprint"], with_values(rows, order), order.note)
        return Merged([board], *extra)
    by_data: dict[str, list[tuple[TableRow, Path]]] = {}
    for folder in folders:
        best = read_board(folder)[0]
        by_data.setdefault(best["data_fingerprint"], []).append((best, folder))
    return Merged([_board(data, entries) for data, entries in by_data.items()], *extra)


def stems_of(row: Mapping[str, str]) -> list[str]:
    """Return the test splits that a row reports, in the order of its columns."""
    suffix = "/auprc_macro"
    return [
        name.removesuffix(suffix)
        for name in row
        if name.endswith(suffix) and not name.startswith("val/")
    ]


def to_csv(boards: Sequence[Board], ensembles: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return all boards as one CSV table, told apart by `data_fingerprint`.

    Ensembles are the last rows; their name is in the column `study`.
    """
    rows: list[Mapping[str, Any]] = [row for board in boards for row in board.rows]
    rows += [{"study": one["row"], **{k: one[k] for k in one if k != "row"}} for one in ensembles]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_markdown(boards: Sequence[Board]) -> str:
    """Return a Markdown table for each board: values on test and their intervals in one cell."""
    return "\n".join(_markdown(board) for board in boards)


def to_html(boards: Sequence[Board], ensembles: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return a page that needs no other file, with a table for each test split of each board."""
    cards = [_card(board, stem) for board in boards for stem in stems_of(board.rows[0])]
    if ensembles:
        lines = shown_lines(ensembles, stems_of(boards[0].rows[0]))
        rows = [[Cell(text) for text in line] for line in lines]
        cards.append(TableCard("Ensembles (not ranked)", ENSEMBLES_NOTE, HEADER, rows))
    return render("boards.html", title="Leaderboard", boards=cards, note=NOTE)


def _card(board: Board, stem: str) -> TableCard:
    header = ["rank", "study", "valid AUPRC", "AUPRC", "AUROC", "F1"]
    tied = f"{stem}/tied_rank" in board.rows[0]
    header += ["tied rank"] if tied else []
    rows = []
    for row in board.rows:
        cells = [
            Cell(row["rank"]),
            Cell(row["study"], f"trial {row['trial']}, {row['head']}, {inputs_of(row)}"),
            Cell(
                number(row["val/auprc_macro"]),
                spread(row["val/auprc_macro_std"])
                + (f", {row[N_FOLDS]} folds" if row.get(N_FOLDS) else ""),
            ),
        ]
        for metric in METRICS:
            ends = interval(*(row[f"{stem}/{metric}_ci_{end}"] for end in ("low", "high")))
            cells.append(Cell(number(row[f"{stem}/{metric}"]), ends))
        rows.append([*cells, *([Cell(row[f"{stem}/tied_rank"])] if tied else [])])
    text = f"Data {board.data_fingerprint[:FINGERPRINT_SHOWN]}. {board.note}".rstrip()
    return TableCard(stem, text, header, rows)


def inputs_of(row: TableRow) -> str:
    """Return the inputs of a row with their widths; an older board names only the inputs."""
    return row.get(INPUTS) or row["features"]


def _markdown(board: Board) -> str:
    rows = [_markdown_row(row) for row in board.rows]
    note = f"{board.note}\n\n" if board.note else ""
    return note + markdown_table(list(rows[0]), [list(row.values()) for row in rows])


def _markdown_row(row: TableRow) -> TableRow:
    cells = {name: row[name] for name in ("rank", "study", "head", "features", "trial")}
    cells["val/auprc_macro"] = _valid(row)
    cells |= {name: number(row[name]) for name in row if name in OBJECTIVE_COLUMNS}
    for stem in stems_of(row):
        for name in (f"{stem}/{metric}" for metric in METRICS):
            ends = interval(row[f"{name}_ci_low"], row[f"{name}_ci_high"])
            cells[name] = f"{number(row[name])} ({ends})"
        if (tied := f"{stem}/tied_rank") in row:
            cells[tied] = row[tied]
    return cells


def _valid(row: TableRow) -> str:
    value = f"{number(row['val/auprc_macro'])} {spread(row['val/auprc_macro_std'])}".rstrip()
    return f"{value} (out-of-fold)" if row.get(N_FOLDS) else value


def _board(data: str, entries: Sequence[tuple[TableRow, Path]]) -> Board:
    """Order the best finalists of studies on the same data, and compare them on test.

    Returns:
        The board.
    """
    order = order_of(entries)
    ordered = sorted(
        zip(with_values([row for row, _ in entries], order), entries, order.values, strict=True),
        key=lambda one: -one[2],
    )
    rows = [
        {**row, "rank": str(rank), "config": str(folder / row["config"])}
        for rank, (row, (_, folder), _) in enumerate(ordered, start=1)
    ]
    for stem in stems_of(rows[0]):
        names = [row["rank"] for row in rows]
        folders = [Path(row["config"]).parent for row in rows]
        values, draws, patients = zip(*(_macro_auprc(f, stem) for f in folders), strict=True)
        ranks = ranks_with_ties(names, compare_macro(names, values, draws, patients[0]))
        for row in rows:
            row[f"{stem}/tied_rank"] = str(ranks[row["rank"]])
    return Board(data, rows, order.note)


def _macro_auprc(finalist: Path, stem: str) -> tuple[float | None, Metric, float]:
    """Return macro AUPRC (mean over seeds), its values on resamples (B,), number of patients."""
    files = sorted(finalist.glob(f"seed_*/predictions/{stem}.parquet"))
    by_seed = read_seeds(files, finalist)
    targets = by_seed[0].targets
    ranking = np.stack([seed.ranking for seed in by_seed])
    resamples = shared_resamples(by_seed[0].patients)
    draws = macro(resampled_ranking(targets, ranking, resamples)[0]).mean(axis=0)
    patients = mean_patients(rarer_class_patients(targets, by_seed[0].patients))
    value = finite(macro(average_precision(targets, ranking)).mean())
    return value, np.asarray(draws), patients
