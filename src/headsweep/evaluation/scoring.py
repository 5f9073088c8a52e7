"""Scores of new features by a trained head, of which its exported folder alone is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from headsweep.config.schema import Config
from headsweep.data.manifest import read_partly_labelled
from headsweep.data.packing import pack_for
from headsweep.errors import FeatureError
from headsweep.evaluation.predictions import write_scores
from headsweep.heads.predictor import load_predictor
from headsweep.settings import cache_dir


def score(model: Path, manifest_file: Path, config: Config, out: Path, *, progress: bool) -> Path:
    """Score every row of a manifest; the parquet file `<out>/predictions/<stem>.parquet`.

    The file has a column `y_true:<label>` for the labels that the manifest has, which may be none.

    Args:
        model: the head's `model.safetensors`; it names the labels.
        manifest_file: whose rows to score.
        config: names the folder of features, and the manifest's columns.
        out: folder of the results.
        progress: draw a progress bar while features are packed.

    Raises:
        ManifestError: the manifest is at fault, or lacks the features that the head reads.
        FeatureError: the model or a feature file cannot be used.
    """
    predictor = load_predictor(model)
    labels = predictor.spec.labels
    manifest = read_partly_labelled(manifest_file, config.data.columns, labels)
    features = {
        modality: pack_for(config, manifest, modality, cache_dir(), progress=progress).matrix
        for modality in predictor.spec.shape.widths
    }
    try:
        scores = predictor({m: torch.from_numpy(np.array(x)) for m, x in features.items()})
    except FeatureError as error:
        raise FeatureError(f"{manifest_file}: {error}") from None
    path = out / "predictions" / f"{manifest.name}.parquet"
    targets = dict(zip(manifest.labels, manifest.targets.T, strict=True))
    by_label = dict(zip(labels, scores.numpy().T, strict=True))
    write_scores(manifest.volumes, manifest.patients, targets, by_label, path)
    return path
