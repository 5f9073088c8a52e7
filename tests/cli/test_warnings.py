"""Headsweep's warnings are printed as one line each, and the command continues."""

import warnings
from pathlib import Path

import pytest

from headsweep.cli.root import main
from tests.helpers.study_specs import write_study

RAGGED = {"training.weight_decay": {"type": "float", "low": 0.05, "high": 0.9, "step": 0.1}}


def test_create_when_steps_miss_high_shows_one_line_and_creates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path, space=RAGGED)
    warnings.simplefilter("default")  # pytest restores its filters
    with pytest.raises(SystemExit) as ended:
        main(["create", str(study), "--storage", f"sqlite:///{tmp_path}/studies.db"])
    out, err = capsys.readouterr()
    assert ended.value.code == 0
    assert "study probe: 40 trials" in out
    assert err.startswith(f"Warning: {study}:space.training.weight_decay: steps of 0.1 from 0.05 ")
    assert err.count("\n") == 1
