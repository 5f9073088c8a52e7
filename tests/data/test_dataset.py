import numpy as np
import pytest

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.dataset import Dataset, required_inputs
from headsweep.errors import FeatureError, ManifestError
from tests.helpers.data_sets import config_of, write_dataset, write_feature, write_split


def search(config, tmp_path, inputs=("visual",)):
    return Dataset.from_config(config, cache_dir=tmp_path / "cache").search_splits(inputs=inputs)


def open_tests(config, tmp_path):
    return Dataset.from_config(config, cache_dir=tmp_path / "cache").test_splits(inputs=("visual",))


@pytest.mark.parametrize(
    ("values", "modalities"),
    [
        ({}, ("visual",)),
        ({"features.input": "text"}, ("text",)),
        ({"features.input": "both"}, ("visual", "text")),
    ],
)
def test_required_inputs_of_each_input_match_it(values, modalities):
    assert required_inputs(with_values(Config(), values, where="test")) == modalities


def test_required_inputs_of_retrieval_head_are_both():
    config = Config.model_validate_json('{"head": {"kind": "retrieval"}}')
    assert required_inputs(config) == ("visual", "text")


def test_search_splits_returns_one_entry_per_row_in_every_field(tmp_path):
    train, valid = search(write_dataset(tmp_path), tmp_path)
    assert (train.name, valid.name) == ("train", "valid")
    assert train.volumes == ("train_1_a_1", "train_1_a_2", "train_2_a_1")
    assert train.patients == ("train_1", "train_1", "train_2")
    assert train.scans == ("train_1_a", "train_1_a", "train_2_a")
    np.testing.assert_array_equal(train.targets, [[1, 0], [1, 0], [0, 1]])
    stored = np.load(tmp_path / "features/image/valid_2_a_1.npz")["arr"][0]
    np.testing.assert_array_equal(valid.features["visual"][1], stored)


def test_search_splits_when_label_order_differs_uses_train_order(tmp_path):
    config = write_dataset(tmp_path)
    path = tmp_path / "manifests" / "valid.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("".join(f"{a},{b},{d},{c}\n" for a, b, c, d in lines))
    train, valid = search(config, tmp_path)
    assert valid.labels == train.labels == ("Emphysema", "Lung nodule")
    np.testing.assert_array_equal(valid.targets, [[1, 0], [0, 1]])


def test_search_splits_when_labels_differ_raises(tmp_path):
    config = write_dataset(tmp_path)
    path = tmp_path / "manifests" / "valid.csv"
    path.write_text(path.read_text().replace("Lung nodule", "Cardiomegaly"))
    with pytest.raises(ManifestError, match=r"valid\.csv: .*same labels.*'Cardiomegaly', 'Lung"):
        search(config, tmp_path)


def test_search_splits_when_patient_is_in_both_raises(tmp_path):
    config = write_dataset(tmp_path)
    write_split(tmp_path, "valid", {"valid_1_a_1": (1, 0), "train_2_b_1": (0, 1)})
    with pytest.raises(ManifestError, match=r"valid\.csv:3: .*'train_2' also in .*train\.csv:4"):
        search(config, tmp_path)


def test_test_splits_when_patient_is_in_train_raises(tmp_path):
    config = write_dataset(tmp_path)
    write_split(tmp_path, "test", {"train_2_b_1": (0, 1)})
    with pytest.raises(ManifestError, match=r"test\.csv:2: a patient must be in one split"):
        open_tests(config, tmp_path)


def test_search_splits_when_feature_row_is_copied_raises(tmp_path):
    config = write_dataset(tmp_path)
    copied = np.load(tmp_path / "features/image/train_1_a_2.npz")["arr"]
    write_feature(tmp_path, "image/valid_2_a_1.npz", copied)
    message = r"valid\.csv:3: visual features must be in one split.*train\.csv:3, with other labels"
    with pytest.raises(FeatureError, match=message):
        search(config, tmp_path)


def test_search_splits_when_report_is_copied_with_refuse_raises(tmp_path):
    config = with_values(write_dataset(tmp_path), REFUSE, where="test")
    write_split(tmp_path, "train", {"train_1_a_1": (1, 0)}, reports={"train_1_a_1": "Same."})
    write_split(tmp_path, "valid", {"valid_1_a_1": (0, 1)}, reports={"valid_1_a_1": "Same."})
    with pytest.raises(ManifestError, match=r"valid\.csv:2: a report must be in one split"):
        search(config, tmp_path)


REFUSE = {"data.shared_content": "refuse"}


@pytest.mark.parametrize("copies", [1, 6])
def test_search_splits_with_refuse_accepts_few_shared_reports_only(tmp_path, copies):
    """Of 100 rows, 5 may repeat another patient's report as long as the labels agree."""
    shared = {i: "Normal chest." if i < copies else f"Finding {i}." for i in range(100)}
    for name, start in (("train", 0), ("valid", 1000)):
        volumes = [f"{name}_{i}_a_1" for i in range(100)]
        reports = {
            volume: shared[i] if i < copies else f"{name} {start + i}"
            for i, volume in enumerate(volumes)
        }
        write_split(tmp_path, name, dict.fromkeys(volumes, (0, 0)), reports=reports)
    config = config_of(tmp_path, REFUSE)
    if copies <= 5:
        search(config, tmp_path)
    else:
        with pytest.raises(ManifestError, match=r"valid\.csv:2: a report .*and 5 more rows"):
            search(config, tmp_path)


def test_search_splits_when_feature_widths_differ_raises(tmp_path):
    config = write_dataset(tmp_path)
    write_split(tmp_path, "valid", {"valid_1_a_1": (1, 0)}, width=5)
    with pytest.raises(FeatureError, match=r"valid\.csv: visual features must be 4 wide.*found 5"):
        search(config, tmp_path)


def test_search_splits_when_modality_has_no_column_raises(tmp_path):
    with pytest.raises(ManifestError, match="no column of text feature paths"):
        search(write_dataset(tmp_path), tmp_path, ("text",))


def test_test_splits_that_overlap_return_in_configured_order(tmp_path):
    config = write_dataset(tmp_path)
    write_split(tmp_path, "part", {"valid_4_b_1": (0, 1)})
    names = ["test.csv", "part.csv"]
    splits = open_tests(with_values(config, {"data.test_manifests": names}, where="t"), tmp_path)
    assert [split.name for split in splits] == ["test", "part"]


@pytest.fixture
def whole(tmp_path):
    """60 patients, of whom 1 and 2 share a feature row, and a config without a valid manifest."""
    rng = np.random.default_rng(0)
    targets = {
        f"train_{i}_{scan}_1": tuple(rng.integers(0, 2, 2)) for i in range(60) for scan in "ab"
    }
    write_split(tmp_path, "train", targets)
    copied = np.load(tmp_path / "features/image/train_1_a_1.npz")["arr"]
    write_feature(tmp_path, "image/train_2_a_1.npz", copied)
    return config_of(tmp_path, {"data.val_manifest": None})


@pytest.mark.parametrize("seed", range(5))
def test_search_splits_without_valid_manifest_splits_train_by_patient(whole, tmp_path, seed):
    config = with_values(whole, {"training.seed": seed}, where="t")
    train, valid = search(config, tmp_path)
    assert len(train.volumes) + len(valid.volumes) == 120
    assert 20 <= len(valid.volumes) <= 28
    assert not set(train.patients) & set(valid.patients)
    assert ("train_1" in valid.patients) == ("train_2" in valid.patients)
    np.testing.assert_allclose(train.targets.mean(0), valid.targets.mean(0), atol=0.1)
    stored = np.load(tmp_path / f"features/image/{valid.volumes[-1]}.npz")["arr"][0]
    np.testing.assert_array_equal(valid.features["visual"][-1], stored)


def test_fingerprints_depend_on_content_only(whole, tmp_path):
    train, valid = search(whole, tmp_path)
    again, _ = search(whole, tmp_path)
    other, _ = search(with_values(whole, {"training.seed": 7}, where="t"), tmp_path)
    assert train.manifest_fingerprint == again.manifest_fingerprint
    assert train.feature_fingerprints == again.feature_fingerprints
    assert train.manifest_fingerprint != valid.manifest_fingerprint
    assert train.feature_fingerprints["visual"] != other.feature_fingerprints["visual"]


def test_search_splits_without_valid_manifest_keeps_report_in_one_split(tmp_path):
    volumes = [f"train_{i}_a_1" for i in range(12)]
    write_split(
        tmp_path,
        "train",
        {volume: (i % 2, i // 6) for i, volume in enumerate(volumes)},
        reports={volume: f"Report {i % 6}." for i, volume in enumerate(volumes)},
    )
    config = config_of(tmp_path, {"data.val_manifest": None})
    train, valid = search(config, tmp_path)
    assert train.volumes
    assert valid.volumes
    assert not set(train.reports) & set(valid.reports)


def test_search_splits_without_valid_manifest_of_one_patient_raises(tmp_path):
    write_split(tmp_path, "train", {"train_1_a_1": (1, 0), "train_1_b_1": (0, 1)})
    config = config_of(tmp_path, {"data.val_manifest": None})
    with pytest.raises(ManifestError, match=r"^\S*/train\.csv: .*, found 1"):
        search(config, tmp_path)


def test_dataset_of_real_reports_loads_both_modalities(real_reports, tmp_path):
    config = with_values(
        Config(),
        {
            "paths.data_root": str(real_reports / "features"),
            "paths.manifest_dir": str(real_reports / "manifests"),
        },
        where="test",
    )
    both = ("visual", "text")
    train, valid = search(config, tmp_path, both)
    assert train.features["visual"].shape == train.features["text"].shape == (638, 384)
    assert valid.targets.shape == (158, 18)
    tests = Dataset.from_config(config, cache_dir=tmp_path / "cache").test_splits(inputs=both)
    assert [len(split.volumes) for split in tests] == [200, 138, 62]
