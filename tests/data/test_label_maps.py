"""`data.label_maps`: manifests of other cohorts, read through a map of their labels."""

import numpy as np
import pytest

from headsweep.config.overrides import compose_config, refuse_escapes
from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.dataset import Dataset
from headsweep.data.label_maps import read_label_map
from headsweep.data.manifest_headers import check_test_headers
from headsweep.data.validation import check
from headsweep.errors import ConfigError, ManifestError
from headsweep.metrics.masking import BLANK
from tests.helpers.data_sets import config_of, write_feature, write_split, write_table

LABELS = ("Emphysema", "Lung nodule")
COHORT = ["emphysema", "nodule", "nodule_big", "fracture"]
ROWS = [("1", "0", "0", "0"), ("0", "0", "1", "1"), ("0", "1", "1", "0"), ("0", "0", "0", "1")]
ONE_TO_ONE = "Emphysema: emphysema\nLung nodule: nodule\n"
ANY = "Emphysema: emphysema\nLung nodule: [nodule, nodule_big]\n"
ABSENT = "Emphysema: emphysema\nLung nodule: null\n"


@pytest.fixture
def config(tmp_path) -> Config:
    """Train and valid with CT-RATE's labels, and the test manifest of another cohort."""
    for name, first in (("train", 0), ("valid", 10)):
        split = {f"{name}_{first + i}_a_1": (i % 2, i // 2) for i in range(4)}
        write_split(tmp_path, name, split)
    rows = []
    for i, labels in enumerate(ROWS):
        write_feature(tmp_path, f"other/{i}.npz", np.full((1, 4), i + 0.5, np.float32))
        rows.append([f"other_{i}_a_1", f"other/{i}.npz", *labels])
    header = ["volumename", "visual_feature_path", *COHORT]
    write_table(tmp_path / "manifests" / "other.csv", header, rows)
    values = {
        "data.test_manifests": ["other.csv"],
        "data.label_maps": {"other.csv": "map.yaml"},
    }
    return config_of(tmp_path, values)


def targets_of(config: Config, tmp_path, text: str) -> list[list[int]]:
    (tmp_path / "manifests" / "map.yaml").write_text(text)
    (test,) = Dataset.from_config(config, cache_dir=tmp_path / "cache").test_splits()
    assert test.labels == LABELS
    assert test.label_source == "other.csv through map.yaml"
    return test.targets.tolist()


@pytest.mark.parametrize(
    ("text", "nodules"),
    [(ONE_TO_ONE, [0, 0, 1, 0]), (ANY, [0, 1, 1, 0]), (ABSENT, [BLANK] * 4)],
    ids=["one to one", "any", "absent"],
)
def test_test_splits_through_a_label_map_have_the_labels_of_train(config, tmp_path, text, nodules):
    expected = [list(pair) for pair in zip([1, 0, 0, 0], nodules, strict=True)]
    assert targets_of(config, tmp_path, text) == expected
    data = Dataset.from_config(config, cache_dir=tmp_path / "cache")
    (alone,) = data.splits_alone()
    assert (alone.labels, alone.targets.tolist()) == (LABELS, expected)
    check_test_headers(config, LABELS, ["visual"])
    faults = check(config)
    assert [str(f) for f in faults if f.severity == "error"] == []
    assert not any("0 positives of 0 rows" in f.message for f in faults)


def test_test_splits_with_a_label_that_the_map_does_not_name_reads_its_own_column(config, tmp_path):
    path = tmp_path / "manifests" / "other.csv"
    path.write_text(path.read_text().replace("emphysema", "Emphysema"))
    assert targets_of(config, tmp_path, "Lung nodule: null\n")[0] == [1, BLANK]


def test_any_of_columns_with_blank_cells_is_blank_unless_one_is_positive(config, tmp_path):
    path = tmp_path / "manifests" / "other.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace(",1,0,0,0", ",1,,0,0")
    lines[2] = lines[2].replace(",0,0,1,1", ",0,,1,1")
    path.write_text("\n".join(lines))
    masked = with_values(config, {"data.blank_labels": "mask"}, where="test")
    assert [row[1] for row in targets_of(masked, tmp_path, ANY)] == [BLANK, 1, 1, 0]
    with pytest.raises(ManifestError, match=r"other\.csv:2: a label must be 0 or 1, found ''"):
        targets_of(config, tmp_path, ANY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Emphysma: emphysema\n", r"unknown label 'Emphysma'\. Did you mean 'Emphysema'\?"),
        (
            "Emphysema: nodule\nLung nodule: nodule\n",
            "column 'nodule' is mapped twice, to 'Emphysema' and to 'Lung nodule': name it once",
        ),
        ("Emphysema: a\nEmphysema: b\n", r"map\.yaml:2: keys must differ, found 'Emphysema'"),
        (
            "Emphysema: emphysem\nLung nodule: null\n",
            "mapped to 'emphysem', which is no column .* Did you mean 'emphysema'",
        ),
        (
            "Emphysema: emphysema\n",
            "'Lung nodule' is neither in the map nor .* write 'Lung nodule': null",
        ),
        ("Emphysema: null\nLung nodule: null\n", "every label is null"),
        ("Emphysema: 3\nLung nodule: null\n", "'Emphysema' must be a column, a list of columns"),
        ("[]", r"map\.yaml: a YAML file must be a mapping"),
    ],
)
def test_label_map_that_cannot_be_used_is_refused_in_one_line(config, tmp_path, text, message):
    (tmp_path / "manifests" / "map.yaml").write_text(text)
    with pytest.raises(ManifestError, match=message) as refused:
        check_test_headers(config, LABELS, ["visual"])
    assert "map.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(ManifestError, match=message):
        Dataset.from_config(config, cache_dir=tmp_path / "cache").test_splits()
    assert any("map.yaml" in str(f) for f in check(config) if f.severity == "error")


def test_label_map_that_is_not_there_is_refused(config):
    with pytest.raises(ManifestError, match=r"label map not found: .*map\.yaml"):
        check_test_headers(config, LABELS, ["visual"])


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("othr.csv", r"no manifest 'othr\.csv'\. Did you mean 'other\.csv'\?"),
        ("train.csv", r"'train\.csv' is the train manifest, whose labels are the study's own"),
    ],
)
def test_label_map_for_a_manifest_that_is_not_tested_is_refused(config, manifest, message):
    with pytest.raises(ConfigError, match=message):
        with_values(config, {"data.label_maps": {manifest: "map.yaml"}}, where="test")


def test_label_maps_are_overrides_and_stay_inside_of_the_folder_of_manifests():
    text = "data.label_maps={valid.csv: map.yaml}"
    assert compose_config([text], where="test").data.label_maps == {"valid.csv": "map.yaml"}
    refuse_escapes([text], where="study.yaml")
    with pytest.raises(ConfigError, match="must be a relative path"):
        refuse_escapes(["data.label_maps={valid.csv: ../map.yaml}"], where="study.yaml")


def test_fingerprint_of_a_label_map_depends_on_its_content_alone(tmp_path):
    path = tmp_path / "map.yaml"
    prints = []
    for text in (ANY, f"# a comment\n{ANY}", ABSENT):
        path.write_text(text)
        prints.append(read_label_map(path, LABELS, COHORT).fingerprint())
    assert prints[0] == prints[1] != prints[2]
