"""Label maps: how the labels of another cohort's manifest become the labels of the study.

A map is a YAML file that names, for each label of the study, the column of the manifest that holds
it, several columns (positive where any of them is), or null where the cohort lacks the label:

    Emphysema: emphysema
    Lung nodule: [nodule, nodule_over_1cm]
    Mosaic attenuation pattern: null

A label that the map does not name is read from the column of its own name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headsweep.config.data_sections import BlankLabels, ColumnsConfig
from headsweep.config.messages import nearest
from headsweep.config.schema import Config
from headsweep.config.yaml_files import read_document
from headsweep.data.columns import candidates
from headsweep.data.ct_rate.names import LABELS
from headsweep.data.faults import Fault
from headsweep.data.manifest import Manifest, inspect_manifest, summary_of_faults, unused_warning
from headsweep.data.tables import normalized, read_header
from headsweep.errors import ConfigError, ManifestError
from headsweep.metrics.masking import BLANK, labelled


@dataclass(frozen=True)
class LabelMap:
    """Columns of a manifest for each label of a study; none where the cohort lacks the label."""

    path: Path
    columns: Mapping[str, tuple[str, ...]]

    @property
    def sources(self) -> tuple[str, ...]:
        """All columns, in the order of the labels."""
        return tuple(column for columns in self.columns.values() for column in columns)

    def fingerprint(self) -> str:
        """Return SHA-256 over labels and columns; independent of the file's layout."""
        text = json.dumps({label: list(names) for label, names in self.columns.items()})
        return hashlib.sha256(text.encode()).hexdigest()


def label_map_path(config: Config, manifest: str) -> Path | None:
    """Return the file of a manifest's label map; None where it has none."""
    name = (config.data.label_maps or {}).get(manifest)
    return None if name is None else Path(config.paths.manifest_dir) / name


def read_label_map(
    path: Path, labels: Sequence[str], header: Sequence[str], others: Sequence[str] = ()
) -> LabelMap:
    """Read a label map.

    Args:
        path: the YAML file.
        labels: of the study.
        header: columns of the manifest that the map is for.
        others: further labels that the map may name, such as those that the study leaves out.

    Returns:
        The map of `labels`, in their order.

    Raises:
        ManifestError: the file cannot be read, names an unknown label or column, or a column twice.
    """
    if not path.is_file():
        raise ManifestError(f"label map not found: {path}")
    try:
        plain = read_document(path)
    except ConfigError as error:
        raise ManifestError(str(error)) from None
    given = {normalized(label): _columns(path, label, value) for label, value in plain.items()}
    known = (*labels, *others, *LABELS)
    for label in given:
        if label not in known:
            hint = nearest(label, known) or f" The labels are {', '.join(labels)}."
            raise ManifestError(f"{path}: unknown label {label!r}.{hint}")
    columns = {label: given.get(label, (label,)) for label in labels}
    _refuse_doubles(path, columns)
    for label, names in columns.items():
        for name in names:
            if name not in header:
                raise ManifestError(f"{path}: {_missing(label, name, header, label in given)}")
    if not any(columns.values()):
        raise ManifestError(
            f"{path}: every label is null, so there is nothing to measure: leave the manifest out"
        )
    return LabelMap(path, columns)


def labels_of_map(path: Path) -> tuple[str, ...]:
    """Return the labels that a map names, for work in which no train manifest has part.

    Raises:
        ManifestError: the file cannot be read.
    """
    if not path.is_file():
        raise ManifestError(f"label map not found: {path}")
    try:
        return tuple(normalized(label) for label in read_document(path))
    except ConfigError as error:
        raise ManifestError(str(error)) from None


def read_mapped(
    path: Path, columns: ColumnsConfig, label_map: LabelMap, blank_labels: BlankLabels
) -> Manifest:
    """Read a manifest through a label map.

    Returns:
        The manifest with the labels of the map; those that the cohort lacks are blank.

    Raises:
        ManifestError: the first fault of the file, with its row.
    """
    manifest, faults = inspect_mapped(path, columns, label_map, blank_labels)
    errors = [fault for fault in faults if fault.severity == "error"]
    if errors or manifest is None:
        raise ManifestError(summary_of_faults(errors))
    return manifest


def inspect_mapped(
    path: Path, columns: ColumnsConfig, label_map: LabelMap, blank_labels: BlankLabels
) -> tuple[Manifest | None, list[Fault]]:
    """Read a manifest through a label map without stopping at its first fault.

    Returns:
        The rows without faults, and all faults; no manifest when the file itself is at fault.
    """
    manifest, faults = inspect_manifest(path, columns, label_map.sources, blank_labels)
    if manifest is None:
        return None, faults
    ignored = unused_warning(manifest, label_map.sources)  # other labels of the cohort
    mapped = replace(
        manifest,
        labels=tuple(label_map.columns),
        targets=_mapped(manifest, label_map),
        unused=(),
        warnings=tuple(warning for warning in manifest.warnings if warning not in ignored),
        label_map=label_map.path.name,
        label_map_fingerprint=label_map.fingerprint(),
    )
    return mapped, [fault for fault in faults if fault not in ignored]


def _mapped(manifest: Manifest, label_map: LabelMap) -> NDArray[np.uint8]:
    """Return the targets `(n, c)` of the map's labels.

    Of several columns, any positive one makes a positive; without one, a blank one makes a blank.
    """
    targets = np.full((len(manifest.rows), len(label_map.columns)), BLANK, np.uint8)
    for j, names in enumerate(label_map.columns.values()):
        if names:
            cells = manifest.targets[:, [manifest.labels.index(name) for name in names]]
            known = np.where(labelled(cells).all(axis=1), 0, BLANK)
            targets[:, j] = np.where((cells == 1).any(axis=1), 1, known)
    return targets


def _columns(path: Path, label: str, value: Any) -> tuple[str, ...]:
    """Return the columns that a map's value names.

    Raises:
        ManifestError: the value is neither text, nor a list of texts, nor null.
    """
    if value is None:
        return ()
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ManifestError(
            f"{path}: {label!r} must be a column, a list of columns, or null where the cohort "
            f"lacks the label, found {value!r}"
        )
    return tuple(map(normalized, names))


def _refuse_doubles(path: Path, columns: Mapping[str, tuple[str, ...]]) -> None:
    first: dict[str, str] = {}
    for label, names in columns.items():
        for name in names:
            if name in first:
                raise ManifestError(
                    f"{path}: column {name!r} is mapped twice, to {first[name]!r} and to "
                    f"{label!r}: name it once, and set the other label to null"
                )
            first[name] = label


def _missing(label: str, name: str, header: Sequence[str], given: bool) -> str:
    """Return the sentence that names a column that the manifest lacks."""
    if given:
        what = f"{label!r} is mapped to {name!r}, which is no column of the manifest"
    else:
        what = f"{label!r} is neither in the map nor a column of the manifest"
    return f"{what}.{nearest(name, header)} Where the cohort lacks the label, write {label!r}: null"


def map_of(config: Config, manifest: str, labels: Sequence[str]) -> LabelMap | None:
    """Read the label map that a config names for a manifest.

    Args:
        config: names maps and folders.
        manifest: name of the manifest.
        labels: of the study; the map may also name others of the train manifest.

    Returns:
        The map; None where the config names none.

    Raises:
        ManifestError: the map, or the manifest's header, cannot be used.
    """
    path = label_map_path(config, manifest)
    if path is None:
        return None
    folder = Path(config.paths.manifest_dir)
    header = read_header(folder / manifest)
    others = candidates(
        read_header(folder / config.data.train_manifest), config.data.manifest_columns
    )
    return read_label_map(path, labels, header, others)
