"""On real reports, end to end: train, kill, resume, evaluate, align, run a scaling study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from headsweep.config.overrides import compose_config
from tests.helpers.killed_runs import WEIGHTS_AND_METRICS, epochs_in, kill_once
from tests.single.conftest import Run

SCALING = {
    "name": "small",
    "sources": {"manual": "train.csv"},
    "budgets": [60, 300],
    "folds": 2,
    "seeds": [0],
    "base": ["head=linear", "features=both", "training.learning_rate=0.01"],
}


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_commands_on_real_reports_from_train_to_scaling_succeed(
    real_data: tuple[str, ...], run: Run, tmp_path: Path
) -> None:
    patient = ("training.max_epochs=12", "training.early_stopping_patience=null")
    words = ("head=retrieval", *patient, *real_data)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run("train", *words, f"paths.checkpoint_dir={whole}")

    place = f"paths.checkpoint_dir={cut}"
    kill_once(compose_config([*words, place], where="test"), 3, 0.0)
    assert 2 <= epochs_in(cut) < 12
    assert not (cut / "metrics.json").exists()
    run("train", *words, place, "training.resume.enabled=true")
    for name in WEIGHTS_AND_METRICS:
        assert (cut / name).read_bytes() == (whole / name).read_bytes()

    run("evaluate", "--checkpoint", cut)
    measured = read(cut / "evaluation/metrics.json")
    assert measured["test_manual_all"]["auprc_macro"]["mean"] > 0.5
    run("align", "--checkpoint", cut)
    found = read(cut / "alignment/alignment.json")["test_manual_all"]["protocols"]
    assert (
        found["same_scan/1"]["visual_to_text"]["recall@10"]["mean"] > 0.165
    )  # value of raw features
    assert len(found) == 5

    (tmp_path / "scaling.yaml").write_text(yaml.safe_dump(SCALING))
    file, out = tmp_path / "scaling.yaml", tmp_path / "scaled"
    run("scaling", file, *real_data, "training.max_epochs=4", "--out", out)
    less, more = read(out / "scaling.json")["curves"]["auprc_macro"]["manual"]
    assert less["rows"] < more["rows"]
    assert less["mean"] < more["mean"]
