"""The shipped study files: each one loads without a warning, and the public grid is complete."""

import math
from pathlib import Path

import pytest
import yaml

from headsweep.search.remarks import longest_warmup
from headsweep.search.samplers_and_pruners import first_decision, longest_training
from headsweep.search.space import grid
from headsweep.search.study_file import load_study_file

STUDIES = Path(__file__).parents[2] / "search_spaces"


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.filterwarnings("error")
def test_shipped_study_when_loaded_has_the_name_of_its_file(path: Path) -> None:
    assert load_study_file(path, []).name == path.stem.replace("_", "-")


def test_linear_grid_has_the_heads_of_the_public_script() -> None:
    spec = load_study_file(STUDIES / "linear_grid.yaml", [])
    points = grid(spec.space, where="space")
    assert [len(values) for values in points.values()] == [2, 13, 4]
    assert math.prod(len(values) for values in points.values()) == spec.n_trials == 104
    assert first_decision(spec.pruner, longest_training(spec)) > longest_warmup(spec)


def test_linear_grid_unpruned_differs_in_name_and_pruner_alone() -> None:
    pruned, unpruned = (
        yaml.safe_load((STUDIES / f"{name}.yaml").read_text())
        for name in ("linear_grid", "linear_grid_unpruned")
    )
    assert unpruned.pop("pruner") == {"name": "none"}
    del pruned["pruner"], pruned["study"]["name"], unpruned["study"]["name"]
    assert pruned == unpruned
