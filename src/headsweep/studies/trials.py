"""Trials as configs, and the attributes that headsweep writes on them."""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState

from headsweep.config.schema import Config, Modality
from headsweep.config.values import with_values
from headsweep.data.splits import required_modalities
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


def searched_modalities(spec: StudySpec) -> tuple[Modality, ...]:
    """Return the modalities that some trial of a study may read."""
    dimension = spec.space.get("features.input")
    inputs = dimension.choices if isinstance(dimension, CategoricalDimension) else (None,)
    needed: set[Modality] = set()
    for value in inputs:
        values = {} if value is None else {"features.input": value}
        needed |= set(required_modalities(with_values(spec.config, values, where="space")))
    return tuple(sorted(needed, reverse=True))
