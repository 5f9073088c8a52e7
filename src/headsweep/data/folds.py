"""Folds of a cross-validated search: which rows train a head, and which rows it is measured on."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from headsweep.data.splits import Split
from headsweep.data.splitting import group_folds, linked_groups
from headsweep.errors import HeadsweepWarning, ManifestError

OUT_OF_FOLD = "out_of_fold"
"""Name of the split that holds the rows of all folds, each scored by the head that did not train
on it."""

T = TypeVar("T", bound=np.generic)

BY_ROW = ("volumes", "patients", "scans", "targets", "reports")
"""Fields of a split that have an entry for each row; features aside."""

SHOWN = 3
"""Labels that a warning names."""


@dataclass(frozen=True, eq=False)
class Folds:
    """Rows divided into folds by patient; the training rows of a fold are those of all others.

    Attributes:
        rows: all rows.
        fold_of: fold 0 … count - 1 of every row, `(n,)`.
    """

    rows: Split
    fold_of: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Number of folds."""
        return int(self.fold_of.max()) + 1

    def held_out_rows(self, fold: int) -> NDArray[np.int64]:
        """Return the indices of the rows that a fold's head is measured on, ascending."""
        return np.flatnonzero(self.fold_of == fold)

    def training_rows(self, fold: int) -> NDArray[np.int64]:
        """Return the indices of the rows that a fold's head is trained on, ascending."""
        return np.flatnonzero(self.fold_of != fold)

    def held_out(self, fold: int) -> Split:
        """Return the rows that a fold's head is measured on."""
        return take(self.rows, self.held_out_rows(fold))

    def training(self, fold: int) -> Split:
        """Return the rows that a fold's head is trained on."""
        return take(self.rows, self.training_rows(fold))

    def pooled(self, parts: Sequence[NDArray[T]]) -> NDArray[T]:
        """Return values of each fold's held-out rows, `(n_k, …)`, in the order of all rows."""
        place = np.concatenate([self.held_out_rows(k) for k in range(self.count)])
        return np.concatenate(parts)[np.argsort(place)]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the volumes and their folds."""
        lines = (
            f"{volume}\t{fold}\n"
            for volume, fold in zip(self.rows.volumes, self.fold_of.tolist(), strict=True)
        )
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def divide(train: Split, valid: Split | None, count: int, seed: int) -> Folds:
    """Divide train, and valid if it is given, into folds by patient, stratified over the labels.

    Patients who share a report stay in one fold, as in `headsweep data folds`, unless so many share
    one that they would fill more than a fold; a warning says so. The folds depend on patients,
    reports and labels only, so they are the same for every choice of features.

    Args:
        train: training rows.
        valid: validation rows that are divided too.
        count: number of folds, at least 2.
        seed: of the order in which equal patients are placed.

    Returns:
        The folds.

    Raises:
        ManifestError: there are fewer patients than folds.
    """
    rows = train if valid is None else joined(train, valid)
    patients = len(set(rows.patients))
    if patients < count:
        raise ManifestError(
            f"{rows.name}: objective.folds must be at most the number of patients, "
            f"found {count} folds and {patients} patients"
        )
    fold_of = group_folds(_groups(rows, count), rows.targets, count, seed)
    folds = Folds(rows, fold_of)
    named = replace(rows, name=OUT_OF_FOLD, manifest_fingerprint=folds.fingerprint)
    folds = Folds(named, fold_of)
    _warn_of_missing_positives(folds)
    return folds


def take(split: Split, rows: NDArray[np.int64]) -> Split:
    """Return some rows of a split; features are copied only when they are read.

    The fingerprints stay those of the whole split.
    """
    return replace(
        split,
        features=_Taken(split.features, rows),
        **{name: _taken(value, rows) for name, value in _by_row(split).items()},
    )


def joined(train: Split, valid: Split) -> Split:
    """Return the rows of train, then those of valid, with a fingerprint over both."""
    behind = _by_row(valid)
    return replace(
        train,
        name=f"{train.name} and {valid.name}",
        features={m: np.concatenate([x, valid.features[m]]) for m, x in train.features.items()},
        n_left_out=train.n_left_out + valid.n_left_out,
        label_source=" and ".join(dict.fromkeys([train.label_source, valid.label_source])),
        manifest_fingerprint=_both(train.manifest_fingerprint, valid.manifest_fingerprint),
        feature_fingerprints={
            m: _both(one, valid.feature_fingerprints[m])
            for m, one in train.feature_fingerprints.items()
        },
        **{name: _joined(value, behind.get(name)) for name, value in _by_row(train).items()},
    )


class _Taken(Mapping[str, NDArray[np.float32]]):
    """Some rows of the features of a split, copied when an input is read."""

    def __init__(self, whole: Mapping[str, NDArray[np.float32]], rows: NDArray[np.int64]) -> None:
        self._whole, self._rows = whole, rows

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return np.asarray(self._whole[name][self._rows])

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)


def _by_row(split: Split) -> dict[str, Any]:
    """Return the fields `BY_ROW` of a split, without reports if it has none."""
    values = {name: getattr(split, name) for name in BY_ROW}
    return {name: value for name, value in values.items() if value is not None}


def _taken(value: Any, rows: NDArray[np.int64]) -> Any:
    return value[rows] if isinstance(value, np.ndarray) else tuple(value[i] for i in rows.tolist())


def _joined(one: Any, other: Any) -> Any:
    if other is None:  # only one of the manifests has reports
        return None
    return np.concatenate([one, other]) if isinstance(one, np.ndarray) else (*one, *other)


def _both(one: str, other: str) -> str:
    return hashlib.sha256(f"{one}\n{other}".encode()).hexdigest()


def _groups(rows: Split, count: int) -> list[int]:
    """Return the group of every row: patients, joined where they share a report."""
    by_patient: list[int] = linked_groups(rows.patients).tolist()
    if rows.reports is None:
        return by_patient
    keys: Sequence[Hashable] = [report or None for report in rows.reports]
    linked: list[int] = linked_groups(rows.patients, keys).tolist()
    ((_, largest),) = Counter(linked).most_common(1)
    if largest <= len(linked) / count:
        return linked
    warnings.warn(
        f"{rows.name}: {largest} of {len(linked)} rows share reports with each other, more than a "
        f"fold of {count} holds: folds are divided by patient alone, so equal reports may be on "
        "both sides",
        HeadsweepWarning,
        stacklevel=3,
    )
    return by_patient


def _warn_of_missing_positives(folds: Folds) -> None:
    held = np.stack(
        [(folds.rows.targets[folds.fold_of == k] == 1).sum(axis=0) for k in range(folds.count)]
    )
    reached = (held > 0).sum(axis=0)
    missing = [
        f"{label!r} (in {reached[j]})"
        for j, label in enumerate(folds.rows.labels)
        if reached[j] < folds.count
    ]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        warnings.warn(
            f"objective.folds: the positives of {len(missing)} labels do not reach each of the "
            f"{folds.count} folds: {', '.join(missing[:SHOWN])}{more}",
            HeadsweepWarning,
            stacklevel=3,
        )
