"""Manifests: one CSV file a split, with volumes, feature paths, labels and reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headsweep.config.data_sections import BlankLabels, ColumnsConfig, ManifestColumns
from headsweep.data.columns import (
    BLANK_CELLS,
    LABEL_VALUES,
    feature_columns,
    label_columns,
    unused_labels,
)
from headsweep.data.ct_rate.names import (
    FINDINGS,
    NOT_GIVEN,
    VOLUME_NAME,
    patient_of,
    scan_of,
    volume_of,
)
from headsweep.data.faults import Fault
from headsweep.data.manifest_faults import header_faults, row_faults, row_number
from headsweep.data.splits import rows_fingerprint
from headsweep.data.tables import Table, normalized, read_table
from headsweep.errors import ManifestError
from headsweep.metrics.masking import labelled

ALL_BLANK = "a manifest must have labels, found only blank label cells: leave the file out"


@dataclass(frozen=True, eq=False)
class Manifest:
    """The rows of one manifest file.

    `rows` are the rows' numbers in the file (the header is row 1); `targets` has shape
    (rows, labels) and is `BLANK` where a label is masked; feature paths are relative to
    `paths.data_root`, empty where a row has none. `unused` names the columns that hold 0 and 1 but
    are not among `labels`; `named_groups` says whether columns name the patients or scans, which
    otherwise follow from the volume names.
    """

    path: Path
    rows: tuple[int, ...]
    volumes: tuple[str, ...]
    patients: tuple[str, ...]
    scans: tuple[str, ...]
    labels: tuple[str, ...]
    targets: NDArray[np.uint8]
    feature_paths: Mapping[str, tuple[str, ...]]
    reports: tuple[str, ...] | None
    named_groups: bool = False
    unused: tuple[str, ...] = ()
    warnings: tuple[Fault, ...] = ()
    label_map: str | None = None
    """Name of the file through which the labels were read; None where the columns are theirs."""
    label_map_fingerprint: str | None = None

    @property
    def name(self) -> str:
        """The file's stem, which names the split."""
        return self.path.stem

    def location(self, index: int) -> str:
        """Return file and number of the row at an index, as `file:row`."""
        return f"{self.path}:{self.rows[index]}"

    def take(self, indices: Iterable[int]) -> Manifest:
        """Return the manifest of some rows, in the given order."""
        chosen = [int(index) for index in indices]

        def pick(values: Sequence[str]) -> tuple[str, ...]:
            return tuple(values[index] for index in chosen)

        return replace(
            self,
            rows=tuple(self.rows[index] for index in chosen),
            volumes=pick(self.volumes),
            patients=pick(self.patients),
            scans=pick(self.scans),
            targets=self.targets[chosen],
            feature_paths={key: pick(paths) for key, paths in self.feature_paths.items()},
            reports=pick(self.reports) if self.reports is not None else None,
        )

    def with_labels(self, labels: Sequence[str]) -> Manifest:
        """Put the label columns into the given order.

        Returns:
            The same rows.

        Raises:
            ManifestError: the manifest's labels are not these.
        """
        if set(labels) != set(self.labels):
            differing = sorted(set(labels) ^ set(self.labels))
            raise ManifestError(
                f"{self.path}: all manifests must have the same labels "
                f"(training.target_labels chooses some), found a difference in {differing}"
            )
        order = [self.labels.index(label) for label in labels]
        return replace(self, labels=tuple(labels), targets=self.targets[:, order])

    def fingerprint(self) -> str:
        """Return SHA-256 over volumes, labels and targets, but not over the path."""
        groups = (self.patients, self.scans) if self.named_groups else ()
        return rows_fingerprint(self.volumes, self.labels, self.targets, groups)


def read_manifest(
    path: Path,
    columns: ColumnsConfig,
    target_labels: tuple[str, ...] | None,
    blank_labels: BlankLabels = "refuse",
) -> Manifest:
    """Read the manifest in a CSV file.

    Args:
        path: the file.
        columns: names of the columns that hold no labels.
        target_labels: label columns to read, in this order. None reads the CT-RATE labels that
            the header has or, when it has none, every column that is no path, report or metadata.
            An empty tuple reads no label.
        blank_labels: whether blank label cells are faults or masked.

    Returns:
        The manifest.

    Raises:
        ManifestError: the first fault of the file, with its row.
    """
    table = read_table(path, kind="manifest")
    manifest, faults = _inspect(table, columns, target_labels, blank_labels)
    errors = [fault for fault in faults if fault.severity == "error"]
    if errors or manifest is None:
        raise ManifestError(summary_of_faults(errors))
    return manifest


def read_without_labels(path: Path, columns: ColumnsConfig) -> Manifest:
    """Read a manifest without its labels and reports: names, patients, scans and feature paths.

    Args:
        path: the file.
        columns: names of the columns.

    Returns:
        The manifest, without labels.

    Raises:
        ManifestError: the first fault of the file, with its row.
    """
    table, named = read_table(path, kind="manifest"), _normalized(columns)
    names = {named.volume, named.patient, named.scan, *named.feature_columns().values()}
    header = tuple(name for name in table.header if name in names)
    rows = replace(table, header=header, cells=table.cells[list(dict.fromkeys(header))])
    manifest, faults = _inspect(rows, columns, (), "refuse")
    errors = [fault for fault in faults if fault.severity == "error"]
    if errors or manifest is None:
        raise ManifestError(summary_of_faults(errors))
    return manifest


def summary_of_faults(errors: Sequence[Fault]) -> str:
    """Return one line of the first fault, and how many more there are."""
    more = f" (and {len(errors) - 1} more faults)" if len(errors) > 1 else ""
    return f"{errors[0]}{more}"


def read_partly_labelled(
    path: Path,
    columns: ColumnsConfig,
    labels: Sequence[str],
    blank_labels: BlankLabels = "refuse",
) -> Manifest:
    """Read a manifest that may lack labels: rows to be scored.

    Args:
        path: the file.
        columns: names of the columns that hold no labels.
        labels: the labels of the head that scores the rows.
        blank_labels: `mask` keeps a label that some rows leave blank, and masks these.

    Returns:
        The manifest, with those of `labels` that its header has and that no row (with `mask`, not
        every row) leaves blank.

    Raises:
        ManifestError: as `read_manifest`.
    """
    table = read_table(path, kind="manifest")
    given = tuple(
        label
        for label in labels
        if label in table.header and not _left_out(table.cells[label], blank_labels)
    )
    return read_manifest(path, columns, given, blank_labels)


def _left_out(cells: pd.Series[str], blank_labels: BlankLabels) -> bool:
    if blank_labels == "refuse":
        return bool((cells == "").any())
    return bool(cells.isin(BLANK_CELLS).all())


def inspect_manifest(
    path: Path,
    columns: ColumnsConfig,
    target_labels: tuple[str, ...] | None,
    blank_labels: BlankLabels = "refuse",
) -> tuple[Manifest | None, list[Fault]]:
    """Read a manifest without stopping at its first fault.

    Args:
        path: the file.
        columns: names of the columns that hold no labels.
        target_labels: as for `read_manifest`.
        blank_labels: as for `read_manifest`.

    Returns:
        The rows without faults, and all faults; no manifest when the file itself is at fault.
    """
    try:
        table = read_table(path, kind="manifest")
    except ManifestError as error:
        message = str(error).removeprefix(f"{path}: ").removesuffix(f": {path}")
        return None, [Fault(path, None, message)]
    return _inspect(table, columns, target_labels, blank_labels)


def _inspect(
    table: Table,
    columns: ColumnsConfig,
    target_labels: tuple[str, ...] | None,
    blank_labels: BlankLabels,
) -> tuple[Manifest | None, list[Fault]]:
    path = table.path
    columns = _normalized(columns)
    labels = label_columns(table.header, columns, target_labels)
    faults = header_faults(table, columns, labels)
    if not labels and target_labels is None:
        faults.append(Fault(path, 1, "a manifest must have a label column: one that holds 0 and 1"))
    if table.cells.empty and not table.faults:
        faults.append(Fault(path, None, "a manifest must have rows, found only a header"))
    if faults:
        return None, faults
    found, warnings = row_faults(table, columns, labels, blank_labels)
    faults = sorted([*table.faults, *found], key=lambda fault: fault.row or 0)
    at_fault = {fault.row for fault in faults}
    cells = table.cells.loc[[row not in at_fault for row in table.cells.index]]
    manifest = _assemble(table, cells, columns, labels, blank_labels)
    if labels and len(cells) and not labelled(manifest.targets).any():
        faults.append(Fault(path, None, ALL_BLANK))
    warnings += unused_warning(manifest, target_labels)
    return replace(manifest, warnings=tuple(warnings)), [*faults, *warnings]


def refuse_mixed_labels(manifest: Manifest, target_labels: tuple[str, ...] | None) -> None:
    """Refuse to choose between CT-RATE's labels and others when the config names none.

    Raises:
        ManifestError: the manifest has CT-RATE's labels and others, and `target_labels` is None.
    """
    if target_labels is None and manifest.unused:
        raise ManifestError(f"{manifest.path}:1: {mixed_labels(manifest)}")


def mixed_labels(manifest: Manifest) -> str:
    """Return the sentence that asks which labels to train."""
    return (
        f"{_listed(manifest.unused)} hold 0 and 1 beside the {len(manifest.labels)} labels of "
        "CT-RATE: list all labels to train in training.target_labels, with or without them"
    )


def unused_warning(manifest: Manifest, target_labels: tuple[str, ...] | None) -> list[Fault]:
    """Return the warning of columns that hold 0 and 1 but are not read, if there are any."""
    if not manifest.unused or target_labels == ():
        return []
    if target_labels is None:
        return [Fault(manifest.path, 1, mixed_labels(manifest), severity="warning")]
    message = (
        f"{_listed(manifest.unused)} hold 0 and 1 but are not used: to train them too, add them "
        "to training.target_labels"
    )
    return [Fault(manifest.path, 1, message, severity="warning")]


def _listed(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"the columns {', '.join(map(repr, names[:most]))}{more}"


def _normalized(columns: ColumnsConfig) -> ColumnsConfig:
    """Return the names as a table's header has them, without surrounding spaces."""
    names: dict[str, Any] = {
        key: value and normalized(value)
        for key, value in columns.model_dump(exclude={"inputs"}).items()
    }
    if isinstance(columns, ManifestColumns):
        names["inputs"] = tuple((name, normalized(column)) for name, column in columns.inputs)
    return columns.model_copy(update=names)


def _assemble(
    table: Table,
    cells: pd.DataFrame,
    columns: ColumnsConfig,
    labels: tuple[str, ...],
    blank_labels: BlankLabels,
) -> Manifest:
    volumes = tuple(map(volume_of, cells[columns.volume]))
    targets = np.zeros((len(cells), len(labels)), np.uint8)
    for j, label in enumerate(labels):
        targets[:, j] = cells[label].map(LABEL_VALUES | BLANK_CELLS)
    reports = [name for name in FINDINGS if name in table.header]
    features = feature_columns(table.header, columns)
    return Manifest(
        path=table.path,
        rows=tuple(map(row_number, cells.index)),
        volumes=volumes,
        patients=_named_or(cells, columns.patient, map(_patient, volumes)),
        scans=_named_or(cells, columns.scan, map(_scan, volumes)),
        labels=labels,
        targets=targets,
        feature_paths={name: tuple(cells[column]) for name, column in features.items()},
        reports=tuple(map(_joined, zip(*(cells[name] for name in reports), strict=True)))
        if reports
        else None,
        named_groups=bool(columns.patient or columns.scan),
        unused=unused_labels(cells[list(table.header)], columns, labels, blank_labels),
    )


def _named_or(cells: pd.DataFrame, column: str | None, otherwise: Iterable[str]) -> tuple[str, ...]:
    return tuple(otherwise) if column is None else tuple(cells[column])


def _patient(volume: str) -> str:
    return patient_of(volume) if VOLUME_NAME.fullmatch(volume) else volume


def _scan(volume: str) -> str:
    return scan_of(volume) if VOLUME_NAME.fullmatch(volume) else volume


def _joined(sections: Iterable[str]) -> str:
    return " ".join(section for section in sections if section not in {"", NOT_GIVEN})
