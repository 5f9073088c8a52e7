"""One manifest of CT-RATE's tables: labels, reports, metadata and the list of a split.

Tables are joined by scan, since the reconstructions of a scan share labels and report. A row that
finds no partner at a join is dropped and listed with the step and the reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from headsweep.atomic_files import reason, replacing
from headsweep.config.data_sections import ColumnsConfig
from headsweep.data.columns import LABEL_VALUES, label_columns, unused_labels
from headsweep.data.ct_rate.names import FINDINGS, NOT_GIVEN, VOLUME_NAME, scan_of, volume_of
from headsweep.data.features import read_feature
from headsweep.data.tables import read_rows, read_table, write_table
from headsweep.errors import ManifestError, OutputError

Step = Literal["split", "labels", "reports", "metadata", "policy", "features"]
RowPolicy = Literal["all_recon", "first_recon", "scan_mean", "dedup_text"]
"""Which rows a manifest gets: every reconstruction, the first of each scan, one mean a scan, or
the first volume of each distinct report."""

KEPT_METADATA = ("Manufacturer", "PatientSex", "PatientAge")

SCAN_MEAN_FOLDER = "scan_mean"


@dataclass(frozen=True)
class Tables:
    """CT-RATE's tables of one split.

    `split` lists the volumes; without it they are those of the labels and the metadata.
    """

    labels: Path
    split: Path | None = None
    reports: Path | None = None
    metadata: Path | None = None


@dataclass(frozen=True)
class PathPattern:
    """How a feature path is made: folder `prefix`, volume, `suffix`, in the manifest's `column`.

    The slash after the folder and the dot of the suffix may be left out, unless `whole` says that
    prefix and suffix are complete as they stand.
    """

    column: str
    prefix: str
    suffix: str = ".npz"
    whole: bool = False

    def of(self, volume: str) -> str:
        """Return the feature path of a volume."""
        if self.whole:
            return f"{self.prefix}{volume}{self.suffix}"
        dot = "." if self.suffix and not self.suffix.startswith((".", "_", "-")) else ""
        return f"{self._folder}{volume}{dot}{self.suffix}"

    def of_mean(self, scan: str) -> str:
        """Return the path of the mean over a scan's reconstructions."""
        folder = self.prefix if self.whole else self._folder
        return f"{SCAN_MEAN_FOLDER}/{folder}{scan}.npz"

    @property
    def _folder(self) -> str:
        return f"{self.prefix}/" if self.prefix and not self.prefix.endswith("/") else self.prefix


@dataclass(frozen=True)
class Dropped:
    """A row that did not reach the manifest."""

    volume: str
    step: Step
    reason: str


@dataclass(frozen=True)
class Prepared:
    """A manifest ready to be written.

    `means` names, for each feature file that the policy `scan_mean` calls for, the files it is the
    mean of; `write_scan_means` makes them.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    dropped: tuple[Dropped, ...]
    means: Mapping[str, tuple[str, ...]]

    def counts(self) -> dict[str, int]:
        """Return the rows dropped at each step, and the rows kept."""
        return {**Counter(row.step for row in self.dropped), "kept": len(self.rows)}


def prepare_manifest(
    tables: Tables, features: Sequence[PathPattern], policy: RowPolicy
) -> Prepared:
    """Join the tables of one split into a manifest with the labels that `read_manifest` finds.

    Args:
        tables: paths of the tables.
        features: one pattern for each column of feature paths.
        policy: which rows are kept.

    Returns:
        The manifest, and every row that did not reach it.

    Raises:
        ManifestError: a table is missing or malformed, a label is not 0 or 1, the labels of one
            scan contradict each other, or `dedup_text` has no reports to go by.
    """
    if policy == "dedup_text" and tables.reports is None:
        raise ManifestError("the row policy dedup_text needs a table of reports, found none")
    dropped: list[Dropped] = []
    volumes = _listed_volumes(tables, dropped)

    labels, label_names = _labels_by_scan(tables.labels)
    volumes = _join(volumes, labels, "labels", "its scan has no labels", dropped)
    columns: dict[str, Mapping[str, Mapping[str, str]]] = dict.fromkeys(label_names, labels)
    joins: list[tuple[Step, Path | None, tuple[str, ...]]] = [
        ("reports", tables.reports, FINDINGS),
        ("metadata", tables.metadata, KEPT_METADATA),
    ]
    for step, source, kept in joins:
        if source is not None:
            table = _by_scan(source)
            volumes = _join(volumes, table, step, f"its scan is not in {source.name}", dropped)
            names = next(iter(table.values()), {})
            columns |= {name: table for name in kept if name in names}
    members = _apply_policy(volumes, policy, columns.get(FINDINGS[0], {}), dropped)

    means: dict[str, tuple[str, ...]] = {}
    rows = []
    for name, of_row in members.items():
        paths = [pattern.of(name) for pattern in features]
        if policy == "scan_mean":
            paths = [pattern.of_mean(name) for pattern in features]
            for path, pattern in zip(paths, features, strict=True):
                means[path] = tuple(pattern.of(volume) for volume in of_row)
        cells = [table[scan_of(name)].get(column, "") for column, table in columns.items()]
        rows.append((name, *paths, *cells))
    header = ("volumename", *(pattern.column for pattern in features), *columns)
    return Prepared(header, tuple(rows), tuple(dropped), means)


def with_files(prepared: Prepared, columns: Sequence[str], data_root: Path) -> Prepared:
    """Drop the rows that lack a feature file: encoders often fail for some volumes.

    Args:
        prepared: a manifest.
        columns: its columns of feature paths.
        data_root: folder that the paths are relative to.

    Returns:
        The manifest without those rows, which are listed.
    """
    places = [prepared.header.index(column) for column in columns]
    rows, dropped = [], list(prepared.dropped)
    for row in prepared.rows:
        missing = next((row[i] for i in places if not (data_root / row[i]).is_file()), None)
        if missing is None:
            rows.append(row)
        else:
            dropped.append(Dropped(row[0], "features", f"feature file not found: {missing}"))
    return replace(prepared, rows=tuple(rows), dropped=tuple(dropped))


def write_prepared(prepared: Prepared, output_file: Path) -> Path:
    """Write the manifest, and beside it `<stem>.dropped.csv`.

    Returns:
        Path of the list of dropped rows.

    Raises:
        ManifestError: no row is left to write.
        OutputError: the files cannot be written.
    """
    if not prepared.rows:
        raise ManifestError(
            f"{output_file}: a manifest must have rows, found that all were dropped: "
            f"{prepared.counts()}"
        )
    dropped = output_file.with_name(f"{output_file.stem}.dropped.csv")
    lines = [(row.volume, row.step, row.reason) for row in prepared.dropped]
    write_table(dropped, ("volumename", "step", "reason"), lines)
    write_table(output_file, prepared.header, prepared.rows)
    return dropped


def write_scan_means(prepared: Prepared, data_root: Path) -> None:
    """Write the mean feature files that the policy `scan_mean` asks for, below `data_root`.

    Raises:
        FeatureError: a reconstruction's feature file cannot be used.
        OutputError: a mean cannot be written.
    """
    for path, members in prepared.means.items():
        vectors = [read_feature(data_root / member) for member in members]
        mean = np.stack(vectors).mean(axis=0, dtype=np.float64, keepdims=True)
        target = data_root / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as file:
                np.savez(file, arr=mean.astype(np.float32))
        except OSError as error:
            raise OutputError(f"{target}: cannot write mean features: {reason(error)}") from None


def _volume(row: Mapping[str, str], path: Path) -> str:
    """Return the volume of a row: without `.nii.gz`, and `valid_` for `validation_`.

    Raises:
        ManifestError: the table has no column of volumes.
    """
    for column in ("VolumeName", "volumename"):
        if column in row:
            return re.sub(r"^validation_", "valid_", volume_of(row[column]))
    raise ManifestError(f"{path}: a table must have the column 'VolumeName', found {list(row)}")


def _listed_volumes(tables: Tables, dropped: list[Dropped]) -> list[str]:
    lists = [tables.split] if tables.split else [tables.labels, tables.metadata]
    volumes: dict[str, None] = {}
    for path in lists:
        if path is None:
            continue
        names = [_volume(row, path) for row in read_rows(path)]
        for volume, times in Counter(names).items():
            again = Dropped(volume, "split", f"it is listed {times} times in {path.name}")
            dropped += [again] * (times - 1)
            if VOLUME_NAME.fullmatch(volume):
                volumes[volume] = None
            else:
                dropped.append(Dropped(volume, "split", "its name is not CT-RATE's"))
    return list(volumes)


def _labels_by_scan(path: Path) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """Return the labels of every scan as "0" and "1", and their names.

    Raises:
        ManifestError: a label is not 0 or 1, or labels of one scan differ.
    """
    labels: dict[str, dict[str, str]] = {}
    rows, table = read_rows(path), read_table(path)
    columns = ColumnsConfig(volume="VolumeName")
    names = label_columns(table.header, columns, None)
    names += unused_labels(table.cells, columns, names)
    names = tuple(name for name in names if name != "volumename")
    for row in rows:
        volume = _volume(row, path)
        if not VOLUME_NAME.fullmatch(volume):
            continue  # the list of volumes has dropped it
        for name in names:
            if row.get(name) not in LABEL_VALUES:
                raise ManifestError(
                    f"{path}: a label must be 0 or 1, found {row.get(name)!r} for {name!r} "
                    f"of {volume}"
                )
        values = {name: str(LABEL_VALUES[row[name]]) for name in names}
        known = labels.setdefault(scan_of(volume), values)
        if known != values:
            differing = [name for name in names if known[name] != values[name]]
            raise ManifestError(
                f"{path}: the reconstructions of a scan must have equal labels, found {differing} "
                f"to differ in {scan_of(volume)}"
            )
    return labels, names


def _by_scan(path: Path) -> dict[str, dict[str, str]]:
    """Return the first row of every scan."""
    table: dict[str, dict[str, str]] = {}
    for row in read_rows(path):
        volume = _volume(row, path)
        if VOLUME_NAME.fullmatch(volume):
            table.setdefault(scan_of(volume), row)
    return table


def _join(
    volumes: Sequence[str],
    table: Mapping[str, object],
    step: Step,
    reason: str,
    dropped: list[Dropped],
) -> list[str]:
    dropped += [Dropped(volume, step, reason) for volume in volumes if scan_of(volume) not in table]
    return [volume for volume in volumes if scan_of(volume) in table]


def _apply_policy(
    volumes: Sequence[str],
    policy: RowPolicy,
    reports: Mapping[str, Mapping[str, str]],
    dropped: list[Dropped],
) -> dict[str, list[str]]:
    """Return the names of the rows that stay, and the volumes that each stands for."""
    if policy == "all_recon":
        return {volume: [volume] for volume in volumes}

    def key(volume: str) -> str:
        scan = scan_of(volume)
        if policy != "dedup_text":
            return scan
        sections = [reports[scan].get(name, "") for name in FINDINGS]
        text = " ".join(section for section in sections if section not in {"", NOT_GIVEN})
        return f"text:{text}" if text else scan  # an absent report is no duplicate of another

    members: dict[str, list[str]] = {}
    for volume in sorted(volumes, key=_reconstruction):
        members.setdefault(key(volume), []).append(volume)
    kept = {
        scan_of(of_row[0]) if policy == "scan_mean" else of_row[0]: of_row
        for of_row in members.values()
    }
    for of_row in members.values():
        what = "merged into the mean with" if policy == "scan_mean" else "represented by"
        dropped += [Dropped(volume, "policy", f"{what} {of_row[0]}") for volume in of_row[1:]]
    order = {volume: i for i, volume in enumerate(volumes)}
    return dict(sorted(kept.items(), key=lambda item: min(order[volume] for volume in item[1])))


def _reconstruction(volume: str) -> int:
    match = VOLUME_NAME.fullmatch(volume)
    return int(match["reconstruction"] or 0) if match else 0
