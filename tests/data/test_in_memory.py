"""Data sets of arrays and DataFrames, without files."""

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import make_multilabel_classification

import headsweep
from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.dataset import Dataset, search_fingerprints
from headsweep.errors import ConfigError, FeatureError, InputError, ManifestError
from tests.helpers.data_sets import write_dataset

N, WIDTH, LABELS = 60, 5, ("one", "two")


def arrays(n=N):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, WIDTH)), rng.integers(0, 2, (n, len(LABELS)))


def of_arrays(**given):
    features, targets = arrays()
    given = {"features": {"visual": features}, "targets": targets, "labels": LABELS} | given
    return Dataset.from_arrays(given.pop("features"), given.pop("targets"), **given)


def named(n_train, n_valid, n_test, n=N):
    names = ["train"] * n_train + ["valid"] * n_valid + ["hospital_b"] * n_test
    return names + ["train"] * (n - len(names))


def test_from_arrays_of_sklearn_data_splits_all_rows_by_patient():
    features, targets = make_multilabel_classification(200, n_features=8, random_state=0)
    patients = np.arange(200) // 2
    data = Dataset.from_arrays(
        {"visual": features}, targets, labels=[f"l{i}" for i in range(5)], patients=patients
    )
    train, valid = data.search_splits()
    (test,) = data.test_splits()
    assert (train.name, valid.name, test.name) == ("train", "valid", "test")
    sides = [set(split.patients) for split in (train, valid, test)]
    assert sum(map(len, sides)) == 100 == len(set.union(*sides))
    assert [len(s.volumes) for s in (train, valid, test)] == pytest.approx([120, 40, 40], abs=6)
    row = int(valid.volumes[0].removeprefix("row_"))
    np.testing.assert_array_equal(valid.features["visual"][0], features[row].astype(np.float32))
    np.testing.assert_array_equal(valid.targets[0], targets[row])


def test_from_arrays_with_same_seed_gives_equal_splits():
    one, again, other = (of_arrays(seed=seed).search_splits() for seed in (1, 1, 2))
    assert one[0].volumes == again[0].volumes != other[0].volumes
    assert search_fingerprints(*one) == search_fingerprints(*again)


def test_from_arrays_with_split_names_keeps_the_given_rows():
    data = of_arrays(split=named(30, 10, 20))
    train, valid = data.search_splits()
    (test,) = data.test_splits()
    assert [len(train.volumes), len(valid.volumes), len(test.volumes)] == [30, 10, 20]
    assert test.name == "hospital_b"
    assert data.config.data.test_manifests == ("hospital_b",)


def test_from_arrays_without_valid_splits_train():
    train, valid = of_arrays(split=["train"] * N).search_splits()
    assert (len(train.volumes), len(valid.volumes)) == (48, 12)
    assert of_arrays(split=["train"] * N).test_splits() == []


def test_from_arrays_with_ct_rate_names_derives_patients_and_scans():
    volumes = [f"train_{i // 4}_{'ab'[i // 2 % 2]}_{i % 2 + 1}" for i in range(N)]
    train, _ = of_arrays(volumes=volumes).search_splits()
    assert set(train.patients) <= {f"train_{i}" for i in range(N // 4)}
    assert train.scans[0].rpartition("_")[0] == train.patients[0]


def test_from_arrays_with_own_names_uses_each_as_patient():
    train, _ = of_arrays(volumes=[f"LIDC-IDRI-{i:04}" for i in range(N)]).search_splits()
    assert train.patients == train.volumes == train.scans


def test_fingerprints_when_a_value_changes_differ():
    features, _ = arrays()
    before = of_arrays().fingerprints()
    changed = features.copy()
    changed[:, 0] += 1
    assert of_arrays(features={"visual": changed}).fingerprints() != before
    assert of_arrays(patients=[f"p{i}" for i in range(N)]).fingerprints() != before
    assert of_arrays(features={"visual": features.astype(np.float32)}).fingerprints() == before


def test_search_splits_with_target_labels_selects_columns():
    data = of_arrays()
    config = with_values(data.config, {"training.target_labels": ["two"]}, where="test")
    whole, chosen = data.search_splits()[0], data.search_splits(config)[0]
    assert chosen.labels == ("two",)
    np.testing.assert_array_equal(chosen.targets, whole.targets[:, 1:])
    assert chosen.manifest_fingerprint != whole.manifest_fingerprint


def broken(**changes):
    features, targets = arrays()
    return {"features": {"visual": features}, "targets": targets} | changes


def with_value(array, where, value):
    changed = array.astype(float)
    changed[where] = value
    return changed


FEATURES, TARGETS = arrays()
FAULTS = {
    "no features": ({"features": {}}, "features must hold the features of an encoder, found none"),
    "reserved name": ({"features": {"both": FEATURES}}, "features: 'both' is reserved"),
    "no name": ({"features": {"ct clip": FEATURES}}, "must begin with a letter .* found 'ct clip'"),
    "modality": (
        {"features": {"a": FEATURES}, "modalities": {"a": "image"}},
        "modalities: 'a' must be visual or text, found 'image'",
    ),
    "modality of no input": (
        {"features": {"ct_clip": FEATURES}, "modalities": {"ctclip": "text"}},
        "modalities: unknown input 'ctclip'. Did you mean 'ct_clip'?",
    ),
    "one axis": ({"features": {"visual": FEATURES[0]}}, r"must have shape \(rows, width\)"),
    "not finite": (
        {"features": {"visual": with_value(FEATURES, (7, 2), np.nan)}},
        r"^arrays:7: features must be finite, found nan in features\['visual'\]\[7, 2\]",
    ),
    "text values": ({"features": {"visual": [["a"]] * N}}, "must be numbers, found <U1"),
    "rows differ": (
        {"features": {"visual": FEATURES, "text": FEATURES[1:]}},
        r"equally many rows, found {'visual': 60, 'text': 59}",
    ),
    "target shape": ({"targets": TARGETS[:, :1]}, r"shape \(60, 2\), .*, found \(60, 1\)"),
    "target value": (
        {"targets": with_value(TARGETS, (3, 1), 0.5)},
        "^arrays:3: label 'two' must be 0 or 1, found 0.5",
    ),
    "target missing": (
        {"targets": with_value(TARGETS, (3, 0), np.nan)},
        "^arrays:3: label 'one' must be 0 or 1, found nan",
    ),
    "same label": ({"labels": ("one", "one")}, "distinct names, found 'one' twice"),
    "patients too few": ({"patients": range(59)}, "one entry for each of the 60 rows, found 59"),
    "patient missing": ({"patients": [None, *range(59)]}, "arrays:0: patients must not be empty"),
    "same volume": ({"volumes": ["a", "b", "a", *range(57)]}, "arrays:2: volume 'a' .* arrays:0"),
    "patient in two splits": (
        {"split": named(30, 10, 20), "patients": [*range(59), 4]},
        "^arrays:59: a patient must be in one split, found '4' in 'hospital_b' .* arrays:4",
    ),
    "val": ({"split": ["train", "val"] * 30}, "unknown split 'val'. Did you mean 'valid'?"),
    "no train": ({"split": ["test"] * N}, "found no 'train' among 'test'"),
    "split name": ({"split": ["train", "a/b"] * 30}, "letters, digits, .* found 'a/b'"),
    "one patient": ({"patients": ["p"] * N}, "needs as many patients, found 1"),
}


@pytest.mark.parametrize(("changes", "message"), FAULTS.values(), ids=FAULTS)
def test_from_arrays_with_invalid_input_raises_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        of_arrays(**changes)
    assert "\n" not in str(caught.value)


def test_search_splits_of_absent_modality_raises():
    config = with_values(Config(), {"features.input": "text"}, where="test")
    with pytest.raises(ManifestError, match="reads text features, but the data have only visual"):
        of_arrays().search_splits(config)


def test_search_splits_of_unknown_label_raises():
    config = with_values(Config(), {"training.target_labels": ["onee"]}, where="test")
    with pytest.raises(ManifestError, match=r"unknown label 'onee'\. Did you mean 'one'"):
        of_arrays().search_splits(config)


def frame():
    features, targets = arrays()
    table = pd.DataFrame(targets, columns=LABELS).assign(who=range(N), part=named(30, 10, 20))
    table["vector"] = list(features)
    return table.join(pd.DataFrame(features, columns=[f"f{i}" for i in range(WIDTH)]))


@pytest.mark.parametrize("features", ["vector", [f"f{i}" for i in range(WIDTH)], arrays()[0]])
def test_from_dataframe_equals_from_arrays(features):
    data = Dataset.from_dataframe(
        frame(), features={"visual": features}, labels=LABELS, patient="who", split="part"
    )
    same = of_arrays(patients=range(N), split=named(30, 10, 20))
    assert data.fingerprints() == same.fingerprints()
    assert data.test_splits()[0].patients == same.test_splits()[0].patients
    assert data.in_memory
    assert data.labels == LABELS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patient": "whom"}, "unknown column 'whom' of the DataFrame. Did you mean 'who'"),
        ({"labels": ["three"]}, "unknown column 'three'"),
        ({"features": {"visual": "one"}}, r"must have shape \(rows, width\), found \(60,\)"),
    ],
)
def test_from_dataframe_with_wrong_column_raises_with_its_name(changes, message):
    given = {"features": {"visual": "vector"}, "labels": LABELS} | changes
    with pytest.raises(InputError, match=message):
        Dataset.from_dataframe(frame(), **given)


def test_from_dataframe_with_ragged_vectors_raises():
    table = frame()
    table.at[3, "vector"] = np.zeros(2)
    with pytest.raises(FeatureError, match="column 'vector' must hold one vector a row"):
        Dataset.from_dataframe(table, features={"visual": "vector"}, labels=LABELS)


@pytest.mark.parametrize("overrides", [{"data.test_manifests": ["test.csv"]},
                                       ["data.test_manifests=[test.csv]"]])  # fmt: skip
def test_from_manifests_reads_each_manifest_once(tmp_path, monkeypatch, overrides):
    write_dataset(tmp_path)
    read = []
    from headsweep.data import loading

    original = loading.read_manifest
    monkeypatch.setattr(
        loading,
        "read_manifest",
        lambda path, *rest: read.append(path.name) or original(path, *rest),
    )
    monkeypatch.setenv("HEADSWEEP_CACHE", str(tmp_path / "cache"))
    data = Dataset.from_manifests(
        tmp_path / "features", tmp_path / "manifests", overrides=overrides
    )
    assert read == []
    first = data.search_splits()
    assert data.search_splits()[0] is first[0]
    assert read == ["train.csv", "valid.csv"]
    assert [test.name for test in data.test_splits()] == ["test"]
    assert data.labels == ("Emphysema", "Lung nodule")
    assert read == ["train.csv", "valid.csv", "test.csv"]
    assert not data.in_memory


@pytest.mark.parametrize("overrides", [{"data.trian_manifest": "a"}, ["data.trian_manifest=a"]])
def test_from_manifests_with_unknown_key_suggests_nearest_key(overrides):
    with pytest.raises(ConfigError, match=r"Did you mean 'data\.train_manifest'"):
        Dataset.from_manifests("a", "b", overrides=overrides)


def test_apply_to_makes_another_config_read_this_data_set():
    data = Dataset.from_manifests("a", "b", overrides={"data.val_manifest": None})
    config = data.apply_to(with_values(Config(), {"training.seed": 7}, where="test"))
    assert (config.paths.data_root, config.paths.manifest_dir) == ("a", "b")
    assert (config.data.val_manifest, config.training.seed) == (None, 7)


def test_test_splits_are_read_by_leaderboard_and_evaluation_alone():
    root = Path(headsweep.__file__).parent
    callers = {
        str(path.relative_to(root).parts[0])
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in {"test_splits", "splits_alone"}
    }
    assert callers <= {"data", "leaderboard", "evaluation"}


def test_repr_of_arrays_names_rows_inputs_and_labels():
    data = of_arrays(split=named(30, 20, 10))
    shown = "train 30 rows, valid 20 rows, hospital_b 10 rows; visual (5); 2 labels"
    assert repr(data) == f"<headsweep.Dataset: {shown}>"


def test_repr_of_manifests_names_the_folders_and_reads_nothing(tmp_path):
    data = Dataset.from_manifests(tmp_path / "absent", tmp_path / "none")
    folders = f"features of {tmp_path / 'absent'}, manifests of {tmp_path / 'none'}"
    assert repr(data) == f"<headsweep.Dataset: {folders}>"
