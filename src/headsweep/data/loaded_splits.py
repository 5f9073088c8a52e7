"""A split with its manifest and the digests of its rows, and the checks between two of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headsweep.config.data_sections import SharedContent
from headsweep.config.inputs import BUILT_IN, Modality
from headsweep.data.faults import Fault
from headsweep.data.manifest import Manifest
from headsweep.data.overlaps import HOW_TO_GO_ON, REPORT, Overlap, overlap, shared_patients
from headsweep.data.splits import Split, content_fingerprint
from headsweep.errors import FeatureError, HeadsweepWarning, InputError, ManifestError
from headsweep.metrics.masking import wholly_blank


@dataclass(frozen=True, eq=False)
class LoadedSplit:
    """A split with its manifest, which names file and row in errors, and its rows' digests.

    `digests` and `modalities` are by the name of the input.
    """

    manifest: Manifest
    split: Split
    digests: Mapping[str, Sequence[bytes]]
    modalities: Mapping[str, Modality] = field(default_factory=lambda: BUILT_IN)


def part_of(whole: LoadedSplit, name: str, mask: NDArray[np.bool_]) -> LoadedSplit:
    """Return the rows of a split where the mask, of shape (n,), is true, as a split of a name."""
    rows = np.flatnonzero(mask)
    manifest = whole.manifest.take(rows)
    features = {one: matrix[rows] for one, matrix in whole.split.features.items()}
    fingerprints = {
        one: content_fingerprint(manifest.volumes, matrix) for one, matrix in features.items()
    }
    digests = {one: [values[row] for row in rows.tolist()] for one, values in whole.digests.items()}
    split = split_of(name, manifest, features, fingerprints)
    return LoadedSplit(manifest, split, digests, whole.modalities)


def split_of(
    name: str,
    manifest: Manifest,
    features: Mapping[str, NDArray[np.float32]],
    fingerprints: Mapping[str, str],
) -> Split:
    """Join a manifest and its features.

    Args:
        name: of the split.
        manifest: its rows.
        features: shape (n, d) by input; row i belongs to row i of the manifest.
        fingerprints: of the features, by input.

    Returns:
        The split.
    """
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
        label_source=_label_source(manifest),
        label_map_fingerprint=manifest.label_map_fingerprint,
    )


def _label_source(manifest: Manifest) -> str:
    through = "" if manifest.label_map is None else f" through {manifest.label_map}"
    return f"{manifest.path.name}{through}"


def refuse_unlabelled(train: Split, path: Path) -> None:
    """Refuse a train split in which a label is blank in every row.

    Raises:
        ManifestError: names the first such label.
    """
    blank = wholly_blank(train.labels, train.targets)
    if blank:
        others = f" (and {len(blank) - 1} more labels)" if len(blank) > 1 else ""
        raise ManifestError(
            f"{path}: {blank[0]!r} is blank in every row{others}, so no head can "
            "learn it: name the labels to train in training.target_labels"
        )


def refuse_overlap(
    one: LoadedSplit, other: LoadedSplit, policy: SharedContent | None = None
) -> None:
    """Refuse two splits that share patients or, by a policy, content, or differ in width.

    Args:
        one: the split that is read first: train.
        other: the split whose rows are judged.
        policy: what is done about shared reports and feature rows; see `data.shared_content`.

    Raises:
        ManifestError: they share a patient or a report.
        FeatureError: they share a feature row, or differ in width.
    """
    a, b = one.manifest, other.manifest
    _refuse(ManifestError, shared_patients(a, b))
    for name, matrix in one.split.features.items():
        widths = matrix.shape[1], other.split.features[name].shape[1]
        if widths[0] != widths[1]:
            raise FeatureError(
                f"{b.path}: {name} features must be {widths[0]} wide, as in {a.path}, "
                f"found {widths[1]}"
            )
    if policy == "drop":
        return
    for found in _overlaps(one, other):
        faults = found.faults(policy)
        _refuse(ManifestError if found.kind == REPORT else FeatureError, faults, HOW_TO_GO_ON)
        for fault in faults:
            if fault.row is None:
                warnings.warn(str(fault), HeadsweepWarning, stacklevel=2)


def _overlaps(one: LoadedSplit, other: LoadedSplit) -> Iterator[Overlap]:
    a, b = one.manifest, other.manifest
    yield overlap(REPORT, a, a.reports or (), b, b.reports or ())
    for name, modality in one.modalities.items():
        if name in one.digests and name in other.digests:
            digests = one.digests[name], other.digests[name]
            yield overlap(f"{name} features", a, digests[0], b, digests[1], modality=modality)


def shared_rows(one: LoadedSplit, other: LoadedSplit) -> set[int]:
    """Return the indices of the rows of `other` whose report or features `one` also has."""
    return {j for found in _overlaps(one, other) for _, j in found.pairs}


def without_rows(loaded: LoadedSplit, rows: set[int]) -> LoadedSplit:
    """Drop rows of a split, with a warning of how many.

    Returns:
        The split without the rows; the same split if there are none.

    Raises:
        ManifestError: no row would be left.
    """
    if not rows:
        return loaded
    n = len(loaded.split.volumes)
    message = f"{loaded.manifest.path}: {len(rows)} of {n} rows share content with another split"
    if len(rows) == n:
        raise ManifestError(f"{message}: data.shared_content=drop leaves none")
    warnings.warn(f"{message} and are left out", HeadsweepWarning, stacklevel=2)
    mask = np.ones(n, bool)
    mask[list(rows)] = False
    part = part_of(loaded, loaded.split.name, mask)
    return replace(part, split=replace(part.split, n_left_out=len(rows)))


def _refuse(error: type[InputError], faults: Sequence[Fault], hint: str = "") -> None:
    errors = [fault for fault in faults if fault.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more rows)" if len(errors) > 1 else ""
        raise error(f"{errors[0]}{more}{'. ' if hint else ''}{hint}")
