"""`headsweep align` on data: what it writes, raw and through a head."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.single.conftest import Run

SCRIPT = Path(__file__).parents[2] / "scripts" / "analyze_alignment.py"


def alignment(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "alignment.json").read_text())
    return found


def test_every_protocol_in_every_direction_with_intervals(
    small_data: tuple[str, ...], run: Run, tmp_path: Path
):
    out = run("align", *small_data, "--out", tmp_path)
    found = alignment(tmp_path)["test_manual_all"]
    directions = {"visual_to_text", "text_to_visual", "visual_to_visual"}
    due = {f"{name}/1": directions for name in ("same_scan", "same_labels", "shared_label")}
    due["ctclip_report_to_volume/1"] = {"text_to_visual"}
    due["ctclip_volume_to_volume/1"] = {"visual_to_visual"}
    assert {name: set(by_direction) for name, by_direction in found["protocols"].items()} == due
    for protocol in found["protocols"].values():
        for summary in protocol.values():
            assert 0 < summary["n_queries"] <= found["n_rows"]
            for name, value in summary.items():
                if name != "n_queries":
                    assert value["ci_low"] <= value["mean"] <= value["ci_high"], name
    assert all(f"{name}/1" in out for name in ("same_scan", "ctclip_volume_to_volume"))


def test_a_trained_retrieval_head_pairs_better_than_raw_features(
    real_data: tuple[str, ...], run: Run, tmp_path: Path
):
    head = ("head=retrieval", "head.label_weight=0", "training.max_epochs=8")
    run("train", *head, *real_data, f"paths.checkpoint_dir={tmp_path}/head")
    run("align", "--checkpoint", tmp_path / "head", "--protocol", "same_scan")
    run("align", *real_data, "--out", tmp_path / "raw", "--protocol", "same_scan")

    def recall_at_10(folder: Path) -> float:
        by_direction = alignment(folder)["test_manual_all"]["protocols"]["same_scan/1"]
        return float(by_direction["visual_to_text"]["recall@10"]["mean"])

    similarity = alignment(tmp_path / "raw")["test_manual_all"]["similarity"]["visual_to_text"]
    assert similarity["paired_similarity"]["ci_low"] > similarity["unpaired_similarity"]["ci_high"]
    assert recall_at_10(tmp_path / "raw") == pytest.approx(0.165)
    assert recall_at_10(tmp_path / "head" / "alignment") > 0.25


def test_any_manifest_is_searched_raw_by_the_thin_script(
    small_data: tuple[str, ...], tmp_path: Path
):
    named = ("data.test_manifests=[train.csv]", "--protocol", "same_scan", "--out", str(tmp_path))
    subprocess.run(
        [sys.executable, str(SCRIPT), *small_data, *named],
        env=dict(os.environ), check=True, capture_output=True,
    )  # fmt: skip
    found = alignment(tmp_path)["train"]
    assert found["n_patients"] == 60
    assert set(found["protocols"]) == {"same_scan/1"}


def test_a_head_that_does_not_project_is_refused(
    small_data: tuple[str, ...], run: Run, headsweep, tmp_path: Path
):
    run("train", *small_data, "training.max_epochs=1", f"paths.checkpoint_dir={tmp_path}")
    ended = headsweep("align", "--checkpoint", tmp_path)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "only a retrieval head projects both modalities" in ended.err
