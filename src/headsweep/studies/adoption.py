"""Which studies made by another program, such as `optuna create-study`, can be searched."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import TrialState

from headsweep.errors import StudyError

METRIC_PREFIX = "val/"
"""What the names of metrics begin with in attributes of studies and trials."""
METRIC_NAMES = "study:metric_names"
"""Optuna's study attribute: the names of the objectives."""
_OWN_PREFIXES = ("dashboard:", "artifacts:", METRIC_NAMES)
"""Study attributes that no sampler or pruner reads."""


def check_objective(name: str, directions: Sequence[StudyDirection], metric: str) -> None:
    """Check that a stored study maximizes one objective.

    Raises:
        StudyError: it has several objectives, or minimizes its only one.
    """
    if list(directions) == [StudyDirection.MAXIMIZE]:
        return
    if len(directions) > 1:
        found = f"has {len(directions)} objectives"
    else:
        found = "minimizes its objective (the default of `optuna create-study`)"
    raise StudyError(
        f"{name}: the stored study {found}, but headsweep maximizes one objective, "
        f"{METRIC_PREFIX}{metric}. "
        "Delete the stored study, create it with `--direction maximize`, or choose another name"
    )


def check_adoptable(
    name: str, system_attrs: Mapping[str, Any], states: Mapping[TrialState, int]
) -> None:
    """Check that a stored study without a spec holds nothing that another program has searched.

    Enqueued (WAITING) trials are no hindrance: they are run first.

    Args:
        name: of the study.
        system_attrs: the study's own, where some samplers keep their state.
        states: how many trials it has in each state.

    Raises:
        StudyError: a sampler has left its state, or there are trials that have begun.
    """
    begun = {state.name: n for state, n in states.items() if n and state != TrialState.WAITING}
    foreign = sorted(key for key in system_attrs if not key.startswith(_OWN_PREFIXES))
    if begun:
        counts = ", ".join(f"{n} {state}" for state, n in begun.items())
        found = f"has trials of another program ({counts})"
    elif foreign:
        found = f"has the state of another sampler or pruner ({', '.join(foreign)})"
    else:
        return
    raise StudyError(
        f"{name}: the stored study was not created by headsweep and {found}. Only a study "
        "without begun trials can be adopted; choose another name"
    )


def missing_metric_names(system_attrs: Collection[str], metric: str) -> dict[str, Any]:
    """Return the attribute that names the objective, unless the study has one."""
    return {} if METRIC_NAMES in system_attrs else {METRIC_NAMES: [METRIC_PREFIX + metric]}
