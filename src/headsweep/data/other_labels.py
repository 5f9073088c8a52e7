"""A second file of labels for rows that have labels already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headsweep.config.data_sections import ColumnsConfig
from headsweep.config.messages import nearest
from headsweep.data.columns import BLANK_CELLS, LABEL_VALUES
from headsweep.data.ct_rate.names import volume_of
from headsweep.data.tables import read_table
from headsweep.errors import ManifestError

VOLUME_NAME = "VolumeName"
"""Column of the volumes in CT-RATE's own label tables."""


@dataclass(frozen=True, eq=False)
class OtherLabels:
    """Targets by volume from one file; `BLANK` where a cell is empty."""

    path: Path
    labels: tuple[str, ...]
    index: Mapping[str, int]
    targets: NDArray[np.uint8]

    def targets_of(self, split: str, volumes: Sequence[str]) -> NDArray[np.uint8] | None:
        """Return the targets (n, c) of a split's rows.

        Args:
            split: name of the split, for the message.
            volumes: of its rows.

        Returns:
            The targets; None if the file holds no row of the split.

        Raises:
            ManifestError: the file holds some of the rows only.
        """
        missing = [volume for volume in volumes if volume not in self.index]
        if len(missing) == len(volumes):
            return None
        if missing:
            raise ManifestError(
                f"{self.path}: {len(missing)} of the {len(volumes)} rows of {split} are missing, "
                f"such as {missing[0]}; a split must be in the file as a whole or not at all"
            )
        return self.targets[[self.index[volume] for volume in volumes]]

    def refuse_nothing_new(
        self, own: Mapping[str, NDArray[np.uint8]], other: Mapping[str, NDArray[np.uint8]]
    ) -> None:
        """Refuse a file from which nothing can be learned.

        Args:
            own: targets of the splits that the file holds, by split.
            other: the file's targets of the same splits.

        Raises:
            ManifestError: the file holds no split, or the same labels.
        """
        if not other:
            raise ManifestError(
                f"{self.path}: no row of the leaderboard's splits is in the file; its volumes are "
                f"named like {next(iter(self.index), 'nothing')!r}"
            )
        if all(np.array_equal(own[name], found) for name, found in other.items()):
            raise ManifestError(
                f"{self.path}: the labels are the same as the leaderboard's in all rows of "
                f"{', '.join(other)}; nothing to compare"
            )


def read_other_labels(path: Path, columns: ColumnsConfig, labels: Sequence[str]) -> OtherLabels:
    """Read labels of rows that have others already: a manifest, or CT-RATE's table of labels.

    Args:
        path: a CSV file with a column of volumes and a column for each label.
        columns: names the column of volumes; `VolumeName` is accepted too.
        labels: which columns to read.

    Returns:
        The labels.

    Raises:
        ManifestError: the file cannot be read, lacks a column, repeats a volume, or holds something
            else than 0, 1 or nothing.
    """
    table = read_table(path, kind="label file")
    if table.faults:
        raise ManifestError(str(table.faults[0]))
    volume = next((n for n in (columns.volume, VOLUME_NAME) if n in table.header), None)
    for name in (columns.volume if volume is None else volume, *labels):
        if name not in table.header:
            raise ManifestError(
                f"{path}:1: column {name!r} is missing.{nearest(name, table.header)}"
            )
    index: dict[str, int] = {}
    for i, (row, cell) in enumerate(table.cells[str(volume)].items()):
        if index.setdefault(volume_of(cell), i) != i:
            raise ManifestError(f"{path}:{row}: volume {volume_of(cell)!r} occurs twice")
    values = {**LABEL_VALUES, **BLANK_CELLS}
    targets = np.zeros((len(table.cells), len(labels)), np.uint8)
    for j, label in enumerate(labels):
        cells = table.cells[label]
        for row, cell in cells[~cells.isin(values)].items():
            raise ManifestError(
                f"{path}:{row}: a label must be 0, 1 or empty, found {cell!r} in column {label!r}"
            )
        targets[:, j] = cells.map(values)
    return OtherLabels(path, tuple(labels), index, targets)
