"""p-values corrected for many comparisons."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from headsweep.metrics.ranking import Metric


def holm(p_values: Metric) -> Metric:
    """Return p-values adjusted by Holm (1979), which controls the chance of any false rejection.

    NaN stays NaN and is not counted as a comparison.
    """
    return _adjusted(p_values, lambda p: np.maximum.accumulate(p * np.arange(len(p), 0, -1)))


def benjamini_hochberg(p_values: Metric) -> Metric:
    """Return p-values adjusted by Benjamini and Hochberg (1995): the share of false rejections.

    NaN stays NaN and is not counted as a comparison.
    """

    def adjust(p: Metric) -> Metric:
        scaled = p * len(p) / np.arange(1, len(p) + 1)
        return np.minimum.accumulate(scaled[::-1])[::-1]

    return _adjusted(p_values, adjust)


def _adjusted(p_values: Metric, adjust: Callable[[Metric], Metric]) -> Metric:
    """Apply an adjustment of ascending p-values.

    Returns:
        Adjusted p-values in the order given, at most 1.
    """
    adjusted = np.full(p_values.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p_values))
    ascending = known[np.argsort(p_values[known], kind="stable")]
    adjusted[ascending] = np.minimum(adjust(p_values[ascending]), 1)
    return adjusted
