"""The folds of a study with a cross-validated objective."""

from __future__ import annotations

from headsweep.data.folds import Folds, divide
from headsweep.data.splits import Split
from headsweep.search.objective import Objective

FOLDS = "folds"
"""Name of the folds' fingerprint among those of the study's data."""


def folds_of(objective: Objective, seed: int, train: Split, valid: Split) -> Folds | None:
    """Divide the rows of a study into folds; the same for every worker, machine and repetition.

    Args:
        objective: of the study.
        seed: of the study.
        train: training rows.
        valid: validation rows, which are divided too with `include_valid`.

    Returns:
        The folds; None if the objective has none.

    Raises:
        ManifestError: there are fewer patients than folds.
    """
    if objective.folds is None:
        return None
    return divide(train, valid if objective.include_valid else None, objective.folds, seed)
