"""Columns of a pandas DataFrame as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headsweep.arguments import refuse_no_mapping, refuse_other_types
from headsweep.config.messages import nearest
from headsweep.errors import FeatureError, ManifestError


def frame_arrays(
    frame: pd.DataFrame, features: Mapping[str, str | Sequence[str] | NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Collect the feature matrices that a frame's columns hold.

    Args:
        frame: one row a volume.
        features: for each input the column that holds vectors, the numeric columns, or the
            matrix itself.

    Returns:
        For each input an array with one row for each row of the frame.

    Raises:
        FeatureError: a column does not hold vectors of one width.
    """
    refuse_no_mapping("features", features, "{'visual': 'column'}", FeatureError)
    matrices: dict[str, NDArray[Any]] = {}
    for one, given in features.items():
        if isinstance(given, np.ndarray):
            matrices[one] = given
        elif isinstance(given, str):
            try:
                matrices[one] = np.stack([np.asarray(v) for v in column(frame, given)])
            except ValueError as error:
                raise FeatureError(
                    f"column {given!r} must hold one vector a row, all of one width: {error}"
                ) from None
        else:
            matrices[one] = np.column_stack([column(frame, name) for name in given])
    return matrices


def column(frame: pd.DataFrame, name: str) -> NDArray[Any]:
    """Return one column of a frame as an array.

    Raises:
        ManifestError: the frame has no such column, or two of that name.
        ConfigError: it is no frame.
    """
    refuse_other_types("frame", frame, pd.DataFrame, "a pandas DataFrame")
    known = [str(known) for known in frame.columns]
    if known.count(name) != 1:
        problem = "unknown" if name not in known else "repeated"
        hint = nearest(name, tuple(known)) if name not in known else ""
        raise ManifestError(f"{problem} column {name!r} of the DataFrame.{hint}")
    values: NDArray[Any] = frame[name].to_numpy()
    return values
