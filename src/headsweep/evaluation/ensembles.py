"""Predictions of an ensemble, from those of its members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.special import expit

from headsweep.evaluation.predictions import Predictions
from headsweep.metrics.ensemble_selection import weighted_mean
from headsweep.metrics.ranking import Scores


def averaged_scores(members: Sequence[Predictions]) -> Scores:
    """Return what an ensemble of these heads averages, (m, n, c).

    These are the logits in float32, or the probabilities in float64 if a head has no logits.
    """
    logits = [one.logits for one in members if one.logits is not None]
    if len(logits) == len(members):
        return np.stack(logits)
    return np.stack([one.scores.astype(np.float64) for one in members])


def mean_predictions(members: Sequence[Predictions], weights: Sequence[float]) -> Predictions:
    """Average predictions of the same rows, as `heads.ensemble` does, to the bit.

    Args:
        members: predictions of each member on one split.
        weights: of the members; they add up to 1.

    Returns:
        The predictions of the ensemble.
    """
    scores = averaged_scores(members)
    mean = weighted_mean(list(scores), weights)
    if scores.dtype != np.float32:
        return replace(members[0], scores=mean, logits=None)
    logits = mean.astype(np.float32)
    return replace(members[0], scores=np.asarray(expit(logits.astype(np.float64))), logits=logits)
