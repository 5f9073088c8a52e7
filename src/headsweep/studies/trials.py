"""Trials as configs, and the attributes that headsweep writes on them."""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.splits import in_order, required_inputs
from headsweep.search.spec import CategoricalDimension, StudySpec

TAPE_POSITION = "tape_position"
"""Trial attribute: position on the tape of permutations at which the trial entered."""
EPOCHS_TRAINED = "epochs_trained"
"""Trial attribute: number of epochs that the trial trained."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def trial_config(spec: StudySpec, trial: FrozenTrial) -> Config:
    """Build the config that a trial trains: the study's base, its params, its tape position.

    Args:
        spec: the study's spec.
        trial: one of its trials.

    Returns:
        The whole config.

    Raises:
        ConfigError: the params together break a constraint of the config.
    """
    values = dict(trial.params)
    if TAPE_POSITION in trial.user_attrs:
        values["training.tape_position"] = trial.user_attrs[TAPE_POSITION]
    return with_values(spec.config, values, where=f"trial {trial.number}")


def searched_inputs(spec: StudySpec) -> tuple[str, ...]:
    """Return the inputs that some trial of a study may read."""
    dimension = spec.space.get("features.input")
    inputs = dimension.choices if isinstance(dimension, CategoricalDimension) else (None,)
    needed: set[str] = set()
    for value in inputs:
        values = {} if value is None else {"features.input": value}
        needed |= set(required_inputs(with_values(spec.config, values, where="space")))
    return in_order(needed, spec.config)
