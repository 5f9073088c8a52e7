"""The section `objective` of a study file: what the value of a trial is."""

from __future__ import annotations

import json
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from headsweep.config.schema import Section

MOST_FOLDS = 100


class Objective(Section):
    """What the value of a trial is.

    A key at its default is left out of the stored definition and of the fingerprint, so that
    studies from before it was added stay the same.
    """

    folds: Annotated[int, Field(ge=2, le=MOST_FOLDS)] | None = None
    """Number of folds by patient; the value is then the metric of the pooled out-of-fold
    predictions of the training rows. null trains on train and measures on valid."""
    include_valid: bool = False
    """Whether the validation rows are divided into the folds too."""
    refit: bool = False
    """Whether a finalist is trained on all rows of the folds, for as many epochs as its folds were,
    instead of being the mean of its fold models."""

    @model_validator(mode="after")
    def _folds_are_needed(self) -> Self:
        for key in ("include_valid", "refit"):
            if getattr(self, key) and self.folds is None:
                raise ValueError(f"{key} needs folds. Set objective.folds, for example to 5")
        return self


def objective_to_plain(objective: Objective) -> dict[str, Any]:
    """Return the keys that differ from their defaults as plain data."""
    plain: dict[str, Any] = json.loads(objective.model_dump_json(exclude_defaults=True))
    return plain


def objective_from_plain(plain: dict[str, Any]) -> Objective:
    """Parse what `objective_to_plain` returned.

    Returns:
        The objective.
    """
    return Objective.model_validate_json(json.dumps(plain))
