from pathlib import Path

import numpy as np
import pytest

from headsweep.config.schema import ColumnsConfig
from headsweep.data.ct_rate.names import METADATA_COLUMNS
from headsweep.data.manifest import inspect_manifest, patient_of, read_manifest, scan_of
from headsweep.errors import ManifestError
from tests.helpers.data_sets import write_table

HEADER = ["volumename", "visual_feature_path", "Emphysema", "Lung nodule"]
SOUND = [["train_1_a_1", "image/train_1_a_1.npz", "1", "0"]]


def read(path, target_labels=None):
    return read_manifest(path, ColumnsConfig(), target_labels)


@pytest.mark.parametrize(
    ("volume", "patient", "scan"),
    [
        ("valid_53_a_1", "valid_53", "valid_53_a"),
        ("train_10602_b_2.nii.gz", "train_10602", "train_10602_b"),
        ("manual_train5_a_1", "manual_train5", "manual_train5_a"),
        ("valid_53_a", "valid_53", "valid_53_a"),
    ],
)
def test_patient_and_scan_are_read_off_the_volume_name(volume, patient, scan):
    assert patient_of(volume) == patient
    assert scan_of(volume) == scan


def test_two_scans_of_one_patient_have_one_patient_key():
    assert patient_of("train_7_a_1") == patient_of("train_7_b_2")
    assert patient_of("train_7_a_1") != patient_of("train_77_a_1") != patient_of("valid_7_a_1")


@pytest.mark.parametrize("name", ["", "scan", "train_1", "train_1_a_x", "_a_1"])
def test_a_name_outside_the_grammar_has_no_patient(name):
    with pytest.raises(ManifestError, match="must read <split>_<patient>_<scan>"):
        patient_of(name)


def test_rows_keep_their_order_and_labels_the_header_order(tmp_path):
    path = write_table(
        tmp_path / "train.csv",
        ["Lung nodule", "volumename", "PatientAge", "text_feature_path", "Emphysema"],
        [
            ["1.0", "train_2_a_1.nii.gz", "036Y", "text/b.npz", "0"],
            ["0.0", "train_1_a_1", "051Y", "text/a.npz", "1"],
        ],
    )
    manifest = read(path)
    assert manifest.name == "train"
    assert manifest.volumes == ("train_2_a_1", "train_1_a_1")
    assert manifest.labels == ("Lung nodule", "Emphysema")
    np.testing.assert_array_equal(manifest.targets, [[1, 0], [0, 1]])
    assert manifest.targets.dtype == np.uint8
    assert manifest.feature_paths == {"text": ("text/b.npz", "text/a.npz")}
    assert manifest.patients == ("train_2", "train_1")
    assert manifest.rows == (2, 3)
    assert manifest.reports is None


def test_target_labels_choose_and_order_the_columns(tmp_path):
    path = write_table(tmp_path / "m.csv", HEADER, SOUND)
    manifest = read(path, ("Lung nodule", "Emphysema"))
    assert manifest.labels == ("Lung nodule", "Emphysema")
    np.testing.assert_array_equal(manifest.targets, [[0, 1]])


def test_labels_of_other_vocabularies_are_what_is_no_path_report_or_metadata(tmp_path):
    other = ["volumename", "visual_feature_path", "mask_path", "Findings_EN", "Technique_EN"]
    metadata = sorted(METADATA_COLUMNS)
    path = write_table(
        tmp_path / "m.csv",
        [*other, *metadata, "Pneumothorax"],
        [["train_1_a_1", "a.npz", "m.nii", "text", "text", *["x"] * len(metadata), "1"]],
    )
    assert read(path).labels == ("Pneumothorax",)


def test_reports_are_findings_and_impressions_without_what_was_not_given(tmp_path):
    path = write_table(
        tmp_path / "m.csv",
        [*HEADER, "ClinicalInformation_EN", "Findings_EN", "Impressions_EN"],
        [
            [*SOUND[0], "Cough.", "Two\nnodules.", "Nodules."],
            ["train_2_a_1", "b.npz", "0", "0", "Not given.", "Not given.", "Normal."],
        ],
    )
    assert read(path).reports == ("Two\nnodules. Nodules.", "Normal.")


def test_the_fingerprint_follows_content_alone(tmp_path):
    one = write_table(tmp_path / "a" / "train.csv", HEADER, SOUND)
    moved = write_table(tmp_path / "b" / "other.csv", HEADER, SOUND)
    changed = write_table(tmp_path / "c.csv", HEADER, [[*SOUND[0][:2], "1", "1"]])
    assert read(one).fingerprint() == read(moved).fingerprint() != read(changed).fingerprint()


@pytest.mark.parametrize(
    ("row", "law"),
    [
        (["train_2_a_1", "b.npz", "2", "0"], "a label must be 0 or 1, found '2' in .*'Emphysema'"),
        (["train_2_a_1", "b.npz", "1", ""], "a label must be 0 or 1, found '' in .*'Lung nodule'"),
        (["train_2_a_1", "b.npz", "nan", "0"], "a label must be 0 or 1, found 'nan'"),
        (["train_1_a_1.nii.gz", "b.npz", "1", "0"], "a volume must be in one row.* row 2"),
        (["train-2", "b.npz", "1", "0"], "volumename must read .*found 'train-2'"),
        (["train_2_a_1", "/etc/b.npz", "1", "0"], "relative to paths.data_root and stay inside"),
        (["train_2_a_1", "image/../../b.npz", "1", "0"], "relative to paths.data_root"),
        (["train_2_a_1", "b.npz", "1"], "a row must have 4 cells, found 3"),
        (["train_2_a_1", "b.npz", "1", "0", "0"], "a row must have 4 cells, found 5"),
    ],
)
def test_a_bad_row_is_refused_by_file_and_row(tmp_path, row, law):
    path = write_table(tmp_path / "train.csv", HEADER, [*SOUND, row])
    with pytest.raises(ManifestError, match=rf"train\.csv:3: .*{law}"):
        read(path)


@pytest.mark.parametrize(
    ("header", "law"),
    [
        (["volume", *HEADER[1:]], "must have the column 'volumename', found volume,"),
        (["volumename", "path", "Emphysema", "Lung nodule"], "must have a feature column"),
        (["volumename", "visual_feature_path", "Emphysema", "Emphysema"], "distinct names"),
        (["volumename", "visual_feature_path", "split", "fold"], "must have a label column"),
    ],
)
def test_a_bad_header_is_refused(tmp_path, header, law):
    path = write_table(tmp_path / "train.csv", header, SOUND)
    with pytest.raises(ManifestError, match=rf"train\.csv:1: .*{law}"):
        read(path)


@pytest.mark.parametrize(
    ("content", "law"),
    [
        (None, "must exist"),
        (b"", "must have the column"),
        (b"volumename,visual_feature_path,Emphysema\n", "must have rows"),
        (b"volumename,\xff\n", "must be CSV text in UTF-8"),
        (b'volumename\n"open', "must be CSV text"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path, content, law):
    path = tmp_path / "train.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ManifestError, match=rf"train\.csv.*{law}"):
        read(path)


def test_an_absent_target_label_is_refused_by_name(tmp_path):
    path = write_table(tmp_path / "train.csv", HEADER, SOUND)
    with pytest.raises(ManifestError, match="must have the column 'Cardiomegaly'"):
        read(path, ("Cardiomegaly",))


def test_inspection_names_every_fault_and_keeps_the_sound_rows(tmp_path):
    rows = [["train_1_a_1", "a.npz", "x", "y"], [], ["train_2_a_1", "b.npz", "1", "0"], ["short"]]
    path = write_table(tmp_path / "train.csv", HEADER, rows)
    manifest, faults = inspect_manifest(path, ColumnsConfig(), None)
    assert [fault.row for fault in faults] == [2, 2, 5]
    assert manifest is not None
    assert (manifest.volumes, manifest.rows) == (("train_2_a_1",), (4,))


def test_real_manifests_have_the_18_labels_in_order(real_reports: Path):
    manifest = read(real_reports / "manifests" / "train.csv")
    assert manifest.targets.shape == (638, 18)
    assert (manifest.labels[0], manifest.labels[9]) == ("Medical material", "Lung nodule")
    assert len(set(manifest.patients)) <= len(set(manifest.scans)) <= 638
