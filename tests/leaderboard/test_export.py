"""An exported config trains to the recorded value and names its study and trial."""

import pytest
import yaml

from headsweep.config.files import read_config, write_config
from headsweep.config.values import parse_config
from headsweep.data.dataset import Dataset, required_inputs
from headsweep.engine.train_configs import train_to_end
from headsweep.errors import ConfigError, OutputError
from headsweep.studies.trials import trial_config
from tests.leaderboard.conftest import SETTINGS


def test_write_config_of_the_best_trial_trains_to_its_recorded_value(study, tmp_path):
    best = study.optuna.best_trial
    path = tmp_path / "best.yaml"
    config = trial_config(study.spec, best)
    write_config(config, path, study=study.name, trial=best.number, value=best.value)

    config = parse_config(yaml.safe_load(path.read_text()), where="best.yaml")
    splits = Dataset.from_config(config).search_splits(inputs=required_inputs(config))
    (run,) = train_to_end([config], *splits, SETTINGS)
    assert run.best_value == pytest.approx(best.value, abs=1e-6)


def test_write_config_names_study_trial_and_value_in_the_first_line(study, tmp_path):
    path = tmp_path / "folder" / "best.yaml"
    write_config(study.spec.config, path, study="linear", trial=7, value=0.625)
    expected = "# study linear, trial 7, recorded val/auprc_macro 0.625"
    assert path.read_text().splitlines()[0] == expected
    assert read_config(path) == study.spec.config


def test_write_config_when_the_path_is_not_writable_is_refused(study, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the config"):
        write_config(study.spec.config, tmp_path / "file/x.yaml", study="a", trial=0, value=0.0)


@pytest.mark.parametrize("text", ["- a list", "{", None])
def test_read_config_when_the_file_is_no_config_is_refused(tmp_path, text):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml:"):
        read_config(path)
