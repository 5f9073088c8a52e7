"""Manifests from tables with the columns and irregularities of CT-RATE's."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headsweep.config.data_sections import ColumnsConfig
from headsweep.data.ct_rate.names import LABELS, patient_of
from headsweep.data.ct_rate.prepare import (
    PathPattern,
    Tables,
    prepare_manifest,
    write_prepared,
    write_scan_means,
)
from headsweep.data.manifest import read_manifest
from headsweep.data.subsets import write_budget_subsets, write_folds
from headsweep.data.synthetic.generate import synthesize
from headsweep.data.validation import check
from headsweep.errors import ManifestError, OutputError
from tests.helpers.data_sets import config_of, write_feature, write_table

VISUAL = PathPattern("visual_feature_path", "image/")
SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_manifests.py"

REPORTS = ["VolumeName", "ClinicalInformation_EN", "Technique_EN", "Findings_EN", "Impressions_EN"]
METADATA = ["VolumeName", "Manufacturer", "SeriesDescription", "PatientSex", "PatientAge"]


def label_row(volume, *positives):
    return [volume, *(int(label in positives) for label in LABELS)]


def ct_rate_tables(root, split):
    """CT-RATE's tables: that of the labels is named `valid_`, the others `validation_`."""
    long_name = {"train": "train", "valid": "validation"}[split]
    return Tables(
        labels=root / "multi_abnormality_labels" / f"{split}_predicted_labels.csv",
        reports=root / "radiology_text_reports" / f"{long_name}_reports.csv",
        metadata=root / "metadata" / f"{long_name}_metadata.csv",
    )


@pytest.fixture
def root(tmp_path):
    """Tables of the valid split, named `valid_` and `validation_`, with rows that do not match.

    Scan valid_1_a has two reconstructions of which one has no label row; valid_2_a has no report;
    valid_3_a no metadata; valid_4_a shares the report of valid_1_a; valid_5_a has no labels.
    """
    write_table(
        tmp_path / "multi_abnormality_labels" / "valid_predicted_labels.csv",
        ["VolumeName", *LABELS],
        [
            label_row("valid_1_a_1.nii.gz", "Lung nodule"),
            label_row("valid_2_a_1.nii.gz"),
            label_row("valid_3_a_1.nii.gz"),
            label_row("valid_4_a_1.nii.gz", "Lung nodule"),
        ],
    )
    write_table(
        tmp_path / "radiology_text_reports" / "validation_reports.csv",
        REPORTS,
        [
            ["valid_1_a_1.nii.gz", "Cough.", "CT", "One\nnodule.", "Nodule."],
            ["valid_1_a_2.nii.gz", "Cough.", "CT", "One\nnodule.", "Nodule."],
            ["valid_3_a_1.nii.gz", "Not given.", "CT", "Not given.", "Not given."],
            ["valid_4_a_1.nii.gz", "Pain.", "CT", "One\nnodule.", "Nodule."],
            ["valid_5_a_1.nii.gz", "Pain.", "CT", "Clear.", "Normal."],
        ],
    )
    write_table(
        tmp_path / "metadata" / "validation_metadata.csv",
        METADATA,
        [
            [f"{volume}.nii.gz", "Siemens", "Chest", "M", "036Y"]
            for volume in (
                "valid_1_a_1",
                "valid_1_a_2",
                "valid_2_a_1",
                "valid_4_a_1",
                "valid_5_a_1",
            )
        ],
    )
    return tmp_path


def prepare(root, policy="all_recon"):
    return prepare_manifest(ct_rate_tables(root, "valid"), [VISUAL], policy)


def volumes(prepared):
    return [row[0] for row in prepared.rows]


def test_prepare_manifest_copies_labels_and_report_to_every_reconstruction(root):
    prepared = prepare(root)
    assert volumes(prepared) == ["valid_1_a_1", "valid_4_a_1", "valid_1_a_2"]
    rows = {row[0]: dict(zip(prepared.header, row, strict=True)) for row in prepared.rows}
    for name in ("valid_1_a_1", "valid_1_a_2"):
        assert rows[name]["Lung nodule"] == "1"
        assert rows[name]["Emphysema"] == "0"
        assert rows[name]["Findings_EN"] == "One\nnodule."
        assert rows[name]["PatientAge"] == "036Y"
        assert rows[name]["visual_feature_path"] == f"image/{name}.npz"


def test_prepare_manifest_lists_dropped_rows_with_the_join(root):
    prepared = prepare(root)
    assert {(row.volume, row.step) for row in prepared.dropped} == {
        ("valid_5_a_1", "labels"),
        ("valid_2_a_1", "reports"),
        ("valid_3_a_1", "metadata"),
    }
    assert prepared.counts() == {"labels": 1, "reports": 1, "metadata": 1, "kept": 3}


def test_write_prepared_writes_manifest_that_can_be_read(root):
    prepared = prepare(root)
    dropped = write_prepared(prepared, root / "out" / "valid.csv")
    manifest = read_manifest(root / "out" / "valid.csv", ColumnsConfig(), None)
    assert manifest.volumes == ("valid_1_a_1", "valid_4_a_1", "valid_1_a_2")
    assert manifest.labels == LABELS
    assert manifest.reports is not None
    assert manifest.reports[0] == "One\nnodule. Nodule."
    with dropped.open(newline="") as file:
        assert [row["volumename"] for row in csv.DictReader(file)] == [
            row.volume for row in prepared.dropped
        ]


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("all_recon", ["valid_1_a_1", "valid_4_a_1", "valid_1_a_2"]),
        ("first_recon", ["valid_1_a_1", "valid_4_a_1"]),
        ("scan_mean", ["valid_1_a", "valid_4_a"]),
        ("dedup_text", ["valid_1_a_1"]),
    ],
)
def test_prepare_manifest_with_each_row_policy_keeps_its_rows(root, policy, kept):
    prepared = prepare(root, policy)
    assert volumes(prepared) == kept
    listed = 6  # number of volumes in labels or metadata
    merged = sum("mean" in row.reason for row in prepared.dropped)
    assert len(prepared.rows) + len(prepared.dropped) == listed
    assert merged == (1 if policy == "scan_mean" else 0)


def test_write_scan_means_writes_means_at_manifest_paths(root):
    write_feature(root, "image/valid_1_a_1.npz", np.array([[1.0, 3.0]]))
    write_feature(root, "image/valid_1_a_2.npz", np.array([[3.0, 5.0]]))
    write_feature(root, "image/valid_4_a_1.npz", np.array([[7.0, 7.0]]))
    prepared = prepare(root, "scan_mean")
    write_scan_means(prepared, root / "features")
    paths = [row[prepared.header.index("visual_feature_path")] for row in prepared.rows]
    stored = [np.load(root / "features" / path)["arr"] for path in paths]
    np.testing.assert_array_equal(stored, [[[2, 4]], [[7, 7]]])


def test_prepare_manifest_with_absent_reports_does_not_merge_them(root):
    table = root / "radiology_text_reports" / "validation_reports.csv"
    table.write_text(table.read_text().replace('"One\nnodule.",Nodule.', "Not given.,Not given."))
    assert volumes(prepare(root, "dedup_text")) == ["valid_1_a_1", "valid_4_a_1"]


def test_prepare_manifest_with_split_list_drops_unknown_and_repeated_names(root):
    split = write_table(
        root / "split.csv",
        ["VolumeName"],
        [["validation_1_a_1.nii.gz"], ["valid_4_a_1"], ["valid_4_a_1"], ["phantom"]],
    )
    tables = ct_rate_tables(root, "valid")
    prepared = prepare_manifest(type(tables)(tables.labels, split), [VISUAL], "all_recon")
    assert volumes(prepared) == ["valid_1_a_1", "valid_4_a_1"]
    assert sorted(row.volume for row in prepared.dropped) == ["phantom", "valid_4_a_1"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "valid_2_a_1.nii.gz,0",
            "valid_2_a_1.nii.gz,2",
            "0 or 1, found '2' for 'Medical material'",
        ),
        ("valid_2_a_1.nii.gz", "valid_1_a_2.nii.gz", r"equal labels, found \['Lung nodule'\]"),
        ("VolumeName", "AccessionNo", "must have the column 'VolumeName'"),
    ],
)
def test_prepare_manifest_with_bad_label_table_raises(root, old, new, message):
    table = ct_rate_tables(root, "valid").labels
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(ManifestError, match=f"valid_predicted_labels.csv: .*{message}"):
        prepare(root)


def test_prepare_manifest_with_missing_table_raises(root):
    ct_rate_tables(root, "valid").metadata.unlink()
    with pytest.raises(ManifestError, match=r"table not found: .*validation_metadata\.csv"):
        prepare(root)


def test_write_prepared_when_all_rows_are_dropped_writes_nothing(root):
    table = ct_rate_tables(root, "valid").reports
    table.write_text(",".join(REPORTS) + "\n")
    with pytest.raises(ManifestError, match="all were dropped"):
        write_prepared(prepare(root), root / "out" / "valid.csv")
    assert not (root / "out").exists()


def test_prepare_script_with_seed_project_flags_writes_manifest(root):
    tables = ct_rate_tables(root, "valid")
    output = root / "out" / "valid.csv"
    flags = {
        "labels_csv": tables.labels,
        "reports_csv": tables.reports,
        "metadata_csv": tables.metadata,
        "output_file": output,
        "visual_prefix": "visual/",
        "visual_suffix": ".pt",
        "visual_path_col": "v",
        "text_prefix": "text/",
        "text_suffix": ".npy",
        "text_path_col": "t",
    }
    arguments = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=True
    )
    assert "labels 1, reports 1, metadata 1, kept 3" in done.stdout
    columns = ColumnsConfig(visual_feature="v", text_feature="t")
    manifest = read_manifest(output, columns, None)
    assert manifest.feature_paths["visual"][0] == "visual/valid_1_a_1.pt"
    assert manifest.feature_paths["text"][0] == "text/valid_1_a_1.npy"
    failed = subprocess.run(
        [sys.executable, SCRIPT, "--labels_csv", "none.csv", "--output_file", output],
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: table not found: none.csv")


def test_prepare_command_with_scan_mean_writes_manifest_and_features(root, headsweep):
    for name, values in (("1_a_1", [1.0, 3.0]), ("1_a_2", [3.0, 5.0]), ("4_a_1", [7.0, 7.0])):
        write_feature(root, f"image/valid_{name}.npz", np.array([values]))
    tables = ct_rate_tables(root, "valid")
    output = root / "out" / "valid.csv"
    command = [
        *("data", "prepare", "--labels-csv", tables.labels, "--reports-csv", tables.reports),
        *("--metadata-csv", tables.metadata, "--output-file", output, "--row-policy", "scan_mean"),
    ]
    ended = headsweep(*command)
    assert (ended.code, ended.out) == (2, "")
    assert "--row-policy scan_mean needs --data-root" in ended.err
    assert not output.exists()
    ended = headsweep(*command, "--data-root", root / "features")
    assert ended.out == (
        f"{output}: labels 1, reports 1, metadata 1, policy 1, kept 2; dropped rows are listed in "
        f"{root}/out/valid.dropped.csv\n"
    )
    manifest = read_manifest(output, ColumnsConfig(), None)
    assert manifest.volumes == ("valid_1_a", "valid_4_a")
    assert list(manifest.feature_paths) == ["visual"]
    (path, _) = manifest.feature_paths["visual"]
    np.testing.assert_array_equal(np.load(root / "features" / path)["arr"], [[2, 4]])


def test_prepare_manifest_with_dedup_text_without_reports_raises(root):
    tables = ct_rate_tables(root, "valid")
    with pytest.raises(ManifestError, match="dedup_text needs a table of reports, found none"):
        prepare_manifest(type(tables)(tables.labels), [VISUAL], "dedup_text")


@pytest.mark.parametrize("cells", ["valid_9_a_1", "valid_9_a_1,M,Chest,M,036Y,more"])
def test_prepare_manifest_with_wrong_number_of_cells_raises_with_line(root, cells):
    table = ct_rate_tables(root, "valid").metadata
    table.write_text(table.read_text() + f"\n{cells}\n")  # the empty line is not a row
    with pytest.raises(ManifestError, match=r"metadata\.csv:8: a row must have 5 cells, found"):
        prepare(root)


def test_prepare_manifest_with_unknown_name_in_tables_drops_it(root):
    tables = ct_rate_tables(root, "valid")
    for table in (tables.labels, tables.reports, tables.metadata):
        with table.open(newline="") as file:
            header, *rows = csv.reader(file)
        write_table(table, header, [["phantom", *rows[0][1:]], *rows])
    prepared = prepare(root)
    assert volumes(prepared) == ["valid_1_a_1", "valid_4_a_1", "valid_1_a_2"]
    assert {row.step for row in prepared.dropped if row.volume == "phantom"} == {"split"}


def test_write_prepared_when_path_is_not_writable_raises_with_path(root):
    write_feature(root, "image/valid_1_a_1.npz", np.ones((1, 2)))
    prepared = prepare(root)
    (root / "out").write_text("a file, no folder")
    with pytest.raises(OutputError, match=r"out/valid\.dropped\.csv: cannot write the file"):
        write_prepared(prepared, root / "out" / "valid.csv")
    mean = replace(prepared, means={"image/valid_1_a_1.npz/mean.npz": ("image/valid_1_a_1.npz",)})
    with pytest.raises(OutputError, match=r"mean\.npz: cannot write mean features"):
        write_scan_means(mean, root / "features")


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    out = tmp_path_factory.mktemp("cut") / "data"
    synthesize(out, patients_train=300, patients_valid=1, patients_test=2, seed=0, progress=False)
    return read_manifest(out / "manifests" / "train.csv", ColumnsConfig(), None)


def read_cut(path):
    return read_manifest(path, ColumnsConfig(), None)


def test_write_budget_subsets_writes_nested_stratified_subsets_of_requested_size(train, tmp_path):
    budgets = (50, 100, 400)
    subsets = write_budget_subsets(train, tmp_path, budgets, seeds=(0, 1))
    assert [(s.seed, s.requested_rows) for s in subsets] == [
        (seed, budget) for seed in (0, 1) for budget in (400, 100, 50)
    ]
    by_seed = {0: [], 1: []}
    for subset in subsets:
        manifest = read_cut(tmp_path / subset.file)
        assert subset.rows == len(manifest.volumes)
        assert subset.patients == len(set(manifest.patients))
        assert abs(subset.rows - subset.requested_rows) <= 4
        by_seed[subset.seed].append(set(manifest.volumes))
        if subset.requested_rows == 400:
            difference = manifest.targets.mean(axis=0) - train.targets.mean(axis=0)
            assert np.abs(difference).max() < 0.02
    for large, middle, small in by_seed.values():
        assert small < middle < large < set(train.volumes)
    assert by_seed[0][2] != by_seed[1][2]
    index = json.loads((tmp_path / "train_budgets.json").read_text())
    assert [entry["rows"] for entry in index] == [subset.rows for subset in subsets]


def test_write_folds_shares_no_patient_and_covers_every_row_once(train, tmp_path):
    subsets = write_folds(train, tmp_path, folds=4, seed=3)
    valid_rows = []
    for one, other in zip(subsets[::2], subsets[1::2], strict=True):
        assert (one.part, other.part) == ("train", "valid")
        fit, held_out = read_cut(tmp_path / one.file), read_cut(tmp_path / other.file)
        assert not set(fit.patients) & set(held_out.patients)
        assert set(fit.volumes) | set(held_out.volumes) == set(train.volumes)
        valid_rows += held_out.volumes
    assert sorted(valid_rows) == sorted(train.volumes)


def test_write_folds_writes_manifests_that_pass_check(train, tmp_path):
    one, other = write_folds(train, tmp_path, folds=3, seed=0)[:2]
    values = {
        "paths.manifest_dir": str(tmp_path),
        "data.train_manifest": one.file,
        "data.val_manifest": other.file,
        "data.test_manifests": [],
    }
    config = config_of(train.path.parents[1], values)
    assert [fault for fault in check(config) if fault.severity == "error"] == []


@pytest.mark.parametrize("budget", [0, 10_000])
def test_write_budget_subsets_with_budget_out_of_range_raises(train, tmp_path, budget):
    with pytest.raises(ManifestError, match=f"between 1 and .* rows, found {budget}"):
        write_budget_subsets(train, tmp_path, [budget], [0])


def test_write_budget_subsets_of_one_patient_keeps_all_its_rows(train, tmp_path):
    first = [row for row, patient in enumerate(train.patients) if patient == train.patients[0]]
    one = replace(
        train,
        volumes=tuple(train.volumes[row] for row in first),
        rows=tuple(train.rows[row] for row in first),
        targets=train.targets[first],
        reports=None,
    )
    (subset,) = write_budget_subsets(one, tmp_path, [1], [0])
    assert (subset.rows, subset.patients, subset.requested_rows) == (len(first), 1, 1)


def test_write_folds_when_index_is_not_writable_raises_with_path(train, tmp_path):
    (tmp_path / "train_folds_seed0.json").mkdir()
    with pytest.raises(OutputError, match=r"folds_seed0\.json: cannot write the file"):
        write_folds(train, tmp_path, folds=2, seed=0)


def test_write_folds_with_one_fold_raises(train, tmp_path):
    with pytest.raises(ManifestError, match="at least 2 folds, found 1"):
        write_folds(train, tmp_path, folds=1, seed=0)


def test_patient_of_scan_mean_is_the_scan_patient():
    assert patient_of("valid_1_a") == "valid_1"


@pytest.mark.parametrize(
    ("prefix", "suffix", "path"),
    [
        ("image", "npz", "image/v.npz"),
        ("image/", ".npz", "image/v.npz"),
        ("a/b", ".pt", "a/b/v.pt"),
        ("", "pt", "v.pt"),
        ("image", "_mean.npz", "image/v_mean.npz"),
        ("image", "", "image/v"),
    ],
)
def test_path_pattern_without_slash_or_dot_adds_them(prefix, suffix, path):
    assert PathPattern("column", prefix, suffix).of("v") == path
    folder = path.rpartition("/")[0]
    assert PathPattern("column", prefix, suffix).of_mean("s") == "/".join(
        filter(None, ["scan_mean", folder, "s.npz"])
    )


def test_prepare_command_with_seed_project_prefixes_writes_its_paths(root, headsweep):
    tables = ct_rate_tables(root, "valid")
    output = root / "out.csv"
    flags = ("--visual_prefix", "image", "--text_prefix", "text", "--text_suffix", "pt")
    headsweep("data", "prepare", "--labels_csv", tables.labels, "--output_file", output, *flags)
    manifest = read_manifest(output, ColumnsConfig(), None)
    assert manifest.feature_paths["visual"][0] == "image/valid_1_a_1.npz"
    assert manifest.feature_paths["text"][0] == "text/valid_1_a_1.pt"


def test_prepare_manifest_with_own_labels_keeps_them(root):
    table = ct_rate_tables(root, "valid").labels
    header, *rows = table.read_text().splitlines()
    lines = [f"{row},{'01'[i % 2]}" for i, row in enumerate(rows)]
    table.write_text("\n".join([f"{header},COVID-19", *lines]) + "\n")
    prepared = prepare(root)
    assert "COVID-19" in prepared.header
