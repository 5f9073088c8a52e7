"""Named inputs in manifests and in memory: each packed, cached and fingerprinted by itself."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.dataset import Dataset
from headsweep.data.manifest_headers import check_test_headers
from headsweep.data.validation import check
from headsweep.errors import ConfigError, FeatureError, InputError, ManifestError
from tests.helpers.data_sets import config_of, write_dataset, write_feature, write_table

INPUTS = {
    "ct_clip": {"column": "visual_feature_path", "modality": "visual"},
    "colipri": {"column": "colipri_path", "modality": "visual"},
}


def add_encoder(
    root: Path, *, leave_out: str = "", widths: Mapping[str, int] = MappingProxyType({})
) -> None:
    """Add the column `colipri_path` to every manifest but one, with features of its own."""
    for path in (root / "manifests").glob("*.csv"):
        if path.stem == leave_out:
            continue
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        for row in rows:
            name = row[1].replace("image/", "colipri/")
            values = np.random.default_rng(list(name.encode())).standard_normal(
                widths.get(path.stem, 3)
            )
            write_feature(root, name, values.astype(np.float32)[None])
            row.append(name)
        write_table(path, [*header, "colipri_path"], rows)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_dataset(tmp_path)
    return tmp_path


def config(root: Path, **values: object) -> Config:
    named = {key.replace("__", "."): value for key, value in values.items()}
    base = {"data.test_manifests": ["test.csv"], "data.inputs": INPUTS}
    return config_of(root, base | {"features.input": "ct_clip+colipri"} | named)


def dataset(root: Path, **values: object) -> Dataset:
    return Dataset.from_config(config(root, **values), cache_dir=root / "cache")


def test_search_splits_hold_each_input_with_its_own_width_and_fingerprint(root: Path) -> None:
    add_encoder(root)
    train, valid = dataset(root).search_splits()
    assert {name: x.shape[1] for name, x in train.features.items()} == {"ct_clip": 4, "colipri": 3}
    assert len({*train.feature_fingerprints.values(), *valid.feature_fingerprints.values()}) == 4
    assert {folder.name.split("-")[1] for folder in (root / "cache").iterdir()} == {*INPUTS}


def test_fingerprint_of_an_input_depends_on_its_features_alone(root: Path) -> None:
    add_encoder(root)
    before = dataset(root).fingerprints()
    volume = "image/train_1_a_1.npz"
    write_feature(root, volume, np.full((1, 4), 0.5, np.float32))
    after = dataset(root).fingerprints()
    assert {name for name in before if before[name] != after[name]} == {"train ct_clip features"}


def test_named_input_has_the_fingerprint_of_the_built_in_one(root: Path) -> None:
    named = dataset(root, features__input="ct_clip").fingerprints()
    built_in = Dataset.from_config(config_of(root, {"data.test_manifests": ["test.csv"]}))
    assert named["train ct_clip features"] == built_in.fingerprints()["train visual features"]


@pytest.mark.parametrize("manifest", ["train", "valid", "test"])
def test_column_absent_from_one_manifest_is_named(root: Path, manifest: str) -> None:
    add_encoder(root, leave_out=manifest)
    data = dataset(root)
    with pytest.raises(
        ManifestError,
        match=rf"{manifest}\.csv:1: no column of colipri feature paths: 'colipri_path' "
        r"\(data\.inputs\.colipri\.column names it\)",
    ):
        data.test_splits()
    faults = [str(fault) for fault in check(data.config) if fault.severity == "error"]
    assert any("no column of colipri feature paths" in text for text in faults)


def test_test_headers_without_a_column_are_refused_before_the_search(root: Path) -> None:
    add_encoder(root, leave_out="test")
    with pytest.raises(ManifestError, match=r"test\.csv:1: column not found: 'colipri_path'"):
        check_test_headers(config(root), ("Emphysema",), ("ct_clip", "colipri"))


@pytest.mark.parametrize("manifest", ["valid", "test"])
def test_widths_that_differ_between_splits_are_refused(root: Path, manifest: str) -> None:
    add_encoder(root, widths={manifest: 5})
    data = dataset(root)
    with pytest.raises(
        FeatureError, match=rf"{manifest}\.csv: colipri features must be 3 wide, .* found 5"
    ):
        data.test_splits()


def test_manifest_with_named_columns_alone_is_read(root: Path) -> None:
    add_encoder(root)
    for path in (root / "manifests").glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            rows = [[row[0], *row[2:]] for row in csv.reader(file)]
        write_table(path, rows[0], rows[1:])
    inputs = {"colipri": INPUTS["colipri"]}
    data = dataset(root, data__inputs=inputs, features__input="colipri")
    assert data.search_splits()[0].features["colipri"].shape == (3, 3)
    assert data.labels == ("Emphysema", "Lung nodule")
    with pytest.raises(ManifestError, match="no column of visual feature paths"):
        dataset(root, data__inputs=inputs, features__input="visual").search_splits()


def test_shared_features_are_judged_by_the_modality_of_the_input(root: Path) -> None:
    add_encoder(root)
    shared = np.full((1, 3), 0.25, np.float32)
    write_feature(root, "colipri/train_2_a_1.npz", shared)
    write_feature(root, "colipri/valid_1_a_1.npz", shared)
    with pytest.raises(FeatureError, match="colipri features must be in one split"):
        dataset(root).search_splits()
    as_text = {**INPUTS, "colipri": {"column": "colipri_path", "modality": "text"}}
    with pytest.warns(match="rows share colipri features"):
        dataset(root, data__inputs=as_text).search_splits()


FEATURES = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
TARGETS = (FEATURES[:, :2] > 0).astype(int)


def in_memory(**changes: object) -> Dataset:
    arrays = {"ct_clip": FEATURES, "colipri": FEATURES[:, :3]}
    given = {"features": arrays, "targets": TARGETS, "labels": ["a", "b"]} | changes
    return Dataset.from_arrays(**given)  # type: ignore[arg-type]


def test_from_arrays_with_named_features_reads_the_first_unless_told_otherwise() -> None:
    data = in_memory()
    assert {*data.search_splits()[0].features} == {"ct_clip"}
    joined = with_values(data.config, {"features.input": ["colipri", "ct_clip"]}, where="test")
    train, valid = data.search_splits(joined)
    assert list(train.features) == ["colipri", "ct_clip"]
    assert train.features["colipri"].shape[1] == valid.features["colipri"].shape[1] == 3


def test_from_arrays_takes_the_modality_of_text_from_the_caller() -> None:
    data = in_memory(modalities={"colipri": "text"})
    assert data.config.data.modalities["colipri"] == "text"
    assert data.config.data.modalities["ct_clip"] == "visual"


def test_apply_to_a_config_with_another_input_is_refused() -> None:
    config = with_values(Config(), {"data.inputs": INPUTS, "features.input": "colipri"}, where="t")
    data = in_memory(features={"ct_clip": FEATURES})
    with pytest.raises(ConfigError, match=r"the data set: .* unknown input 'colipri'"):
        data.apply_to(config)


def test_search_splits_of_an_absent_input_names_those_there_are() -> None:
    with pytest.raises(InputError, match="reads visual features, but the data have only ct_clip"):
        in_memory().search_splits(Config())
