"""The folder of one seed is enough to use its head, with headsweep or without it."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from headsweep.config.files import read_config
from headsweep.config.head_section import LinearConfig
from headsweep.data.dataset import Dataset
from headsweep.data.features import read_feature
from headsweep.engine.train_configs import train_to_end
from headsweep.heads.base import HeadShape
from headsweep.heads.normalization import fit_normalizer
from headsweep.heads.predictor import Predictor, PredictorSpec, save_predictor
from headsweep.heads.registry import build_head
from tests.leaderboard.conftest import LABELS, SETTINGS

PAGE = (Path(__file__).parents[2] / "docs/how_to/use_a_head.md").read_text(encoding="utf-8")
(PLAIN_PYTORCH,) = re.findall(r"```python\n(import json.*?)```", PAGE, re.DOTALL)
SEED = "finalists/1/seed_1"


@pytest.fixture
def exported(board: Path, tmp_path: Path) -> Path:
    """The folder of one seed, moved out of its leaderboard."""
    return (board / SEED).rename(tmp_path / "exported")


def write_manifest(source: Path, target: Path, drop: Callable[[str], bool]) -> None:
    with source.open(newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [name for name in rows[0] if not drop(name)]
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, kept, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def test_seed_folder_has_config_weights_thresholds_and_predictions(exported):
    names = {path.name for path in exported.iterdir()}
    assert names == {"config.yaml", "model.safetensors", "thresholds.json", "predictions"}
    thresholds = json.loads((exported / "thresholds.json").read_text())
    assert tuple(thresholds["f1"]) == LABELS


def test_config_of_a_seed_folder_trains_to_its_recorded_value(exported):
    config = read_config(exported / "config.yaml")
    assert (config.training.seed, config.training.tape_position) == (1, 0)
    splits = Dataset.from_config(config).search_splits(inputs=("visual",))
    (run,) = train_to_end([config], *splits, SETTINGS)
    first_line = (exported / "config.yaml").read_text().splitlines()[0]
    recorded = float(first_line.split()[-1])
    assert run.best_value == pytest.approx(recorded, abs=1e-6)


def test_evaluate_on_a_test_manifest_repeats_the_stored_predictions(exported, data, headsweep):
    ended = headsweep("evaluate", exported, f"manifest={data}/manifests/test_manual_all.csv")
    assert ended.code == 0, ended.err
    path = exported / "evaluation/predictions/test_manual_all.parquet"
    assert ended.out == f"scores: {path}\n"
    assert pq.read_table(path).equals(
        pq.read_table(exported / "predictions/test_manual_all.parquet")
    )


@pytest.mark.parametrize("some_labels", [True, False])
def test_evaluate_on_a_manifest_without_some_labels_gives_all_scores(
    exported, data, headsweep, tmp_path, some_labels
):
    with (data / "manifests/test_manual_all.csv").open(newline="") as file:
        header = next(csv.reader(file))
    labels = [name for name in header if name != "volumename" and not name.endswith("_path")]
    kept = {"Emphysema", "Lung nodule"} if some_labels else set()
    new = tmp_path / "new.csv"
    write_manifest(
        data / "manifests/test_manual_all.csv", new, lambda name: name in {*labels} - kept
    )
    ended = headsweep("evaluate", exported, f"manifest={new}", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    found = pq.read_table(tmp_path / "out/predictions/new.parquet")
    stored = pq.read_table(exported / "predictions/test_manual_all.parquet")
    assert {name for name in found.column_names if name.startswith("y_true:")} == {
        f"y_true:{label}" for label in kept
    }
    assert len([name for name in found.column_names if name.startswith("y_score:")]) == len(LABELS)
    assert found.equals(stored.select(found.column_names))


def test_evaluate_when_features_have_another_width_is_refused(exported, data, headsweep, tmp_path):
    new = tmp_path / "new.csv"
    new.write_text("volumename,visual_feature_path\nnew_1_a_1,one.npz\n")
    np.savez(tmp_path / "one.npz", arr=np.ones((1, 5), np.float32))
    ended = headsweep("evaluate", exported, f"manifest={new}", f"paths.data_root={tmp_path}")
    assert ended.code == 2
    assert f"{new}: visual features must be 96 wide as in training, found 5" in ended.err


def test_evaluate_with_two_manifests_of_the_same_name_is_refused(
    exported, data, headsweep, tmp_path
):
    """The scores of the two manifests would be written to the same file."""
    one = data / "manifests/valid.csv"
    other = Path(shutil.copy(one, tmp_path / "valid.csv"))
    ended = headsweep("evaluate", exported, f"manifest={one}", f"manifest={other}")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert f"{one} and {other} have the same stem" in ended.err
    assert not (exported / "evaluation").exists()


def run_example(folder: Path) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
    """Run the example of the documentation on a folder and return its function `probabilities`."""
    assert "headsweep " not in PLAIN_PYTORCH.replace('"headsweep"', "")
    written = re.findall(r'"(outputs/[^"]*)"', PLAIN_PYTORCH)
    names: dict[str, Any] = {}
    exec(PLAIN_PYTORCH.replace(written[0], str(folder / "model.safetensors")), names)
    probabilities: Callable[[dict[str, torch.Tensor]], torch.Tensor] = names["probabilities"]
    return probabilities


def test_documented_example_on_a_seed_folder_gives_the_stored_predictions(finished, data):
    probabilities = run_example(finished / SEED)
    for split in ("valid", "test_manual_all"):
        stored = pq.read_table(finished / SEED / f"predictions/{split}.parquet")
        with (data / f"manifests/{split}.csv").open(newline="") as file:
            paths = [data / "features" / row["visual_feature_path"] for row in csv.DictReader(file)]
        features = torch.from_numpy(np.stack([read_feature(path) for path in paths]))
        found = probabilities({"visual": features}).numpy()
        names = [name for name in stored.column_names if name.startswith("y_score:")]
        expected = np.stack([stored[name].to_numpy() for name in names], axis=1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("normalization", ["none", "l2", "zscore", "whiten"])
@pytest.mark.parametrize("feature_input", ["visual", "both"])
def test_documented_example_with_any_linear_head_equals_the_predictor(
    normalization, feature_input, tmp_path
):
    generator = torch.Generator().manual_seed(0)
    features = {m: torch.randn(50, 7, generator=generator) + 2 for m in ("visual", "text")}
    if feature_input == "visual":
        del features["text"]
    shape = HeadShape(dict.fromkeys(features, 7), feature_input, 3)
    spec = PredictorSpec(LinearConfig(), shape, normalization, ("a", "b", "c"))
    fitted = {m: fit_normalizer(normalization, x) for m, x in features.items()}
    predictor = Predictor(spec, fitted, build_head(LinearConfig(), shape, seed=0))
    save_predictor(predictor, tmp_path / "model.safetensors")
    found = run_example(tmp_path)(features)
    torch.testing.assert_close(found, predictor(features), rtol=0, atol=1e-6)
