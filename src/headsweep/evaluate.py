"""A trained head measured on the test manifests, with every metric of the leaderboard."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headsweep.cli import main
from headsweep.cli.preflight import check_manifests, check_output
from headsweep.compose import compose_config
from headsweep.config import Config, with_values
from headsweep.data.dataset import load_search_splits, load_test_splits
from headsweep.errors import ConfigError
from headsweep.heads.predictor import load_predictor
from headsweep.leaderboard.predictions import predict, write_predictions
from headsweep.leaderboard.statistics import choose_thresholds, measure, report_of
from headsweep.settings import cache_dir
from headsweep.train import COMMAND_LINE, config_of

MODEL = "model.safetensors"


def checkpoint_of(folder: Path | None, overrides: Sequence[str]) -> tuple[Path, Config]:
    """The folder of a trained head and its config, with overrides on top.

    The config lies beside the model, or one folder up, as under `finalists/<rank>/seed_<s>/`.

    Raises:
        ConfigError: the folder holds no trained head.
    """
    folder = folder or Path(compose_config(overrides, where=COMMAND_LINE).paths.checkpoint_dir)
    if not (folder / MODEL).is_file():
        raise ConfigError(f"{folder}: a checkpoint must hold {MODEL}, found none")
    places = [folder / "config.yaml", folder.parent / "config.yaml"]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise ConfigError(f"{folder}: a checkpoint must hold config.yaml, found none")
    return folder, config_of(file, overrides)


def evaluate(folder: Path, config: Config, out: Path, *, progress: bool) -> dict[str, Any]:
    """Measure the head in `folder` on every test manifest; thresholds are chosen on valid.

    `out` then holds `metrics.json`, as a finalist's of a leaderboard, and
    `predictions/<stem>.parquet`.

    Args:
        folder: holds `model.safetensors`.
        config: names the manifests and where features lie; labels are the head's own.
        out: folder of the results.
        progress: draw a progress bar while features are packed.

    Raises:
        InputError: the head, the data or the output folder cannot be used.
    """
    check_output(out)
    check_manifests(config)
    predictor = load_predictor(folder / MODEL)
    labels = {"training.target_labels": list(predictor.spec.labels)}
    config = with_values(config, labels, where=str(folder))
    modalities = tuple(predictor.spec.shape.widths)
    _, valid = load_search_splits(
        config, cache_dir=cache_dir(), modalities=modalities, progress=progress
    )
    thresholds = choose_thresholds(predict(predictor, valid))
    metrics: dict[str, Any] = {}
    for split in load_test_splits(
        config, cache_dir=cache_dir(), modalities=modalities, progress=progress
    ):
        predictions = predict(predictor, split)
        write_predictions(predictions, out / "predictions" / f"{split.name}.parquet")
        metrics[split.name] = report_of(measure([predictions], [thresholds]))
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
