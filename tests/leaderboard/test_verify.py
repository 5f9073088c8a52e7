"""A leaderboard verifies as it was written, and whatever is altered is named."""

import csv
import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import yaml

from headsweep.errors import VerificationError
from headsweep.leaderboard import provenance as record
from headsweep.leaderboard.verify import verify


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


def test_an_untouched_leaderboard_verifies_to_the_bit(finished):
    assert verify(finished).endswith("equal to the bit")


def test_a_changed_metric_is_named_with_its_size(board):
    keys = ("test_manual_all", "auprc_macro", "mean")
    alter_json(board / "finalists/2/metrics.json", *keys, by=0.01)
    message = refused(board)
    assert "finalists/2/metrics.json" in message
    assert "test_manual_all.auprc_macro.mean" in message
    assert "largest difference 0.01" in message


def test_a_changed_prediction_is_named_with_its_volume(board):
    path = board / "finalists/1/seed_2/predictions/valid.parquet"
    table = pq.read_table(path)
    index = table.column_names.index("y_score:Emphysema")
    moved = pa.array([*(table[index].to_pylist()[:-1]), 0.5], pa.float32())
    pq.write_table(table.set_column(index, "y_score:Emphysema", moved), path)
    message = refused(board)
    assert "finalists/1/seed_2/predictions/valid.parquet" in message
    assert f"y_score:Emphysema of {table['volumename'][-1]}" in message


def test_a_changed_weight_is_named(board):
    path = board / "finalists/1/seed_0/model.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    name = next(name for name in tensors if name.endswith("weight"))
    tensors[name].view(-1)[3] += 1e-3
    safetensors.torch.save_file(tensors, path, metadata)
    assert re.search(rf"seed_0/model.safetensors.*{re.escape(name)}.*0\.001", refused(board))


def test_a_changed_exported_parameter_is_named(board):
    path = board / "finalists/1/config.yaml"
    config = yaml.safe_load(path.read_text())
    config["training"]["weight_decay"] *= 2
    path.write_text(yaml.safe_dump(config))
    message = refused(board)
    assert "finalists/1/config.yaml" in message
    assert "training.weight_decay" in message


@pytest.mark.parametrize("name", ["leaderboard.csv", "leaderboard.md"])
def test_a_changed_table_is_named(board, name):
    text = (board / name).read_text()
    digit = re.search(r"0\.(\d)", text)
    other = "7" if digit[1] != "7" else "3"
    (board / name).write_text(text[: digit.start(1)] + other + text[digit.end(1) :])
    assert f"{board / name}: " in refused(board)


@pytest.mark.parametrize(
    "name", ["report.html", "data_rows.parquet", "finalists/1/seed_1/model.safetensors"]
)
def test_a_missing_file_is_named(board, name):
    (board / name).unlink()
    assert name in refused(board)


@pytest.fixture
def moved(board, data, tmp_path) -> tuple[Path, Path]:
    """A leaderboard whose data may be altered: its folder, and the folder of its data."""
    copy, folder = Path(shutil.copytree(data, tmp_path / "data")), board
    provenance = json.loads((folder / "provenance.json").read_text())
    for one in provenance["finalists"]:
        one["config"]["paths"] = {
            **one["config"]["paths"],
            "data_root": str(copy / "features"),
            "manifest_dir": str(copy / "manifests"),
        }
    for path in folder.glob("finalists/*/config.yaml"):
        path.write_text(path.read_text().replace(str(data), str(copy)))
        name = path.relative_to(folder).as_posix()
        provenance["files"][name] = record.file_digests(folder)[name]
    (folder / "provenance.json").write_text(json.dumps(provenance))
    return folder, copy


def test_a_changed_manifest_row_is_named(moved):
    folder, copy = moved
    path = copy / "manifests/test_manual_all.csv"
    with path.open(newline="") as file:
        header, first, *rest = csv.reader(file)
    label = header.index("Emphysema")
    first[label] = "1" if first[label] == "0" else "0"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, first, *rest])
    message = refused(folder)
    assert "test_manual_all" in message
    assert f"targets of {first[0].removesuffix('.nii.gz')}" in message


def test_a_changed_feature_file_is_named(moved):
    import numpy as np

    folder, copy = moved
    path = sorted((copy / "features/image").glob("train_*.npz"))[0]
    array = np.load(path)["arr"].copy()
    array.flat[0] += 1e-4
    np.savez(path, arr=array)
    assert f"visual of {path.stem}" in refused(folder)


def test_elsewhere_training_may_differ_a_little_but_files_may_not(board, monkeypatch):
    monkeypatch.setattr("headsweep.leaderboard.provenance._processor", lambda: "another one")
    assert "within tolerance" in verify(board)
    alter_json(board / "finalists/1/metrics.json", "valid", "auroc_macro", "mean")
    assert "finalists/1/metrics.json" in refused(board)
