"""The how-to page on other cohorts, followed word by word."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

import headsweep as hs
from headsweep.leaderboard.cohorts import COHORTS

PAGE = (Path(__file__).parents[2] / "docs/how_to/other_cohorts.md").read_text(encoding="utf-8")
LABELS = ("Emphysema", "Lung nodule", "Lung opacity", "Mosaic attenuation pattern")
ABSENT = "Mosaic attenuation pattern"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*hold 0 and 1 but are not used"),
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def write_cohort(manifests: Path) -> pd.DataFrame:
    """Write the page's second cohort: columns of its own and blank cells; valid has some, too."""
    frame = pd.read_csv(manifests / "test_manual_all.csv", dtype=str, keep_default_na=False)
    other = frame[["volumename", "visual_feature_path", "text_feature_path"]].copy()
    rng = np.random.default_rng(0)
    big = rng.random(len(frame)) < 0.5
    nodule = (frame["Lung nodule"] == "1").to_numpy()
    other["emphysema"] = frame["Emphysema"]
    other["nodule"] = np.where(nodule & ~big, "1", "0")
    other["nodule_gr_1cm"] = np.where(nodule & big, "1", "0")
    other["opacity"] = frame["Lung opacity"].where(rng.random(len(frame)) < 0.7, "")
    other["fracture"] = "0"
    other.to_csv(manifests / "rad_chestct.csv", index=False)
    valid = pd.read_csv(manifests / "valid.csv", dtype=str, keep_default_na=False)
    valid.loc[::4, "Emphysema"] = ""
    valid.to_csv(manifests / "valid.csv", index=False)
    return frame.assign(opacity=other["opacity"])


@pytest.fixture(scope="module")
def followed(tmp_path_factory, data, headsweep):
    """The folder in which the page was followed, and the truth of the second cohort."""
    folder = tmp_path_factory.mktemp("cohorts")
    shutil.copytree(data, folder / "data")
    truth = write_cohort(folder / "data" / "manifests")
    label_map, study = blocks("yaml")
    (folder / "data/manifests/rad_chestct_map.yaml").write_text(label_map)
    (folder / "cohorts.yaml").write_text(study)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ended = headsweep("run", "cohorts.yaml")
        assert ended.code == 0, ended.err
    return folder, truth


def test_board_of_two_cohorts_measures_the_labelled_rows_of_each_label(followed) -> None:
    folder, truth = followed
    board = hs.Leaderboard(folder / "outputs/cohorts")
    measured = board.metrics()["rad_chestct"]
    assert measured["n_labels_used"] == 3
    scores = [board.predictions(split="rad_chestct", seed=seed) for seed in (0, 1)]
    for label in LABELS[:3]:
        known = (truth["opacity"] != "").to_numpy() if label == "Lung opacity" else slice(None)
        y = truth[label].astype(int).to_numpy()[known]
        logits = [one[f"y_logit:{label}"].to_numpy()[known] for one in scores]
        facts = measured["per_label"][label]
        for name, oracle in (("auprc", average_precision_score), ("auroc", roc_auc_score)):
            expected = np.mean([oracle(y, logit) for logit in logits])
            assert facts[name]["mean"] == pytest.approx(expected, abs=1e-9), (label, name)
        assert facts["prevalence"] == pytest.approx(y.mean())
        assert facts.get("n_rows", len(truth)) == len(y)
    assert measured["per_label"][ABSENT]["n_rows"] == 0
    assert measured["per_label"][ABSENT]["auprc"]["mean"] is None
    assert scores[0][f"y_true:{ABSENT}"].isna().all()
    of_labels = [measured["per_label"][label]["auprc"]["mean"] for label in LABELS[:3]]
    assert measured["auprc_macro"]["mean"] == pytest.approx(np.mean(of_labels))


def test_board_names_its_cohorts_in_a_table_and_on_the_report(followed) -> None:
    folder, truth = followed
    with (folder / "outputs/cohorts" / COHORTS).open(newline="") as file:
        cohorts = {row["split"]: row for row in csv.DictReader(file)}
    assert list(cohorts) == ["train", "valid", "test_manual_all", "rad_chestct"]
    other = cohorts["rad_chestct"]
    assert (other["rows"], other["labels"]) == (str(len(truth)), "3")
    assert other["label_source"] == "rad_chestct.csv through rad_chestct_map.yaml"
    assert other["blank_labels"] == str((truth["opacity"] == "").sum())
    assert int(cohorts["valid"]["blank_labels"]) == -(-int(cohorts["valid"]["rows"]) // 4)
    assert cohorts["train"]["label_source"] == "train.csv"
    frame = hs.Leaderboard(folder / "outputs/cohorts").cohorts()
    assert [{k: str(v) for k, v in row.items()} for row in frame.to_dict("records")] == [
        *cohorts.values()
    ]
    for name in ("rows", "scans", "patients"):
        assert other[name] == cohorts["test_manual_all"][name]
    report = (folder / "outputs/cohorts/report.html").read_text(encoding="utf-8")
    assert "Cohorts" in report
    assert "rad_chestct.csv through rad_chestct_map.yaml" in report
    assert "1 labels that the cohort lacks are left out of the macro means" in report
    assert "rows used" in report


def test_verify_of_a_board_with_a_label_map_notices_that_the_map_changed(
    followed, headsweep, monkeypatch
) -> None:
    folder, _ = followed
    monkeypatch.chdir(folder)
    for options in ((), ("--recompute",)):
        ended = headsweep("leaderboard", "verify", "outputs/cohorts", *options)
        assert ended.code == 0, ended.err
    path = folder / "data/manifests/rad_chestct_map.yaml"
    text = path.read_text()
    recorded = json.loads((folder / "outputs/cohorts/provenance.json").read_text())["data"]
    assert len(recorded["rad_chestct"]["label_map"]) == 64
    assert "label_map" not in recorded["test_manual_all"]
    path.write_text(text.replace("[nodule, nodule_gr_1cm]", "[nodule_gr_1cm, nodule]"))
    ended = headsweep("leaderboard", "verify", "outputs/cohorts")  # the targets are the same
    path.write_text(text)
    assert ended.code != 0
    assert "rad_chestct: the label map has changed since the leaderboard was made" in ended.err


def test_evaluate_of_a_head_on_the_second_cohort_gives_the_figures_of_the_board(
    followed, headsweep, monkeypatch
) -> None:
    folder, _ = followed
    monkeypatch.chdir(folder)
    command = re.search(r"^headsweep (evaluate .*)$", PAGE, re.MULTILINE)
    assert command is not None
    ended = headsweep(*command.group(1).replace("'", "").split())
    assert ended.code == 0, ended.err
    found = folder / "outputs/cohorts/finalists/1/seed_0/evaluation/metrics.json"
    metrics = json.loads(found.read_text())["rad_chestct"]
    assert metrics["n_labels_used"] == 3
    board = hs.Leaderboard(folder / "outputs/cohorts").predictions(split="rad_chestct", seed=0)
    y, logit = board["y_true:Emphysema"], board["y_logit:Emphysema"]
    expected = average_precision_score(y, logit)
    assert metrics["per_label"]["Emphysema"]["auprc"]["mean"] == pytest.approx(expected)


def test_show_of_a_board_with_undefined_labels_succeeds(followed, headsweep) -> None:
    folder, _ = followed
    for form in ((), ("--markdown",), ("--html",), ("--csv",)):
        ended = headsweep("leaderboard", "show", folder / "outputs/cohorts", *form)
        assert ended.code == 0, ended.err
        assert "rad_chestct" in ended.out


@pytest.mark.parametrize("manifest", ["valid.csv", "rad_chestct.csv"])
def test_run_with_only_blank_labels_ends_before_the_search(
    followed, headsweep, monkeypatch, manifest
) -> None:
    folder, _ = followed
    monkeypatch.chdir(folder)
    path = folder / "data/manifests" / manifest
    text = path.read_text()
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    labels = [n for n in frame if n in LABELS or (n.islower() and not n.endswith(("name", "path")))]
    frame[labels] = ""
    frame.to_csv(path, index=False)
    ended = headsweep("run", "cohorts.yaml", "study.name=other")
    path.write_text(text)
    assert ended.code == 2
    assert f"{manifest}: a manifest must have labels, found only blank label cells" in ended.err
    assert ended.err.count("\n") == 1


def test_run_with_a_map_for_a_manifest_that_is_not_there_ends_before_the_search(
    followed, headsweep, monkeypatch
) -> None:
    folder, _ = followed
    monkeypatch.chdir(folder)
    ended = headsweep("run", "cohorts.yaml", "data.test_manifests=[test_manual_all.csv]")
    assert ended.code == 2
    assert "data.label_maps: no manifest 'rad_chestct.csv'" in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "expected"),
    [("pack", "rad_chestct.csv: visual, "), ("check", "0 errors, ")],
)
def test_data_commands_read_mapped_and_blank_labels(
    followed, headsweep, monkeypatch, command, expected
) -> None:
    folder, _ = followed
    monkeypatch.chdir(folder)
    values = ["data.test_manifests=[rad_chestct.csv]", "data.blank_labels=mask"]
    values += ["data.label_maps={rad_chestct.csv: rad_chestct_map.yaml}"]
    values += [f"training.target_labels=[{','.join(LABELS)}]"]
    ended = headsweep("data", command, *values)
    assert ended.code == 0, ended.out + ended.err
    assert expected in ended.out


def test_python_of_the_page_makes_a_data_set_with_blank_labels() -> None:
    names: dict[str, object] = {}
    (code,) = blocks("python")
    exec(code, names)
    data = names["data"]
    assert isinstance(data, hs.Dataset)
    train, valid = data.search_splits()
    blank = sum(int((s.targets == 255).sum()) for s in (train, valid, *data.test_splits()))
    assert blank == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Emphysema:", "Emphysma:"), "unknown label 'Emphysma'. Did you mean 'Emphysema'?"),
        ((": opacity", ": emphysema"), "column 'emphysema' is mapped twice"),
    ],
)
def test_run_with_a_wrong_label_map_ends_before_the_search(
    followed, headsweep, monkeypatch, change, message
) -> None:
    folder, _ = followed
    monkeypatch.chdir(folder)
    path = folder / "data/manifests/rad_chestct_map.yaml"
    text = path.read_text()
    path.write_text(text.replace(*change))
    ended = headsweep("run", "cohorts.yaml", "study.name=other")
    path.write_text(text)
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1
