"""Splits read from manifests and feature files."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headsweep.config.schema import Config
from headsweep.data.columns import distinct_inputs
from headsweep.data.label_maps import label_map_path, labels_of_map, map_of, read_mapped
from headsweep.data.loaded_splits import (
    LoadedSplit,
    part_of,
    refuse_overlap,
    refuse_unlabelled,
    shared_rows,
    split_of,
    without_rows,
)
from headsweep.data.manifest import Manifest, read_manifest, refuse_mixed_labels
from headsweep.data.packing import pack_for
from headsweep.data.splits import Split, row_digests
from headsweep.data.splitting import linked_groups, split_by_group
from headsweep.errors import HeadsweepWarning, ManifestError


@dataclass(frozen=True, eq=False)
class _Features:
    """Features of one manifest and input with shape (n, d), and a digest of every row."""

    matrix: NDArray[np.float32]
    fingerprint: str
    digests: Sequence[bytes]


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

    def described(self, config: Config) -> str:
        """Return the folders in a line; nothing is read."""
        return f"features of {config.paths.data_root}, manifests of {config.paths.manifest_dir}"

    def search_splits(self, config: Config, inputs: Sequence[str]) -> tuple[Split, Split]:
        """Load train and valid.

        Without a valid manifest the train manifest is split by patient, stratified over the
        labels; patients who share a report or a feature row stay on one side.

        Args:
            config: `data`, `paths`, `training.target_labels` and `training.seed` are used.
            inputs: names of the inputs to load.

        Returns:
            The train and the valid split.

        Raises:
            ManifestError: a manifest cannot be used, or train and valid share a patient or a
                report, or differ in their labels.
            FeatureError: a feature file cannot be used, or train and valid share a feature row or
                differ in width.
        """
        train, valid = self._search(config, inputs)
        return train.split, valid.split

    def test_splits(self, config: Config, inputs: Sequence[str]) -> list[Split]:
        """Load the test splits and check them against train and valid.

        Test manifests may overlap among themselves, but share nothing with train or valid.

        Args:
            config: as for `search_splits`; `data.test_manifests` names the manifests.
            inputs: names of the inputs to load.

        Returns:
            One split for each test manifest, in the order of the config.

        Raises:
            ManifestError: as for `search_splits`.
            FeatureError: as for `search_splits`.
        """
        train, valid = self._search(config, inputs)
        tests = []
        for name in config.data.test_manifests:
            test = self._load(config, name, inputs, train.split.labels)
            for other in (train, valid):
                refuse_overlap(other, test, config.data.shared_content)
            tests.append(self._unshared(config, test, (train, valid)).split)
        return tests

    def splits_alone(self, config: Config, inputs: Sequence[str] | None) -> list[Split]:
        """Load the test splits without train and valid, for work in which no training has part.

        Args:
            config: `data`, `paths` and `training.target_labels` are used.
            inputs: names of the inputs to load; None loads those that each manifest names.

        Returns:
            One split for each test manifest, in the order of the config.

        Raises:
            ManifestError: a manifest cannot be used.
            FeatureError: a feature file cannot be used.
        """
        splits = []
        for name in config.data.test_manifests:
            labels = config.training.target_labels
            path = label_map_path(config, name)
            if path is not None:
                labels = labels or labels_of_map(path)
            manifest = self._manifest(config, name, labels if path is not None else None)
            named = tuple(manifest.feature_paths)
            splits.append(self._load(config, name, inputs or named, manifest.labels).split)
        return splits

    def labels(self, config: Config) -> tuple[str, ...]:
        """Return the labels of the train manifest, in its order.

        Raises:
            ManifestError: the manifest cannot be used.
        """
        return self._manifest(config, config.data.train_manifest).labels

    def refuse_mixed_labels(self, config: Config) -> None:
        """Refuse to choose between CT-RATE's labels and others when the config names none.

        Raises:
            ManifestError: the train manifest has both, and `training.target_labels` is null.
        """
        manifest = self._manifest(config, config.data.train_manifest)
        refuse_mixed_labels(manifest, config.training.target_labels)

    def _search(self, config: Config, inputs: Sequence[str]) -> tuple[LoadedSplit, LoadedSplit]:
        data = config.data
        divided = (data.val_fraction, config.training.seed) if data.val_manifest is None else None
        key = (
            *(_file_key(config, data.train_manifest), data.val_manifest, divided),
            *(config.paths.data_root, tuple(sorted(inputs))),
            *(data.feature_key, data.follow_links, data.shared_content),
        )
        if key not in self._searches:
            self._searches[key] = self._load_search(config, inputs)
        return self._searches[key]

    def _load_search(
        self, config: Config, inputs: Sequence[str]
    ) -> tuple[LoadedSplit, LoadedSplit]:
        data = config.data
        train = self._load(config, data.train_manifest, inputs)
        refuse_unlabelled(train.split, train.manifest.path)
        if data.val_manifest is None:
            if data.inputs is not None:  # which rows are valid must not depend on what is loaded
                train = self._with_all_features(config, train)
            return _divide(train, data.val_fraction, config.training.seed)
        valid = self._load(config, data.val_manifest, inputs, train.split.labels)
        refuse_overlap(train, valid, data.shared_content)
        return train, self._unshared(config, valid, (train,))

    def _load(
        self,
        config: Config,
        name: str,
        inputs: Sequence[str],
        labels: Sequence[str] | None = None,
    ) -> LoadedSplit:
        manifest = self._manifest(config, name, labels)
        if labels is not None:
            manifest = manifest.with_labels(labels)
        features = {one: self._packed(config, name, manifest, one) for one in inputs}
        return LoadedSplit(
            manifest,
            split_of(
                manifest.name,
                manifest,
                {one: packed.matrix for one, packed in features.items()},
                {one: packed.fingerprint for one, packed in features.items()},
            ),
            {one: packed.digests for one, packed in features.items()},
            config.data.modalities,
        )

    def _unshared(
        self, config: Config, loaded: LoadedSplit, others: Sequence[LoadedSplit]
    ) -> LoadedSplit:
        """Drop the rows that share content with other splits, if the config says so.

        All content that the manifests name counts, not only what is loaded: the rows of a split
        must not depend on the head.

        Returns:
            The split; the same one unless the policy is `drop`.
        """
        if config.data.shared_content != "drop":
            return loaded
        whole = self._with_all_features(config, loaded)
        shared = set[int]()
        for other in others:
            shared |= shared_rows(self._with_all_features(config, other), whole)
        return without_rows(loaded, shared)

    def _with_all_features(self, config: Config, loaded: LoadedSplit) -> LoadedSplit:
        manifest = loaded.manifest
        digests = dict(loaded.digests)
        for name in distinct_inputs(config.data.manifest_columns):
            if name in manifest.feature_paths and name not in digests:
                digests[name] = self._packed(config, manifest.path.name, manifest, name).digests
        return replace(loaded, digests=digests)

    def _manifest(self, config: Config, name: str, labels: Sequence[str] | None = None) -> Manifest:
        """Read a manifest, through its label map if it has one.

        Args:
            config: names files, columns and maps.
            name: of the manifest.
            labels: of the study, which a map gives the manifest; not used without a map.

        Returns:
            The manifest.
        """
        mapped = labels is not None and label_map_path(config, name) is not None
        key = (*_file_key(config, name), tuple(labels or ()) if mapped else None)
        if key not in self._manifests:
            path = Path(config.paths.manifest_dir) / name
            blank_labels = config.data.blank_labels
            label_map = map_of(config, name, labels) if labels is not None else None
            if label_map is None:
                manifest = read_manifest(
                    path, config.data.manifest_columns, config.training.target_labels, blank_labels
                )
            else:
                manifest = read_mapped(path, config.data.manifest_columns, label_map, blank_labels)
            for warning in manifest.warnings:
                warnings.warn(str(warning), HeadsweepWarning, stacklevel=2)
            self._manifests[key] = manifest
        return self._manifests[key]

    def _packed(self, config: Config, name: str, manifest: Manifest, one: str) -> _Features:
        # `one` is an input of the manifest `name`.
        how = (config.data.feature_key, config.data.follow_links)
        key = (*_file_key(config, name), config.paths.data_root, one, *how)
        if key not in self._features:
            packed = pack_for(config, manifest, one, self._cache_dir, progress=self._progress)
            digests = row_digests(packed.matrix)
            self._features[key] = _Features(packed.matrix, packed.fingerprint, digests)
        return self._features[key]


def _file_key(config: Config, name: str) -> tuple[Hashable, ...]:
    """Return everything that decides what is read from the manifest `name`."""
    return (
        config.paths.manifest_dir,
        name,
        config.data.manifest_columns,
        config.training.target_labels,
        config.data.blank_labels,
        (config.data.label_maps or {}).get(name),
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
    return part_of(whole, "train", ~in_valid), part_of(whole, "valid", in_valid)
