"""Progress on standard error, drawn only where a person watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from headsweep.engine.slots import EpochReport


def is_interactive() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr.isatty()


@contextmanager
def epochs_shown(max_epochs: int) -> Iterator[Callable[[EpochReport], None]]:
    """Yields the function that shows an epoch's report."""
    columns = (
        TextColumn("epoch"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not is_interactive()) as bar:
        task = bar.add_task("epoch", total=max_epochs, text="")

        def show(report: EpochReport) -> None:
            text = f"val AUPRC {report.auprc_macro:.4f}, best {report.best_auprc_macro:.4f}"
            bar.update(task, completed=report.epoch, text=text)

        yield show
