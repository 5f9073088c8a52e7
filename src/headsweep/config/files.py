"""A trial's config as a YAML file that `headsweep train --config` runs as it is."""

from __future__ import annotations

from pathlib import Path

from headsweep.atomic_files import write_text
from headsweep.config.schema import Config, to_dict
from headsweep.config.values import parse_config
from headsweep.config.yaml_files import read_document, to_yaml
from headsweep.errors import OutputError


def write_config(config: Config, path: Path, *, study: str, trial: int, value: float) -> None:
    """Write a trial's config, with its study, number and value in the first line.

    `training.seed` and `training.tape_position` are the trial's own, so that training alone
    gives the recorded value again.

    Raises:
        OutputError: the file cannot be written.
    """
    head = f"# study {study}, trial {trial}, recorded val/{config.training.metric} {value!r}\n"
    body = to_yaml(to_dict(config))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, head + body)
    except OSError as error:
        raise OutputError(f"{path}: cannot write the config: {error.strerror}") from None


def read_config(path: Path) -> Config:
    """Read the config that `write_config` wrote.

    Returns:
        The config.

    Raises:
        ConfigError: the file is missing or not plain YAML, or a key or value is not allowed.
    """
    return parse_config(read_document(path), where=str(path))
