"""Warnings for study files that are valid but probably not what was intended."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from headsweep.errors import HeadsweepWarning
from headsweep.search.samplers_and_pruners import first_decision
from headsweep.search.spec import Policy
from tests.helpers.study_specs import make_spec

HALVING = {"name": "successive_halving", "min_resource": 5, "reduction_factor": 3}
PATIENT = {"name": "patient", "patience": 1, "wrapped_pruner": {"name": "median"}}


@pytest.mark.parametrize(
    ("pruner", "named", "epoch"),
    [
        (HALVING, "pruner.min_resource", 5),
        ({"name": "hyperband"}, "pruner.min_resource", 1),
        ({"name": "median", "n_warmup_steps": 4}, "pruner.n_warmup_steps", 4),
        (
            {"name": "percentile", "percentile": 25.0, "n_warmup_steps": 2, "interval_steps": 3},
            "pruner.n_warmup_steps",
            2,
        ),
        ({"name": "threshold", "lower": 0.1}, "pruner.n_warmup_steps", 1),
        (PATIENT, "pruner.patience", 3),
    ],
)
def test_load_when_pruning_begins_during_warmup_warns(
    tmp_path: Path, pruner: dict[str, Any], named: str, epoch: int
) -> None:
    with pytest.warns(HeadsweepWarning) as warned:
        make_spec(tmp_path, "training.warmup_epochs=5", pruner=pruner)
    (message,) = (str(warning.message) for warning in warned)
    assert message.startswith(f"{tmp_path}/study.yaml:{named}: ")
    assert f"pruned at epoch {epoch}, but training.warmup_epochs" in message
    assert "until epoch 5," in message


def test_load_when_warmup_is_searched_warns_of_its_longest(tmp_path: Path) -> None:
    for warmup in (
        {"type": "float", "low": 0.0, "high": 6.0},
        {"type": "int", "low": 0, "high": 6},
        {"type": "categorical", "choices": [0.0, 6.0, 1.0]},
    ):
        with pytest.warns(HeadsweepWarning, match="until epoch 6,"):
            make_spec(tmp_path, pruner=HALVING, space={"training.warmup_epochs": warmup})


@pytest.mark.parametrize(
    ("pruner", "warmup"),
    [
        (HALVING, 4.5),
        (HALVING | {"min_early_stopping_rate": 1}, 9),
        ({"name": "none"}, 5),
        (HALVING | {"min_resource": 10}, 9),  # beyond the last epoch
    ],
)
def test_load_when_pruning_begins_after_warmup_is_silent(
    tmp_path: Path, pruner: dict[str, Any], warmup: float
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_spec(tmp_path, f"training.warmup_epochs={warmup}", pruner=pruner)


def test_first_decision_of_patience_is_after_it_has_run_out() -> None:
    alone = Policy(name="patient", kwargs={"patience": 3, "wrapped_pruner": None})
    assert first_decision(alone, 9) == 5
    assert first_decision(alone, 4) is None


def test_load_when_folds_leave_out_rows_of_a_divided_train_manifest_warns(tmp_path: Path) -> None:
    unused = "objective.include_valid: data.val_manifest is null, so 20% of the train manifest"
    with pytest.warns(HeadsweepWarning, match=unused):
        make_spec(tmp_path, "data.val_manifest=null", objective={"folds": 5})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = {"folds": 5, "include_valid": True}
        make_spec(tmp_path, "data.val_manifest=null", objective=both)
