"""Probabilities of one head on one split, as they are kept in parquet and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from headsweep.atomic_files import replacing
from headsweep.config.schema import Modality
from headsweep.data.dataset import Split
from headsweep.errors import VerificationError
from headsweep.heads.predictor import Predictor
from headsweep.metrics.retrieval import instance_ranks

TRUE, SCORE = "y_true:", "y_score:"
DIRECTIONS = ("visual_to_text", "text_to_visual")


@dataclass(frozen=True, eq=False)
class Predictions:
    """Scores of one head on one split: `targets` and `scores` have shape (n, c).

    Scores are float32 probabilities, exactly as stored: metrics are computed from them alone.
    """

    name: str
    volumes: tuple[str, ...]
    patients: tuple[str, ...]
    labels: tuple[str, ...]
    targets: NDArray[np.uint8]
    scores: NDArray[np.float32]


def predict(predictor: Predictor, split: Split) -> Predictions:
    """What a head says about every row of a split."""
    scores = predictor(_tensors(predictor, split)).numpy().astype(np.float32)
    return Predictions(
        split.name, split.volumes, split.patients, split.labels, split.targets, scores
    )


def retrieval_ranks(predictor: Predictor, split: Split) -> dict[str, NDArray[np.int64]]:
    """Rank of each row's own scan in the other view, by direction; for a retrieval head."""
    views = {m: view.numpy() for m, view in predictor.project(_tensors(predictor, split)).items()}
    visual, text = views["visual"], views["text"]
    pairs = ((visual, text), (text, visual))
    return {
        direction: instance_ranks(queries, gallery, split.scans, split.reports)
        for direction, (queries, gallery) in zip(DIRECTIONS, pairs, strict=True)
    }


def write_predictions(predictions: Predictions, path: Path) -> None:
    """One row a volume: `volumename, patient`, then `y_true:` and `y_score:` of every label."""
    targets, scores = (
        dict(zip(predictions.labels, matrix.T, strict=True))
        for matrix in (predictions.targets, predictions.scores)
    )
    write_scores(predictions.volumes, predictions.patients, targets, scores, path)


def write_scores(
    volumes: tuple[str, ...],
    patients: tuple[str, ...],
    targets: Mapping[str, NDArray[np.uint8]],
    scores: Mapping[str, NDArray[np.float32]],
    path: Path,
) -> None:
    """`write_predictions`, by label; labels without targets have no `y_true:`."""
    columns: dict[str, object] = {}
    for label, values in scores.items():
        if label in targets:
            columns[f"{TRUE}{label}"] = targets[label]
        columns[f"{SCORE}{label}"] = values
    _write(path, volumes, patients, columns)


def read_predictions(path: Path) -> Predictions:
    """The inverse of `write_predictions`.

    Raises:
        VerificationError: the file is missing, or holds something else.
    """
    try:
        table = pq.read_table(path)
        labels = tuple(
            name.removeprefix(TRUE) for name in table.column_names if name.startswith(TRUE)
        )
        predictions = Predictions(
            path.stem,
            tuple(table["volumename"].to_pylist()),
            tuple(table["patient"].to_pylist()),
            labels,
            np.stack([table[f"{TRUE}{label}"].to_numpy() for label in labels], axis=1),
            np.stack([table[f"{SCORE}{label}"].to_numpy() for label in labels], axis=1),
        )
        targets, scores = predictions.targets, predictions.scores
        if not len(targets) or targets.dtype != np.uint8 or targets.max() > 1:
            raise ValueError("no rows, or targets other than 0 and 1")
        if scores.dtype != np.float32 or not np.isfinite(scores).all():
            raise ValueError("scores that are no finite numbers")
        return predictions
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise VerificationError(f"{path}: predictions must be readable, found {error}") from None


def read_seeds(paths: Sequence[Path], place: Path) -> list[Predictions]:
    """Predictions of one split by each seed of the finalist at `place`, all of the same rows.

    Raises:
        VerificationError: a file is missing or holds something else, or there is none.
    """
    seeds = [read_predictions(path) for path in paths]
    if not seeds:
        raise VerificationError(f"{place}: a finalist must have predictions, found none")
    first = seeds[0]
    for path, seed in zip(paths, seeds, strict=True):
        same = (seed.volumes, seed.patients, seed.labels) == (
            first.volumes,
            first.patients,
            first.labels,
        )
        if not same or not np.array_equal(seed.targets, first.targets):
            raise VerificationError(f"{path}: seeds must share rows and labels, found others")
    return seeds


def write_ranks(ranks: Mapping[str, NDArray[np.int64]], split: Predictions, path: Path) -> None:
    """One row a volume: `volumename, patient`, then `rank:` of every direction."""
    columns = {f"rank:{direction}": values for direction, values in ranks.items()}
    _write(path, split.volumes, split.patients, columns)


def read_ranks(path: Path) -> dict[str, NDArray[np.int64]]:
    """The inverse of `write_ranks`, by direction.

    Raises:
        VerificationError: the file holds something else.
    """
    try:
        table = pq.read_table(path, columns=[f"rank:{direction}" for direction in DIRECTIONS])
        return {name: table[f"rank:{name}"].cast(pa.int64()).to_numpy() for name in DIRECTIONS}
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise VerificationError(f"{path}: ranks must be readable, found {error}") from None


def _tensors(predictor: Predictor, split: Split) -> dict[Modality, torch.Tensor]:
    return {
        modality: torch.from_numpy(np.array(split.features[modality]))
        for modality in predictor.spec.shape.widths
    }


def _write(
    path: Path, volumes: tuple[str, ...], patients: tuple[str, ...], columns: Mapping[str, object]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        pq.write_table(pa.table({"volumename": volumes, "patient": patients, **columns}), file)
