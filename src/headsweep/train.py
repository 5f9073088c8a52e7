"""One config trained to its end, with its files under `paths.checkpoint_dir`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from headsweep.cli import main
from headsweep.cli.preflight import check_output
from headsweep.compose import GROUPS, compose_config, override_value
from headsweep.config import Config, parse_config, to_dict, with_values
from headsweep.data.dataset import load_search_splits, required_modalities
from headsweep.engine.fixed import Trained, train_to_end
from headsweep.engine.slots import EpochReport
from headsweep.errors import ConfigError
from headsweep.heads.predictor import save_predictor
from headsweep.settings import EngineSettings, cache_dir

COMMAND_LINE = "command line"


def config_of(config_file: Path | None, overrides: Sequence[str]) -> Config:
    """The config that overrides describe, on top of the config file when there is one.

    Raises:
        ConfigError: a key or value that breaks its law, with the file or `command line` as place.
    """
    if config_file is None:
        return compose_config(overrides, where=COMMAND_LINE)
    data = read_plain(config_file)
    pairs = [override_value(text, where=COMMAND_LINE) for text in overrides]
    choices = [text for text, (key, _) in zip(overrides, pairs, strict=True) if key in GROUPS]
    chosen = to_dict(compose_config(choices, where=COMMAND_LINE))
    data |= {key: chosen[key] for key, _ in pairs if key in GROUPS}
    values = {key: value for key, value in pairs if key not in GROUPS}
    return with_values(parse_config(data, where=str(config_file)), values, where=COMMAND_LINE)


def read_plain(config_file: Path) -> dict[str, Any]:
    """The plain mapping that a YAML file holds.

    Raises:
        ConfigError: the file is missing, is no YAML, or holds something else than a mapping.
    """
    try:
        data = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{config_file}: a config must be a YAML file, found {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{config_file}: a config must be a mapping, found {data!r}")
    return data


def train(
    config: Config,
    engine: EngineSettings,
    *,
    progress: bool,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Trained:
    """Train one head and write its files.

    `paths.checkpoint_dir` then holds `config.yaml`, `metrics.jsonl` (a line an epoch),
    `metrics.json` (the best epoch) and `model.safetensors` (its weights).

    Args:
        config: what to train; entry on the tape and seed are its own.
        engine: device and threads.
        progress: draw a progress bar while features are packed.
        on_epoch: called with the report of every epoch.

    Raises:
        InputError: the config, the data or the folder cannot be used; nothing was trained.
        TrialError: training diverged.
    """
    folder = Path(config.paths.checkpoint_dir)
    check_output(folder)
    fit, valid = load_search_splits(
        config, cache_dir=cache_dir(), modalities=required_modalities(config), progress=progress
    )

    def tell(reports: Sequence[EpochReport]) -> None:
        if on_epoch:
            on_epoch(reports[0])

    (trained,) = train_to_end([config], fit, valid, engine, on_epoch=tell)
    _write(trained, folder)
    return trained


def _write(trained: Trained, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = yaml.safe_dump(to_dict(trained.config), sort_keys=False, allow_unicode=True)
    epochs = [_metrics(report) for report in trained.history]
    lines = "".join(json.dumps(metrics) + "\n" for metrics in epochs)
    best = json.dumps(epochs[trained.best_epoch - 1], indent=2) + "\n"
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    (folder / "metrics.json").write_text(best, encoding="utf-8")
    save_predictor(trained.predictor, folder / "model.safetensors")


def _metrics(report: EpochReport) -> dict[str, float]:
    return {
        "epoch": report.epoch,
        "val/auprc_macro": report.auprc_macro,
        "val/auroc_macro": report.auroc_macro,
        "val/loss": report.loss,
    }


if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
