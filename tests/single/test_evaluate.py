"""`headsweep evaluate` with thresholds from valid or none, on any manifest, on CT-CLIP scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from headsweep.data.ct_rate.names import LABELS
from tests.single.conftest import Run

SHORT = ("training.max_epochs=3", "training.batch_size=32")


@pytest.fixture(scope="module")
def trained(small_data, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run("train", *SHORT, *small_data, f"paths.checkpoint_dir={folder}")
    return folder


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def test_evaluate_without_thresholds_leaves_out_f1(trained: Path, run: Run, tmp_path: Path):
    run("evaluate", "--checkpoint", trained, "--out", tmp_path / "tuned")
    run("evaluate", "--checkpoint", trained, "--out", tmp_path / "bare", "--thresholds", "none")
    tuned, bare = metrics_of(tmp_path / "tuned"), metrics_of(tmp_path / "bare")
    assert set(tuned) == {"test_manual_all", "test_manual_train", "test_manual_valid"}
    for stem, split in tuned.items():
        assert split["auprc_macro"] == bare[stem]["auprc_macro"]
        assert split["f1_macro"]["mean"] is not None
        assert bare[stem]["f1_macro"]["mean"] is None


def test_evaluate_on_valid_without_thresholds_gives_the_recorded_value(
    trained: Path, run: Run, tmp_path: Path
):
    named = "data.test_manifests=[valid.csv]"
    run("evaluate", "--checkpoint", trained, named, "--out", tmp_path, "--thresholds", "none")
    recorded = json.loads((trained / "metrics.json").read_text())["val/auprc_macro"]
    assert metrics_of(tmp_path)["valid"]["auprc_macro"]["mean"] == recorded


def test_evaluate_with_thresholds_reads_train_and_valid_once(trained, run, tmp_path, monkeypatch):
    from headsweep.data import loading

    names, read = [], loading.read_manifest

    def counted(path: Path, *args: Any, **options: Any) -> Any:
        names.append(path.name)
        return read(path, *args, **options)

    monkeypatch.setattr(loading, "read_manifest", counted)
    run("evaluate", "--checkpoint", trained, "--out", tmp_path)
    assert {name: names.count(name) for name in ("train.csv", "valid.csv")} == {
        "train.csv": 1,
        "valid.csv": 1,
    }


def test_evaluate_on_train_with_thresholds_from_valid_is_refused(
    trained: Path, headsweep, tmp_path: Path
):
    named = "data.test_manifests=[train.csv]"
    ended = headsweep("evaluate", "--checkpoint", trained, named, "--out", tmp_path)
    assert ended.code == 2
    assert "patient" in ended.err


def ctclip_folder(folder: Path, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Write files in the format of CT-CLIP's `run_zero_shot.py`."""
    rng = np.random.default_rng(0)
    targets = (rng.random((n, len(LABELS))) < 0.3).astype(np.int64)
    scores = np.clip(targets * 0.3 + rng.random(targets.shape) * 0.7, 0, 1)
    folder.mkdir(exist_ok=True)
    np.savez(folder / "labels_weights.npz", data=targets)
    np.savez(folder / "predicted_weights.npz", data=scores)
    names = [f"valid_{i // 2}_{'ab'[i % 2]}_1.nii.gz" for i in range(n)]
    (folder / "accessions.txt").write_text("".join(f"{name}\n" for name in names))
    return targets, scores.astype(np.float32)


def test_evaluate_on_ctclip_scores_equals_sklearn(run: Run, tmp_path: Path):
    targets, scores = ctclip_folder(tmp_path)
    run("evaluate", "--ctclip", tmp_path)
    found = metrics_of(tmp_path / "evaluation")["ctclip"]
    assert (found["n_rows"], found["n_patients"], found["n_labels_used"]) == (60, 30, 18)
    for j, label in enumerate(LABELS):
        of_label = found["per_label"][label]
        due = average_precision_score(targets[:, j], scores[:, j])
        assert of_label["auprc"]["mean"] == pytest.approx(due, abs=1e-9)
        due = roc_auc_score(targets[:, j], scores[:, j])
        assert of_label["auroc"]["mean"] == pytest.approx(due, abs=1e-9)
    assert found["f1_macro"]["mean"] is None


@pytest.mark.parametrize(
    ("spoilt", "law"),
    [
        ("accessions.txt", "must hold 59 rows"),
        ("labels_weights.npz", "labels must be 0 or 1"),
        ("predicted_weights.npz", "scores must be probabilities"),
    ],
)
def test_evaluate_on_bad_ctclip_files_is_refused(spoilt: str, law: str, headsweep, tmp_path: Path):
    targets, scores = ctclip_folder(tmp_path)
    if spoilt == "accessions.txt":
        lines = (tmp_path / spoilt).read_text().splitlines(keepends=True)
        (tmp_path / spoilt).write_text("".join(lines[:-1]))
    else:
        np.savez(tmp_path / spoilt, data=(targets if "labels" in spoilt else scores) * 3)
    ended = headsweep("evaluate", "--ctclip", tmp_path)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert law in ended.err
