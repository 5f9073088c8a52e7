"""Score new features with a trained head; only its exported folder is needed."""

from __future__ import annotations

from pathlib import Path

from headsweep.config.schema import Config
from headsweep.data.manifest import read_partly_labelled
from headsweep.data.packing import pack_for
from headsweep.errors import FeatureError
from headsweep.evaluation.predictions import score_features, write_scores
from headsweep.heads.predictor import load_predictor
from headsweep.settings import cache_dir


def score(model: Path, manifest_file: Path, config: Config, out: Path, *, progress: bool) -> Path:
    """Score every row of a manifest into `<out>/predictions/<stem>.parquet`.

    The file has a column `y_true:<label>` for each label that the manifest has, if any.

    Args:
        model: the head's `model.safetensors`; it names the labels.
        manifest_file: whose rows to score.
        config: names the folder of features, and the manifest's columns.
        out: folder of the results.
        progress: draw a progress bar while features are packed.

    Returns:
        Path of the parquet file.

    Raises:
        ManifestError: the manifest is at fault, or lacks the features that the head reads.
        FeatureError: the model or a feature file cannot be used.
    """
    predictor = load_predictor(model)
    labels = predictor.spec.labels
    manifest = read_partly_labelled(
        manifest_file, config.data.manifest_columns, labels, config.data.blank_labels
    )
    features = {
        name: pack_for(config, manifest, name, cache_dir(), progress=progress).matrix
        for name in predictor.inputs
    }
    try:
        scores, logits = score_features(predictor, features)
    except FeatureError as error:
        raise FeatureError(f"{manifest_file}: {error}") from None
    path = out / "predictions" / f"{manifest.name}.parquet"
    targets = dict(zip(manifest.labels, manifest.targets.T, strict=True))
    write_scores(manifest.volumes, manifest.patients, targets, labels, scores, logits, path)
    return path
