"""Scores that CT-CLIP's inference scripts write: `predicted_weights.npz` and its companions."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headsweep.data.ct_rate import LABELS, volume_of
from headsweep.errors import FeatureError

PREDICTED, LABELLED, ACCESSIONS = "predicted_weights.npz", "labels_weights.npz", "accessions.txt"


@dataclass(frozen=True, eq=False)
class CTClipScores:
    """Probabilities and labels `(n, c)` of the volumes; the labels are CT-RATE's, in its order."""

    volumes: tuple[str, ...]
    labels: tuple[str, ...]
    targets: NDArray[np.uint8]
    scores: NDArray[np.float32]


def read_ctclip_scores(folder: Path) -> CTClipScores:
    """The scores in a folder that CT-CLIP's `run_zero_shot` or `ct_lipro_inference` wrote.

    Raises:
        FeatureError: a file is missing or unreadable, the files disagree in their rows, or a value
            is no probability or label.
    """
    scores = _matrix(folder / PREDICTED).astype(np.float32)
    targets = _matrix(folder / LABELLED)
    try:
        text = (folder / ACCESSIONS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FeatureError(f"{folder / ACCESSIONS}: must be readable text, found {error}") from None
    volumes = tuple(volume_of(line) for line in text.splitlines() if line.strip())
    shapes = {PREDICTED: scores.shape, LABELLED: targets.shape}
    due = (len(volumes), len(LABELS))
    for name, shape in shapes.items():
        if shape != due:
            raise FeatureError(
                f"{folder / name}: must hold {due[0]} rows (as {ACCESSIONS} has) of {due[1]} "
                f"labels, found shape {shape}"
            )
    if not ((scores >= 0) & (scores <= 1)).all():
        raise FeatureError(f"{folder / PREDICTED}: scores must be probabilities, found others")
    if not np.isin(targets, (0, 1)).all():
        raise FeatureError(f"{folder / LABELLED}: labels must be 0 or 1, found others")
    return CTClipScores(volumes, tuple(LABELS), targets.astype(np.uint8), scores)


def _matrix(path: Path) -> NDArray[np.float64]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive["data"], dtype=np.float64)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise FeatureError(
            f"{path}: must be an npz file with the array 'data', found {error}"
        ) from None
