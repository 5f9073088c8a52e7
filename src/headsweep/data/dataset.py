"""Splits in memory: the one place where manifests, features and the laws between them meet."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headsweep.config.schema import Config, Modality, RetrievalConfig
from headsweep.data.faults import Fault
from headsweep.data.manifest import Manifest, read_manifest
from headsweep.data.overlaps import shared_content, shared_patients
from headsweep.data.packing import content_fingerprint, pack
from headsweep.data.splitting import linked_groups, split_by_group
from headsweep.errors import FeatureError, InputError, ManifestError

MODALITIES: tuple[Modality, ...] = ("visual", "text")


@dataclass(frozen=True, eq=False)
class Split:
    """One split of the data; row i of every field is the same volume.

    `targets` has shape (n, c), `features[modality]` shape (n, d) and is finite float32. The
    fingerprints are SHA-256 of content, so equal data have equal ones wherever they lie.
    """

    name: str
    volumes: tuple[str, ...]
    patients: tuple[str, ...]
    scans: tuple[str, ...]
    labels: tuple[str, ...]
    targets: NDArray[np.uint8]
    features: Mapping[Modality, NDArray[np.float32]]
    reports: tuple[str, ...] | None
    manifest_fingerprint: str
    feature_fingerprints: Mapping[Modality, str]


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A split beside its manifest, for errors that name file and row, and its rows' digests."""

    manifest: Manifest
    split: Split
    digests: Mapping[Modality, Sequence[bytes]]


def required_modalities(config: Config) -> tuple[Modality, ...]:
    """The modalities that training this config reads; a retrieval head pairs both."""
    if isinstance(config.head, RetrievalConfig) or config.features.input == "both":
        return MODALITIES
    return (config.features.input,)


def load_search_splits(
    config: Config, *, cache_dir: Path, modalities: Sequence[Modality], progress: bool = False
) -> tuple[Split, Split]:
    """The train and valid splits.

    Without a valid manifest the train manifest is split by patient, stratified over the labels;
    patients who share a report or a feature row stay on one side.

    Args:
        config: `data`, `paths`, `training.target_labels` and `training.seed` are used.
        cache_dir: where packed features are kept.
        modalities: which features to load.
        progress: show progress while packing.

    Raises:
        ManifestError: a manifest is at fault, or train and valid share a patient or a report, or
            differ in their labels.
        FeatureError: a feature file is at fault, or train and valid share a feature row or differ
            in width.
    """
    train, valid = _load_search(config, cache_dir, modalities, progress=progress)
    return train.split, valid.split


def load_test_splits(
    config: Config, *, cache_dir: Path, modalities: Sequence[Modality], progress: bool = False
) -> tuple[Split, ...]:
    """The test splits, held against train and valid; arguments and errors as for the search's.

    Test manifests may overlap among themselves, but share nothing with train or valid.
    """
    train, valid = _load_search(config, cache_dir, modalities, progress=progress)
    tests = []
    for name in config.data.test_manifests:
        test = _load(config, name, cache_dir, modalities, train.split.labels, progress=progress)
        for other in (train, valid):
            _refuse_overlap(other, test)
        tests.append(test.split)
    return tuple(tests)


def search_fingerprints(train: Split, valid: Split) -> dict[str, str]:
    """Fingerprints of all that a search reads, by what they are of."""
    fingerprints: dict[str, str] = {}
    for split in (train, valid):
        fingerprints[f"{split.name} manifest"] = split.manifest_fingerprint
        for modality, fingerprint in split.feature_fingerprints.items():
            fingerprints[f"{split.name} {modality} features"] = fingerprint
    return fingerprints


def load_splits_alone(
    config: Config,
    *,
    cache_dir: Path,
    modalities: Sequence[Modality] | None = None,
    progress: bool = False,
) -> tuple[Split, ...]:
    """The test splits by themselves, held against nothing: for what no training has part in.

    Args:
        config: `data`, `paths` and `training.target_labels` are used.
        cache_dir: where packed features are kept.
        modalities: which features to load; None loads those that each manifest names.
        progress: show progress while packing.

    Raises:
        ManifestError: a manifest is at fault.
        FeatureError: a feature file is at fault.
    """
    splits = []
    for name in config.data.test_manifests:
        path = Path(config.paths.manifest_dir) / name
        chosen = modalities
        if chosen is None:
            named = read_manifest(path, config.data.columns, config.training.target_labels)
            chosen = tuple(named.feature_paths)
        splits.append(_load(config, name, cache_dir, chosen, progress=progress).split)
    return tuple(splits)


def row_digests(matrix: NDArray[np.float32]) -> list[bytes]:
    """A short digest of every row of features with shape (n, d); equal rows have equal ones."""
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in matrix]


def _load_search(
    config: Config, cache_dir: Path, modalities: Sequence[Modality], *, progress: bool
) -> tuple[_Loaded, _Loaded]:
    train = _load(config, config.data.train_manifest, cache_dir, modalities, progress=progress)
    if config.data.val_manifest is None:
        return _divide(train, config.data.val_fraction, config.training.seed)
    valid = _load(
        config,
        config.data.val_manifest,
        cache_dir,
        modalities,
        train.split.labels,
        progress=progress,
    )
    _refuse_overlap(train, valid)
    return train, valid


def _load(
    config: Config,
    name: str,
    cache_dir: Path,
    modalities: Sequence[Modality],
    labels: Sequence[str] | None = None,
    *,
    progress: bool,
) -> _Loaded:
    path = Path(config.paths.manifest_dir) / name
    manifest = read_manifest(path, config.data.columns, config.training.target_labels)
    if labels is not None:
        manifest = manifest.with_labels(labels)
    data_root = Path(config.paths.data_root)
    packs = {m: pack(manifest, m, data_root, cache_dir, progress=progress) for m in modalities}
    return _to_loaded(
        manifest.name,
        manifest,
        {modality: packed.matrix for modality, packed in packs.items()},
        {modality: packed.fingerprint for modality, packed in packs.items()},
    )


def _divide(whole: _Loaded, fraction: float, seed: int) -> tuple[_Loaded, _Loaded]:
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


def _part(whole: _Loaded, name: str, mask: NDArray[np.bool_]) -> _Loaded:
    rows = np.flatnonzero(mask)
    manifest = whole.manifest.take(rows)
    features = {modality: matrix[rows] for modality, matrix in whole.split.features.items()}
    fingerprints = {
        modality: content_fingerprint(manifest.volumes, matrix)
        for modality, matrix in features.items()
    }
    return _to_loaded(name, manifest, features, fingerprints)


def _to_loaded(
    name: str,
    manifest: Manifest,
    features: Mapping[Modality, NDArray[np.float32]],
    fingerprints: Mapping[Modality, str],
) -> _Loaded:
    split = Split(
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
    return _Loaded(manifest, split, {m: row_digests(matrix) for m, matrix in features.items()})


def _refuse_overlap(one: _Loaded, other: _Loaded) -> None:
    """Refuses two splits that share patients, reports or feature rows, or differ in width."""
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
