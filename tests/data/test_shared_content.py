"""`data.shared_content`: rows of two splits that share a report or a feature vector."""

import numpy as np
import pytest

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.dataset import Dataset
from headsweep.data.validation import check
from headsweep.errors import FeatureError, HeadsweepWarning, ManifestError
from tests.helpers.data_sets import config_of, write_feature, write_split

N = 20


def write_reports(root, *, copied=8, flipped=0):
    """Write splits; valid and test repeat `copied` train reports, `flipped` with other labels."""
    for split in ("train", "valid", "test"):
        volumes = [f"{split}_{i}_a_1" for i in range(N)]
        targets = {v: (i % 2, 1 - i % 2) for i, v in enumerate(volumes)}
        reports = {v: f"{split} {i}" for i, v in enumerate(volumes)}
        if split != "train":
            for i, volume in enumerate(volumes[:copied]):
                reports[volume] = f"train {i}"
                if i < flipped:
                    targets[volume] = (1 - i % 2, i % 2)
        write_split(root, split, targets, reports=reports)
    return config_of(root, {"data.test_manifests": ["test.csv"]})


def dataset(config, tmp_path, **values):
    changed = with_values(config, {f"data.{k}": v for k, v in values.items()}, where="test")
    return Dataset.from_config(changed, cache_dir=tmp_path / "cache")


def test_search_splits_with_shared_reports_warns_and_keeps_all_rows(tmp_path):
    data = dataset(write_reports(tmp_path, flipped=3), tmp_path)
    message = r"valid\.csv: 8 of 20 rows share a report with .*train\.csv, 3 of them with other"
    with pytest.warns(HeadsweepWarning, match=message) as caught:
        _, valid = data.search_splits()
    assert len(caught) == 1
    assert "data.shared_content=drop" in str(caught[0].message)
    assert len(valid.volumes) == N


def test_search_splits_with_few_shared_reports_does_not_warn(tmp_path):
    _, valid = dataset(write_reports(tmp_path, copied=1), tmp_path).search_splits()
    assert len(valid.volumes) == N


def test_search_splits_with_shared_reports_and_refuse_raises_with_row_and_fix(tmp_path):
    data = dataset(write_reports(tmp_path), tmp_path, shared_content="refuse")
    message = r"valid\.csv:2: a report must .* \(and 7 more rows\)\. data\.shared_content=warn acc"
    with pytest.raises(ManifestError, match=message):
        data.search_splits()


def test_splits_with_shared_reports_and_drop_lose_those_rows(tmp_path):
    config = write_reports(tmp_path)
    data = dataset(config, tmp_path, shared_content="drop")
    with pytest.warns(HeadsweepWarning, match="8 of 20 rows share content .* are left out"):
        train, valid = data.search_splits()
    with pytest.warns(HeadsweepWarning, match=r"test\.csv: 8 of 20 rows share content"):
        (test,) = data.test_splits()
    assert (len(train.volumes), len(valid.volumes), len(test.volumes)) == (N, N - 8, N - 8)
    assert valid.volumes[0] == "valid_8_a_1"
    assert not set(train.reports) & {*valid.reports, *test.reports}
    stored = np.load(tmp_path / "features/image/valid_8_a_1.npz")["arr"][0]
    np.testing.assert_array_equal(valid.features["visual"][0], stored)
    with pytest.warns(HeadsweepWarning):
        kept = dataset(config, tmp_path).search_splits()[1]
    assert kept.manifest_fingerprint != valid.manifest_fingerprint


def test_search_splits_when_drop_leaves_no_row_raises(tmp_path):
    data = dataset(write_reports(tmp_path, copied=N), tmp_path, shared_content="drop")
    with pytest.raises(ManifestError, match=r"shared_content=drop leaves none"):
        data.search_splits()


def copy_feature(root):
    copied = np.load(root / "features/image/train_1_a_1.npz")["arr"]
    write_feature(root, "image/valid_2_a_1.npz", copied)


@pytest.mark.parametrize("policy", [None, "refuse"])
def test_search_splits_with_copied_visual_feature_raises_by_default(tmp_path, policy):
    config = write_reports(tmp_path, copied=0)
    copy_feature(tmp_path)
    with pytest.raises(FeatureError, match=r"valid\.csv:4: visual features .*shared_content=warn"):
        dataset(config, tmp_path, shared_content=policy).search_splits()


def test_search_splits_with_copied_visual_feature_and_warn_keeps_row(tmp_path):
    config = write_reports(tmp_path, copied=0)
    copy_feature(tmp_path)
    with pytest.warns(HeadsweepWarning, match="1 of 20 rows share visual features"):
        _, valid = dataset(config, tmp_path, shared_content="warn").search_splits()
    assert len(valid.volumes) == N


def test_search_splits_with_drop_keeps_same_rows_for_every_modality(tmp_path):
    """A search over several inputs and the training of its finalists must use the same rows."""
    config = write_reports(tmp_path, copied=0)
    copy_feature(tmp_path)
    data = dataset(config, tmp_path, shared_content="drop")
    with pytest.warns(HeadsweepWarning):
        with_features = data.search_splits(inputs=("visual",))[1]
    with pytest.warns(HeadsweepWarning):
        without = data._source.search_splits(data.config, ())[1]
    assert with_features.volumes == without.volumes
    assert "valid_2_a_1" not in without.volumes


@pytest.mark.parametrize("policy", ["warn", "drop", "refuse", None])
def test_search_splits_with_patient_in_two_splits_raises_under_every_policy(tmp_path, policy):
    config = write_reports(tmp_path, copied=0)
    write_split(tmp_path, "valid", {"train_1_b_1": (1, 0), "valid_2_a_1": (0, 1)})
    with pytest.raises(ManifestError, match="a patient must be in one split"):
        dataset(config, tmp_path, shared_content=policy).search_splits()


def test_check_with_shared_reports_lists_rows_for_refuse_and_summary_for_warn(tmp_path):
    config = write_reports(tmp_path)
    faults = check(with_values(config, {"data.shared_content": "refuse"}, where="test"))
    assert sum(fault.severity == "error" for fault in faults) == 24  # valid, test; test in valid
    assert [fault.severity for fault in check(config)] == ["warning"] * 3


def test_fingerprint_when_policy_changes_rows_differs():
    def fingerprint(policy):
        config = with_values(Config(), {"data.shared_content": policy}, where="test")
        return config.fingerprint()

    assert fingerprint(None) == fingerprint("refuse")
    assert len({fingerprint(policy) for policy in (None, "warn", "drop")}) == 3


def in_memory(policy):
    features = np.random.default_rng(0).standard_normal((30, 4))
    features[25] = features[3]
    targets = np.arange(60).reshape(30, 2) % 3 == 0
    split = ["train"] * 15 + ["valid"] * 5 + ["test"] * 10
    return Dataset.from_arrays(
        {"visual": features}, targets, labels=["a", "b"], split=split, shared_content=policy
    )


def test_from_arrays_with_shared_content_applies_policy():
    with pytest.raises(FeatureError, match=r"arrays:25: visual features .*arrays:3"):
        in_memory(None)
    with pytest.warns(HeadsweepWarning, match="1 of 10 rows share visual features"):
        assert len(in_memory("warn").test_splits()[0].volumes) == 10
    with pytest.warns(HeadsweepWarning, match="1 of 10 rows share content"):
        dropped = in_memory("drop")
    (test,) = dropped.test_splits()
    assert "row_25" not in test.volumes
    assert len(test.volumes) == 9
    assert dropped.config.data.shared_content == "drop"
