"""Trials as configs, and the attributes that headsweep writes on them."""

from __future__ import annotations

from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from headsweep.config.files import write_config
from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.splits import in_order, required_inputs
from headsweep.errors import StudyError
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


def single_run_config(spec: StudySpec, trial: FrozenTrial) -> Config:
    """Build the config with which `headsweep train` repeats a trial, with the folds of its study.

    Args:
        spec: the study's spec.
        trial: one of its trials.

    Returns:
        The whole config.

    Raises:
        ConfigError: the params together break a constraint of the config.
    """
    config, objective = trial_config(spec, trial), spec.objective
    if objective.folds is None:
        return config
    folds = {
        "count": objective.folds,
        "seed": spec.seed,
        "include_valid": objective.include_valid,
        "refit": objective.refit,
    }
    return with_values(config, {"training.folds": folds}, where=f"trial {trial.number}")


def export_trial(spec: StudySpec, trial: FrozenTrial, path: Path) -> None:
    """Write the config of a complete trial as a YAML file.

    Args:
        spec: the study's spec.
        trial: one of its trials.
        path: file to write.

    Raises:
        StudyError: the trial has no value.
        OutputError: the file cannot be written.
    """
    if trial.state != TrialState.COMPLETE or trial.value is None:
        raise StudyError(
            f"study {spec.name!r}: only a complete trial can be exported, "
            f"trial {trial.number} is {trial.state.name}"
        )
    config = single_run_config(spec, trial)
    write_config(config, path, study=spec.name, trial=trial.number, value=trial.value)


def searched_inputs(spec: StudySpec) -> tuple[str, ...]:
    """Return the inputs that some trial of a study may read."""
    dimension = spec.space.get("features.input")
    inputs = dimension.choices if isinstance(dimension, CategoricalDimension) else (None,)
    needed: set[str] = set()
    for value in inputs:
        values = {} if value is None else {"features.input": value}
        needed |= set(required_inputs(with_values(spec.config, values, where="space")))
    return in_order(needed, spec.config)
