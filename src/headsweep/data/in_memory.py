"""Splits of data that the caller holds in memory as arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from headsweep.arguments import refuse_no_mapping
from headsweep.config.data_sections import BlankLabels, SharedContent
from headsweep.config.inputs import BUILT_IN, MODALITIES, Modality, joined_input
from headsweep.config.messages import nearest
from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.array_checks import ARRAYS, Rows, checked_rows, texts
from headsweep.data.loaded_splits import (
    LoadedSplit,
    refuse_overlap,
    refuse_unlabelled,
    shared_rows,
    split_of,
    without_rows,
)
from headsweep.data.manifest import Manifest
from headsweep.data.splits import (
    Split,
    content_fingerprint,
    row_digests,
    rows_fingerprint,
)
from headsweep.data.splitting import stratified_parts
from headsweep.errors import FeatureError, ManifestError

TRAIN = "train"
"""Stands in the config of data in memory where the manifest of the training rows is named."""

SHARES = {"train": 0.6, "valid": 0.2, "test": 0.2}
"""Share of the rows that each split gets when the caller names none."""
_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_SPELLED_VALID = ("val", "validation", "dev")


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

    def described(self, config: Config) -> str:
        """Return rows, features and labels in a line."""
        rows = ", ".join(f"{name} {len(one.volumes)} rows" for name, one in self._splits.items())
        features = self._splits["train"].features
        inputs = " + ".join(f"{name} ({values.shape[1]})" for name, values in features.items())
        return f"{rows}; {inputs}; {len(self.labels(config))} labels"

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
            groups = (split.patients, split.scans)
            split = replace(
                split,
                labels=labels,
                targets=targets,
                manifest_fingerprint=rows_fingerprint(split.volumes, labels, targets, groups),
            )
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
    rows = checked_rows(
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


def modalities_of(
    features: Mapping[str, Any], given: Mapping[str, Modality]
) -> dict[str, Modality]:
    """Return the modality of every input.

    Raises:
        FeatureError: a name is unknown, or a modality is none.
    """
    refuse_no_mapping("features", features, "{'visual': array}", FeatureError)
    for name, modality in given.items():
        if name not in features:
            raise FeatureError(
                f"modalities: unknown input {name!r}.{nearest(name, tuple(features))}"
            )
        if modality not in MODALITIES or BUILT_IN.get(name, modality) != modality:
            expected = BUILT_IN[name] if name in BUILT_IN else " or ".join(MODALITIES)
            raise FeatureError(f"modalities: {name!r} must be {expected}, found {modality!r}")
    return {name: given.get(name, BUILT_IN.get(name, "visual")) for name in features}


def config_of(
    source: ArraySource,
    modalities: Mapping[str, Modality],
    shared_content: SharedContent | None,
    blank_labels: BlankLabels,
) -> Config:
    """Return the config of data in memory.

    Names of splits stand where manifests are named, and names of inputs where columns are.
    """
    named = {
        name: {"column": name, "modality": modality}
        for name, modality in modalities.items()
        if name not in BUILT_IN
    }
    read = list(named)[:1] or [name for name in BUILT_IN if name in modalities]
    values = {
        "data.train_manifest": TRAIN,
        "data.val_manifest": "valid",
        "data.test_manifests": list(source.test_names),
        "data.shared_content": shared_content,
        "data.inputs": named or None,
        "features.input": joined_input(read),
        "data.blank_labels": blank_labels,
    }
    return with_values(Config(), values, where="Dataset")


def _checked_names(split: Sequence[Any], n: int) -> tuple[str, ...]:
    names = texts("split", split, n) or ()
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
    rows: Rows, name: str, names: Sequence[str], modalities: Mapping[str, Modality]
) -> LoadedSplit:
    chosen = [i for i, other in enumerate(names) if other == name]

    def pick(values: Sequence[str]) -> tuple[str, ...]:
        return tuple(values[i] for i in chosen)

    manifest = Manifest(
        path=ARRAYS,
        rows=tuple(chosen),
        volumes=pick(rows.volumes),
        patients=pick(rows.patients),
        scans=pick(rows.scans),
        labels=rows.labels,
        targets=rows.targets[chosen],
        feature_paths={},
        reports=None if rows.reports is None else pick(rows.reports),
        named_groups=True,
    )
    features = {one: matrix[chosen] for one, matrix in rows.features.items()}
    fingerprints = {
        one: content_fingerprint(manifest.volumes, matrix) for one, matrix in features.items()
    }
    return LoadedSplit(
        manifest,
        split_of(name, manifest, features, fingerprints),
        {one: row_digests(matrix) for one, matrix in features.items()},
        modalities,
    )
