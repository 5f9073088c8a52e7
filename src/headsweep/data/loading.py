"""Splits read from manifests and feature files, with the checks between them."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headsweep.config.schema import ColumnsConfig, Config, Modality
from headsweep.data.faults import Fault
from headsweep.data.manifest import Manifest, read_manifest, refuse_mixed_labels
from headsweep.data.overlaps import shared_content, shared_patients
from headsweep.data.packing import pack_for
from headsweep.data.splits import Split, content_fingerprint, row_digests
from headsweep.data.splitting import linked_groups, split_by_group
from headsweep.errors import FeatureError, HeadsweepWarning, InputError, ManifestError


@dataclass(frozen=True, eq=False)
class _Features:
    """Features of one manifest and modality with shape (n, d), and a digest of every row."""

    matrix: NDArray[np.float32]
    fingerprint: str
    digests: Sequence[bytes]


@dataclass(frozen=True, eq=False)
class LoadedSplit:
    """A split with its manifest, which names file and row in errors, and its rows' digests."""

    manifest: Manifest
    split: Split
    digests: Mapping[Modality, Sequence[bytes]]


class ManifestSource:
    """Reads splits from the manifests that a config names; every file is read once.

    Anything unusual that does not stop the work is a `HeadsweepWarning`.

    Args:
        cache_dir: folder of packed features.
        progress: show progress on standard error while features are packed.
    """

    in_memory = False

    def __init__(self, cache_dir: Path, *, progress: bool = False) -> None:
        self._cache_dir, self._progress = cache_dir, progress
        self._manifests: dict[tuple[Hashable, ...], Manifest] = {}
        self._features: dict[tuple[Hashable, ...], _Features] = {}
        self._searches: dict[tuple[Hashable, ...], tuple[LoadedSplit, LoadedSplit]] = {}

    def search_splits(self, config: Config, modalities: Sequence[Modality]) -> tuple[Split, Split]:
        """Load train and valid.

        Without a valid manifest the train manifest is split by patient, stratified over the
        labels; patients who share a report or a feature row stay on one side.

        Args:
            config: `data`, `paths`, `training.target_labels` and `training.seed` are used.
            modalities: which features to load.

        Returns:
            The train and the valid split.

        Raises:
            ManifestError: a manifest cannot be used, or train and valid share a patient or a
                report, or differ in their labels.
            FeatureError: a feature file cannot be used, or train and valid share a feature row or
                differ in width.
        """
        train, valid = self._search(config, modalities)
        return train.split, valid.split

    def test_splits(self, config: Config, modalities: Sequence[Modality]) -> list[Split]:
        """Load the test splits and check them against train and valid.

        Test manifests may overlap among themselves, but share nothing with train or valid.

        Args:
            config: as for `search_splits`; `data.test_manifests` names the manifests.
            modalities: which features to load.

        Returns:
            One split for each test manifest, in the order of the config.

        Raises:
            ManifestError: as for `search_splits`.
            FeatureError: as for `search_splits`.
        """
        train, valid = self._search(config, modalities)
        tests = []
        for name in config.data.test_manifests:
            test = self._load(config, name, modalities, train.split.labels)
            for other in (train, valid):
                refuse_overlap(other, test)
            tests.append(test.split)
        return tests

    def splits_alone(self, config: Config, modalities: Sequence[Modality] | None) -> list[Split]:
        """Load the test splits without train and valid, for work in which no training has part.

        Args:
            config: `data`, `paths` and `training.target_labels` are used.
            modalities: which features to load; None loads those that each manifest names.

        Returns:
            One split for each test manifest, in the order of the config.

        Raises:
            ManifestError: a manifest cannot be used.
            FeatureError: a feature file cannot be used.
        """
        splits = []
        for name in config.data.test_manifests:
            named = tuple(self._manifest(config, name).feature_paths)
            splits.append(self._load(config, name, modalities or named).split)
        return splits

    def labels(self, config: Config) -> tuple[str, ...]:
        """Return the labels of the train manifest, in its order.

        Raises:
            ManifestError: the manifest cannot be used.
        """
        return self._manifest(config, config.data.train_manifest).labels

    def _search(
        self, config: Config, modalities: Sequence[Modality]
    ) -> tuple[LoadedSplit, LoadedSplit]:
        data = config.data
        divided = (data.val_fraction, config.training.seed) if data.val_manifest is None else None
        key = (
            *(_file_key(config, data.train_manifest), data.val_manifest, divided),
            *(config.paths.data_root, tuple(sorted(modalities))),
            *(data.feature_key, data.follow_links),
        )
        if key not in self._searches:
            self._searches[key] = self._load_search(config, modalities)
        return self._searches[key]

    def _load_search(
        self, config: Config, modalities: Sequence[Modality]
    ) -> tuple[LoadedSplit, LoadedSplit]:
        data = config.data
        named = self._manifest(config, data.train_manifest)
        refuse_mixed_labels(named, config.training.target_labels)
        train = self._load(config, data.train_manifest, modalities)
        if data.val_manifest is None:
            return _divide(train, data.val_fraction, config.training.seed)
        valid = self._load(config, data.val_manifest, modalities, train.split.labels)
        refuse_overlap(train, valid)
        return train, valid

    def _load(
        self,
        config: Config,
        name: str,
        modalities: Sequence[Modality],
        labels: Sequence[str] | None = None,
    ) -> LoadedSplit:
        manifest = self._manifest(config, name)
        if labels is not None:
            manifest = manifest.with_labels(labels)
        features = {m: self._packed(config, name, manifest, m) for m in modalities}
        return LoadedSplit(
            manifest,
            _to_split(
                manifest.name,
                manifest,
                {modality: packed.matrix for modality, packed in features.items()},
                {modality: packed.fingerprint for modality, packed in features.items()},
            ),
            {modality: packed.digests for modality, packed in features.items()},
        )

    def _manifest(self, config: Config, name: str) -> Manifest:
        key = _file_key(config, name)
        if key not in self._manifests:
            path = Path(config.paths.manifest_dir) / name
            manifest = read_manifest(path, config.data.columns, config.training.target_labels)
            for warning in manifest.warnings:
                warnings.warn(str(warning), HeadsweepWarning, stacklevel=2)
            self._manifests[key] = manifest
        return self._manifests[key]

    def _packed(
        self, config: Config, name: str, manifest: Manifest, modality: Modality
    ) -> _Features:
        how = (config.data.feature_key, config.data.follow_links)
        key = (*_file_key(config, name), config.paths.data_root, modality, *how)
        if key not in self._features:
            packed = pack_for(config, manifest, modality, self._cache_dir, progress=self._progress)
            digests = row_digests(packed.matrix)
            self._features[key] = _Features(packed.matrix, packed.fingerprint, digests)
        return self._features[key]


def _file_key(config: Config, name: str) -> tuple[str, str, ColumnsConfig, Hashable]:
    """Return everything that decides what is read from the manifest `name`."""
    return (
        config.paths.manifest_dir,
        name,
        config.data.columns,
        config.training.target_labels,
    )


def _divide(whole: LoadedSplit, fraction: float, seed: int) -> tuple[LoadedSplit, LoadedSplit]:
    split = whole.split
    keys: list[Sequence[Hashable]] = list(whole.digests.values())
    if split.reports is not None:
        keys.append([report or None for report in split.reports])
    groups = linked_groups(split.patients, *keys)
    try:
        in_valid = split_by_group(groups.tolist(), split.targets, fraction, seed)
    except ManifestError as error:
        raise ManifestError(f"{whole.manifest.path}: {error}") from None
    return _part(whole, "train", ~in_valid), _part(whole, "valid", in_valid)


def _part(whole: LoadedSplit, name: str, mask: NDArray[np.bool_]) -> LoadedSplit:
    rows = np.flatnonzero(mask)
    manifest = whole.manifest.take(rows)
    features = {modality: matrix[rows] for modality, matrix in whole.split.features.items()}
    fingerprints = {
        modality: content_fingerprint(manifest.volumes, matrix)
        for modality, matrix in features.items()
    }
    digests = {m: [values[row] for row in rows.tolist()] for m, values in whole.digests.items()}
    return LoadedSplit(manifest, _to_split(name, manifest, features, fingerprints), digests)


def _to_split(
    name: str,
    manifest: Manifest,
    features: Mapping[Modality, NDArray[np.float32]],
    fingerprints: Mapping[Modality, str],
) -> Split:
    return Split(
        name=name,
        volumes=manifest.volumes,
        patients=manifest.patients,
        scans=manifest.scans,
        labels=manifest.labels,
        targets=manifest.targets,
        features=features,
        reports=manifest.reports,
        manifest_fingerprint=manifest.fingerprint(),
        feature_fingerprints=fingerprints,
    )


def refuse_overlap(one: LoadedSplit, other: LoadedSplit) -> None:
    """Refuse two splits that share patients, reports or feature rows, or differ in width.

    Raises:
        ManifestError: they share a patient or a report.
        FeatureError: they share a feature row, or differ in width.
    """
    a, b = one.manifest, other.manifest
    _refuse(ManifestError, shared_patients(a, b))
    _refuse(ManifestError, shared_content("a report", a, a.reports or (), b, b.reports or ()))
    for modality, matrix in one.split.features.items():
        widths = matrix.shape[1], other.split.features[modality].shape[1]
        if widths[0] != widths[1]:
            raise FeatureError(
                f"{b.path}: {modality} features must be {widths[0]} wide, as in {a.path}, "
                f"found {widths[1]}"
            )
        digests = one.digests[modality], other.digests[modality]
        kind = f"{modality} features"
        _refuse(FeatureError, shared_content(kind, a, digests[0], b, digests[1]))


def _refuse(error: type[InputError], faults: Sequence[Fault]) -> None:
    errors = [fault for fault in faults if fault.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more rows)" if len(errors) > 1 else ""
        raise error(f"{errors[0]}{more}")
