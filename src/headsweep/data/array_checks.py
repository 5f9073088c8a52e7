"""Checks of arrays that the caller holds: shapes, finite features, labels of 0 and 1, names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from headsweep.arguments import as_array, finite_matrix, refuse_no_mapping
from headsweep.config.data_sections import BlankLabels
from headsweep.config.inputs import BUILT_IN, check_name
from headsweep.data.ct_rate.names import groups_of
from headsweep.data.manifest import ALL_BLANK
from headsweep.errors import FeatureError, ManifestError
from headsweep.metrics.masking import BLANK, labelled

ARRAYS = Path("arrays")
"""Names the data in errors, as a manifest's path does: `arrays:17` is row 17, counted from 0."""
BLANK_HINT = "; blank_labels='mask' leaves NaN out of loss and metrics"


@dataclass(frozen=True, eq=False)
class Rows:
    """All rows of the data, checked; row i of every field is the same volume."""

    volumes: tuple[str, ...]
    patients: tuple[str, ...]
    scans: tuple[str, ...]
    labels: tuple[str, ...]
    targets: NDArray[np.uint8]
    features: Mapping[str, NDArray[np.float32]]
    reports: tuple[str, ...] | None


def checked_rows(
    features: Mapping[str, ArrayLike],
    targets: ArrayLike,
    labels: Sequence[str],
    *,
    patients: Sequence[Any] | None,
    volumes: Sequence[Any] | None,
    scans: Sequence[Any] | None,
    reports: Sequence[Any] | None,
    blank_labels: BlankLabels,
) -> Rows:
    """Check arrays of which row i is the same volume; see `Dataset.from_arrays` for the arguments.

    Returns:
        The rows; names that are not given follow from the volumes.

    Raises:
        FeatureError: features are not finite numbers of shape (n, d).
        ManifestError: anything else that cannot be used; the row is named, counted from 0.
    """
    matrices = _checked_features(features)
    n = len(next(iter(matrices.values())))
    names = checked_labels(labels)
    if doubles := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ManifestError(f"labels must have distinct names, found {doubles[0]!r} twice")
    checked_targets = _checked_targets(targets, names, n, blank_labels)
    of_volumes = texts("volumes", volumes, n) or tuple(f"row_{i}" for i in range(n))
    if doubles := [name for name, count in Counter(of_volumes).items() if count > 1]:
        first, second = [i for i, name in enumerate(of_volumes) if name == doubles[0]][:2]
        raise ManifestError(f"{ARRAYS}:{second}: volume {doubles[0]!r} is also in {ARRAYS}:{first}")
    default_patients, default_scans = groups_of(of_volumes)
    if patients is not None:  # a scan's name alone need not say whose scan it is
        default_scans = of_volumes
    return Rows(
        of_volumes,
        texts("patients", patients, n) or default_patients,
        texts("scans", scans, n) or default_scans,
        names,
        checked_targets,
        matrices,
        texts("reports", reports, n, may_be_empty=True),
    )


def checked_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the names of labels as text.

    Raises:
        ManifestError: they are one text, no collection or one without an order, or one is empty.
    """
    if isinstance(labels, str | AbstractSet) or not isinstance(labels, Iterable):
        raise ManifestError(
            f"labels must be a list of the names of the columns of targets, found {labels!r}"
        )
    given = list(labels)
    if not given:
        raise ManifestError("labels must name at least one column of targets, found none")
    for name in given:
        if pd.isna(name) or not str(name).strip() or not str(name).isprintable():
            raise ManifestError(f"labels must be names of printable characters, found {name!r}")
    return tuple(map(str, given))


def _checked_features(
    features: Mapping[str, ArrayLike],
) -> dict[str, NDArray[np.float32]]:
    refuse_no_mapping("features", features, "{'visual': array}", FeatureError)
    if not features:
        raise FeatureError("features must hold the features of an encoder, found none")
    matrices: dict[str, NDArray[np.float32]] = {}
    for one, given in features.items():
        if one not in BUILT_IN:
            try:
                check_name(one)
            except ValueError as error:
                raise FeatureError(f"features: {error}") from None
        matrix = finite_matrix(f"features[{one!r}]", given, FeatureError, rows=str(ARRAYS))
        if 0 in matrix.shape:
            raise FeatureError(
                f"features[{one!r}] must have shape (rows, width), found {matrix.shape}"
            )
        matrices[one] = matrix
    rows = {one: len(matrix) for one, matrix in matrices.items()}
    if len(set(rows.values())) > 1:
        raise FeatureError(f"features of all inputs must have equally many rows, found {rows}")
    return matrices


def _checked_targets(
    targets: ArrayLike, labels: Sequence[str], n: int, blank_labels: BlankLabels
) -> NDArray[np.uint8]:
    values = as_array("targets", targets, ManifestError)
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


def texts(
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
