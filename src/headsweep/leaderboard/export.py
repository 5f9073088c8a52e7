"""A trial's config as a YAML file that `headsweep train --config` runs as it is."""

from __future__ import annotations

from pathlib import Path

import yaml

from headsweep.config import Config, parse_config, to_dict
from headsweep.errors import OutputError, VerificationError


def write_config(config: Config, path: Path, *, study: str, trial: int, value: float) -> None:
    """Write a trial's config, with its study, number and value in the first line.

    `training.seed` and `training.tape_position` are the trial's own, so that training alone
    gives the recorded value again.

    Raises:
        OutputError: the file cannot be written.
    """
    head = f"# study {study}, trial {trial}, recorded val/auprc_macro {value!r}\n"
    body = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + body, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: a config must be writable, found {error.strerror}") from None


def read_config(path: Path) -> Config:
    """The config that `write_config` wrote.

    Raises:
        VerificationError: the file is missing or no YAML.
        ConfigError: a key or value that breaks its law.
    """
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise VerificationError(f"{path}: a config must be readable, found {error}") from None
    if not isinstance(plain, dict):
        raise VerificationError(f"{path}: a config must be a mapping, found {plain!r}")
    return parse_config(plain, where=str(path))
