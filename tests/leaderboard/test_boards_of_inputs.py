"""One study searches three inputs of different width on real features; its board names them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import headsweep as hs
from headsweep.atomic_files import write_json
from headsweep.leaderboard.provenance import file_digests
from headsweep.leaderboard.table import INPUTS
from headsweep.studies.study import StoredStudy

pytestmark = [pytest.mark.slow]

STUDY = """
study:
  name: inputs
  n_trials: 6
  seed: 1
  enqueue: [{features.input: a}, {features.input: b}, {features.input: [a, b]}]
base:
- head=linear
- training.max_epochs=5
- training.target_labels=[Emphysema,Lung nodule,Cardiomegaly]
- data.test_manifests=[test_manual_all.csv]
- data.inputs:
    a: {column: visual_feature_path, modality: visual}
    b: {column: cut_path, modality: visual}
space:
  features.input: {type: categorical, choices: [a, b, [a, b]]}
  training.learning_rate: {type: float, low: 1.0e-3, high: 1.0e-1, log: true}
finalists: {top_k: 6, seeds: [0], references: [prevalence]}
"""
WIDTHS = {"a": 384, "b": 256}
LEFT_OUT = "ignore:.*hold 0 and 1 but are not used:headsweep.errors.HeadsweepWarning"


@pytest.fixture(scope="module")
def job(tmp_path_factory, real_reports: Path, headsweep) -> Path:
    """A folder with the data, of which text features are cut to 256 columns, and the study's
    board and storage."""
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copytree(real_reports / "features" / "image", folder / "features" / "image")
    (folder / "features" / "cut").mkdir()
    for file in (real_reports / "features" / "text").iterdir():
        cut = np.load(file)["arr"][:, : WIDTHS["b"]]
        np.savez(folder / "features" / "cut" / file.name, arr=cut)
    (folder / "manifests").mkdir()
    for file in (real_reports / "manifests").glob("*.csv"):
        with file.open(encoding="utf-8", newline="") as table:
            header, *rows = csv.reader(table)
        place = header.index("text_feature_path")
        header[place] = "cut_path"
        for row in rows:
            row[place] = row[place].replace("text/", "cut/")
        with (folder / "manifests" / file.name).open("w", encoding="utf-8", newline="") as table:
            csv.writer(table).writerows([header, *rows])
    (folder / "study.yaml").write_text(STUDY)
    ended = headsweep(
        *("run", folder / "study.yaml", f"paths.data_root={folder / 'features'}"),
        *(f"paths.manifest_dir={folder / 'manifests'}", "--workers", "1", "--device", "cpu"),
        *("--storage", f"sqlite:///{folder / 'study.db'}", "--out", folder / "board"),
    )
    assert ended.code == 0, ended.err
    return folder


def rows_of(board: Path) -> list[dict[str, str]]:
    with (board / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def without_column(text: str, name: str) -> str:
    """The first Markdown table of a text without one column, and the rest as it is."""
    table, *rest = text.split("\n\n")
    rows = [line.split(" | ") for line in table.splitlines()]
    place = next(i for i, cell in enumerate(rows[0]) if cell.strip(" |") == name)
    last = place == len(rows[0]) - 1
    lines = [" | ".join(row[:place] + row[place + 1 :]) + (" |" if last else "") for row in rows]
    return "\n\n".join(["\n".join(lines), *rest])


def test_board_of_three_inputs_names_them_and_their_widths(job: Path) -> None:
    rows = rows_of(job / "board")
    assert {row["features"] for row in rows} == {"a", "b", "a+b"}
    for row in rows:
        names = row["features"].split("+")
        assert row[INPUTS] == " + ".join(f"{name} ({WIDTHS[name]})" for name in names)
        head = hs.load_predictor(job / "board" / "finalists" / row["rank"] / "seed_0")
        assert head.inputs == {name: WIDTHS[name] for name in names}
    report = (job / "board" / "report.html").read_text(encoding="utf-8")
    assert "a (384) + b (256)" in report
    recorded = json.loads((job / "board" / "provenance.json").read_text())
    assert {name: one["width"] for name, one in recorded["inputs"].items()} == WIDTHS
    assert {*recorded["data"]["train"]["features"]} == {*WIDTHS}


def test_params_of_the_study_hold_the_joined_text(job: Path) -> None:
    with StoredStudy.open("inputs", f"sqlite:///{job / 'study.db'}") as stored:
        found = {trial.params["features.input"] for trial in stored.trials()}
    assert found == {"a", "b", "a+b"}
    for row in rows_of(job / "board"):
        exported = (job / "board" / row["config"]).read_text(encoding="utf-8")
        assert f"\n  input: {row['features']}\n" in exported


@pytest.mark.filterwarnings(LEFT_OUT)
def test_verify_with_named_inputs_is_equal_to_the_bit(job: Path) -> None:
    assert "equal to the bit" in hs.Leaderboard(job / "board").verify()


@pytest.mark.filterwarnings(LEFT_OUT)
def test_verify_with_a_board_without_the_column_of_inputs_succeeds(job: Path, tmp_path) -> None:
    board = Path(shutil.copytree(job / "board", tmp_path / "board"))
    recorded = json.loads((board / "provenance.json").read_text())
    del recorded["inputs"]
    rows = rows_of(board)
    for row in rows:
        del row[INPUTS]
    with (board / "leaderboard.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    text = (board / "leaderboard.md").read_text(encoding="utf-8")
    (board / "leaderboard.md").write_text(without_column(text, INPUTS), encoding="utf-8")
    write_json(board / "provenance.json", recorded | {"files": file_digests(board)})
    assert "equal to the bit" in hs.Leaderboard(board).verify()
    assert "a+b" in hs.Leaderboard.merge([board]).to_markdown()
