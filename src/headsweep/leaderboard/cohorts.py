"""The cohorts of a leaderboard: who is in each split, and where the labels come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headsweep.data.dataset import Split
from headsweep.data.tables import write_table
from headsweep.metrics.masking import labelled, labelled_counts

COHORTS = "cohorts.csv"

HEADER = {
    "split": "split",
    "rows": "rows",
    "scans": "scans",
    "patients": "patients",
    "labels": "labels",
    "blank_labels": "blank",
    "label_source": "label source",
}
"""Facts of a cohort, and their names in the report."""


def describe_cohorts(splits: Sequence[Split]) -> list[dict[str, Any]]:
    """Describe every split: its size, and where its labels come from.

    `labels` counts the labels that some row has. `blank_labels` counts the blank entries of these.

    Returns:
        Plain data, one mapping for each split, with the keys of `HEADER`.
    """
    return [_described(split) for split in splits]


def _described(split: Split) -> dict[str, Any]:
    has = labelled_counts(split.targets) > 0
    return {
        "split": split.name,
        "rows": len(split.volumes),
        "scans": len(set(split.scans)),
        "patients": len(set(split.patients)),
        "labels": int(has.sum()),
        "blank_labels": int((~labelled(split.targets[:, has])).sum()),
        "label_source": split.label_source,
    }


def write_cohorts(cohorts: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a table with a row for each split.

    Raises:
        OutputError: the file cannot be written.
    """
    write_table(path, tuple(HEADER), list(cells(cohorts)))


def cells(cohorts: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Yield the texts of every split's row."""
    for cohort in cohorts:
        yield [str(cohort[name]) for name in HEADER]
