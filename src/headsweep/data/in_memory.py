"""Splits of data that the caller holds in memory as arrays or as a pandas DataFrame."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from headsweep.config.data_sections import BlankLabels, SharedContent
from headsweep.config.inputs import BUILT_IN, Modality, check_name
from headsweep.config.messages import nearest
from headsweep.config.schema import Config
from headsweep.data.ct_rate.names import groups_of
from headsweep.data.loading import (
    LoadedSplit,
    refuse_overlap,
    refuse_unlabelled,
    shared_rows,
    without_rows,
)
from headsweep.data.manifest import ALL_BLANK, Manifest
from headsweep.data.splits import (
    Split,
    content_fingerprint,
    row_digests,
    rows_fingerprint,
)
from headsweep.data.splitting import stratified_parts
from headsweep.errors import FeatureError, ManifestError
from headsweep.metrics.masking import BLANK, labelled

ARRAYS = Path("arrays")
"""Names the data in errors, as a manifest's path does: `arrays:17` is row 17, counted from 0."""

BLANK_HINT = "; blank_labels='mask' leaves NaN out of loss and metrics"

SHARES = {"train": 0.6, "valid": 0.2, "test": 0.2}
"""Share of the rows that each split gets when the caller names none."""

_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_SPELLED_VALID = ("val", "validation", "dev")


@dataclass(frozen=True, eq=False)
class _Rows:
    """All rows of the data, checked; row i of every field is the same volume."""

    volumes: tuple[str, ...]
    patients: tuple[str, ...]
    scans: tuple[str, ...]
    labels: tuple[str, ...]
    targets: NDArray[np.uint8]
    features: Mapping[str, NDArray[np.float32]]
    reports: tuple[str, ...] | None


class ArraySource:
    """Splits of arrays, checked when it is made."""

    in_memory = True

    def __init__(
        self, splits: Mapping[str, LoadedSplit], shared_content: SharedContent | None
    ) -> None:
        kept: dict[str, LoadedSplit] = {}
        for name, loaded in splits.items():
            searched = list(kept.values())[:2]  # test splits may overlap among themselves
            shared = set[int]()
            for one in searched:
                refuse_overlap(one, loaded, shared_content)
                shared |= shared_rows(one, loaded) if shared_content == "drop" else set()
            kept[name] = without_rows(loaded, shared)
        self._splits = {name: loaded.split for name, loaded in kept.items()}

    @property
    def test_names(self) -> tuple[str, ...]:
        """Names of the test splits."""
        return tuple(name for name in self._splits if name not in {"train", "valid"})

    def search_splits(self, config: Config, inputs: Sequence[str]) -> tuple[Split, Split]:
        """Return train and valid with the labels and features that the config reads.

        Raises:
            ManifestError: the data lack a label of `training.target_labels`, or an input.
        """
        train = self._chosen("train", config, inputs)
        refuse_unlabelled(train, ARRAYS)
        return train, self._chosen("valid", config, inputs)

    def test_splits(self, config: Config, inputs: Sequence[str]) -> list[Split]:
        """Return the test splits with the labels and features that the config reads.

        Raises:
            ManifestError: the data lack a label of `training.target_labels`, or an input.
        """
        return [self._chosen(name, config, inputs) for name in self.test_names]

    def splits_alone(self, config: Config, inputs: Sequence[str] | None) -> list[Split]:
        """Return the test splits; None as `inputs` keeps the features of all.

        Raises:
            ManifestError: the data lack a label of `training.target_labels`, or an input.
        """
        return self.test_splits(config, inputs or tuple(self._splits["train"].features))

    def labels(self, config: Config) -> tuple[str, ...]:
        """Return the labels that the config trains.

        Raises:
            ManifestError: the data lack a label of `training.target_labels`.
        """
        held = self._splits["train"].labels
        chosen = config.training.target_labels
        for label in chosen or ():
            if label not in held:
                hint = nearest(label, held)
                raise ManifestError(f"{ARRAYS}: unknown label {label!r}.{hint}")
        return chosen or held

    def refuse_mixed_labels(self, config: Config) -> None:
        """Accept any labels: those of arrays are named one by one."""

    def _chosen(self, name: str, config: Config, inputs: Sequence[str]) -> Split:
        split = self._splits[name]
        for one in inputs:
            if one not in split.features:
                raise ManifestError(
                    f"{ARRAYS}: the config reads {one} features, but the data have only "
                    f"{', '.join(split.features)}.{nearest(one, tuple(split.features))}"
                )
        labels = self.labels(config)
        if labels != split.labels:
            columns = [split.labels.index(label) for label in labels]
            targets = np.ascontiguousarray(split.targets[:, columns])
            split = _to_split(
                name,
                _Rows(
                    split.volumes,
                    split.patients,
                    split.scans,
                    labels,
                    targets,
                    split.features,
                    split.reports,
                ),
                split.feature_fingerprints,
            )
        split = replace(split, n_left_out=self._splits[name].n_left_out)
        return split.with_inputs(inputs)


def source_of_arrays(
    features: Mapping[str, ArrayLike],
    targets: ArrayLike,
    *,
    modalities: Mapping[str, Modality],
    labels: Sequence[str],
    patients: Sequence[Any] | None,
    split: Sequence[Any] | None,
    volumes: Sequence[Any] | None,
    scans: Sequence[Any] | None,
    reports: Sequence[Any] | None,
    seed: int,
    shared_content: SharedContent | None,
    blank_labels: BlankLabels,
) -> ArraySource:
    """Check arrays and divide them into splits; see `Dataset.from_arrays` for the arguments.

    Returns:
        The source of a data set.

    Raises:
        FeatureError: features are not finite numbers of shape (n, d).
        ManifestError: anything else that cannot be used; the row is named, counted from 0.
    """
    rows = _checked_rows(
        features,
        targets,
        labels,
        patients=patients,
        volumes=volumes,
        scans=scans,
        reports=reports,
        blank_labels=blank_labels,
    )
    n = len(rows.volumes)
    if split is None:
        parts = stratified_parts(rows.patients, rows.targets, tuple(SHARES.values()), seed)
        names = tuple(list(SHARES)[part] for part in parts)
    else:
        names = _checked_names(split, n)
    if "valid" not in names:
        of_train = np.array([i for i, name in enumerate(names) if name == "train"])
        sides = stratified_parts(
            [rows.patients[i] for i in of_train], rows.targets[of_train], (0.8, 0.2), seed
        )
        to_valid = set(of_train[sides == 1].tolist())
        names = tuple("valid" if i in to_valid else name for i, name in enumerate(names))
    _refuse_divided_patients(rows.patients, names)
    order = ("train", "valid", *dict.fromkeys(n for n in names if n not in {"train", "valid"}))
    return ArraySource(
        {name: _take(rows, name, names, modalities) for name in order}, shared_content
    )


def frame_arrays(
    frame: pd.DataFrame, features: Mapping[str, str | Sequence[str] | NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Collect the feature matrices that a frame's columns hold.

    Args:
        frame: one row a volume.
        features: for each input the column that holds vectors, the numeric columns, or the
            matrix itself.

    Returns:
        For each input an array with one row for each row of the frame.

    Raises:
        FeatureError: a column does not hold vectors of one width.
    """
    matrices: dict[str, NDArray[Any]] = {}
    for one, given in features.items():
        if isinstance(given, np.ndarray):
            matrices[one] = given
        elif isinstance(given, str):
            try:
                matrices[one] = np.stack([np.asarray(v) for v in column(frame, given)])
            except ValueError as error:
                raise FeatureError(
                    f"column {given!r} must hold one vector a row, all of one width: {error}"
                ) from None
        else:
            matrices[one] = np.column_stack([column(frame, name) for name in given])
    return matrices


def column(frame: pd.DataFrame, name: str) -> NDArray[Any]:
    """Return one column of a frame as an array.

    Raises:
        ManifestError: the frame has no such column, or two of that name.
    """
    known = [str(known) for known in frame.columns]
    if known.count(name) != 1:
        problem = "unknown" if name not in known else "repeated"
        hint = nearest(name, tuple(known)) if name not in known else ""
        raise ManifestError(f"{problem} column {name!r} of the DataFrame.{hint}")
    values: NDArray[Any] = frame[name].to_numpy()
    return values


def _checked_rows(
    features: Mapping[str, ArrayLike],
    targets: ArrayLike,
    labels: Sequence[str],
    *,
    patients: Sequence[Any] | None,
    volumes: Sequence[Any] | None,
    scans: Sequence[Any] | None,
    reports: Sequence[Any] | None,
    blank_labels: BlankLabels,
) -> _Rows:
    matrices = _checked_features(features)
    n = len(next(iter(matrices.values())))
    names = tuple(map(str, labels))
    if doubles := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ManifestError(f"labels must have distinct names, found {doubles[0]!r} twice")
    checked_targets = _checked_targets(targets, names, n, blank_labels)
    of_volumes = _texts("volumes", volumes, n) or tuple(f"row_{i}" for i in range(n))
    if doubles := [name for name, count in Counter(of_volumes).items() if count > 1]:
        first, second = [i for i, name in enumerate(of_volumes) if name == doubles[0]][:2]
        raise ManifestError(f"{ARRAYS}:{second}: volume {doubles[0]!r} is also in {ARRAYS}:{first}")
    default_patients, default_scans = groups_of(of_volumes)
    if patients is not None:  # a scan's name alone need not say whose scan it is
        default_scans = of_volumes
    return _Rows(
        of_volumes,
        _texts("patients", patients, n) or default_patients,
        _texts("scans", scans, n) or default_scans,
        names,
        checked_targets,
        matrices,
        _texts("reports", reports, n, may_be_empty=True),
    )


def _checked_features(
    features: Mapping[str, ArrayLike],
) -> dict[str, NDArray[np.float32]]:
    if not features:
        raise FeatureError("features must hold the features of an encoder, found none")
    matrices: dict[str, NDArray[np.float32]] = {}
    for one, given in features.items():
        if one not in BUILT_IN:
            try:
                check_name(one)
            except ValueError as error:
                raise FeatureError(f"features: {error}") from None
        try:
            with np.errstate(over="ignore"):
                matrix = np.ascontiguousarray(given, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise FeatureError(f"features[{one!r}] must be numbers: {error}") from None
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise FeatureError(
                f"features[{one!r}] must have shape (rows, width), found {matrix.shape}"
            )
        if not (finite := np.isfinite(matrix)).all():
            row, index = np.argwhere(~finite)[0]
            raise FeatureError(
                f"{ARRAYS}:{row}: features must be finite, found {matrix[row, index]} in "
                f"features[{one!r}][{row}, {index}]"
            )
        matrices[one] = matrix
    rows = {one: len(matrix) for one, matrix in matrices.items()}
    if len(set(rows.values())) > 1:
        raise FeatureError(f"features of all inputs must have equally many rows, found {rows}")
    return matrices


def _checked_targets(
    targets: ArrayLike, labels: Sequence[str], n: int, blank_labels: BlankLabels
) -> NDArray[np.uint8]:
    values = np.asarray(targets)
    if values.ndim == 1 and len(labels) == 1:
        values = values[:, None]
    if values.shape != (n, len(labels)):
        raise ManifestError(
            f"targets must have shape ({n}, {len(labels)}), one row for each row of features and "
            f"one column for each label, found {values.shape}"
        )
    blank = np.asarray(pd.isna(values))
    masked = blank & (blank_labels == "mask")
    if values.dtype.kind == "O":  # a column of a DataFrame that held None
        with suppress(TypeError, ValueError):
            values = np.where(blank, np.nan, values).astype(np.float64)
    numbers = values.dtype.kind in "buif"
    is_label = np.isin(values, (0, 1)) | masked if numbers else np.zeros(values.shape)
    if not is_label.all():
        row, index = np.argwhere(is_label == 0)[0]
        found = values[row, index]
        raise ManifestError(
            f"{ARRAYS}:{row}: label {labels[index]!r} must be 0 or 1, "
            f"found {getattr(found, 'item', lambda: found)()!r}"
            f"{BLANK_HINT if blank[row, index] else ''}"
        )
    if not masked.any():
        return np.ascontiguousarray(values, dtype=np.uint8)
    checked = np.where(masked, BLANK, np.nan_to_num(values)).astype(np.uint8)
    if not labelled(checked).any():
        raise ManifestError(f"{ARRAYS}: {ALL_BLANK}")
    return checked


def _texts(
    name: str, values: Sequence[Any] | None, n: int, *, may_be_empty: bool = False
) -> tuple[str, ...] | None:
    """Read values as text, one for each row.

    Returns:
        The texts; None when there are no values.

    Raises:
        ManifestError: their number is wrong, or one is empty.
    """
    if values is None:
        return None
    listed = list(values)
    if len(listed) != n:
        raise ManifestError(
            f"{name} must have one entry for each of the {n} rows, found {len(listed)}"
        )
    missing = [i for i, value in enumerate(listed) if pd.isna(value) or not str(value).strip()]
    if missing and not may_be_empty:
        raise ManifestError(f"{ARRAYS}:{missing[0]}: {name} must not be empty")
    absent = set(missing)
    return tuple("" if i in absent else str(value).strip() for i, value in enumerate(listed))


def _checked_names(split: Sequence[Any], n: int) -> tuple[str, ...]:
    names = _texts("split", split, n) or ()
    for name in dict.fromkeys(names):
        if name in _SPELLED_VALID:
            raise ManifestError(f"unknown split {name!r}. Did you mean 'valid'?")
        if not _SPLIT_NAME.fullmatch(name):
            raise ManifestError(
                "a split's name must consist of letters, digits, '_' and '-', as files are named "
                f"after it, found {name!r}"
            )
    if "train" not in names:
        raise ManifestError(
            "split must name the rows 'train', 'valid' (optional) and anything else for test, "
            f"found no 'train' among {', '.join(map(repr, dict.fromkeys(names)))}"
        )
    return names


def _refuse_divided_patients(patients: Sequence[str], names: Sequence[str]) -> None:
    first: dict[tuple[str, str], int] = {}
    for i, (patient, name) in enumerate(zip(patients, names, strict=True)):
        for side in sorted({"train", "valid", "test"} - {_side(name)}):
            if (j := first.get((patient, side))) is not None:
                raise ManifestError(
                    f"{ARRAYS}:{i}: a patient must be in one split, found {patient!r} in "
                    f"{name!r} and, in {ARRAYS}:{j}, in {names[j]!r}"
                )
        first.setdefault((patient, _side(name)), i)


def _side(name: str) -> str:
    return name if name in {"train", "valid"} else "test"


def _take(
    rows: _Rows, name: str, names: Sequence[str], modalities: Mapping[str, Modality]
) -> LoadedSplit:
    chosen = [i for i, other in enumerate(names) if other == name]

    def pick(values: Sequence[str]) -> tuple[str, ...]:
        return tuple(values[i] for i in chosen)

    of_split = _Rows(
        pick(rows.volumes),
        pick(rows.patients),
        pick(rows.scans),
        rows.labels,
        rows.targets[chosen],
        {one: matrix[chosen] for one, matrix in rows.features.items()},
        None if rows.reports is None else pick(rows.reports),
    )
    fingerprints = {
        one: content_fingerprint(of_split.volumes, matrix)
        for one, matrix in of_split.features.items()
    }
    manifest = Manifest(
        path=ARRAYS,
        rows=tuple(chosen),
        volumes=of_split.volumes,
        patients=of_split.patients,
        scans=of_split.scans,
        labels=of_split.labels,
        targets=of_split.targets,
        feature_paths={},
        reports=of_split.reports,
        named_groups=True,
    )
    return LoadedSplit(
        manifest,
        _to_split(name, of_split, fingerprints),
        {one: row_digests(matrix) for one, matrix in of_split.features.items()},
        modalities,
    )


def _to_split(name: str, rows: _Rows, fingerprints: Mapping[str, str]) -> Split:
    return Split(
        name=name,
        volumes=rows.volumes,
        patients=rows.patients,
        scans=rows.scans,
        labels=rows.labels,
        targets=rows.targets,
        features=rows.features,
        reports=rows.reports,
        manifest_fingerprint=rows_fingerprint(
            rows.volumes, rows.labels, rows.targets, (rows.patients, rows.scans)
        ),
        feature_fingerprints=fingerprints,
        label_source=str(ARRAYS),
    )
