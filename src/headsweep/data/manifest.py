"""Manifests: one CSV file a split, with volumes, feature paths, labels and reports."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headsweep.config.schema import ColumnsConfig, Modality, escapes
from headsweep.data.ct_rate.names import (
    FINDINGS,
    LABELS,
    METADATA_COLUMNS,
    NOT_GIVEN,
    REPORT_COLUMNS,
    VOLUME_NAME,
    patient_of,
    scan_of,
    volume_of,
)
from headsweep.data.faults import Fault
from headsweep.errors import ManifestError

__all__ = [
    "LABEL_VALUES",
    "Manifest",
    "inspect_manifest",
    "label_columns",
    "patient_of",
    "read_manifest",
    "read_partly_labelled",
    "scan_of",
]

LABEL_VALUES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
"""Spellings of a label; pandas writes `1.0` once a column has held a missing value."""


@dataclass(frozen=True, eq=False)
class Manifest:
    """The rows of one manifest file.

    `rows` are the rows' numbers in the file (the header is row 1); `targets` has shape
    (rows, labels); feature paths are relative to `paths.data_root`, empty where a row has none.
    """

    path: Path
    rows: tuple[int, ...]
    volumes: tuple[str, ...]
    patients: tuple[str, ...]
    scans: tuple[str, ...]
    labels: tuple[str, ...]
    targets: NDArray[np.uint8]
    feature_paths: Mapping[Modality, tuple[str, ...]]
    reports: tuple[str, ...] | None

    @property
    def name(self) -> str:
        """The file's stem, which names the split."""
        return self.path.stem

    def place(self, index: int) -> str:
        """Where the row at an index stands, as `file:row`."""
        return f"{self.path}:{self.rows[index]}"

    def take(self, indices: Iterable[int]) -> Manifest:
        """The manifest of some rows, in the given order."""
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
        """The same rows with the label columns in the given order.

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
        """SHA-256 over volumes, labels and targets; independent of the file's place and times."""
        digest = hashlib.sha256("\n".join((*self.volumes, "", *self.labels)).encode())
        digest.update(np.ascontiguousarray(self.targets).tobytes())
        return digest.hexdigest()


def read_manifest(
    path: Path, columns: ColumnsConfig, target_labels: tuple[str, ...] | None
) -> Manifest:
    """The manifest in a CSV file.

    Args:
        path: the file.
        columns: names of the volume and feature path columns.
        target_labels: label columns to read, in this order. None reads the CT-RATE labels that
            the header has or, when it has none, every column that is no path, report or metadata.
            An empty tuple reads no label.

    Raises:
        ManifestError: the first fault of the file, with its row.
    """
    manifest, faults = inspect_manifest(path, columns, target_labels)
    if faults or manifest is None:
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise ManifestError(f"{faults[0]}{more}")
    return manifest


def read_partly_labelled(path: Path, columns: ColumnsConfig, labels: Sequence[str]) -> Manifest:
    """The manifest in a CSV file, with those of `labels` that its header has: maybe none.

    Raises:
        ManifestError: as `read_manifest`.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        header = []  # `read_manifest` says what is wrong
    return read_manifest(path, columns, tuple(label for label in labels if label in header))


def inspect_manifest(
    path: Path, columns: ColumnsConfig, target_labels: tuple[str, ...] | None
) -> tuple[Manifest | None, list[Fault]]:
    """The sound rows of a manifest and all faults; no manifest when the file itself is at fault."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *records = list(csv.reader(file, strict=True)) or [[]]
    except FileNotFoundError:
        return None, [Fault(path, None, "a manifest must exist, found no file")]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return None, [Fault(path, None, f"a manifest must be CSV text in UTF-8, found {error}")]

    labels = label_columns(header, columns, target_labels)
    faults = _header_faults(path, header, columns, labels)
    if not labels and target_labels is None:
        faults.append(Fault(path, 1, "a manifest must have a label column, found none"))
    if not any(records):
        faults.append(Fault(path, None, "a manifest must have rows, found only a header"))
    if faults:
        return None, faults

    features = list(_feature_columns(header, columns).values())
    sound: dict[str, tuple[int, dict[str, str]]] = {}
    for row, record in enumerate(records, start=2):
        if not record:
            continue
        cells = dict(zip(header, (cell.strip() for cell in record), strict=False))
        messages = (
            list(_row_faults(cells, columns.volume, features, labels))
            if len(record) == len(header)
            else [f"a row must have {len(header)} cells, found {len(record)}"]
        )
        volume = volume_of(cells[columns.volume]) if columns.volume in cells else ""
        if not messages and volume in sound:
            messages = [f"a volume must be in one row, found {volume!r} also in row "
                        f"{sound[volume][0]}"]  # fmt: skip
        if messages:
            faults += [Fault(path, row, message) for message in messages]
        else:
            sound[volume] = (row, cells)
    return _assemble(path, header, columns, labels, sound), faults


def label_columns(
    header: Sequence[str], columns: ColumnsConfig, target_labels: tuple[str, ...] | None
) -> tuple[str, ...]:
    """The label columns of a table with this header; see `read_manifest` for the rule."""
    if target_labels is not None:
        return target_labels
    known = tuple(name for name in header if name in LABELS)
    if known:
        return known
    other = {columns.volume, *REPORT_COLUMNS, *METADATA_COLUMNS}
    return tuple(name for name in header if name not in other and not name.endswith("_path"))


def _feature_columns(header: Sequence[str], columns: ColumnsConfig) -> dict[Modality, str]:
    names: dict[Modality, str] = {"visual": columns.visual_feature, "text": columns.text_feature}
    return {modality: name for modality, name in names.items() if name in header}


def _header_faults(
    path: Path, header: Sequence[str], columns: ColumnsConfig, labels: Sequence[str]
) -> list[Fault]:
    faults = [
        Fault(path, 1, f"a manifest must have the column {name!r}, found {', '.join(header)}")
        for name in (columns.volume, *labels)
        if name not in header
    ]
    for names, kind in ((header, "columns"), (labels, "target labels")):
        doubles = sorted(name for name, count in Counter(names).items() if count > 1)
        if doubles:
            faults.append(Fault(path, 1, f"{kind} must have distinct names, found {doubles} twice"))
    if not _feature_columns(header, columns):
        wanted = f"{columns.visual_feature!r} or {columns.text_feature!r}"
        faults.append(Fault(path, 1, f"a manifest must have a feature column {wanted}, found none"))
    return faults


def _row_faults(
    cells: Mapping[str, str],
    volume_column: str,
    feature_columns: Iterable[str],
    labels: Sequence[str],
) -> Iterable[str]:
    volume = cells[volume_column]
    if not VOLUME_NAME.fullmatch(volume_of(volume)):
        yield (
            f"{volume_column} must read <split>_<patient>_<scan>_<reconstruction>, "
            f"such as valid_53_a_1, found {volume!r}"
        )
    for label in labels:
        if cells[label] not in LABEL_VALUES:
            yield f"a label must be 0 or 1, found {cells[label]!r} in column {label!r}"
    for column in feature_columns:
        feature = cells[column]
        if escapes(feature):
            yield (
                f"{column} must be relative to paths.data_root and stay inside it, "
                f"found {feature!r}"
            )


def _assemble(
    path: Path,
    header: Sequence[str],
    columns: ColumnsConfig,
    labels: tuple[str, ...],
    sound: Mapping[str, tuple[int, dict[str, str]]],
) -> Manifest:
    cells = [cells for _, cells in sound.values()]
    report_columns = [name for name in FINDINGS if name in header]
    targets = np.array([[LABEL_VALUES[row[label]] for label in labels] for row in cells], np.uint8)
    return Manifest(
        path=path,
        rows=tuple(row for row, _ in sound.values()),
        volumes=tuple(sound),
        patients=tuple(map(patient_of, sound)),
        scans=tuple(map(scan_of, sound)),
        labels=labels,
        targets=targets.reshape(len(cells), len(labels)),
        feature_paths={
            modality: tuple(row[name] for row in cells)
            for modality, name in _feature_columns(header, columns).items()
        },
        reports=tuple(_joined(row[name] for name in report_columns) for row in cells)
        if report_columns
        else None,
    )


def _joined(sections: Iterable[str]) -> str:
    return " ".join(section for section in sections if section not in {"", NOT_GIVEN})
