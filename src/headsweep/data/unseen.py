"""Rows whose content train does not hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headsweep.data.splits import Split, row_digests


def rows_in_train(train: Split, other: Split) -> NDArray[np.bool_]:
    """Return which rows of a split share their report, or a feature vector, with a row of train.

    Args:
        train: training split.
        other: another split with features of the same modalities.

    Returns:
        Shape (n,); the rows for which it is false have unseen content.
    """
    shared = np.zeros(len(other.volumes), bool)
    if train.reports is not None and other.reports is not None:
        known = {report for report in train.reports if report}
        shared |= [report in known for report in other.reports]
    for modality in train.features.keys() & other.features.keys():
        digests = {*row_digests(train.features[modality])}
        shared |= [digest in digests for digest in row_digests(other.features[modality])]
    return shared
