"""Print results as tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from headsweep.cli.exits import printable
from headsweep.leaderboard.formatting import number, spread

if TYPE_CHECKING:
    from headsweep.cli.beside import Row
    from headsweep.leaderboard.label_noise import LabelNoise
    from headsweep.leaderboard.merge import Board, Merged
    from headsweep.studies.summary import Summary

PLAIN_WIDTH = 200
"""Width of a table that is written to a file or a pipe, in characters."""


def console() -> Console:
    """Return a console on standard output; in a pipe, tables are wide rather than folded."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    console().print(table)


def print_leaderboard(folder: Path) -> None:
    """Print the leaderboard of a finished study.

    Raises:
        OutputError: the folder holds no leaderboard.
    """
    from headsweep.leaderboard.merge import merge

    boards = merge([folder]).boards
    print_boards(boards)
    print_beside(boards[0].rows[0], folder)


def print_boards(boards: Sequence[Board]) -> None:
    """Print every board as a table of its own, a line for each finalist and split."""
    from headsweep.leaderboard.board_order import OBJECTIVE_COLUMNS
    from headsweep.leaderboard.table import FINGERPRINT_SHOWN

    several = len({row["study"] for board in boards for row in board.rows}) > 1
    for board in boards:
        if len(boards) > 1:
            console().print(
                f"Data {board.data_fingerprint[:FINGERPRINT_SHOWN]}: "
                "not to be compared with the other tables"
            )
        metric = "/auprc_macro"
        splits = [n.removesuffix(metric) for n in board.rows[0] if n.endswith(metric)]
        lines = [line for row in board.rows for line in _finalist_lines(row, splits, named=several)]
        titles = [t for name, t in OBJECTIVE_COLUMNS.items() if name in board.rows[0]]
        if board.note:
            console().print(printable(board.note), soft_wrap=True)
        print_table(["rank", "finalist", "split", "AUPRC", "95% CI", "AUROC", *titles], lines)


def print_beside(best: Mapping[str, str], folder: Path, merged: Merged | None = None) -> None:
    """Print references and ensembles of a finished study, if it has any, beside its best finalist.

    Args:
        best: row of the best finalist.
        folder: of the leaderboard.
        merged: has the ensembles to show in place of the stored ones, if it has any.

    Raises:
        VerificationError: a table cannot be read.
    """
    from headsweep.cli.beside import ensemble_rows, reference_rows, stored_ensembles
    from headsweep.leaderboard.ensembles.files import ENSEMBLES_TABLE
    from headsweep.leaderboard.references.reading import REFERENCES_TABLE

    fresh = ensemble_rows(merged.ensembles if merged else ())
    stored = [] if fresh else stored_ensembles(folder)
    references = reference_rows(folder)
    _print_beside(best, [*references, *(fresh or stored)])
    files = {REFERENCES_TABLE: references, ENSEMBLES_TABLE: stored}
    if named := [name for name, rows in files.items() if rows]:
        text = f"intervals and other metrics: {' and '.join(named)} in {folder}"
        console().print(printable(text), soft_wrap=True)


def print_ensembles(merged: Merged) -> None:
    """Print the rows that average heads of the merged studies, if there are any."""
    from headsweep.cli.beside import ensemble_rows

    _print_beside(merged.boards[0].rows[0], ensemble_rows(merged.ensembles))


def _print_beside(best: Mapping[str, str], rows: Sequence[Row]) -> None:
    from headsweep.cli.beside import LEGEND, WIDTH, beside_tables

    shown = console()
    for header, lines in beside_tables(best, rows, min(WIDTH, shown.width)):
        shown.print()
        print_table(header, lines)
    if rows:
        shown.print(LEGEND, soft_wrap=True)


def print_label_noise(noise: LabelNoise) -> None:
    """Print for every split how often labels differ, and all rows under both labels."""
    from headsweep.leaderboard.label_noise import (
        LABELS_HEADER,
        ROWS_HEADER,
        label_lines,
        row_lines,
    )

    for one in noise.splits:
        console().print(printable(one.summary), soft_wrap=True)
        print_table(ROWS_HEADER, row_lines(one))
        print_table(LABELS_HEADER, label_lines(one))


def _finalist_lines(
    row: Mapping[str, str], splits: Sequence[str], *, named: bool
) -> Iterator[tuple[str, ...]]:
    """Yield one line for each split, with the finalist's description beside them, in 80 columns."""
    from headsweep.leaderboard.board_order import OBJECTIVE_COLUMNS

    name = row["study"] if named else f"trial {row['trial']}"
    described = [name, f"{row['head']}, {row['features']}", f"{row['n_seeds']} seeds"]
    measured = [_split_cells(row, split) for split in splits]
    ranks = [row["rank"]]
    own = [number(row[name]) for name in OBJECTIVE_COLUMNS if name in row]
    for rank, text, cells in zip_longest(ranks, described, measured, fillvalue=""):
        yield (rank, text, *(cells or ("", "", "", "")), *(own if rank else [""] * len(own)))


def _split_cells(row: Mapping[str, str], split: str) -> tuple[str, ...]:
    low, high = (row.get(f"{split}/auprc_macro_ci_{end}", "") for end in ("low", "high"))
    n_folds = row.get("n_folds") if split == "val" else None
    return (
        f"val, {n_folds} folds" if n_folds else split,
        _mean_and_spread(row, f"{split}/auprc_macro"),
        f"{float(low):.3f}–{float(high):.3f}" if low and high else "",
        _mean_and_spread(row, f"{split}/auroc_macro"),
    )


def _mean_and_spread(row: Mapping[str, str], name: str) -> str:
    """Return `mean ± std` over seeds; empty without such a metric, a dash if it is undefined."""
    if name not in row:
        return ""
    return f"{number(row[name])} {spread(row[f'{name}_std'])}".rstrip()


def print_evaluation(metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the macro metrics of every manifest, with their intervals over patients."""
    names = ("auprc_macro", "auroc_macro", "f1_macro")
    rows = [
        [stem, *(_mean_and_interval(split[name]) for name in names), str(split["n_rows"])]
        for stem, split in metrics.items()
    ]
    print_table(["manifest", "AUPRC [95% CI]", "AUROC [95% CI]", "F1 [95% CI]", "rows"], rows)


def print_alignment(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the means of every protocol: a table for each set of metrics."""
    tables: dict[tuple[str, ...], list[list[str]]] = {}
    for stem, result in results.items():
        measured = {"similarity": result["similarity"], **result["protocols"]}
        for protocol, directions in measured.items():
            for direction, summary in directions.items():
                means = {name: s["mean"] for name, s in summary.items() if name != "n_queries"}
                cells = [number(mean) for mean in means.values()]
                row = [stem, protocol, direction, str(summary["n_queries"]), *cells]
                tables.setdefault(tuple(means), []).append(row)
    for metrics, rows in tables.items():
        print_table(["manifest", "protocol", "direction", "queries", *metrics], rows)


def _mean_and_interval(summary: Mapping[str, float | None]) -> str:
    mean, low, high = (summary[name] for name in ("mean", "ci_low", "ci_high"))
    ends = "" if low is None or high is None else f" [{number(low)}, {number(high)}]"
    return number(mean) + ends


def _effort_cells(summary: Summary) -> list[str]:
    """Return the shares of the workers' time, and how full their engines were."""
    effort = summary.effort
    shares = [f"{share:.0%}" for share in effort.shares.values()]
    return [
        summary.study,
        *shares,
        f"{effort.occupancy or 0:.0%}",
        f"{effort.slots_per_step or 0:.1f}",
        f"{effort.us_per_slot_step or 0:,.0f}",
    ]


def print_end(summary: Summary) -> None:
    """Print the summary of a search that has ended."""
    from headsweep.launching.progress import saved, stopped

    print(saved(summary))
    if summary.stopped_by is not None:
        print(stopped(summary))


def print_status(summaries: Sequence[Summary]) -> None:
    """Print the progress of every study, one row for each."""
    from headsweep.launching.progress import line

    rows = [
        [s.study, f"{s.finished}/{s.n_trials}", str(s.live_workers), line(s)] for s in summaries
    ]
    print_table(["study", "done", "workers", "trials"], rows)
    hosts = [
        [summary.study, host, str(workers)]
        for summary in summaries
        for host, workers in summary.workers_by_host.items()
    ]
    if hosts:
        console().print()
        print_table(["study", "host", "workers"], hosts)
    spent = [_effort_cells(s) for s in summaries if s.effort.shares]
    if spent:
        console().print()
        shares = ("training", "metrics", "store", "waiting")
        print_table(["study", *shares, "slots used", "slots a step", "µs a slot-step"], spent)
    for summary in summaries:
        if summary.n_refused:
            reason = f"{summary.study}: refused, as their params do not fit the space"
            console().print(printable(f"{reason}: {summary.n_refused} trials"))
        if summary.last_failure:
            said = f"{summary.study}: the last failure was: {summary.last_failure}"
            console().print(printable(said))
