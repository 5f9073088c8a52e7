"""Subgroups by sex and age are measured separately, each on its own patients."""

import csv
import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from headsweep.evaluation.predictions import read_predictions
from headsweep.leaderboard.verification.recompute import recompute
from tests.leaderboard.conftest import make_study

AGES = ("036Y", "59", "060Y", "", "91Y")


@pytest.fixture(scope="module")
def with_metadata(tmp_path_factory, data):
    """A leaderboard on data whose largest test manifest has columns for sex and age."""
    folder = tmp_path_factory.mktemp("subgroups")
    copy = shutil.copytree(data, folder / "data")
    path = copy / "manifests/test_manual_all.csv"
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    patients = sorted({row[0].rsplit("_", 2)[0] for row in rows})
    number = {patient: i for i, patient in enumerate(patients)}
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow([*header, "PatientSex", "PatientAge"])
        for row in rows:
            i = number[row[0].rsplit("_", 2)[0]]
            out.writerow([*row, "MF"[i % 2], AGES[i % 5]])
    study = make_study(folder, copy, name="subgroups", base="head=linear", n_trials=2)
    return study.finalize(folder / "board")


def test_subgroups_of_a_split_sum_to_its_rows(with_metadata):
    metrics = json.loads((with_metadata / "finalists/1/metrics.json").read_text())
    found = metrics["test_manual_all"]["subgroups"]
    assert set(found) == {"sex", "age"}
    assert set(found["sex"]) == {"female", "male"}
    assert set(found["age"]) == {"under 40", "40 to 59", "60 to 79", "80 and over", "unknown"}
    for groups in found.values():
        rows = sum(group["n_rows"] for group in groups.values())
        assert rows == metrics["test_manual_all"]["n_rows"]
    assert "subgroups" not in metrics["test_manual_train"]


def test_metrics_of_a_subgroup_use_only_its_rows(with_metadata):
    metrics = json.loads((with_metadata / "finalists/1/metrics.json").read_text())
    found = metrics["test_manual_all"]["subgroups"]["sex"]["male"]["auprc_macro"]
    values = []
    for seed in (0, 1, 2):
        place = with_metadata / f"finalists/1/seed_{seed}/predictions/test_manual_all.parquet"
        predictions = read_predictions(place)
        patients = sorted(set(predictions.patients))
        male = np.array([patients.index(p) % 2 == 0 for p in predictions.patients])
        by_label = [
            average_precision_score(y, score)
            for y, score in zip(
                predictions.targets[male].T, predictions.scores[male].T, strict=True
            )
            if 0 < y.sum() < len(y)
        ]
        values.append(np.mean(by_label))
    assert found["mean"] == pytest.approx(np.mean(values), abs=1e-9)
    assert found["ci_low"] < found["mean"] < found["ci_high"]


def test_report_and_recompute_with_subgroups_cover_them(with_metadata):
    assert "Subgroups on test_manual_all" in (with_metadata / "report.html").read_text()
    assert recompute(with_metadata)
