"""`thresholds.json` beside a head: the thresholds that were chosen and frozen before test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from headsweep.data.folds import OUT_OF_FOLD
from headsweep.errors import ConfigError
from headsweep.evaluation.summaries import Thresholds, finite
from headsweep.json_text import parse_json
from headsweep.metrics.ranking import Metric

LOGIT = "_logit"
"""End of the names of thresholds on logits."""
THRESHOLDS = "thresholds.json"
CHOSEN_ON = "chosen_on"
"""Key of the split on which thresholds were chosen; absent where that is valid."""


def plain_thresholds(
    thresholds: Thresholds, labels: Sequence[str], chosen_on: str
) -> dict[str, Any]:
    """Return thresholds by kind and label as plain data: probabilities, and the logits if any.

    Args:
        thresholds: of one head.
        labels: in their order.
        chosen_on: name of the split on which they were chosen.

    Returns:
        The content of the file.
    """
    named = {CHOSEN_ON: chosen_on} if chosen_on == OUT_OF_FOLD else {}
    chosen = {"f1": thresholds.f1, "youden": thresholds.youden}
    if thresholds.on_logits:
        logits = {f"{name}{LOGIT}": values for name, values in chosen.items()}
        chosen = {name: expit(values) for name, values in chosen.items()} | logits
    return named | {
        name: {label: finite(value) for label, value in zip(labels, values, strict=True)}
        for name, values in chosen.items()
    }


def out_of_fold_thresholds(folder: Path, labels: Sequence[str]) -> Thresholds | None:
    """Read the thresholds that were chosen on out-of-fold predictions.

    Such a head may have been trained on the rows of valid, so they cannot be chosen there again.

    Args:
        folder: of the head.
        labels: in their order.

    Returns:
        The thresholds; None if the folder has no file of out-of-fold thresholds.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = folder / THRESHOLDS
    if not path.is_file():
        return None
    try:
        plain = parse_json(path.read_text(encoding="utf-8"))
        if plain.get(CHOSEN_ON) != OUT_OF_FOLD:
            return None
        end = LOGIT if f"f1{LOGIT}" in plain else ""
        f1, youden = (_values(plain[name + end], labels) for name in ("f1", "youden"))
        return Thresholds(f1, youden, on_logits=bool(end))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: cannot read the thresholds: {error!r}") from None


def _values(by_label: Mapping[str, float | None], labels: Sequence[str]) -> Metric:
    values = [by_label[label] for label in labels]
    return np.array([np.nan if value is None else float(value) for value in values])
