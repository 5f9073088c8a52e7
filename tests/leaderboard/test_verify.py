"""`verify` accepts an unchanged leaderboard and names any file that was changed."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import yaml

from headsweep.errors import VerificationError
from headsweep.leaderboard.verification.verify import verify


def alter_json(path: Path, *keys: str, by: float = 1e-9) -> None:
    data = json.loads(path.read_text())
    node = data
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] += by
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def refused(folder: Path) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(folder)
    return str(caught.value)


def test_verify_of_an_unchanged_board_is_equal_to_the_bit(finished):
    assert verify(finished).endswith("equal to the bit")


def test_verify_when_a_metric_was_changed_names_it_and_the_difference(board):
    keys = ("test_manual_all", "auprc_macro", "mean")
    alter_json(board / "finalists/2/metrics.json", *keys, by=0.01)
    message = refused(board)
    assert "finalists/2/metrics.json" in message
    assert "test_manual_all.auprc_macro.mean" in message
    assert "largest difference 0.01" in message


def test_verify_when_a_prediction_was_changed_names_its_volume(board):
    path = board / "finalists/1/seed_2/predictions/valid.parquet"
    table = pq.read_table(path)
    index = table.column_names.index("y_score:Emphysema")
    moved = pa.array([*(table[index].to_pylist()[:-1]), 0.5], pa.float32())
    pq.write_table(table.set_column(index, "y_score:Emphysema", moved), path)
    message = refused(board)
    assert "finalists/1/seed_2/predictions/valid.parquet" in message
    assert f"y_score:Emphysema of {table['volumename'][-1]}" in message


def test_verify_when_a_weight_was_changed_names_it(board):
    path = board / "finalists/1/seed_0/model.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    name = next(name for name in tensors if name.endswith("weight"))
    tensors[name].view(-1)[3] += 1e-3
    safetensors.torch.save_file(tensors, path, metadata)
    assert re.search(rf"seed_0/model.safetensors.*{re.escape(name)}.*0\.001", refused(board))


def test_verify_when_an_exported_parameter_was_changed_names_it(board):
    path = board / "finalists/1/config.yaml"
    config = yaml.safe_load(path.read_text())
    config["training"]["weight_decay"] *= 2
    path.write_text(yaml.safe_dump(config))
    message = refused(board)
    assert "finalists/1/config.yaml" in message
    assert "training.weight_decay" in message


@pytest.mark.parametrize("name", ["leaderboard.csv", "leaderboard.md"])
def test_verify_when_a_table_was_changed_names_it(board, name):
    text = (board / name).read_text()
    digit = re.search(r"0\.(\d)", text)
    other = "7" if digit[1] != "7" else "3"
    (board / name).write_text(text[: digit.start(1)] + other + text[digit.end(1) :])
    assert f"{board / name}: " in refused(board)


@pytest.mark.parametrize(
    "name", ["report.html", "data_rows.parquet", "finalists/1/seed_1/model.safetensors"]
)
def test_verify_when_a_file_is_missing_names_it(board, name):
    (board / name).unlink()
    assert name in refused(board)


@pytest.fixture
def moved(data, tmp_path) -> Path:
    """A copy of the leaderboard's data in another folder, which a test may change."""
    return Path(shutil.copytree(data, tmp_path / "moved"))


def places(folder: Path) -> list[str]:
    return [f"paths.data_root={folder}/features", f"paths.manifest_dir={folder}/manifests"]


@pytest.mark.slow
def test_verify_in_a_new_process_needs_only_the_board_and_the_data(board, data, moved, tmp_path):
    """Verify without storage and packed features, with board and data in other folders."""
    for path in board.glob("finalists/*/config.yaml"):
        assert str(data) in path.read_text()
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HEADSWEEP")}
    empty = tmp_path / "empty"
    empty.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "headsweep", "leaderboard", "verify", board, *places(moved)],
        env=kept, cwd=empty, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("equal to the bit\n")
    assert {path.name for path in empty.iterdir()} == {"storage"}
    assert {path.name for path in (empty / "storage").iterdir()} == {"packed"}


def test_verify_when_a_manifest_row_was_changed_names_it(board, moved, headsweep):
    path = moved / "manifests/test_manual_all.csv"
    with path.open(newline="") as file:
        header, first, *rest = csv.reader(file)
    label = header.index("Emphysema")
    first[label] = "1" if first[label] == "0" else "0"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, first, *rest])
    ended = headsweep("leaderboard", "verify", board, *places(moved))
    assert ended.code == 1
    assert "test_manual_all" in ended.err
    assert f"targets of {first[0].removesuffix('.nii.gz')}" in ended.err


def test_verify_when_a_feature_file_was_changed_names_it(board, moved, headsweep):
    path = sorted((moved / "features/image").glob("train_*.npz"))[0]
    array = np.load(path)["arr"].copy()
    array.flat[0] += 1e-4
    np.savez(path, arr=array)
    ended = headsweep("leaderboard", "verify", board, *places(moved))
    assert ended.code == 1
    assert f"visual of {path.stem}" in ended.err


@pytest.mark.parametrize("override", ["training.seed=1", "paths.output_dir=x", "data.x=1"])
def test_verify_with_an_override_other_than_data_paths_is_refused(board, headsweep, override):
    ended = headsweep("leaderboard", "verify", board, override)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "paths.data_root, paths.manifest_dir" in ended.err
    ended = headsweep("leaderboard", "verify", board, "--recompute", "paths.data_root=x")
    assert (ended.code, ended.err.count("\n")) == (2, 1)


def test_verify_on_another_processor_tolerates_rounding_but_no_changed_file(board, monkeypatch):
    monkeypatch.setattr("headsweep.leaderboard.provenance._processor", lambda: "another one")
    assert "within tolerance" in verify(board)
    alter_json(board / "finalists/1/metrics.json", "valid", "auroc_macro", "mean")
    assert "finalists/1/metrics.json" in refused(board)
