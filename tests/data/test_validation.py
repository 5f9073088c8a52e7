import re

import numpy as np
import pytest

from headsweep.config.values import with_values
from headsweep.data.dataset import Dataset
from headsweep.data.validation import check
from headsweep.errors import HeadsweepWarning, ManifestError
from tests.helpers.data_sets import (
    config_of,
    write_dataset,
    write_feature,
    write_split,
    write_table,
)


def places(faults):
    return [(fault.path.name, fault.row, fault.severity) for fault in faults]


def test_check_of_valid_data_returns_no_faults(tmp_path):
    assert check(write_dataset(tmp_path)) == []


def test_check_of_real_reports_returns_warnings_only(real_reports):
    faults = check(config_of(real_reports))
    assert {fault.severity for fault in faults} == {"warning"}
    of_rows = [fault for fault in faults if fault.row is not None]
    assert of_rows
    assert all("features must be in one split" in fault.message for fault in of_rows)
    of_files = {fault.message.split(" have ")[0].split(" are ")[0] for fault in faults} - {
        fault.message for fault in of_rows
    }
    assert "visual features" in of_files
    assert any("constant in 3 of 384 columns" in fault.message for fault in faults)


def store(tmp_path, volume, vector):
    write_feature(tmp_path, f"image/{volume}.npz", np.asarray(vector))


def spoil_rows(tmp_path):
    write_table(
        tmp_path / "manifests/valid.csv",
        ["volumename", "visual_feature_path", "Emphysema", "Lung nodule"],
        [
            ["valid_1_a_1", "image/valid_1_a_1.npz", "maybe", 0],
            ["valid_2_a_1", "image/valid_2_a_1.npz", 1, 0],
            ["valid_2_a_1", "image/valid_2_a_1.npz", 0, 1],
            ["valid_5_a_1", "image/valid_1_a_1.npz", 0, 1],
        ],
    )


@pytest.mark.parametrize(
    ("spoil", "place", "message"),
    [
        (lambda p: (p / "manifests/valid.csv").unlink(), ("valid.csv", None), "manifest not found"),
        (lambda p: (p / "features/image/valid_2_a_1.npz").unlink(), ("valid.csv", 3), "not found"),
        (lambda p: store(p, "valid_1_a_1", [1.0, np.nan, 0, 0]), ("valid.csv", 2), "finite"),
        (lambda p: store(p, "valid_3_a_1", np.ones(5)), ("test.csv", 2), "4 wide.*found 5"),
        (lambda p: store(p, "train_2_a_1", [None]), ("train.csv", 4), "floats or integers"),
        (
            lambda p: write_table(
                p / "manifests/valid.csv",
                ["volumename", "visual_feature_path", "Emphysema", "Lung nodule"],
                [["valid_1_a_1", "image/valid_1_a_1.npz", 1, 0], ["valid_2_a_1", "", 0, 1]],
            ),
            ("valid.csv", 3),
            "the path of the features is empty",
        ),
        (spoil_rows, ("valid.csv", 2), "0 or 1, found 'maybe'"),
        (spoil_rows, ("valid.csv", 4), "in one row"),
        (
            lambda p: write_split(p, "test", {"train_1_b_1": (1, 0), "valid_4_a_1": (0, 1)}),
            ("test.csv", 2),
            "patient must be in one split",
        ),
        (
            lambda p: store(p, "valid_4_b_1", np.load(p / "features/image/valid_1_a_1.npz")["arr"]),
            ("test.csv", 3),
            r"visual features must be in one split.*valid\.csv:2",
        ),
    ],
)
def test_check_with_one_fault_reports_its_file_and_row(tmp_path, spoil, place, message):
    config = write_dataset(tmp_path)
    spoil(tmp_path)
    faults = [fault for fault in check(config) if (fault.path.name, fault.row) == place]
    assert len(faults) == 1
    assert faults[0].severity == "error"
    assert re.search(message, faults[0].message)


def test_check_with_several_faults_reports_all(tmp_path):
    config = write_dataset(tmp_path)
    spoil_rows(tmp_path)
    (tmp_path / "features/image/train_1_a_1.npz").write_bytes(b"")
    (tmp_path / "manifests/test.csv").unlink()
    found = places(check(config))
    assert {
        ("train.csv", 2, "error"),
        ("valid.csv", 2, "error"),
        ("valid.csv", 4, "error"),
        ("test.csv", None, "error"),
    } <= set(found)


def test_check_with_label_without_positives_warns(tmp_path):
    config = write_dataset(tmp_path)
    write_split(tmp_path, "valid", {"valid_1_a_1": (0, 1), "valid_2_a_1": (0, 0)})
    (fault,) = check(config)
    assert fault.severity == "warning"
    assert "found 0 positives of 2 rows for 'Emphysema'" in str(fault)


def test_check_when_modality_of_config_is_missing_reports_error(tmp_path):
    write_dataset(tmp_path)
    config = config_of(tmp_path, {"features.input": "text", "data.test_manifests": []})
    faults = check(config)
    assert [fault.path.name for fault in faults] == ["train.csv", "valid.csv"]
    assert "no column of text feature paths" in faults[0].message


def test_check_when_labels_differ_reports_later_manifest(tmp_path):
    config = write_dataset(tmp_path)
    path = tmp_path / "manifests" / "valid.csv"
    path.write_text(path.read_text().replace("Lung nodule", "Cardiomegaly"))
    (fault,) = check(config)
    assert fault.path.name == "valid.csv"
    assert "same labels" in fault.message


def test_check_with_own_labels_reports_error_until_target_labels_are_set(tmp_path):
    config = write_dataset(tmp_path)
    for name, cells in (("train", "101"), ("valid", "10"), ("test", "01")):
        path = tmp_path / "manifests" / f"{name}.csv"
        header, *rows = path.read_text().splitlines()
        lines = [f"{row},{cell}" for row, cell in zip(rows, cells, strict=True)]
        path.write_text("\n".join([f"{header},COVID-19", *lines]))
    errors = [fault for fault in check(config) if fault.severity == "error"]
    assert [fault.path.name for fault in errors] == ["train.csv"]
    assert "'COVID-19' hold 0 and 1 beside the 2 labels of CT-RATE" in str(errors[0])
    data = Dataset.from_config(config, cache_dir=tmp_path / "cache")
    with pytest.warns(HeadsweepWarning), pytest.raises(ManifestError, match="target_labels"):
        data.refuse_mixed_labels()
    with pytest.warns(HeadsweepWarning):
        train, _ = Dataset.from_config(config, cache_dir=tmp_path / "cache").search_splits()
    assert train.labels == ("Emphysema", "Lung nodule")
    labels = ["Emphysema", "Lung nodule", "COVID-19"]
    chosen = with_values(config, {"training.target_labels": labels}, where="test")
    assert check(chosen) == []
    Dataset.from_config(chosen, cache_dir=tmp_path / "cache").refuse_mixed_labels()
    some = with_values(config, {"training.target_labels": labels[1:]}, where="test")
    assert {fault.severity for fault in check(some)} == {"warning"}
    assert all("'Emphysema' hold 0 and 1 but are not used" in str(f) for f in check(some))
