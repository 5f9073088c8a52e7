"""`headsweep train`: sweeps, missing text features, and the choice of the best epoch."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from sklearn.metrics import average_precision_score

from headsweep.config.overrides import compose_config
from headsweep.config.sweeps import expand_sweep
from headsweep.data.dataset import Dataset
from headsweep.errors import ConfigError
from headsweep.heads.predictor import load_predictor
from tests.single.conftest import Run

SHORT = ("training.max_epochs=3", "training.batch_size=32")
FILES = {"config.yaml", "metrics.json", "metrics.jsonl", "model.safetensors", "state.safetensors"}


def test_expand_sweep_returns_the_product_in_hydras_order() -> None:
    combinations = expand_sweep(
        ["training.seed=range(0,2)", "head=linear,mlp", "training.batch_size=64"], where="test"
    )
    assert [swept for swept, _ in combinations] == [
        ("training.seed=0", "head=linear"),
        ("training.seed=0", "head=mlp"),
        ("training.seed=1", "head=linear"),
        ("training.seed=1", "head=mlp"),
    ]
    assert all(every[2] == "training.batch_size=64" for _, every in combinations)


@pytest.mark.parametrize("text", ["training.seed", "training.seed=interval(0,1)", "~head"])
def test_train_multirun_with_an_override_that_is_no_list_is_refused(text: str, headsweep) -> None:
    ended = headsweep("train", "-m", text)
    assert (ended.code, ended.err.count("\n")) == (2, 1)


def test_expand_sweep_of_a_list_value_is_no_sweep() -> None:
    ((swept, every),) = expand_sweep(["head=mlp", "head.hidden_dims=[8,4]"], where="test")
    assert (swept, every) == ((), ["head=mlp", "head.hidden_dims=[8,4]"])
    with pytest.raises(ConfigError, match="must read key=value"):
        expand_sweep(["training.seed"], where="test")


def test_train_multirun_trains_each_combination_in_its_own_folder(
    small_data: tuple[str, ...], run: Run, tmp_path: Path
) -> None:
    place = f"paths.checkpoint_dir={tmp_path}/sweep"
    out = run("train", "--multirun", *SHORT, *small_data, place, "training.seed=0,1,2")
    folders = [tmp_path / "sweep" / f"training.seed={seed}" for seed in range(3)]
    assert [line for line in out.splitlines() if line.startswith("files: ")] == [
        f"files: {folder}" for folder in folders
    ]
    for seed, folder in enumerate(folders):
        assert {file.name for file in folder.glob("[!.]*")} == FILES
        assert yaml.safe_load((folder / "config.yaml").read_text())["training"]["seed"] == seed
    alone = tmp_path / "alone"
    run("train", *SHORT, *small_data, f"paths.checkpoint_dir={alone}", "training.seed=2")
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (alone / name).read_bytes() == (folders[2] / name).read_bytes()


@pytest.fixture
def without_text(small_data: tuple[str, ...], tmp_path: Path) -> tuple[str, ...]:
    """The small data with manifests that have no column of text features."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    for source in Path(small_data[1].partition("=")[2]).iterdir():
        with source.open(newline="") as file:
            rows = list(csv.DictReader(file))
        names = [name for name in rows[0] if name != "text_feature_path"]
        with (folder / source.name).open("w", newline="") as file:
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    return (small_data[0], f"paths.manifest_dir={folder}")


def test_train_without_a_text_column_uses_visual_features_with_one_notice(
    without_text: tuple[str, ...], headsweep, run: Run, tmp_path: Path
) -> None:
    both, visual = tmp_path / "both", tmp_path / "visual"
    ended = headsweep(
        "train", *SHORT, *without_text, "features=both", f"paths.checkpoint_dir={both}"
    )
    assert ended.code == 0
    assert ended.err == (
        f"Notice: {tmp_path}/manifests/train.csv has no column 'text_feature_path': "
        "training on visual features alone (features.input=visual)\n"
    )
    run("train", *SHORT, *without_text, f"paths.checkpoint_dir={visual}")
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (both / name).read_bytes() == (visual / name).read_bytes()
    assert yaml.safe_load((both / "config.yaml").read_text())["features"]["input"] == "visual"
    metrics = run("evaluate", "--checkpoint", both)
    assert "test_manual_all" in metrics


@pytest.mark.parametrize("asked", [("features=text",), ("head=retrieval", "features=both")])
def test_train_without_a_text_column_but_a_head_that_needs_it_is_refused(
    asked: tuple[str, ...], without_text: tuple[str, ...], headsweep, tmp_path: Path
) -> None:
    ended = headsweep("train", *SHORT, *without_text, *asked, f"paths.checkpoint_dir={tmp_path}/r")
    assert ended.code == 2
    assert "text" in ended.err
    assert not (tmp_path / "r").exists()


def test_train_records_the_epoch_of_highest_validation_auprc(
    real_data: tuple[str, ...], run: Run, tmp_path: Path
) -> None:
    run("train", *real_data, "training.max_epochs=12", f"paths.checkpoint_dir={tmp_path}")
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    best = max(epochs, key=lambda epoch: epoch["val/auprc_macro"])
    assert json.loads((tmp_path / "metrics.json").read_text()) == best


def test_train_when_probabilities_saturate_ranks_by_logits(
    real_data: tuple[str, ...], run: Run, tmp_path: Path
) -> None:
    """At this learning rate most logits exceed 16.7, where float32 probabilities are 1."""
    patient = ("training.max_epochs=60", "training.early_stopping_patience=null")
    words = (*patient, *real_data, "training.learning_rate=1", "training.batch_size=64")
    run("train", "head=linear", *words, f"paths.checkpoint_dir={tmp_path}")
    recorded = json.loads((tmp_path / "metrics.json").read_text())["val/auprc_macro"]

    config = compose_config(["head=linear", *words], where="test")
    _, valid = Dataset.from_config(config).search_splits(inputs=("visual",))
    logits = load_predictor(tmp_path / "model.safetensors").decision_function(valid.features)
    assert logits is not None
    by_sklearn = [
        average_precision_score(valid.targets[:, j], logits[:, j]) for j in range(len(valid.labels))
    ]
    assert recorded == pytest.approx(sum(by_sklearn) / len(by_sklearn), abs=1e-6)
    assert recorded > 0.6
