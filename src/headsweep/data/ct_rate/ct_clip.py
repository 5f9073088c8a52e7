"""Scores and latents that CT-CLIP's scripts write: `predicted_weights.npz`, `image_latents.npz`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headsweep.config.inputs import Modality
from headsweep.data.ct_rate.names import LABELS, volume_of
from headsweep.data.features import read_matrix
from headsweep.errors import FeatureError

PREDICTED, LABELLED, ACCESSIONS = "predicted_weights.npz", "labels_weights.npz", "accessions.txt"
LATENTS: Mapping[Modality, str] = {"visual": "image_latents.npz", "text": "text_latents.npz"}


@dataclass(frozen=True, eq=False)
class CTClipScores:
    """Probabilities and labels `(n, c)` of the volumes; the labels are CT-RATE's, in its order."""

    volumes: tuple[str, ...]
    labels: tuple[str, ...]
    targets: NDArray[np.uint8]
    scores: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CTClipLatents:
    """Latents `(n, d)` of the volumes by modality; targets `(n, c)`, None without a file."""

    volumes: tuple[str, ...]
    targets: NDArray[np.uint8] | None
    latents: Mapping[Modality, NDArray[np.float32]]


def read_ctclip_latents(folder: Path) -> CTClipLatents:
    """Read the latents in a folder, as CT-CLIP's retrieval scripts do.

    `image_latents.npz` and `accessions.txt` must be there; `text_latents.npz` and
    `labels_weights.npz` may be.

    Returns:
        The latents of every volume.

    Raises:
        FeatureError: a file is missing or unreadable, the files disagree in their rows, or a value
            is not finite or no label.
    """
    volumes = _volumes(folder)
    latents: dict[Modality, NDArray[np.float32]] = {}
    for modality, name in LATENTS.items():
        if modality == "visual" or (folder / name).is_file():
            found = _matrix(folder / name).astype(np.float32)
            rows = found.reshape(len(found), -1)  # they are (n, 1, d)
            if len(rows) != len(volumes) or not rows.size:
                raise FeatureError(
                    f"{folder / name}: must hold {len(volumes)} rows (as {ACCESSIONS} has), "
                    f"found shape {found.shape}"
                )
            if not np.isfinite(rows).all():
                raise FeatureError(f"{folder / name}: latents must be finite, found others")
            latents[modality] = rows
    widths = {modality: rows.shape[1] for modality, rows in latents.items()}
    if len(set(widths.values())) > 1:
        raise FeatureError(f"{folder}: latents must be equally wide, found {widths}")
    targets = _labels(folder, volumes) if (folder / LABELLED).is_file() else None
    return CTClipLatents(volumes, targets, latents)


def read_ctclip_scores(folder: Path) -> CTClipScores:
    """Read the scores in a folder that CT-CLIP's `run_zero_shot` or `ct_lipro_inference` wrote.

    Returns:
        The scores of every volume.

    Raises:
        FeatureError: a file is missing or unreadable, the files disagree in their rows, or a value
            is no probability or label.
    """
    scores = _matrix(folder / PREDICTED)
    volumes = _volumes(folder)
    _refuse_shape(folder / PREDICTED, scores, volumes)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise FeatureError(f"{folder / PREDICTED}: scores must be probabilities, found others")
    return CTClipScores(volumes, tuple(LABELS), _labels(folder, volumes), scores)


def _volumes(folder: Path) -> tuple[str, ...]:
    try:
        text = (folder / ACCESSIONS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FeatureError(f"{folder / ACCESSIONS}: cannot read the text: {error}") from None
    return tuple(volume_of(line) for line in text.splitlines() if line.strip())


def _labels(folder: Path, volumes: tuple[str, ...]) -> NDArray[np.uint8]:
    targets = _matrix(folder / LABELLED)
    _refuse_shape(folder / LABELLED, targets, volumes)
    if not np.isin(targets, (0, 1)).all():
        raise FeatureError(f"{folder / LABELLED}: labels must be 0 or 1, found others")
    return targets.astype(np.uint8)


def _refuse_shape(
    path: Path, matrix: NDArray[np.float32] | NDArray[np.float64], volumes: tuple[str, ...]
) -> None:
    expected = (len(volumes), len(LABELS))
    if matrix.shape != expected:
        raise FeatureError(
            f"{path}: must hold {expected[0]} rows (as {ACCESSIONS} has) of {expected[1]} labels, "
            f"found shape {matrix.shape}"
        )


def _matrix(path: Path) -> NDArray[np.float64]:
    return read_matrix(path, "data").astype(np.float64)
