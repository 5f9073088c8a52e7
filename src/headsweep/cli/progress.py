"""The progress of one head's training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from headsweep.progress import progress_bar

if TYPE_CHECKING:
    from headsweep.engine.slots import EpochReport

TITLES = {"auprc_macro": "AUPRC", "auroc_macro": "AUROC"}


@contextmanager
def epochs_shown(max_epochs: int) -> Iterator[Callable[[EpochReport], None]]:
    """Show a progress bar that counts epochs.

    Args:
        max_epochs: number of epochs of a training that does not stop early.

    Yields:
        The function that shows an epoch's report.
    """
    with progress_bar("epoch", max_epochs) as bar:
        yield lambda report: bar.update(
            report.epoch,
            text=f"val {TITLES.get(report.metric, report.metric)} {report.value:.4f}, "
            f"best {report.best_value:.4f}",
        )
