"""Measure a trained head on the test manifests, with every metric of the leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headsweep.atomic_files import write_json
from headsweep.config.overrides import COMMAND_LINE, compose_config, config_of
from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.ct_rate.ct_clip import read_ctclip_scores
from headsweep.data.ct_rate.names import patient_of
from headsweep.data.dataset import Dataset
from headsweep.errors import ConfigError
from headsweep.evaluation.predictions import Predictions, predict, write_predictions
from headsweep.evaluation.split_metrics import report_of
from headsweep.evaluation.summaries import (
    Thresholds,
    choose_thresholds,
    measure,
)
from headsweep.evaluation.thresholds_file import out_of_fold_thresholds
from headsweep.heads.predictor import load_predictor
from headsweep.preflight import check_manifests, check_output, check_stems

MODEL = "model.safetensors"


def checkpoint_of(folder: Path | None, overrides: Sequence[str]) -> tuple[Path, Config]:
    """Return the folder of a trained head and its config, with overrides on top.

    The config is beside the model, or one folder up, as under `finalists/<rank>/seed_<s>/`.

    Raises:
        ConfigError: the folder holds no trained head.
    """
    folder = folder or Path(compose_config(overrides, where=COMMAND_LINE).paths.checkpoint_dir)
    if not (folder / MODEL).is_file():
        raise ConfigError(f"model not found: {folder / MODEL}")
    files = [folder / "config.yaml", folder.parent / "config.yaml"]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise ConfigError(f"config not found: {folder / 'config.yaml'}")
    return folder, config_of(file, overrides)


def evaluate(
    folder: Path,
    config: Config,
    out: Path,
    *,
    data: Dataset | None = None,
    tune: bool = True,
    progress: bool,
) -> dict[str, Any]:
    """Measure the head in `folder` on every test manifest.

    `out` then holds `metrics.json`, as a finalist's of a leaderboard, and
    `predictions/<stem>.parquet`.

    Args:
        folder: holds `model.safetensors`.
        config: names the manifests and the folder of the features; labels are the head's own.
        out: folder of the results.
        data: the data set to measure on; None is what the config names.
        tune: choose thresholds on valid, or take those of a study with folds, and refuse test
            manifests that share rows with train or valid. Otherwise only the test manifests are
            read, and F1, precision, sensitivity and specificity are null.
        progress: draw a progress bar while features are packed.

    Returns:
        The metrics by split.

    Raises:
        InputError: the head, the data or the output folder cannot be used.
    """
    check_stems(config)
    check_output(out)
    predictor = load_predictor(folder / MODEL)
    labels = {"training.target_labels": list(predictor.spec.labels)}
    config = with_values(config, labels, where=str(folder))
    inputs = tuple(predictor.inputs)
    if data is None and tune:
        check_manifests(config)
    data = data or Dataset.from_config(config, progress=progress)
    if tune:
        thresholds = out_of_fold_thresholds(folder, predictor.spec.labels)
        if thresholds is None:
            _, valid = data.search_splits(config, inputs=inputs)
            thresholds = choose_thresholds(predict(predictor, valid))
        splits = data.test_splits(config, inputs=inputs)
    else:
        thresholds = no_thresholds(len(predictor.spec.labels))
        splits = data.splits_alone(config, inputs=inputs)
    return write_metrics([predict(predictor, split) for split in splits], thresholds, out)


def evaluate_ctclip(folder: Path, out: Path) -> dict[str, Any]:
    """Measure the scores that CT-CLIP's inference scripts wrote into a folder.

    Thresholds could only be chosen on the evaluated data, so threshold metrics are null.

    Args:
        folder: holds `predicted_weights.npz`, `labels_weights.npz` and `accessions.txt`.
        out: folder of the results, as `evaluate` writes them.

    Returns:
        The metrics by split.

    Raises:
        InputError: a file cannot be used, or the output folder cannot be written.
    """
    check_output(out)
    found = read_ctclip_scores(folder)
    patients = tuple(patient_of(volume) for volume in found.volumes)
    predictions = Predictions(
        "ctclip", found.volumes, patients, found.labels, found.targets, found.scores
    )
    return write_metrics([predictions], no_thresholds(len(found.labels)), out)


def no_thresholds(n_labels: int) -> Thresholds:
    """Return thresholds of labels that have none."""
    return Thresholds(np.full(n_labels, np.nan), np.full(n_labels, np.nan))


def write_metrics(
    by_split: Sequence[Predictions], thresholds: Thresholds, out: Path
) -> dict[str, Any]:
    """Write the metrics of one head's predictions.

    Returns:
        The metrics by split.
    """
    metrics: dict[str, Any] = {}
    for predictions in by_split:
        write_predictions(predictions, out / "predictions" / f"{predictions.name}.parquet")
        metrics[predictions.name] = report_of(measure([predictions], [thresholds]))
    write_json(out / "metrics.json", metrics)
    return metrics
