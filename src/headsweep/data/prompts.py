"""Prompt embeddings for zero-shot scores: one vector, or a positive and a negative, by label."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headsweep.config.messages import nearest
from headsweep.config.schema import Config
from headsweep.data.features import array_names, read_matrix
from headsweep.data.splits import Split
from headsweep.errors import FeatureError

POSITIVE, NEGATIVE = "positive:", "negative:"
SCALE = "logit_scale"
"""Name of the factor before the sigmoid; without one it is 1."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Embeddings of length 1, `(c, d)`; `negative` is 0 for labels that have one prompt."""

    positive: NDArray[np.float64]
    negative: NDArray[np.float64]
    scale: float
    digest: str
    """SHA-256 of the file."""


def prompts_for(config: Config, train: Split) -> Prompts | None:
    """Read the prompts that `data.zero_shot` names.

    Args:
        config: names the file.
        train: whose labels need a prompt; its features give the width.

    Returns:
        The prompts; None where the config names no file.

    Raises:
        FeatureError: the file cannot be used.
    """
    if config.data.zero_shot is None:
        return None
    path = Path(config.paths.manifest_dir) / config.data.zero_shot
    name = config.data.zero_shot_input
    return read_prompts(path, train.labels, train.features[name].shape[1], name)


def read_prompts(path: Path, labels: Sequence[str], width: int, name: str = "visual") -> Prompts:
    """Read prompt embeddings from a `.npz` file.

    An array `<label>` is a single prompt; `positive:<label>` and `negative:<label>` are a pair. Its
    shape is (d,), or (p, d) for several prompts, which are scaled to length 1 and averaged.
    `logit_scale` may hold one number.

    Args:
        path: of the file; other arrays in it are not read.
        labels: that need a prompt.
        width: of the features with which the prompts are compared.
        name: of those features.

    Returns:
        The prompts in the order of `labels`.

    Raises:
        FeatureError: the file is missing or damaged, lacks a label, or holds a vector of another
            width or one that is not finite.
    """
    if path.suffix != ".npz":
        raise FeatureError(f"{path}: a file of prompts (data.zero_shot) must end in .npz")
    if not path.is_file():
        raise FeatureError(f"file of prompts not found: {path} (data.zero_shot)")
    names = array_names(path)
    pairs = [_arrays_of(path, label, names) for label in labels]
    positive = [_direction(path, own, width, name) for own, _ in pairs]
    negative = [
        np.zeros(width) if own is None else _direction(path, own, width, name) for _, own in pairs
    ]
    scale = _scale(path) if SCALE in names else 1.0
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Prompts(np.stack(positive), np.stack(negative), scale, digest)


def _scale(path: Path) -> float:
    values = _numbers(path, SCALE)
    if values.size != 1:
        raise FeatureError(f"{path}: {SCALE} must be one number, found shape {values.shape}")
    scale = float(values.reshape(-1)[0])
    if not scale > 0:
        raise FeatureError(f"{path}: {SCALE} must be greater than 0, found {scale:g}")
    return scale


def _arrays_of(path: Path, label: str, names: Sequence[str]) -> tuple[str, str | None]:
    """Return the names of a label's positive and negative prompt.

    Raises:
        FeatureError: the file lacks a prompt of the label.
    """
    positive, negative = f"{POSITIVE}{label}", f"{NEGATIVE}{label}"
    if positive in names and negative in names:
        return positive, negative
    if label in names:
        return label, None
    lacks = {positive, negative} - {*names}
    if len(lacks) == 1:
        raise FeatureError(f"{path}: label {label!r} has no prompt {lacks.pop()!r}")
    raise FeatureError(
        f"{path}: label {label!r} has no prompt: expected an array {label!r}, or two, "
        f"{positive!r} and {negative!r}.{nearest(label, names)}"
    )


def _direction(path: Path, prompt: str, width: int, name: str) -> NDArray[np.float64]:
    """Return the direction of one prompt, or of the mean of several.

    Raises:
        FeatureError: the vectors have another width, or no direction.
    """
    rows = np.atleast_2d(_numbers(path, prompt))
    if rows.ndim != 2 or not rows.size or rows.shape[1] != width:
        raise FeatureError(
            f"{path}: prompt {prompt!r} must be {width} wide, as the {name} features, "
            f"found shape {rows.shape if rows.shape[0] > 1 else rows.shape[1:]}"
        )
    lengths = np.linalg.norm(rows, axis=1)
    if (lengths == 0).any():
        raise FeatureError(f"{path}: prompt {prompt!r} must have a direction, found only zeros")
    mean = (rows / lengths[:, None]).mean(axis=0)
    length = float(np.linalg.norm(mean))
    if length == 0:
        raise FeatureError(f"{path}: the prompts of {prompt!r} cancel each other")
    return np.asarray(mean / length)


def _numbers(path: Path, name: str) -> NDArray[np.float64]:
    values = read_matrix(path, name).astype(np.float64)
    if not values.size:
        raise FeatureError(f"{path}: the array {name!r} is empty")
    if not np.isfinite(values).all():
        raise FeatureError(f"{path}: prompt {name!r} must be finite, found other values")
    return values
