"""Test rows whose content train also holds: the board shows metrics on the others too."""

import csv
import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from headsweep.data.unseen import rows_in_train
from headsweep.leaderboard.verification.recompute import recompute
from headsweep.leaderboard.verification.verify import verify
from headsweep.search.study_file import study_from_dict
from headsweep.studies.study import StoredStudy
from tests.helpers.data_sets import LABELS, config_of, write_split
from tests.helpers.splits import make_split
from tests.leaderboard.conftest import Study, add_trials

pytestmark = pytest.mark.filterwarnings("ignore::headsweep.errors.HeadsweepWarning")
N, COPIED = 60, 18


def make_board(root, policy):
    """Make a board on data of which `COPIED` test rows repeat a train report."""
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        volumes = [f"{split}_{i}_a_1" for i in range(N)]
        targets = {volume: rng.integers(0, 2, 2).tolist() for volume in volumes}
        reports = {volume: f"{split} {i}" for i, volume in enumerate(volumes)}
        if split == "test":
            reports |= {volume: f"train {i}" for i, volume in enumerate(volumes[:COPIED])}
        write_split(root, split, targets, reports=reports, width=12)
    config = config_of(root)
    spec = study_from_dict(
        {
            "study": {"name": "shared", "n_trials": 2},
            "base": ["data.test_manifests=[test.csv]", "training.max_epochs=2"],
            "space": {"training.learning_rate": {"type": "float", "low": 0.01, "high": 0.1}},
            "finalists": {"top_k": 1, "seeds": [0, 1], "references": ["knn"]},
        },
        [
            f"paths.data_root={config.paths.data_root}",
            f"paths.manifest_dir={config.paths.manifest_dir}",
            f"data.shared_content={policy}",
        ],
    )
    url = f"sqlite:///{root}/study.db"
    StoredStudy.create(spec, url).close()
    study = Study(spec, url)
    add_trials(study, 2, seed=0)
    return study.finalize(root / "board")


@pytest.fixture(scope="module")
def warned(tmp_path_factory):
    return make_board(tmp_path_factory.mktemp("warned"), "null")


def row_of(folder, name="leaderboard.csv"):
    with (folder / name).open(newline="") as file:
        return next(csv.DictReader(file))


def test_board_of_shared_content_shows_metrics_on_unseen_rows_equal_to_sklearn(warned):
    row = row_of(warned)
    assert row["test/unseen_rows"] == str(N - COPIED)
    found = {"auprc": [], "auroc": []}
    for seed in (0, 1):
        path = warned / f"finalists/1/seed_{seed}/predictions/test.parquet"
        table = pq.read_table(path)
        assert len(table) == N
        for name, metric in (("auprc", average_precision_score), ("auroc", roc_auc_score)):
            values = [
                metric(
                    *(table[f"y_{kind}:{label}"].to_numpy()[COPIED:] for kind in ("true", "logit"))
                )
                for label in LABELS
            ]
            found[name].append(np.mean(values))
    for name, values in found.items():
        column = f"test/unseen_{name}_macro"
        assert float(row[column]) == pytest.approx(np.mean(values), abs=1e-9)
        assert float(row[f"{column}_ci_low"]) < float(row[column]) < float(row[f"{column}_ci_high"])
    assert row["test/auprc_macro"] != row["test/unseen_auprc_macro"]
    assert list(row)[-7] == "test/unseen_rows"


def test_board_of_shared_content_names_the_rows_in_report_and_references(warned):
    text = (warned / "report.html").read_text()
    assert f"Train holds neither report nor features of {N - COPIED} rows" in text
    assert "AUPRC on unseen content" in text
    assert row_of(warned, "references.csv")["test/unseen_rows"] == str(N - COPIED)
    metrics = json.loads((warned / "finalists/1/metrics.json").read_text())["test"]
    groups = metrics["subgroups"]["content"]
    assert {name: group["n_rows"] for name, group in groups.items()} == {
        "unseen": N - COPIED,
        "also in train": COPIED,
    }
    assert metrics["n_rows"] == N


def test_board_of_shared_content_verifies(warned):
    assert "equal to the bit" in verify(warned)
    assert recompute(warned).startswith("metrics of 1 finalists agree")


def test_board_with_drop_has_unseen_rows_alone_and_says_how_many_were_left_out(tmp_path):
    folder = make_board(tmp_path, "drop")
    metrics = json.loads((folder / "finalists/1/metrics.json").read_text())["test"]
    assert metrics["n_rows"] == N - COPIED
    assert "subgroups" not in metrics
    assert "test/unseen_rows" not in row_of(folder)
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["rows_left_out"] == {"test": COPIED}
    assert f"{COPIED} rows were left out" in (folder / "report.html").read_text()


def test_rows_in_train_counts_reports_and_features():
    train, test = make_split("train", 20, seed=0), make_split("test", 10, seed=1)
    assert not rows_in_train(train, test).any()
    reports = tuple(f"t{i}" for i in range(20)), ("", "t3", *(f"x{i}" for i in range(8)))
    visual = test.features["visual"].copy()
    visual[5] = train.features["visual"][7]
    train = replace(train, reports=("", *reports[0][1:]))
    test = replace(test, reports=reports[1], features={**test.features, "visual": visual})
    assert np.flatnonzero(rows_in_train(train, test)).tolist() == [1, 5]
    assert np.flatnonzero(rows_in_train(replace(train, features={}), test)).tolist() == [1]
