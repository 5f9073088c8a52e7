"""Labels with one class only in a split, where their AUPRC and AUROC are undefined."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from headsweep.data.splits import Split
from headsweep.errors import HeadsweepWarning
from headsweep.metrics.masking import Targets, labelled_counts, positive_counts

SHOWN = 5
"""Labels that one warning names."""


def one_class_labels(labels: Sequence[str], targets: Targets) -> list[tuple[str, int, int]]:
    """Find the labels without positives or without negatives.

    Args:
        labels: names of the columns of `targets`.
        targets: (n, c), 0, 1 or blank.

    Returns:
        For each such label its name, its positives, and its rows that are not blank.
    """
    counts = positive_counts(targets).tolist(), labelled_counts(targets).tolist()
    return [
        (label, positives, rows)
        for label, positives, rows in zip(labels, *counts, strict=True)
        if positives in (0, rows)
    ]


def warn_of_one_class(*splits: Split) -> None:
    """Warn of labels with one class only, one line for each split that has some."""
    for split in splits:
        found = one_class_labels(split.labels, split.targets)
        if not found:
            continue
        shown = [f"{label!r} ({positives} of {rows} rows)" for label, positives, rows in found]
        more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
        warnings.warn(
            f"{split.name}: {len(found)} of {len(split.labels)} labels do not have both positives "
            f"and negatives, so their AUPRC and AUROC are undefined there; positives: "
            f"{', '.join(shown[:SHOWN])}{more}",
            HeadsweepWarning,
            stacklevel=2,
        )
