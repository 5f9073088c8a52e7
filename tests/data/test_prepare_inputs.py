"""`data prepare` with several feature folders, and with RAD-ChestCT's tables."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from headsweep.config.data_sections import ColumnsConfig, ManifestColumns
from headsweep.data.ct_rate.names import LABELS
from headsweep.data.manifest import read_manifest
from tests.helpers.data_sets import write_feature, write_table

VOLUMES = ("valid_1_a_1", "valid_2_a_1", "valid_3_a_1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Labels of three volumes, of which one encoder lacks the last."""
    rows = [[f"{name}.nii.gz", *([i % 2] * len(LABELS))] for i, name in enumerate(VOLUMES)]
    write_table(tmp_path / "labels.csv", ["VolumeName", *LABELS], rows)
    for name in VOLUMES:
        write_feature(tmp_path, f"ct_clip/{name}.npz", np.ones((1, 4), np.float32))
    for name in VOLUMES[:2]:
        write_feature(tmp_path, f"colipri/{name}_pooled.npz", np.ones((1, 3), np.float32))
    return tmp_path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


FEATURES = ("--features", "ct_clip=ct_clip", "--features", "colipri=colipri/{volume}_pooled.npz")


def test_prepare_writes_a_column_for_each_encoder(root: Path, headsweep) -> None:
    out = root / "out" / "valid.csv"
    options = ("--labels-csv", root / "labels.csv", "--output-file", out)
    ended = headsweep("data", "prepare", *options, *FEATURES)
    assert ended.code == 0, ended.err
    rows = read(out)
    assert [*rows[0]][:3] == ["volumename", "ct_clip_path", "colipri_path"]
    assert rows[0]["ct_clip_path"] == "ct_clip/valid_1_a_1.npz"
    assert rows[0]["colipri_path"] == "colipri/valid_1_a_1_pooled.npz"
    assert len(rows) == 3


def test_prepare_with_data_root_drops_volumes_that_an_encoder_lacks(root: Path, headsweep) -> None:
    out = root / "out" / "valid.csv"
    options = ("--labels-csv", root / "labels.csv", "--output-file", out)
    ended = headsweep("data", "prepare", *options, *FEATURES, "--data-root", root / "features")
    assert ended.code == 0, ended.err
    assert "features 1, kept 2" in ended.out
    (dropped,) = read(out.with_name("valid.dropped.csv"))
    assert dropped == {
        "volumename": "valid_3_a_1",
        "step": "features",
        "reason": "feature file not found: colipri/valid_3_a_1_pooled.npz",
    }


def test_prepared_manifest_of_named_features_can_be_cut_into_folds(root: Path, headsweep) -> None:
    out = root / "out" / "train.csv"
    options = ("--labels-csv", root / "labels.csv", "--output-file", out)
    assert headsweep("data", "prepare", *options, *FEATURES).code == 0
    ended = headsweep("data", "folds", out, "--folds", 2)
    assert ended.code == 0, ended.err


def test_prepare_of_built_in_names_writes_their_columns(root: Path, headsweep) -> None:
    out = root / "out" / "valid.csv"
    options = ("--labels-csv", root / "labels.csv", "--output-file", out)
    ended = headsweep("data", "prepare", *options, "--features", "visual=ct_clip")
    assert ended.code == 0, ended.err
    assert read_manifest(out, ColumnsConfig(), None).feature_paths.keys() == {"visual"}


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (["ct_clip"], "--features must read NAME=FOLDER, found 'ct_clip'"),
        (["a=x", "a=y"], "--features names 'a' twice"),
        (["both=x"], "--features: 'both' is reserved"),
        (["ct clip=x"], "must begin with a letter"),
    ],
)
def test_prepare_with_wrong_features_is_refused(root: Path, headsweep, features, message) -> None:
    given = [text for one in features for text in ("--features", one)]
    options = ("--labels-csv", root / "labels.csv", "--output-file", root / "out.csv")
    ended = headsweep("data", "prepare", *options, *given)
    assert ended.code == 2
    assert message in ended.err
    assert not (root / "out.csv").exists()


SCANS = ("trn00001", "trn00002", "trn00003")
HEADER = ["NoteAcc_DEID", "emphysema*lung", "emphysema*left_upper", "nodule*lung", "nodule*spine"]


@pytest.fixture
def rad(tmp_path: Path) -> Path:
    """Tables as those of RAD-ChestCT; the last scan has no metadata."""
    cells = [(0, 1, 0, 0), (0, 0, 1, 1), (1, 0, 0, 0)]
    rows = [[scan, *of_scan] for scan, of_scan in zip(SCANS, cells, strict=True)]
    write_table(tmp_path / "imgtrain_Abnormality_and_Location_Labels.csv", HEADER, rows)
    metadata = [[scan, f"mrn{i}", "x"] for i, scan in enumerate(SCANS[:2])]
    write_table(tmp_path / "metadata.csv", ["NoteAcc_DEID", "MRN_DEID", "Sex"], metadata)
    return tmp_path


def prepare_rad(root: Path, headsweep, *options: object):
    labels = root / "imgtrain_Abnormality_and_Location_Labels.csv"
    given = ("--labels-csv", labels, "--output-file", root / "rad.csv")
    return headsweep("data", "prepare", *given, "--features", "ct_clip=rad", *options)


def test_prepare_of_rad_chestct_has_a_label_for_each_abnormality(rad: Path, headsweep) -> None:
    ended = prepare_rad(rad, headsweep, "--metadata-csv", rad / "metadata.csv")
    assert ended.code == 0, ended.err
    assert "metadata 1, kept 2" in ended.out
    assert read(rad / "rad.csv") == [
        {
            "volumename": "trn00001",
            "ct_clip_path": "rad/trn00001.npz",
            "emphysema": "1",
            "nodule": "0",
            "patient": "mrn0",
        },
        {
            "volumename": "trn00002",
            "ct_clip_path": "rad/trn00002.npz",
            "emphysema": "0",
            "nodule": "1",
            "patient": "mrn1",
        },
    ]
    columns = ManifestColumns(patient="patient", inputs=(("ct_clip", "ct_clip_path"),))
    manifest = read_manifest(rad / "rad.csv", columns, None)
    assert manifest.labels == ("emphysema", "nodule")
    assert manifest.patients == ("mrn0", "mrn1")


def test_prepare_of_rad_chestct_with_a_list_of_scans_keeps_those(rad: Path, headsweep) -> None:
    write_table(rad / "split.csv", ["NoteAcc_DEID"], [[SCANS[2]]])
    ended = prepare_rad(rad, headsweep, "--split-csv", rad / "split.csv")
    assert ended.code == 0, ended.err
    assert [row["volumename"] for row in read(rad / "rad.csv")] == [SCANS[2]]
    assert "patient" not in read(rad / "rad.csv")[0]


def test_prepare_of_rad_chestct_with_a_wrong_label_names_scan_and_column(rad, headsweep) -> None:
    path = rad / "imgtrain_Abnormality_and_Location_Labels.csv"
    path.write_text(path.read_text().replace("trn00002,0,0,1,1", "trn00002,0,0,2,1"))
    ended = prepare_rad(rad, headsweep)
    assert ended.code == 2
    assert "a label must be 0 or 1, found '2' for 'nodule*lung' of trn00002" in ended.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--row-policy", "first_recon"), "--row-policy chooses among CT-RATE's reconstructions"),
        (("--reports-csv", "x.csv"), "RAD-ChestCT has no table of reports"),
    ],
)
def test_prepare_of_rad_chestct_with_options_of_ct_rate_is_refused(
    rad: Path, headsweep, options, message
) -> None:
    ended = prepare_rad(rad, headsweep, *options)
    assert ended.code == 2
    assert message in ended.err
