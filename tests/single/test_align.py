"""`headsweep align` on raw features, through a head, and on CT-CLIP's files."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headsweep.data.ct_rate.names import LABELS
from tests.single.conftest import Run

SCRIPT = Path(__file__).parents[2] / "scripts" / "analyze_alignment.py"


def alignment(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "alignment.json").read_text())
    return found


def test_align_writes_every_protocol_and_direction_with_intervals(
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


def test_align_with_a_trained_retrieval_head_beats_raw_features(
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


def test_align_script_on_any_manifest_uses_raw_features(
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


def test_align_with_a_linear_head_is_refused(
    small_data: tuple[str, ...], run: Run, headsweep, tmp_path: Path
):
    run("train", *small_data, "training.max_epochs=1", f"paths.checkpoint_dir={tmp_path}")
    ended = headsweep("align", "--checkpoint", tmp_path)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "only a retrieval head projects both modalities" in ended.err


def ctclip_latents(folder: Path, small_data: tuple[str, ...], *, labels: bool) -> None:
    """Write the largest test manifest in the format of CT-CLIP's scripts."""
    features, manifests = (Path(override.partition("=")[2]) for override in small_data)
    with (manifests / "test_manual_all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name, column in (("image", "visual_feature_path"), ("text", "text_feature_path")):
        latents = np.stack([np.load(features / row[column])["arr"] for row in rows])
        np.savez(folder / f"{name}_latents.npz", data=latents)
    if labels:
        targets = np.array([[int(row[label]) for label in LABELS] for row in rows])
        np.savez(folder / "labels_weights.npz", data=targets)
    names = "".join(f"{row['volumename']}.nii.gz\n" for row in rows)
    (folder / "accessions.txt").write_text(names)


def test_align_on_ctclip_latents_equals_the_manifest_of_the_same_rows(
    small_data: tuple[str, ...], run: Run, tmp_path: Path
):
    ctclip_latents(tmp_path, small_data, labels=True)
    run("align", "--ctclip", tmp_path)
    run("align", *small_data, "--out", tmp_path / "manifest")
    found = alignment(tmp_path / "alignment")["ctclip"]
    assert found == alignment(tmp_path / "manifest")["test_manual_all"]


def test_align_on_ctclip_latents_without_labels_uses_only_pair_protocols(
    small_data: tuple[str, ...], run: Run, headsweep, tmp_path: Path
):
    ctclip_latents(tmp_path, small_data, labels=False)
    run("align", "--ctclip", tmp_path)
    found = alignment(tmp_path / "alignment")["ctclip"]
    assert set(found["protocols"]) == {"same_scan/1", "ctclip_report_to_volume/1"}
    (tmp_path / "text_latents.npz").unlink()
    run("align", "--ctclip", tmp_path)
    found = alignment(tmp_path / "alignment")["ctclip"]["protocols"]
    assert set(found["same_scan/1"]) == {"visual_to_visual"}
    accessions = (tmp_path / "accessions.txt").read_text().splitlines()
    (tmp_path / "accessions.txt").write_text("\n".join(accessions[1:]))
    ended = headsweep("align", "--ctclip", tmp_path)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert f"image_latents.npz: must hold {len(accessions) - 1} rows" in ended.err


def test_align_of_named_inputs_equals_that_of_the_same_built_in_ones(
    small_data: tuple[str, ...], run: Run, tmp_path: Path
) -> None:
    inputs = (
        "data.inputs={ct_clip: {column: visual_feature_path, modality: visual}, "
        "report: {column: text_feature_path, modality: text}}"
    )
    protocol = ("--protocol", "same_scan")
    run("align", *small_data, "--out", tmp_path / "built_in", *protocol)
    named = (inputs, "features.input=[ct_clip,report]")
    run("align", *small_data, *named, "--out", tmp_path / "named", *protocol)
    assert alignment(tmp_path / "named") == alignment(tmp_path / "built_in")
