"""The metrics that a study records for every trial, as means over the labels."""

from __future__ import annotations

import numpy as np

from headsweep.metrics.calibration import brier, expected_calibration_error
from headsweep.metrics.masking import Targets, prevalence
from headsweep.metrics.ranking import (
    Metric,
    Scores,
    auprc_skill,
    macro,
    ranking_metrics,
)

TITLES = {
    "auprc_macro": "macro AUPRC",
    "auroc_macro": "macro AUROC",
    "auprc_skill": "AUPRC skill",
    "balanced_accuracy": "balanced accuracy",
    "recall_at_10": "recall@10",
}
"""Names of the objective's metrics for people."""


def trial_metrics(targets: Targets, ranking: Scores, likely: Scores) -> dict[str, Metric]:
    """Compute every metric of several heads on one split.

    `auprc_macro`, `auroc_macro`, `auprc_skill` and `balanced_accuracy` are better the higher they
    are, `ece` and `brier` the lower. Labels without positives or without negatives are left out of
    the former.

    Args:
        targets: (n, c), 0, 1 or blank.
        ranking: (K, n, c) finite scores that are ranked: logits if there are any.
        likely: (K, n, c) label probabilities.

    Returns:
        Arrays (K,) by name.
    """
    auprc, auroc, balanced = ranking_metrics(targets, ranking)
    return {
        "auprc_macro": macro(auprc),
        "auroc_macro": macro(auroc),
        "auprc_skill": macro(auprc_skill(auprc, prevalence(targets))),
        "balanced_accuracy": macro(balanced),
        "ece": np.array([np.nanmean(expected_calibration_error(targets, one)) for one in likely]),
        "brier": np.array([np.nanmean(brier(targets, one)) for one in likely]),
    }
