"""`data.blank_labels`: blank label cells are refused, or read as `BLANK`."""

import numpy as np
import pandas as pd
import pytest

from headsweep.config.data_sections import ColumnsConfig
from headsweep.config.schema import Config, to_dict
from headsweep.config.values import with_values
from headsweep.data.dataset import Dataset
from headsweep.data.manifest import read_manifest, read_partly_labelled
from headsweep.data.splitting import split_by_group
from headsweep.data.validation import check
from headsweep.errors import ManifestError
from headsweep.metrics.masking import BLANK
from tests.helpers.data_sets import config_of, write_split

TARGETS = {"train_1_a_1": (1, ""), "train_2_a_1": ("nan", 0), "train_3_a_1": (0, 1)}


def read(path, blank_labels="mask"):
    return read_manifest(path, ColumnsConfig(), None, blank_labels)


def test_read_manifest_with_blank_labels_refuses_them_and_names_the_fix(tmp_path):
    path = write_split(tmp_path, "train", TARGETS)
    message = r"train\.csv:2: a label must be 0 or 1, found '' .*data\.blank_labels=mask leaves"
    with pytest.raises(ManifestError, match=message):
        read(path, "refuse")


def test_read_manifest_with_mask_reads_blank_labels(tmp_path):
    manifest = read(write_split(tmp_path, "train", TARGETS))
    assert manifest.targets.tolist() == [[1, BLANK], [BLANK, 0], [0, 1]]


def test_read_manifest_with_mask_still_refuses_other_values(tmp_path):
    path = write_split(tmp_path, "train", {**TARGETS, "train_4_a_1": ("?", 1)})
    with pytest.raises(ManifestError, match=r"train\.csv:5: a label must be 0 or 1, found '\?'"):
        read(path)


def test_read_manifest_with_only_blank_labels_is_refused(tmp_path):
    path = write_split(tmp_path, "train", {"train_1_a_1": ("", ""), "train_2_a_1": ("", "")})
    with pytest.raises(ManifestError, match="found only blank label cells: leave the file out"):
        read(path)


def test_read_manifest_with_mask_warns_of_unused_columns_with_blank_cells(tmp_path):
    path = write_split(tmp_path, "train", TARGETS)
    path.write_text(path.read_text().replace("Lung nodule", "COVID-19"))
    manifest = read(path)
    assert manifest.labels == ("Emphysema",)
    assert manifest.unused == ("COVID-19",)


def test_search_splits_with_a_label_that_train_lacks_is_refused(tmp_path):
    write_split(tmp_path, "train", {"train_1_a_1": (1, ""), "train_2_a_1": (0, "")})
    write_split(tmp_path, "valid", {"valid_1_a_1": (1, 0), "valid_2_a_1": (0, 1)})
    config = config_of(tmp_path, {"data.blank_labels": "mask"})
    data = Dataset.from_config(config, cache_dir=tmp_path / "cache")
    with pytest.raises(ManifestError, match="'Lung nodule' is blank in every row, so no head can"):
        data.search_splits()


def test_check_with_mask_counts_labelled_rows(tmp_path):
    write_split(tmp_path, "train", {"train_1_a_1": (1, 1), "train_2_a_1": (0, "")})
    write_split(tmp_path, "valid", {"valid_1_a_1": (1, 0), "valid_2_a_1": (0, 1)})
    values = {"data.blank_labels": "mask", "data.test_manifests": []}
    faults = check(config_of(tmp_path, values))
    found = [str(fault) for fault in faults if "positives of" in fault.message]
    assert len(found) == 1
    assert "found 1 positives of 1 rows for 'Lung nodule'" in found[0]


def test_read_partly_labelled_with_mask_keeps_labels_that_some_rows_have(tmp_path):
    path = write_split(tmp_path, "new", {"train_1_a_1": (1, ""), "train_2_a_1": ("", "")})
    labels = ("Emphysema", "Lung nodule")
    assert read_partly_labelled(path, ColumnsConfig(), labels).labels == ()
    manifest = read_partly_labelled(path, ColumnsConfig(), labels, "mask")
    assert manifest.labels == ("Emphysema",)
    assert manifest.targets.tolist() == [[1], [BLANK]]


def test_blank_labels_at_its_default_changes_no_config_and_no_fingerprint():
    assert "blank_labels" not in to_dict(Config())["data"]
    masked = with_values(Config(), {"data.blank_labels": "mask"}, where="test")
    assert masked.fingerprint() != Config().fingerprint()


def test_from_arrays_with_nan_targets_is_refused_and_names_the_fix():
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.zeros((40, 2))
    y[::2, 0], y[7, 1] = 1, np.nan
    with pytest.raises(ManifestError, match=r"arrays:7: .*found nan; blank_labels='mask' leaves"):
        Dataset.from_arrays({"visual": x}, y, labels=["a", "b"])


def test_from_arrays_with_nan_targets_and_mask_reads_them_as_blank():
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.zeros((40, 2))
    y[::2, 0], y[::3, 1], y[7] = 1, 1, np.nan
    split = ["train"] * 20 + ["valid"] * 20
    data = Dataset.from_arrays(
        {"visual": x}, y, labels=["a", "b"], split=split, blank_labels="mask"
    )
    train, _ = data.search_splits()
    assert data.config.data.blank_labels == "mask"
    assert train.targets[7].tolist() == [BLANK, BLANK]
    np.testing.assert_array_equal(np.delete(train.targets, 7, 0), np.delete(y[:20], 7, 0))
    with pytest.raises(ManifestError, match="found only blank label cells"):
        Dataset.from_arrays({"visual": x}, y * np.nan, labels=["a", "b"], blank_labels="mask")


def test_from_dataframe_with_none_in_a_label_column_and_mask_reads_it_as_blank():
    frame = pd.DataFrame({"x": np.arange(20.0), "a": [0, 1] * 10, "b": [None, 1, 0, 1] * 5})
    frame["b"] = frame["b"].astype(object)
    data = Dataset.from_dataframe(
        frame, features={"visual": ["x"]}, labels=["a", "b"], blank_labels="mask", seed=1
    )
    splits = [*data.search_splits(), *data.test_splits()]
    assert sum(int((split.targets[:, 1] == BLANK).sum()) for split in splits) == 5


def test_split_by_group_with_blank_labels_stratifies_the_known_positives():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (200, 1)).astype(np.uint8)
    targets[rng.random(200) < 0.5] = BLANK
    held = split_by_group([f"p{i}" for i in range(200)], targets, 0.25, seed=0)
    assert (targets[held] == 1).sum() == pytest.approx((targets == 1).sum() / 4, abs=1)
