"""Results as tables for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from headsweep.leaderboard.merged import Board
    from headsweep.studies.trials import Summary

PLAIN_WIDTH = 200
"""Columns of a table that goes to a file or a pipe, where no terminal says how wide it is."""


STATES = {
    "complete": "COMPLETE",
    "pruned": "PRUNED",
    "running": "RUNNING",
    "waiting": "WAITING",
    "failed": "FAIL",
}
"""Columns of the status table, and Optuna's states that they count."""


def console() -> Console:
    """Standard output; in a pipe, tables are wide rather than folded."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def print_leaderboard(folder: Path) -> None:
    """Print the leaderboard of a finished study.

    Raises:
        OutputError: the folder holds no leaderboard.
    """
    from headsweep.leaderboard.merged import merge

    print_boards(merge([folder]))


def print_boards(boards: Sequence[Board]) -> None:
    """Print every board as a table of its own, a line for each finalist and split."""
    for board in boards:
        several = len({row["study"] for row in board.rows}) > 1
        described = ["rank", "study" if several else "trial", "head", "features", "n_seeds"]
        metric = "/auprc_macro"
        names = board.rows[0]
        splits = [name.removesuffix(metric) for name in names if name.endswith(metric)]
        header = [*described[:-1], "seeds", "split", "AUPRC", "95% CI", "AUROC"]
        print_table(
            header,
            [line for row in board.rows for line in _finalist_lines(row, described, splits)],
        )


def _finalist_lines(
    row: Mapping[str, str], described_by: Sequence[str], splits: Sequence[str]
) -> Iterator[list[str]]:
    """A line a split; those after the first leave out what describes the finalist."""
    described = [row[name] for name in described_by]
    for split in splits:
        low, high = (row.get(f"{split}/auprc_macro_ci_{end}", "") for end in ("low", "high"))
        yield [
            *described,
            split,
            _mean_and_spread(row, f"{split}/auprc_macro"),
            f"{float(low):.3f} to {float(high):.3f}" if low and high else "",
            _mean_and_spread(row, f"{split}/auroc_macro"),
        ]
        described = [""] * len(described)


def _mean_and_spread(row: Mapping[str, str], name: str) -> str:
    """`mean ± std` over seeds; empty where the board has no such metric or it is undefined."""
    if not row.get(name):
        return ""
    spread = row[f"{name}_std"]
    return f"{float(row[name]):.3f}" + (f" ± {float(spread):.3f}" if spread else "")


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
                cells = ["-" if mean is None else f"{mean:.3f}" for mean in means.values()]
                row = [stem, protocol, direction, str(summary["n_queries"]), *cells]
                tables.setdefault(tuple(means), []).append(row)
    for metrics, rows in tables.items():
        print_table(["manifest", "protocol", "direction", "queries", *metrics], rows)


def _mean_and_interval(summary: Mapping[str, float | None]) -> str:
    mean, low, high = (summary[name] for name in ("mean", "ci_low", "ci_high"))
    if mean is None:
        return "-"
    return f"{mean:.3f}" + (f" [{low:.3f}, {high:.3f}]" if None not in (low, high) else "")


def print_status(summaries: Sequence[Summary]) -> None:
    """Print how far every study is, a row a study."""
    header = ["study", "done", *STATES, "workers", "best", "trials/min", "minutes left", "saved"]
    print_table(header, [_status_row(summary) for summary in summaries])
    for summary in summaries:
        if summary.last_failure:
            console().print(f"{summary.study}: the last failure was: {summary.last_failure}")


def _status_row(summary: Summary) -> list[str]:
    left = summary.minutes_left
    return [
        summary.study,
        f"{summary.finished}/{summary.n_trials}",
        *(str(summary.states[state]) for state in STATES.values()),
        str(summary.live_workers),
        "-" if summary.best_value is None else f"{summary.best_value:.4f}",
        f"{summary.trials_per_minute:.1f}",
        "-" if left is None else f"{left:.1f}",
        f"{summary.share_not_trained:.0%}",
    ]
