"""The files written by `finalize`: their format, and metrics checked against scikit-learn."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from headsweep.errors import StudyError
from headsweep.studies.study import StoredStudy
from tests.leaderboard.conftest import LABELS, make_study

TESTS = ("test_manual_all", "test_manual_train", "test_manual_valid")


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "leaderboard.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_finalize_writes_the_columns_of_the_contract(finished):
    spread = [
        f"{stem}/{metric}_macro{suffix}"
        for stem in TESTS
        for metric in ("auprc", "auroc", "f1")
        for suffix in ("", "_std", "_ci_low", "_ci_high")
    ]
    first, *_ = rows_of(finished)
    assert list(first) == [
        *("rank", "study", "head", "features", "trial", "n_seeds"),
        *("val/auprc_macro", "val/auprc_macro_std", *spread),
        *("n_trials_searched", "config", "data_fingerprint"),
        *("val/auroc_macro", "val/auroc_macro_std", "inputs"),
    ]
    assert (first["head"], first["features"], first["n_seeds"]) == ("linear", "visual", "3")
    assert first["n_trials_searched"] == "4"
    assert (finished / first["config"]).is_file()


def test_finalize_ranks_the_best_trials_by_their_mean_on_valid(study, finished):
    rows = rows_of(finished)
    complete = [t for t in study.optuna.get_trials() if t.state.name == "COMPLETE"]
    best = sorted(complete, key=lambda trial: -trial.value)[:2]
    assert {row["trial"] for row in rows} == {str(trial.number) for trial in best}
    means = [float(row["val/auprc_macro"]) for row in rows]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize("stem", ["valid", *TESTS])
def test_metrics_of_every_split_equal_those_of_sklearn(finished, stem):
    recorded = json.loads((finished / "finalists/1/metrics.json").read_text())[stem]
    by_seed = {"auprc": [], "auroc": [], "f1": []}
    for seed in (0, 1, 2):
        place = finished / f"finalists/1/seed_{seed}"
        table = pq.read_table(place / f"predictions/{stem}.parquet")
        cut = json.loads((place / "thresholds.json").read_text())["f1"]
        labels = [name[7:] for name in table.column_names if name.startswith("y_true:")]
        values = {"auprc": [], "auroc": [], "f1": []}
        for label in labels:
            y, score = (table[f"y_{kind}:{label}"].to_numpy() for kind in ("true", "score"))
            if 0 < y.sum() < len(y):
                values["auprc"].append(average_precision_score(y, score))
                values["auroc"].append(roc_auc_score(y, score))
            if y.sum() and cut[label] is not None:
                values["f1"].append(f1_score(y, score >= cut[label]))
        for metric, macro in by_seed.items():
            macro.append(np.mean(values[metric]))
        assert recorded["n_labels_used"] == len(values["auprc"])
    for metric, macro in by_seed.items():
        found = recorded[f"{metric}_macro"]
        assert found["mean"] == pytest.approx(np.mean(macro), abs=1e-9)
        assert found["std"] == pytest.approx(np.std(macro, ddof=1), abs=1e-9)
        assert found["ci_low"] < found["mean"] < found["ci_high"]


def test_table_values_equal_those_of_the_metrics_files(finished):
    for row in rows_of(finished):
        metrics = json.loads((finished / f"finalists/{row['rank']}/metrics.json").read_text())
        assert float(row["val/auprc_macro"]) == metrics["valid"]["auprc_macro"]["mean"]
        assert float(row["val/auroc_macro"]) == metrics["valid"]["auroc_macro"]["mean"]
        for stem in TESTS:
            found = metrics[stem]["auroc_macro"]["ci_low"]
            assert float(row[f"{stem}/auroc_macro_ci_low"]) == found


def test_predictions_file_has_volume_patient_probabilities_and_logits(finished):
    table = pq.read_table(finished / "finalists/2/seed_1/predictions/test_manual_all.parquet")
    assert table.column_names[:4] == [
        *("volumename", "patient"),
        *("y_true:Medical material", "y_score:Medical material"),
    ]
    assert len(table.column_names) == 2 + 3 * len(LABELS)
    assert table.column_names[-len(LABELS) :] == [f"y_logit:{label}" for label in LABELS]
    scores = table["y_score:Lung nodule"].to_numpy()
    assert scores.dtype == np.float64
    assert 0 <= scores.min() < scores.max() <= 1
    assert table["volumename"][0].as_py().startswith(table["patient"][0].as_py() + "_")


def test_provenance_names_study_data_packages_and_test_opening(study, finished):
    provenance = json.loads((finished / "provenance.json").read_text())
    assert provenance["study_fingerprint"] == study.spec.fingerprint()
    assert set(provenance["data"]) == {"train", "valid", *TESTS}
    assert provenance["packages"]["torch"]
    (opening,) = provenance["test_openings"]
    named = {int(row["trial"]) for row in rows_of(finished)}
    assert set(opening["trials"]) == named
    assert set(provenance["files"]) > {"leaderboard.csv", "comparisons.json", "report.html"}


def test_finalize_when_repeated_changes_no_file_and_reads_no_test_data(
    study, finished, monkeypatch
):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("test must not be opened again")

    monkeypatch.setattr("headsweep.data.dataset.Dataset.test_splits", refuse)
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    study.finalize(finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_finalize_into_another_folder_writes_the_same_bytes_and_keeps_other_files(
    study, finished, tmp_path
):
    (tmp_path / "notes.txt").write_text("mine")
    again = study.finalize(tmp_path)
    for name in ("leaderboard.csv", "leaderboard.md", "finalists/1/metrics.json"):
        assert (again / name).read_bytes() == (finished / name).read_bytes()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".partial-*"))


def test_finalize_when_the_data_changed_since_the_search_is_refused(data, tmp_path):
    own = make_study(tmp_path / "own", data, name="own", base="head=linear", n_trials=2)
    with StoredStudy.open(own.name, own.storage_url) as stored:
        stored.pin_data({"train manifest": "0" * 64, "valid text features": "1" * 64})
    with pytest.raises(
        StudyError,
        match=r"^train manifest: the data have changed.* is [0-9a-f]{12}, was [0-9a-f]{12}$",
    ):
        own.finalize(tmp_path / "board")
    assert not (tmp_path / "board").exists()


def test_finalize_with_a_foreign_trial_out_of_the_space_never_confirms_it(data, tmp_path):
    study = make_study(tmp_path / "study", data, name="foreign", base="head=linear")
    wide = {
        "training.learning_rate": FloatDistribution(1e-4, 1.0, log=True),
        "training.weight_decay": FloatDistribution(1e-6, 1.0, log=True),
    }
    params = {"training.learning_rate": 0.9, "training.weight_decay": 0.9}
    study.optuna.add_trial(create_trial(value=0.99, params=params, distributions=wide))
    board = study.finalize(tmp_path / "board")
    assert {row["trial"] for row in rows_of(board)} <= {"0", "1", "2"}
    assert "3 complete and 0 pruned trials" in (board / "report.html").read_text()
