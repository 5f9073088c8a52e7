"""The section `objective` of a study file: what the value of a trial is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self, get_args

from optuna.trial import FrozenTrial
from pydantic import Field, field_validator, model_validator

from headsweep.config.messages import unknown_key
from headsweep.config.section import Section
from headsweep.config.training_section import MOST_FOLDS, ObjectiveMetric
from headsweep.json_text import parse_json

CONSTRAINT_PREFIX = "constraints:"
"""What Optuna's trial attributes of constraints begin with; the metric's name follows."""
OLD_CONSTRAINTS = "constraints"
"""The attribute in which Optuna 4 and earlier record constraints, without names."""
AT_MOST = ("ece", "brier")
"""Metrics whose bound is an upper one; the others are better the higher they are."""

BOUNDED = (*get_args(ObjectiveMetric), *AT_MOST)


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

    metric: ObjectiveMetric | None = None
    """Metric that trials maximize, and by which they are pruned, stopped early and ranked; null is
    `training.metric` of the base, which it sets. All metrics are recorded for every trial."""
    constraint: Mapping[str, float] = {}
    """Bounds on metrics of a trial's best epoch: at most for `ece` and `brier`, at least for the
    others. Samplers prefer trials that meet them; only these become finalists."""

    @field_validator("constraint")
    @classmethod
    def _bounds_known_metrics(cls, constraint: Mapping[str, float]) -> Mapping[str, float]:
        for name in constraint:
            if name not in BOUNDED:
                raise ValueError(f"{unknown_key(name, BOUNDED)} Known are {', '.join(BOUNDED)}")
        return constraint

    @model_validator(mode="after")
    def _folds_are_needed(self) -> Self:
        for key in ("include_valid", "refit"):
            if getattr(self, key) and self.folds is None:
                raise ValueError(f"{key} needs folds. Set objective.folds, for example to 5")
        return self


def impossible_bound(constraint: Mapping[str, float]) -> str | None:
    """Return what is wrong with the first bound that no trial can meet; None without one."""
    for name, bound in constraint.items():
        if name in AT_MOST and not bound >= 0:
            return f"{name}: a bound must be at least 0, as {name} is never below, found {bound:g}"
        if name not in AT_MOST and not bound <= 1:
            return f"{name}: a bound must be at most 1 (0.8 is 80 %), found {bound:g}"
    return None


def violations(constraint: Mapping[str, float], metrics: Mapping[str, float]) -> dict[str, float]:
    """Return by how much a trial is beyond each bound, as Optuna's constraints: 0 or less meets it.

    Args:
        constraint: bounds by metric.
        metrics: of the trial; the bounded ones must be among them.
    """
    return {
        name: metrics[name] - bound if name in AT_MOST else bound - metrics[name]
        for name, bound in constraint.items()
    }


def is_measured(trial: FrozenTrial, constraint: Mapping[str, float]) -> bool:
    """Return whether a value was recorded for each bound of a study's constraint, and for no other.

    Trials of other programs may have none, or others. Optuna's GP sampler takes no such mixture.
    """
    if OLD_CONSTRAINTS in trial.system_attrs:
        return False
    recorded = {
        name.removeprefix(CONSTRAINT_PREFIX): value
        for name, value in trial.system_attrs.items()
        if name.startswith(CONSTRAINT_PREFIX)
    }
    numbers = all(isinstance(value, int | float) for value in recorded.values())
    return numbers and recorded.keys() == constraint.keys()


def violation(trial: FrozenTrial) -> float:
    """Return the sum of a finished trial's violations, by which Optuna's samplers rank too.

    It is 0 for a trial that meets all constraints, or has none.
    """
    return sum(
        max(0.0, value)
        for name, value in trial.system_attrs.items()
        if name.startswith(CONSTRAINT_PREFIX) and isinstance(value, int | float)
    )


def is_feasible(trial: FrozenTrial) -> bool:
    """Return whether a finished trial meets all constraints."""
    return violation(trial) == 0


def none_feasible(trials: Sequence[FrozenTrial], constraint: Mapping[str, float]) -> str:
    """Return the message for complete trials of which none meets the constraint."""
    nearest = min(trials, key=violation)
    return (
        f"none of {len(trials)} complete trials meets objective.constraint "
        f"({bounds_shown(constraint)}); trial {nearest.number} is nearest, beyond it by "
        f"{violation(nearest):.3g}. Continue with a larger study.n_trials, or search under another "
        "name with a looser bound"
    )


def bounds_shown(constraint: Mapping[str, float]) -> str:
    """Return the bounds as text, such as `ece <= 0.05 and auroc_macro >= 0.7`."""
    return " and ".join(
        f"{name} {'<=' if name in AT_MOST else '>='} {bound:g}"
        for name, bound in constraint.items()
    )


def objective_to_plain(objective: Objective) -> dict[str, Any]:
    """Return the keys that differ from their defaults as plain data."""
    plain: dict[str, Any] = parse_json(objective.model_dump_json(exclude_defaults=True))
    return plain


def objective_from_plain(plain: dict[str, Any]) -> Objective:
    """Parse what `objective_to_plain` returned.

    Returns:
        The objective.
    """
    return Objective.model_validate_json(json.dumps(plain))
