"""Inspection of a data set: every fault of every manifest and feature file, by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headsweep.config.data_sections import SharedContent
from headsweep.config.inputs import Modality
from headsweep.config.schema import Config
from headsweep.data.columns import distinct_inputs
from headsweep.data.dataset import required_inputs, row_digests
from headsweep.data.faults import Fault
from headsweep.data.features import LEADS_OUTSIDE, outside, read_feature
from headsweep.data.health import health_warnings
from headsweep.data.label_maps import inspect_mapped, map_of
from headsweep.data.manifest import Manifest, inspect_manifest, mixed_labels
from headsweep.data.one_class import one_class_labels
from headsweep.data.overlaps import REPORT, overlap, shared_patients
from headsweep.data.packing import THREADS
from headsweep.errors import FeatureError, ManifestError
from headsweep.progress import progress_bar


@dataclass(frozen=True, eq=False)
class _Inspected:
    """Sound rows of one manifest, and the digest of every feature row that could be read."""

    manifest: Manifest
    digests: dict[str, list[bytes | None]]


def check(config: Config, *, progress: bool = False) -> list[Fault]:
    """Find every fault of the train, valid and test manifests and of all their feature files.

    Unlike loading, it does not stop at the first fault. It reads the test manifests, but reports
    nothing about them except faults.

    Args:
        config: `data`, `paths` and `training.target_labels` are used.
        progress: show progress on standard error.

    Returns:
        The faults, manifest by manifest, then those between manifests.
    """
    data = config.data
    searched = [data.train_manifest, *([data.val_manifest] if data.val_manifest else [])]
    inspected: dict[str, _Inspected] = {}
    faults: list[Fault] = []
    features = _FeatureInspection(config)
    for name in [*searched, *data.test_manifests]:
        path = Path(config.paths.manifest_dir) / name
        first = next(iter(inspected.values()), None)
        try:
            manifest, found = _inspect(config, name, first)
        except ManifestError as error:
            faults.append(Fault(path, None, str(error)))
            continue
        if manifest is None:
            faults += found
            continue
        if manifest.unused and (name, config.training.target_labels) == (data.train_manifest, None):
            asked = mixed_labels(manifest)
            found = [replace(f, severity="error") if f.message == asked else f for f in found]
        faults += found
        try:
            manifest = manifest.with_labels(first.manifest.labels) if first else manifest
        except ManifestError as error:
            faults.append(Fault(path, 1, str(error).removeprefix(f"{path}: ")))
            continue
        digests, found = features.inspect(manifest, progress=progress)
        faults += found + _missing_columns(manifest, required_inputs(config), config)
        faults += _empty_labels(manifest)
        inspected[name] = _Inspected(manifest, digests)

    for one, other in combinations(inspected, 2):
        if one in searched:  # test manifests may overlap among themselves
            faults += _overlaps(
                inspected[one], inspected[other], data.shared_content, data.modalities
            )
    return faults


def _inspect(
    config: Config, name: str, first: _Inspected | None
) -> tuple[Manifest | None, list[Fault]]:
    """Inspect a manifest, through its label map if it has one.

    Args:
        config: names files, columns and maps.
        name: of the manifest.
        first: the manifest whose labels a map refers to.

    Returns:
        As `inspect_manifest`.

    Raises:
        ManifestError: the label map cannot be used.
    """
    path, data = Path(config.paths.manifest_dir) / name, config.data
    if first is not None:
        label_map = map_of(config, name, first.manifest.labels)
        if label_map is not None:
            return inspect_mapped(path, data.manifest_columns, label_map, data.blank_labels)
    return inspect_manifest(
        path, data.manifest_columns, config.training.target_labels, data.blank_labels
    )


class _FeatureInspection:
    """Reads feature files, and remembers the first width of each input and where it was."""

    def __init__(self, config: Config) -> None:
        self._root = Path(config.paths.data_root)
        self._key, self._follow_links = config.data.feature_key, config.data.follow_links
        self._inputs = distinct_inputs(config.data.manifest_columns)
        self._widths: dict[str, tuple[int, str]] = {}

    def inspect(
        self, manifest: Manifest, *, progress: bool
    ) -> tuple[dict[str, list[bytes | None]], list[Fault]]:
        """Read the feature files of a manifest.

        Returns:
            Digests of all feature rows (None where one is at fault), and the faults.
        """
        digests: dict[str, list[bytes | None]] = {}
        faults: list[Fault] = []
        for name in self._inputs:
            if name not in manifest.feature_paths:
                continue
            paths = manifest.feature_paths[name]
            digests[name] = []
            read: dict[int, NDArray[np.float32]] = {}
            title = f"checking {name} features of {manifest.name}"
            with (
                ThreadPoolExecutor(THREADS) as pool,
                progress_bar(title, len(paths), visible=progress) as bar,
            ):
                for i, result in enumerate(pool.map(self._read, paths)):
                    bar.advance(1)
                    if not isinstance(result, str):
                        wanted, place = self._widths.setdefault(
                            name, (len(result), manifest.location(i))
                        )
                        if len(result) == wanted:
                            digests[name].append(row_digests(result[None])[0])
                            read[i] = result
                            continue
                        result = (
                            f"{self._root / paths[i]}: {name} features must be {wanted} wide, "
                            f"as in {place}, found {len(result)}"
                        )
                    digests[name].append(None)
                    faults.append(Fault(manifest.path, manifest.rows[i], result))
            if read:
                matrix = np.stack(list(read.values()))
                faults += health_warnings(manifest, f"{name} features", matrix, list(read))
        return digests, faults

    def _read(self, name: str) -> NDArray[np.float32] | str:
        """Return the vector in a feature file, or what is wrong with it."""
        path = self._root / name
        if not name:
            return "the path of the features is empty"
        if not self._follow_links and list(outside(self._root, [path])):
            return f"{path}: {LEADS_OUTSIDE}"
        try:
            return read_feature(path, self._key)
        except FeatureError as error:
            return str(error)


def _missing_columns(manifest: Manifest, required: Sequence[str], config: Config) -> list[Fault]:
    columns = config.data.manifest_columns
    needed = dict.fromkeys([*required, *(config.data.inputs or {})])
    return [
        Fault(
            manifest.path,
            1,
            f"no column of {name} feature paths: {columns.feature_columns()[name]!r} "
            f"({columns.key_of(name)} names it)",
        )
        for name in needed
        if name not in manifest.feature_paths
    ]


def _empty_labels(manifest: Manifest) -> list[Fault]:
    return [
        Fault(
            manifest.path,
            None,
            f"a label should have positives and negatives, found {positives} positives of "
            f"{rows} rows for {label!r}: its AUPRC and AUROC are undefined",
            severity="warning",
        )
        for label, positives, rows in one_class_labels(manifest.labels, manifest.targets)
        if not (rows == 0 and manifest.label_map is not None)
    ]


def _overlaps(
    one: _Inspected,
    other: _Inspected,
    policy: SharedContent | None,
    modalities: Mapping[str, Modality],
) -> list[Fault]:
    a, b = one.manifest, other.manifest
    found = [overlap(REPORT, a, a.reports or (), b, b.reports or ())]
    for name in one.digests:
        if name in other.digests:
            digests = one.digests[name], other.digests[name]
            kind, modality = f"{name} features", modalities[name]
            found.append(overlap(kind, a, digests[0], b, digests[1], modality=modality))
    return shared_patients(a, b) + [fault for each in found for fault in each.faults(policy)]
