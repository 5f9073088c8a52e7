from pathlib import Path

import numpy as np
import pytest

from headsweep.config.data_sections import ColumnsConfig
from headsweep.data.ct_rate.names import METADATA_COLUMNS, patient_of, scan_of
from headsweep.data.manifest import (
    inspect_manifest,
    read_manifest,
    read_partly_labelled,
    refuse_mixed_labels,
)
from headsweep.data.tables import read_header
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
def test_patient_and_scan_of_volume_name_are_its_parts(volume, patient, scan):
    assert patient_of(volume) == patient
    assert scan_of(volume) == scan


def test_patient_of_two_scans_of_one_patient_is_equal():
    assert patient_of("train_7_a_1") == patient_of("train_7_b_2")
    assert patient_of("train_7_a_1") != patient_of("train_77_a_1") != patient_of("valid_7_a_1")


@pytest.mark.parametrize("name", ["", "scan", "train_1", "train_1_a_x", "_a_1"])
def test_patient_of_name_without_ct_rate_pattern_raises(name):
    with pytest.raises(ManifestError, match="must read <split>_<patient>_<scan>"):
        patient_of(name)


def test_read_manifest_keeps_order_of_rows_and_labels(tmp_path):
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


def test_read_manifest_with_target_labels_selects_and_orders_columns(tmp_path):
    path = write_table(tmp_path / "m.csv", HEADER, SOUND)
    manifest = read(path, ("Lung nodule", "Emphysema"))
    assert manifest.labels == ("Lung nodule", "Emphysema")
    np.testing.assert_array_equal(manifest.targets, [[0, 1]])


def test_read_manifest_without_ct_rate_labels_takes_remaining_columns(tmp_path):
    other = ["volumename", "visual_feature_path", "mask_path", "Findings_EN", "Technique_EN"]
    metadata = sorted(METADATA_COLUMNS)
    path = write_table(
        tmp_path / "m.csv",
        [*other, *metadata, "Pneumothorax"],
        [["train_1_a_1", "a.npz", "m.nii", "text", "text", *["x"] * len(metadata), "1"]],
    )
    assert read(path).labels == ("Pneumothorax",)


def test_read_manifest_with_report_columns_joins_findings_and_impressions(tmp_path):
    path = write_table(
        tmp_path / "m.csv",
        [*HEADER, "ClinicalInformation_EN", "Findings_EN", "Impressions_EN"],
        [
            [*SOUND[0], "Cough.", "Two\nnodules.", "Nodules."],
            ["train_2_a_1", "b.npz", "0", "0", "Not given.", "Not given.", "Normal."],
        ],
    )
    assert read(path).reports == ("Two\nnodules. Nodules.", "Normal.")


def test_fingerprint_of_manifest_depends_on_content_only(tmp_path):
    one = write_table(tmp_path / "a" / "train.csv", HEADER, SOUND)
    moved = write_table(tmp_path / "b" / "other.csv", HEADER, SOUND)
    changed = write_table(tmp_path / "c.csv", HEADER, [[*SOUND[0][:2], "1", "1"]])
    assert read(one).fingerprint() == read(moved).fingerprint() != read(changed).fingerprint()


@pytest.mark.parametrize(
    ("row", "message"),
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
def test_read_manifest_with_bad_row_raises_with_file_and_row(tmp_path, row, message):
    path = write_table(tmp_path / "train.csv", HEADER, [*SOUND, row])
    with pytest.raises(ManifestError, match=rf"train\.csv:3: .*{message}"):
        read(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            ["volume", *HEADER[1:]],
            r"not found: 'volumename' among volume, .*Did you mean 'volume'",
        ),
        (["volumename", "path", "Emphysema", "Lung nodule"], "must have a column of feature paths"),
        (["volumename", "visual_feature_path", "Emphysema", "Emphysema"], "distinct names"),
        (["volumename", "visual_feature_path", "split", "fold"], "must have a label column"),
    ],
)
def test_read_manifest_with_bad_header_raises(tmp_path, header, message):
    path = write_table(tmp_path / "train.csv", header, SOUND)
    with pytest.raises(ManifestError, match=rf"train\.csv:1: .*{message}"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not found"),
        (b"", "column not found: 'volumename' among none"),
        (b"volumename,visual_feature_path,Emphysema\n", "must have rows"),
        (b"volumename,\xff\n", "must be CSV text in UTF-8"),
        (b'volumename\n"open', "must be CSV text"),
    ],
)
def test_read_manifest_of_unreadable_file_raises_with_path(tmp_path, content, message):
    path = tmp_path / "train.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ManifestError, match=message) as refused:
        read(path)
    assert str(path) in str(refused.value)


def test_read_manifest_with_absent_target_label_raises_with_its_name(tmp_path):
    path = write_table(tmp_path / "train.csv", HEADER, SOUND)
    with pytest.raises(ManifestError, match="column not found: 'Cardiomegaly'"):
        read(path, ("Cardiomegaly",))


def test_inspect_manifest_with_bad_rows_returns_faults_and_valid_rows(tmp_path):
    rows = [["train_1_a_1", "a.npz", "x", "y"], [], ["train_2_a_1", "b.npz", "1", "0"], ["short"]]
    path = write_table(tmp_path / "train.csv", HEADER, rows)
    manifest, faults = inspect_manifest(path, ColumnsConfig(), None)
    assert [fault.row for fault in faults] == [2, 2, 5]
    assert manifest is not None
    assert (manifest.volumes, manifest.rows) == (("train_2_a_1",), (4,))


def test_read_manifest_of_real_reports_has_18_labels_in_order(real_reports: Path):
    manifest = read(real_reports / "manifests" / "train.csv")
    assert manifest.targets.shape == (638, 18)
    assert (manifest.labels[0], manifest.labels[9]) == ("Medical material", "Lung nodule")
    assert len(set(manifest.patients)) <= len(set(manifest.scans)) <= 638


def read_as(path, target_labels=None, **columns):
    return read_manifest(path, ColumnsConfig(**columns), target_labels)


def test_read_manifest_with_spaces_in_header_strips_them(tmp_path):
    header = [" volumename", "visual_feature_path ", "Emphysema ", "Lung  nodule", "Atelectasis\t"]
    manifest = read(write_table(tmp_path / "m.csv", header, [[*SOUND[0], "1"]]))
    assert manifest.labels == ("Emphysema", "Lung nodule", "Atelectasis")
    assert manifest.targets.tolist() == [[1, 0, 1]]
    assert read(tmp_path / "m.csv", (" Atelectasis",)).labels == ("Atelectasis",)


OWN = [["train_1_a_1", "a.npz", "1", "0", "1"], ["train_2_a_1", "b.npz", "0", "1", "0"]]


def test_refuse_mixed_labels_without_target_labels_raises(tmp_path):
    manifest = read(write_table(tmp_path / "m.csv", [*HEADER, "COVID-19"], OWN))
    assert (manifest.labels, manifest.unused) == (tuple(HEADER[2:]), ("COVID-19",))
    with pytest.raises(ManifestError, match=r"m\.csv:1: the columns 'COVID-19' hold .*target_lab"):
        refuse_mixed_labels(manifest, None)
    assert [warning.severity for warning in manifest.warnings] == ["warning"]
    chosen = ("COVID-19", "Emphysema")
    refuse_mixed_labels(read(tmp_path / "m.csv", chosen), chosen)


def test_read_manifest_with_target_labels_warns_of_unused_binary_columns(tmp_path):
    path = write_table(tmp_path / "m.csv", [*HEADER, "COVID-19"], OWN)
    manifest = read(path, ("Emphysema",))
    (warning,) = manifest.warnings
    assert "'Lung nodule', 'COVID-19' hold 0 and 1 but are not used" in str(warning)
    assert "training.target_labels" in warning.message
    assert read(path, ("Emphysema", "Lung nodule", "COVID-19")).warnings == ()


@pytest.mark.parametrize(
    "cells",
    [("1", "1"), ("0", "2"), ("x", "y"), ("0.5", "1"), ("", "1")],
)
def test_read_manifest_with_column_that_is_not_binary_does_not_report_it(tmp_path, cells):
    rows = [[*row[:4], cell] for row, cell in zip(OWN, cells, strict=True)]
    assert read(write_table(tmp_path / "m.csv", [*HEADER, "n"], rows)).unused == ()


@pytest.mark.parametrize("separator", [";", "\t"])
def test_read_manifest_with_other_separator_reads_rows(tmp_path, separator):
    path = tmp_path / "m.csv"
    path.write_text("\n".join(separator.join(row) for row in [HEADER, *SOUND]))
    assert read(path).volumes == ("train_1_a_1",)
    assert read_header(path) == tuple(HEADER)


def test_read_manifest_with_semicolons_in_comma_file_keeps_them(tmp_path):
    path = write_table(
        tmp_path / "m.csv", [*HEADER, "Findings_EN"], [[*SOUND[0], "Clear; normal."]]
    )
    assert read(path).reports == ("Clear; normal.",)


@pytest.mark.parametrize("spelling", [("True", "False"), ("TRUE", "FALSE"), ("true", "false")])
def test_read_manifest_with_true_and_false_reads_them_as_labels(tmp_path, spelling):
    path = write_table(tmp_path / "m.csv", HEADER, [[*SOUND[0][:2], *spelling]])
    assert read(path).targets.tolist() == [[1, 0]]


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
@pytest.mark.parametrize("label", ["Emphysema", "Pneumothorax"])
def test_read_manifest_with_unnamed_index_column_ignores_it(tmp_path, name, label):
    header = [name, "volumename", "visual_feature_path", label]
    rows = [["0", "train_1_a_1", "a.npz", "1"], ["1", "train_2_a_1", "b.npz", "0"]]
    path = write_table(tmp_path / "m.csv", header, rows)
    manifest = read(path)
    assert (manifest.labels, manifest.unused) == ((label,), ())
    assert read_header(path) == tuple(header[1:])


@pytest.mark.parametrize("name", ["VolumeName", "VOLUMENAME"])
def test_read_manifest_with_differently_named_volume_column_raises_with_fix(tmp_path, name):
    path = write_table(tmp_path / "m.csv", [name, *HEADER[1:]], SOUND)
    with pytest.raises(ManifestError, match=f"To use '{name}', set data.columns.volume={name}"):
        read(path)
    assert read_as(path, volume=name).volumes == ("train_1_a_1",)


OTHER_NAMES = [["LIDC-IDRI-0001", "a.npz", "1", "0"], ["trn00001", "b.npz", "0", "1"]]


def test_read_manifest_without_ct_rate_names_warns_and_uses_volume_as_patient(tmp_path):
    manifest = read(write_table(tmp_path / "m.csv", HEADER, OTHER_NAMES))
    assert manifest.volumes == manifest.patients == manifest.scans
    (warning,) = manifest.warnings
    assert "'LIDC-IDRI-0001' do not say which patient" in warning.message
    assert "data.columns.patient" in warning.message


def test_read_manifest_with_patient_and_scan_columns_uses_them(tmp_path):
    header = [*HEADER, "who", "which"]
    rows = [[*row, "p1", scan] for row, scan in zip(OTHER_NAMES, ("s1", "s2"), strict=True)]
    path = write_table(tmp_path / "m.csv", header, rows)
    manifest = read_as(path, patient="who", scan="which")
    assert manifest.patients == ("p1", "p1")
    assert manifest.scans == ("s1", "s2")
    assert manifest.warnings == ()
    assert read_as(path, patient="who").scans == manifest.volumes
    assert read_as(path, patient="who").fingerprint() != read_as(path).fingerprint()


def test_read_manifest_with_patient_column_overrides_ct_rate_names(tmp_path):
    path = write_table(tmp_path / "m.csv", [*HEADER, "who"], [[*SOUND[0], "p7"]])
    manifest = read_as(path, patient="who")
    assert (manifest.patients, manifest.scans) == (("p7",), ("train_1_a",))


def test_read_manifest_with_empty_patient_raises_with_row(tmp_path):
    path = write_table(tmp_path / "m.csv", [*HEADER, "who"], [[*SOUND[0], " "]])
    with pytest.raises(ManifestError, match=r"m\.csv:2: who must not be empty"):
        read_as(path, patient="who")


def test_read_manifest_with_absent_patient_column_raises_with_config_key(tmp_path):
    path = write_table(tmp_path / "m.csv", HEADER, SOUND)
    with pytest.raises(ManifestError, match=r"not found: 'who' .*data\.columns\.patient"):
        read_as(path, patient="who")


def test_read_manifest_with_one_name_unlike_ct_rate_raises(tmp_path):
    path = write_table(tmp_path / "m.csv", HEADER, [*SOUND, OTHER_NAMES[0]])
    with pytest.raises(ManifestError, match=r"m\.csv:3: .*'LIDC-IDRI-0001'.*data\.columns\.pat"):
        read(path)


@pytest.mark.parametrize(
    ("cells", "labels"),
    [(("", ""), ()), (("1", ""), ("Emphysema",)), (("1", "0"), ("Emphysema", "Lung nodule"))],
)
def test_read_partly_labelled_with_empty_cells_leaves_out_those_labels(tmp_path, cells, labels):
    path = write_table(tmp_path / "new.csv", HEADER, [[*SOUND[0][:2], *cells]])
    manifest = read_partly_labelled(path, ColumnsConfig(), ("Emphysema", "Lung nodule", "Absent"))
    assert manifest.labels == labels
    assert manifest.volumes == ("train_1_a_1",)


def test_read_partly_labelled_with_invalid_label_raises(tmp_path):
    path = write_table(tmp_path / "new.csv", HEADER, [[*SOUND[0][:2], "2", ""]])
    with pytest.raises(ManifestError, match="a label must be 0 or 1, found '2'"):
        read_partly_labelled(path, ColumnsConfig(), ("Emphysema", "Lung nodule"))


@pytest.mark.parametrize("name", ["a/b", "../x", "a\nb", "x\x00y"])
def test_read_manifest_with_volume_name_that_is_path_or_unprintable_raises(tmp_path, name):
    path = write_table(tmp_path / "m.csv", [*HEADER, "who"], [[name, "a.npz", "1", "0", "p"]])
    for columns in ({}, {"patient": "who"}):
        with pytest.raises(ManifestError, match="volumename must be a name without '/'"):
            read_as(path, **columns)
